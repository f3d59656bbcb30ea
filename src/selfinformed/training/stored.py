"""Features from disk: shards that are checked when opened, and read by row without being loaded."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.augmented.readers import InputTransform
from selfinformed.data.examples import Examples
from selfinformed.data.targets import Targets, checked_targets
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import check_sum, read_json, read_object
from selfinformed.runtime.reading import check_tensors, parsed, reason_of, shown
from selfinformed.training.shards import FORMAT, FeatureType, part_widths, places_read, seconds_file

_MOST_OPEN = 256  # shards mapped at a time, each of which takes a file handle
_WINDOW = 2**30  # bytes; what all machines can hold, since the order must not depend on which one reads


class Rows(Protocol):
    """Features [N, D] of which some rows can be read: a tensor, or what stands for one that is not in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> torch.Tensor: ...


def open_shards(folder: Path, net: WrappedClassifier, examples: Examples | None) -> Shards:
    """Opens a folder that is whole; reads everything of every shard but its features.

    Raises:
        SelfInformedError: shards are missing, cut short, of another network, other data, or another unit; more examples are unreadable than
            `examples.skip_bad` allows. `examples.skipped` has the unreadable ones.
    """
    manifest = _manifest(folder)
    if manifest["model"] != net.fingerprint or manifest["widths"] != part_widths(net) or manifest["attach"] != places_read(net):
        raise SelfInformedError(f"{folder} holds features of another network, or of another place in it; delete it to have them computed again")
    if examples is not None and manifest["data"] != examples.fingerprint:
        raise SelfInformedError(f"{folder} holds features of other data; delete it to have them computed again")
    paths = [folder / f"unit-{unit:06d}.safetensors" for unit in range(manifest["n_units"])]
    for path in sorted(set(folder.glob("[!.]*.safetensors")) - set(paths)):
        raise SelfInformedError(f"{path} is none of the {len(paths)} shards of these features; delete it")
    opened = [_open_shard(path, unit, manifest) for unit, path in enumerate(paths)]
    skipped = {row: reason for shard in opened for row, reason in shard.skipped.items()}
    if examples is not None:
        examples.skipped.update(skipped)
        if len(skipped) > examples.skip_bad:
            raise SelfInformedError(f"{min(skipped.items())[1]}; {len(skipped)} examples cannot be read, raise skip_bad (--skip-bad N)")
    sizes = np.concatenate([np.diff(shard.targets.offsets) for shard in opened])
    targets = Targets(np.cumsum([0, *sizes]), np.concatenate([shard.targets.labels for shard in opened]), opened[0].targets.n_labels)
    seconds = sum(_seconds(path) for unit in range(len(paths)) if (path := seconds_file(folder, unit)).exists())
    row_bytes = sum(manifest["widths"].values()) * np.dtype(manifest["dtype"]).itemsize
    return Shards(
        tuple(paths), torch.from_numpy(np.cumsum([0, *(len(shard.rows) for shard in opened)])), tuple(shard.places for shard in opened),
        manifest["widths"], getattr(torch, manifest["dtype"]), targets, np.concatenate([shard.rows for shard in opened]), skipped,
        manifest["n_views"], seconds, _WINDOW // row_bytes,
    )  # fmt: skip


def are_whole(folder: Path) -> bool:
    """Whether every shard is there; what is in them is checked when they are opened."""
    if not (folder / "manifest.json").exists():
        return False
    return len(list(folder.glob("unit-*.safetensors"))) >= int(_manifest(folder)["n_units"])


@dataclass(frozen=True, eq=False)
class Shards:
    """A folder of shards, checked, with everything but the features in memory.

    Attributes:
        paths: of the S shards.
        starts: int64 [S + 1]; shard s holds the features of rows starts[s] to starts[s + 1] - 1.
        places: for each shard, where each part begins in its file.
        widths: of each part.
        dtype: of all features.
        targets: of all rows.
        rows: the number of the example in each row.
        skipped: messages of the unreadable examples.
        n_views: how many views of the same examples follow one another.
        seconds: how long the network ran.
        window: how many rows are in use at a time while they are read in the order of `permutation`; those of a gigabyte, wherever they are read.
    """

    paths: tuple[Path, ...]
    starts: torch.Tensor
    places: tuple[dict[str, int], ...]
    widths: Mapping[str, int]
    dtype: torch.dtype
    targets: Targets
    rows: npt.NDArray[np.int64]
    skipped: dict[int, str]
    n_views: int
    seconds: float
    window: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_mapped", lru_cache(self._n_open)(self._map))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Of one example."""
        return self.dtype.itemsize * sum(self.widths.values())

    def read(self, part: str, rows: torch.Tensor) -> torch.Tensor:
        """Features [n, width] of some rows, int64 [n], from whichever shards they are in."""
        wanted, starts = rows.numpy(), self.starts.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)} examples")
        shard = np.searchsorted(starts[1:], wanted, side="right")  # the last that starts at or before the row
        order = np.argsort(shard, kind="stable")
        within, shard = (wanted - starts[shard])[order], shard[order]
        bounds = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(shard)]
        gathered = torch.empty(len(wanted), self.widths[part], dtype=self.dtype, device="cpu")
        target = gathered.numpy()
        for first, last in pairwise(bounds if len(shard) else []):
            features = self._mapped(int(shard[first]), len(bounds) <= self._n_open + 1)[part]  # type: ignore[attr-defined]
            np.take(features, within[first:last], 0, target[first:last], "clip")  # checked above; "raise" would copy once more
        return gathered if len(bounds) == 2 else torch.empty_like(gathered).index_copy_(0, torch.from_numpy(order), gathered)

    def load(self, part: str) -> torch.Tensor:
        """All features [N, width], read from one end to the other."""
        whole = torch.empty(len(self), self.widths[part], dtype=self.dtype, device="cpu")
        for path, places, start, stop in zip(self.paths, self.places, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            target = whole[start:stop].numpy().reshape(-1).view(np.uint8)
            with path.open("rb") as file:
                file.seek(places[part])
                if file.readinto(target.data) != target.nbytes:
                    raise SelfInformedError(f"{path} became shorter while it was read; delete it to have it made again")
        return whole

    def permutation(self, generator: torch.Generator) -> torch.Tensor:
        """All rows in a random order, which is the same whether they are in memory or not: any order where the window holds them all, else one that is
        read shard by shard, with no more than `window` rows (of two shards at least) in use at a time.

        Then the shards are put in a random order, and each row moves on by a random distance of less than the window, around the end too.
        """
        if self.window >= len(self):
            return torch.randperm(len(self), generator=generator, device="cpu")
        shards, starts = torch.randperm(len(self.paths), generator=generator, device="cpu").tolist(), self.starts.tolist()
        rows = torch.cat([torch.arange(starts[s], starts[s + 1], device="cpu") for s in shards])
        window = min(len(self), max(self.window, 2 * int(self.starts.diff().max())))
        places = torch.arange(len(self), device="cpu") + window * torch.rand(len(self), generator=generator, dtype=torch.float64, device="cpu")
        return rows[(places % len(self)).argsort(stable=True)]

    @property
    def _n_open(self) -> int:
        """Shards mapped at a time: those of a window. The least recently used is let go, and read ahead again when it comes back."""
        return min(_MOST_OPEN, 4 + len(self.paths) * self.window // max(1, len(self)))

    def _map(self, number: int, ahead: bool) -> dict[str, npt.NDArray[Any]]:
        n, kind = int(self.starts[number + 1] - self.starts[number]), torch.empty(0, dtype=self.dtype, device="cpu").numpy().dtype
        try:
            with self.paths[number].open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SelfInformedError(f"{self.paths[number]} cannot be read ({error}); run again to have it made again") from None
        if ahead and hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)  # in one go, before the rows are asked for one by one
        places = self.places[number]
        return {part: np.frombuffer(mapped, kind, n * width, places[part]).reshape(n, width) for part, width in self.widths.items()}


@dataclass(frozen=True, eq=False)
class StoredRows(Rows):
    """One part of the features, read from shards row by row. `rows[...]` takes int64 [n] or a slice, and gives a tensor."""

    shards: Shards
    part: str

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.shards), self.shards.widths[self.part]

    def __getitem__(self, rows: Any, /) -> torch.Tensor:
        rows = torch.arange(*rows.indices(len(self)), device="cpu") if isinstance(rows, slice) else torch.as_tensor(rows, device="cpu")
        return self.shards.read(self.part, rows)


@dataclass(frozen=True, eq=False)
class TransformedRows(Rows):
    """Features as heads see them behind a transform, which is applied to what is read."""

    rows: Rows
    transform: InputTransform

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __getitem__(self, rows: Any, /) -> torch.Tensor:
        return self.transform(self.rows[rows].float())


@dataclass(frozen=True, eq=False)
class _Shard:
    rows: npt.NDArray[np.int64]
    targets: Targets
    skipped: dict[int, str]
    places: dict[str, int]


def _open_shard(path: Path, unit: int, manifest: Mapping[str, Any]) -> _Shard:
    """Reads a shard's header and small arrays, and holds them against the manifest."""
    if not path.exists():
        raise SelfInformedError(f"{path} is missing; call again with the examples to have it made")
    expected = {"format": FORMAT, "model": manifest["model"], "data": manifest["data"], "unit": str(unit)}
    first, last = unit * manifest["unit_size"], min((unit + 1) * manifest["unit_size"], manifest["n_examples"])
    try:
        header, begin, size = _header(path)
        check_sum(path)
        found = header["__metadata__"]
        for key, value in expected.items():
            if found.get(key) != value:
                raise SelfInformedError(f"{path} is of another {key} ({str(found.get(key))[:80]}); delete it to have it made again")

        def array(name: str) -> npt.NDArray[np.int64]:
            if header[name]["dtype"] != "I64":
                raise ValueError(f"its {name} are no integers")
            start, stop = header[name]["data_offsets"]
            if not 0 <= start <= stop <= size - begin or (stop - start) % 8:
                raise ValueError(f"its {name} are not within it")
            return np.fromfile(path, np.int64, (stop - start) // 8, offset=begin + start)

        skipped = {int(row): str(reason) for row, reason in parsed(found["skipped"]).items()}
        rows = array("rows")
        if not np.array_equal(rows, np.setdiff1d(np.arange(first, last), list(skipped))):
            raise ValueError(f"its examples are not {first} to {last - 1}")
        for part, width in manifest["widths"].items():
            kind = {"float32": "F32", "float16": "F16"}[manifest["dtype"]]
            if (header[part]["dtype"], header[part]["shape"]) != (kind, [len(rows), width]):
                raise ValueError(f"its {part} are {header[part]['dtype']} {header[part]['shape']}, not {kind} {[len(rows), width]}")
        places = {part: begin + header[part]["data_offsets"][0] for part in manifest["widths"]}
        for part, width in manifest["widths"].items():
            if not 0 <= places[part] - begin <= size - begin - len(rows) * width * np.dtype(manifest["dtype"]).itemsize:
                raise ValueError(f"its {part} are not within it")
        targets = checked_targets(array("offsets"), array("labels"), int(found["n_labels"]), len(rows))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise SelfInformedError(f"{path} is not a whole shard ({reason_of(error)}); delete it to have it made again") from None
    return _Shard(rows, targets, skipped, places)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, where its arrays begin, and its size; `ValueError` where the file is not as long as it says."""
    check_tensors(path, "features")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = parsed(file.read(length).decode())
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    if size != 8 + length + end:
        raise ValueError(f"it has {size} bytes of {8 + length + end}")
    return header, 8 + length, size


def _seconds(path: Path) -> float:
    found = read_json(path, "features")
    if not isinstance(found, int | float) or not 0 <= found < 1e12:
        raise SelfInformedError(f"features: {path} holds {shown(found)}; expected seconds; delete it")
    return float(found)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_object(folder / "manifest.json", "features")
    kinds = {"n_units": int, "unit_size": int, "n_examples": int, "n_views": int, "model": str, "data": str, "dtype": str, "widths": dict, "attach": list}
    whole = manifest.get("format") == FORMAT and all(isinstance(manifest.get(k), t) for k, t in kinds.items())
    if not whole or manifest["dtype"] not in get_args(FeatureType) or not all(0 < manifest[k] < 2**53 for k in ("n_units", "unit_size", "n_examples")):
        raise SelfInformedError(f"{folder / 'manifest.json'} holds no features of format {FORMAT}; choose another folder, or delete it")
    if manifest["n_units"] != -(-manifest["n_examples"] // manifest["unit_size"]) or manifest["n_views"] < 1:
        raise SelfInformedError(f"{folder / 'manifest.json'}: {manifest['n_units']} units are not those of its examples; delete the folder")
    return manifest
