"""Inputs with their targets, read batch by batch from wherever they are."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.hub_datasets import LABELS, PADDING, HubDataset, as_tensor
from selfinformed.data.images import IMAGENET, Augmentation, ImageFiles, Images, Pixels, Transform, distorting, image_transform
from selfinformed.data.labels import LabelSpace, as_labels, checked_labels, resolved
from selfinformed.data.tar_shards import TarShards
from selfinformed.data.targets import Targets, as_targets, example_numbers
from selfinformed.runtime.arguments import real_numbers, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import free_memory
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import naming, opened, reason_of, shown

_COMPARED = 4  # items whose labels are held against what the data set says of all
_SAMPLED = 16  # inputs that are read to tell data from other data, where reading all would take long

Inputs = torch.Tensor | dict[str, torch.Tensor]
"""What a network is called with: one tensor, or keyword arguments; the first dimension counts examples."""
InputsLike = torch.Tensor | Mapping[str, torch.Tensor]
"""The same as it may be given: in any mapping, such as a tokenizer gives."""


@dataclass(eq=False)
class Examples:
    """N examples: inputs that are read when asked for, targets, and a name for each.

    Attributes:
        read: takes example numbers, gives their inputs, and raises `SelfInformedError` naming the one that cannot be read.
        targets: what is annotated on each.
        labels: the label set.
        names: how messages call an example; None for its number.
        skip_bad: how many unreadable examples may be set aside.
        skipped: messages of those set aside so far.
        content: gives bytes that change when the inputs do (hashes of arrays, or of a few of them; sizes and times of files).
        n_views: how many views of the same inputs follow one another.
    """

    read: Callable[[Sequence[int]], Inputs]
    targets: Targets
    labels: LabelSpace
    names: Sequence[str] | None = None
    skip_bad: int = 0
    skipped: dict[int, str] = field(default_factory=dict)
    content: Callable[[], bytes] = bytes
    n_views: int = 1

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Examples({len(self)} examples, {len(self.labels)} labels)"

    def name(self, example: int) -> str:
        """How messages call an example."""
        return self.names[example] if self.names is not None else f"example {example}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over labels, targets, names and what `content` says of the inputs."""
        digest = hashlib.sha256(self.content())
        for array in (self.targets.offsets, self.targets.labels):
            digest.update(np.ascontiguousarray(array).data)
        for name in (*self.labels.names, "", *(self.names or ())):
            digest.update(f"{name}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def batches(self, batch_size: int = 64, what: str | None = None) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yields (example numbers int64 [b], inputs) in order; unreadable examples are set aside up to `skip_bad`."""
        batch_size = whole_number("batch_size", batch_size)
        starts: Any = range(0, len(self), batch_size)
        for start in progress(starts, len(starts), what) if what else starts:
            rows = np.arange(start, min(start + batch_size, len(self)))
            try:
                yield rows, self.read(rows.tolist())
            except SelfInformedError:
                found = {int(row): inputs for row in rows if (inputs := self._readable(int(row))) is not None}
                if found:
                    try:
                        inputs = joined(list(found.values()))
                    except (RuntimeError, KeyError):  # each can be read, and together they make no batch, which this says
                        inputs = self.read(list(found))
                    yield np.array(list(found), dtype=np.int64), inputs

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Some of the examples, by number or by a mask of all, in the order given."""
        chosen = example_numbers(rows, len(self))
        names = None if self.names is None else [self.names[i] for i in chosen]
        part = _Part(self, chosen)
        return Examples(part.read, self.targets.take(chosen), self.labels, names, self.skip_bad, content=part.content)

    def example_inputs(self) -> Inputs:
        """The inputs of the first readable example, as a batch of one."""
        for _, inputs in self.batches(1):
            return inputs
        raise SelfInformedError("data: there is no example that can be read")

    @cached_property
    def input_names(self) -> str | None:
        """What a network is called with: names, sorted, or that it is one tensor; None where no example can be read."""
        return next((named(inputs) for _, inputs in self.batches(1)), None)

    def _readable(self, row: int) -> Inputs | None:
        """The inputs of one example, as a batch; None where it is set aside."""
        if row in self.skipped:
            return None
        try:
            return self.read([row])
        except SelfInformedError as error:
            if len(self.skipped) >= self.skip_bad:
                hint = "raise skip_bad (--skip-bad N)" if self.skip_bad else "mend it, or set up to N aside with skip_bad (--skip-bad N)"
                raise SelfInformedError(f"{error}; {hint}") from None
            self.skipped[row] = str(error)
            return None


@dataclass(frozen=True)
class _Part:
    """Some of the inputs of other examples. Readers are no closures, so that examples can be pickled."""

    whole: Examples
    chosen: npt.NDArray[np.int64]

    def read(self, rows: Sequence[int]) -> Inputs:
        return self.whole.read(self.chosen[rows].tolist())

    def content(self) -> bytes:
        return self.whole.content() + self.chosen.tobytes()


def open_dataset(
    source: Any,
    labels: LabelSpace | Sequence[str] | None = None,
    *,
    image_size: int | None = None,
    transform: Transform | None = None,
    pixels: Pixels | None = None,
    skip_bad: int = 0,
    views: int = 1,
    augmentation: Augmentation | None = None,
) -> Examples:
    """Opens examples from wherever they are.

    Args:
        source: one of
            - a folder with one subfolder of images per label (single label);
            - a .csv or .parquet manifest with the columns `path` (relative to the manifest) and `labels` (names separated by `;`,
              or a list);
            - tar shards as the webdataset package writes them, uncompressed: one .tar file, `train-{000..146}.tar`, or a folder of them; labels are in
              an example's member `cls` or `json`, as class numbers or names;
            - a .npz file with `inputs` [N, ...] and `targets` ([N] or multi-hot [N, C]);
            - a `datasets.Dataset` of Hugging Face with a column `label` or `labels`, and one of images or what the network is called with (`input_ids`
              and its mask, `pixel_values`);
            - a pair (inputs [N, ...] as a tensor, array or mapping of them, such as a tokenizer gives, targets in any form);
            - a map-style dataset giving (input or mapping of inputs, class number or label list), such as a `torch.utils.data.Dataset`;
            - `Examples`, returned as they are.
        labels: the network's label names in the order of its outputs. By default the subfolders' names, the manifest's labels sorted,
            or numbers. Folders and labels of the data must be among them.
        image_size: side in pixels to which image files are resized and cropped (default: left as they are).
        transform: takes a PIL image, gives a tensor; instead of the default (RGB, 0..1, less a mean, over a deviation).
        pixels: that mean and deviation, three numbers each (default: ImageNet's).
        skip_bad: how many unreadable images may be set aside; beyond that reading stops with the file's name.
        views: how often each image is there: first as it is, then in distorted views, view after view; the same at each reading.
        augmentation: what distorted views are: `crop`, or `crop_mirror`, where left and right do not matter.

    Raises:
        SelfInformedError: the source is none of these, or disagrees with the labels.
    """
    space = None if labels is None else as_labels(labels)
    given = [name for name, value in {"image_size": image_size, "transform": transform, "pixels": pixels}.items() if value is not None]
    if transform is not None and (image_size is not None or pixels is not None):
        raise SelfInformedError("data: a transform gives the inputs by itself; leave image_size and pixels out, or transform")
    image_size = None if image_size is None else whole_number("image_size", image_size)
    skip_bad, views = whole_number("skip_bad", skip_bad, least=0), whole_number("views", views)
    pixels = None if pixels is None else _checked_pixels(pixels)
    transforms = [transform or image_transform(image_size, pixels or IMAGENET)]
    if augmentation is not None or views != 1:
        if augmentation is None or augmentation not in get_args(Augmentation) or views < 2:
            ways = " or ".join(get_args(Augmentation))
            raise SelfInformedError(f"data: distorted views want augmentation {ways} and at least 2 views; got {augmentation} and {views}")
        size = None if transform else image_size
        transforms += [distorting(size, view, augmentation, transforms[0]) for view in range(1, views)]
    about = (f"{image_size} " if image_size else "").encode() + (f"{augmentation} {views}" if augmentation else "").encode()
    about += b"" if pixels in (None, IMAGENET) else repr(pixels).encode()
    from_images = partial(_from_images, transforms=transforms, skip_bad=skip_bad, about=about, sampled=transform is not None)
    if isinstance(source, str | Path):
        path = Path(source)
        if shards := TarShards.named(path):
            return from_images(TarShards.indexed(shards, space))
        if path.is_dir():
            return from_images(ImageFiles.from_folder(path, space))
        if path.suffix in {".csv", ".parquet"}:
            return from_images(ImageFiles.from_manifest(path, space))
        if path.suffix == ".npz":
            _check_no_images(path, views, given)
            with naming(path):
                return _from_arrays(*_read_npz(path), space)
        problem = "does not exist" if not path.exists() else "is no folder, .csv, .parquet, .tar or .npz file"
        raise SelfInformedError(f"data: {path} {problem}; expected a folder of images, a manifest, tar shards or an .npz file")
    if HubDataset.is_one(source):
        found = HubDataset.of(source, space)
        if found.image is not None:
            return from_images(found)
        _check_no_images(type(source).__name__, views, given)
        return Examples(found.read_inputs, as_targets(found.targets, len(found.labels)), found.labels, found.names, skip_bad, content=found.content)
    _check_no_images(type(source).__name__, views, given)
    if isinstance(source, Examples):
        if space not in (None, source.labels):
            raise SelfInformedError("labels: these examples have others already; give the names where they are opened first")
        return source
    if isinstance(source, tuple) and len(source) == 2:
        return _from_arrays(*source, space)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Mapping):
        return _from_map_style(source, space, skip_bad)
    hint = "; give its `dataset`" if hasattr(source, "dataset") else ""
    if not hint and hasattr(source, "__iter__") and not isinstance(source, Mapping):
        hint = "; read it into an array first"
    raise SelfInformedError(
        f"data: cannot read {type(source).__name__}{hint}; expected a folder, a manifest, an .npz file, (inputs, targets) or a map-style dataset"
    )


def _checked_pixels(pixels: Any) -> Pixels:
    if not isinstance(pixels, Iterable) or len(pixels := tuple(pixels)) != 2:
        raise SelfInformedError(f"pixels: expected a mean and a deviation, three numbers each; got {shown(pixels)}")
    mean, deviation = real_numbers("pixels", pixels[0]), real_numbers("pixels", pixels[1], above=0)
    if len(mean) != 3 or len(deviation) != 3:
        raise SelfInformedError(f"pixels: expected a mean and a deviation, three numbers each; got {shown(pixels)}")
    return mean, deviation


def take_inputs(inputs: InputsLike, rows: Any) -> Inputs:
    """Some examples of a batch of inputs; keyword arguments that are no tensors stay as they are."""
    if isinstance(inputs, Mapping):
        return {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    return inputs[rows]


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches of the same inputs as one; `KeyError` or `RuntimeError` where they are not."""
    dicts, tensors = [batch for batch in batches if isinstance(batch, dict)], [batch for batch in batches if isinstance(batch, torch.Tensor)]
    if len({named(batch) for batch in batches}) > 1:
        raise KeyError("other inputs")
    return {name: torch.cat([batch[name] for batch in dicts]) for name in dicts[0]} if dicts else torch.cat(tensors)


def named(inputs: Inputs) -> str:
    """Which inputs there are: the names of a dictionary, sorted, or that it is one tensor."""
    return ", ".join(sorted(map(str, inputs))) if isinstance(inputs, dict) else "one tensor"


def _from_images(images: Images, transforms: Sequence[Transform], skip_bad: int, about: bytes, sampled: bool) -> Examples:
    n = len(transforms)
    views = _Views(images, images.names if n == 1 else _NamesOfViews(images.names, n), transforms, about, sampled)
    targets = as_targets(images.targets * n, len(images.labels))
    return Examples(views.read, targets, images.labels, views.names, skip_bad * n, content=views.content, n_views=n)


@dataclass(frozen=True)
class _Views:
    """Each image through the first transform, then each through the second, and so on; `about` says what they are, or a few images are `sampled`."""

    images: Images
    names: Sequence[str]
    transforms: Sequence[Transform]
    about: bytes
    sampled: bool

    def read(self, rows: Sequence[int]) -> Inputs:
        n = len(self.images.targets)
        inputs = [self.images.read(row % n, self.transforms[row // n]) for row in rows]
        return _stacked(inputs, [self.names[row] for row in rows], "give all one size, e.g. with image_size")

    def content(self) -> bytes:
        return self.images.content() + self.about + (_sample_of(self.read, len(self.images.targets)) if self.sampled else b"")


@dataclass(frozen=True)
class _NamesOfViews(Sequence[str]):
    """Names of images, then of their views, view after view."""

    of_images: Sequence[str]
    n_views: int

    def __len__(self) -> int:
        return len(self.of_images) * self.n_views

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        view, image = divmod(range(len(self))[row], len(self.of_images))
        return f"{self.of_images[image]} (view {view})" if view else self.of_images[image]


def _check_no_images(source: str | Path, views: int, given: Sequence[str]) -> None:
    """That inputs which are no images are not asked for views, or for what is done to images."""
    if given:
        raise SelfInformedError(f"data: {given[0]} is of images; {source} gives its inputs as the network takes them; leave it out")
    if views != 1:
        raise SelfInformedError("data: only images, in a folder, manifest, tar shards or a column, have distorted views; leave augmentation out")


def _from_arrays(inputs: Any, targets: Any, labels: LabelSpace | None) -> Examples:
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], Mapping):
        rows = [f"example {row}" for row in range(len(inputs))]
        tensors = _stacked([_tensors(given, f"the inputs of {row}") for given, row in zip(inputs, rows, strict=True)], rows, PADDING)
    else:
        tensors = _tensors(inputs, "the inputs", f"; {PADDING}" if isinstance(inputs, Mapping | list) else "; give an array in memory order, as by .copy()")
    if any(tensor.ndim == 0 for tensor in (tensors.values() if isinstance(tensors, dict) else [tensors])):
        raise SelfInformedError("data: the inputs are a single number; their first dimension should count examples")
    checked = as_targets(_numbered(targets, labels), None if labels is None else len(labels))
    for n in [len(t) for t in tensors.values()] if isinstance(tensors, dict) else [len(tensors)]:
        if n != len(checked):
            raise SelfInformedError(f"data: {n} inputs but targets for {len(checked)} examples; give one target per input")
    labels = labels or LabelSpace.numbered(checked.n_labels)
    return Examples(partial(_rows_of, tensors), checked, labels, content=partial(_digest, tensors))


def _rows_of(tensors: Inputs, rows: Sequence[int]) -> Inputs:
    return take_inputs(tensors, torch.as_tensor(rows, device="cpu"))


def _numbered(targets: Any, labels: LabelSpace | None) -> Any:
    """Targets as they are, or where they are names, one or a list of them for each example, as label lists."""
    numbers = getattr(getattr(targets, "dtype", None), "kind", "O") not in "OUST"  # of an array, of which some types hold text
    if isinstance(targets, torch.Tensor | Targets | Iterator) or numbers or getattr(targets, "ndim", 1) != 1:
        return targets
    rows = targets.tolist() if hasattr(targets, "tolist") else targets
    lists = [row if isinstance(row, list | tuple | set) else [row] for row in rows]
    if (name := next((label for row in lists for label in row if isinstance(label, str)), None)) is None:
        return targets
    if labels is None:
        raise SelfInformedError(f"targets: label names, such as {shown(name)}, want all names in their order beside them; give labels=")
    try:
        return resolved([checked_labels(list(row)) for row in lists], labels, lambda row: f"example {row}")[0]
    except ValueError as error:
        raise SelfInformedError(f"targets: {error}") from None


def _from_map_style(dataset: Any, labels: LabelSpace | None, skip_bad: int) -> Examples:
    items = _Items(dataset, skip_bad)
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [items.item(row, 1) for row in range(len(dataset))]
    classes = _classes_of(dataset)
    by_name = classes is not None and labels is not None and not labels.is_numbers and bool({*classes.names} & {*labels.names})
    numbered = classes if by_name or labels is None else labels  # what the class numbers are of
    checked = as_targets(targets, len(numbered) if numbered else None)
    if len(checked) != len(dataset):
        raise SelfInformedError(f"data: {type(dataset).__name__} has {len(dataset)} examples, and its `targets` are of {len(checked)}")
    for row in np.linspace(0, len(checked) - 1, min(len(checked), _COMPARED), dtype=np.int64).tolist():
        own: Targets | None = None
        with suppress(SelfInformedError):  # it cannot be read, or gives labels in another form
            own = as_targets([items.item(row, 1)], checked.n_labels)
        if own is not None and not own.is_same(checked.take([row])):
            said = f"has the labels {shown(own.labels.tolist())}, and its `targets` say {shown(checked.of(row).tolist())}"
            hint = "the attribute is of other examples, or before a transform: give (inputs, targets), or take it away"
            raise SelfInformedError(f"data: example {row} of {type(dataset).__name__} {said}; {hint}")

    labels = labels or numbered or LabelSpace.numbered(checked.n_labels)
    if numbered and by_name:
        checked = _renumbered(checked, numbered, labels)
    return Examples(items.read, checked, labels, skip_bad=skip_bad, content=partial(_sample_of, items.read, len(checked)))


@dataclass(frozen=True)
class _Items:
    """What a map-style data set gives."""

    dataset: Any
    skip_bad: int

    def item(self, row: int, part: int) -> Any:
        who = f"example {row} of {type(self.dataset).__name__}"
        try:
            found = self.dataset[row]
            if isinstance(found, Mapping) and (column := next((name for name in LABELS if name in found), None)):
                found = {name: value for name, value in found.items() if name != column}, found[column]
            if not isinstance(found, Mapping) and len(found) != 2:
                raise ValueError(f"it has {len(found)} members, not inputs and labels")
            value = found if isinstance(found, Mapping) else found[part]
        except Exception as error:  # a data set may do anything
            aside = "; to set such examples aside give the data set an attribute `targets`" if part and self.skip_bad else ""
            raise SelfInformedError(f"data: {who} cannot be read ({type(error).__name__}: {error}){aside}") from error
        if isinstance(found, Mapping):
            names = ", ".join(map(str, found))
            raise SelfInformedError(f"data: {who} is one dictionary of {names}; give labels too, as `labels` in it or in pairs (dictionary, labels)")
        return _tensors(value, f"the inputs of {who}") if part == 0 else _as_target(value)

    def read(self, rows: Sequence[int]) -> Inputs:
        return _stacked([self.item(row, 0) for row in rows], [f"example {row}" for row in rows], PADDING)


def _classes_of(dataset: Any) -> LabelSpace | None:
    """The names that a data set, or the one of which it is a `Subset`, gives its class numbers."""
    while not getattr(dataset, "classes", None) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    return LabelSpace(found) if found else None


def _renumbered(targets: Targets, classes: LabelSpace, labels: LabelSpace) -> Targets:
    """Targets that number `classes`, as targets that number `labels`, by their names."""
    used = np.flatnonzero(targets.positives())
    place = np.full(len(classes), -1)
    place[used] = labels.indices([classes.names[label] for label in used])
    examples, numbers = targets.pairs()
    return Targets(targets.offsets, place[numbers][np.lexsort((place[numbers], examples))], len(labels))


def _sample_of(read: Callable[[Sequence[int]], Inputs], n: int) -> bytes:
    """Digests of a few of n inputs that can be read, evenly spaced; none where a second reading differs from the first, as of random distortions."""
    found = b""
    for row in np.linspace(0, n - 1, min(n, _SAMPLED), dtype=np.int64).tolist():
        with suppress(SelfInformedError):
            digest = _digest(read([row]))
            if digest != _digest(read([row])):
                return b""
            found += digest
    return found


def _digest(inputs: Inputs) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(inputs.items()) if isinstance(inputs, dict) else [("", inputs)]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.digest()


def _tensors(inputs: Any, whose: str, hint: str = "") -> Inputs:
    """Numbers in any form as one tensor, or those of a mapping each as one."""
    found = {}
    for name, values in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
        try:
            found[name] = as_tensor(values)
            if found[name].layout != torch.strided:
                raise TypeError(f"they are sparse ({found[name].layout}); give them dense")
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            who = f"{name!r} of {whose} is" if name else f"{whose} are"
            raise SelfInformedError(f"data: {who} no numbers that torch knows ({reason_of(error)}){hint}") from None
    return found if isinstance(inputs, Mapping) else found[""]


def _stacked(inputs: Sequence[Inputs], names: Sequence[str], hint: str) -> Inputs:
    """Inputs of single examples as a batch."""
    first = inputs[0]
    for one, name in zip(inputs, names, strict=True):
        if named(one) != named(first):
            raise SelfInformedError(f"data: {name} has the inputs {named(one)}, {names[0]} has {named(first)}; give all the same")
    found = {}
    for key in first if isinstance(first, dict) else [""]:
        tensors = [one[key] if isinstance(one, dict) else one for one in inputs]
        for tensor, name in zip(tensors, names, strict=True):
            if tensor.shape != tensors[0].shape:
                who, other = (f"{key!r} of {name}", f"{key!r} of {names[0]}") if key else (name, names[0])
                raise SelfInformedError(f"data: {who} has shape {list(tensor.shape)}, {other} has {list(tensors[0].shape)}; {hint}")
        found[key] = torch.stack(tensors)
    return found if isinstance(first, dict) else found[""]


def _as_target(target: Any) -> Any:
    return target.tolist() if isinstance(target, torch.Tensor | np.ndarray) else target


def _read_npz(path: Path) -> tuple[Any, Any]:
    with opened(path, "data") as content:
        try:
            with np.lib.npyio.NpzFile(content, allow_pickle=False) as file:
                missing = {"inputs", "targets"} - set(file.files)
                if missing:
                    more = "; several inputs by name are given from Python, as ({name: array}, targets)" if "inputs" in missing and file.files else ""
                    found = f"expected `inputs` and `targets`, got {shown(file.files)}{more}"
                    raise SelfInformedError(f"data: {path} has no array {sorted(missing)[0]!r}; {found}")
                assert file.zip is not None  # it is open
                _check_room(file.zip)
                if "offsets" in file.files:
                    return file["inputs"], _lists(file["targets"], file["offsets"])
                return file["inputs"], file["targets"]
        except SelfInformedError:
            raise
        except Exception as error:  # decoders raise many kinds on damaged bytes
            raise SelfInformedError(f"data: {path} cannot be read as .npz ({reason_of(error)})") from None


def _lists(labels: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The labels of each example from those of all, one after another."""
    whole = labels.ndim == offsets.ndim == 1 and labels.dtype.kind in "iu" and offsets.dtype.kind in "iu"
    if not whole or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(labels) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise ValueError(f"offsets: expected whole numbers [N + 1] that rise from 0 to the {len(labels):,} targets; targets are then class numbers")
    return np.split(labels, offsets[1:-1].astype(np.int64)) if len(offsets) > 1 else []


def _check_room(archive: zipfile.ZipFile | None) -> None:
    """Stops before arrays are unpacked that the memory has no room for, or that are not as long as their headers say."""
    needed = 0
    assert archive is not None
    for name in ("inputs.npy", "targets.npy"):
        member = archive.getinfo(name)
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
            if not dtype.hasobject and (min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size):
                raise ValueError(f"{name} has {member.file_size:,} bytes, which is not {list(shape)} of {dtype}")
        needed += member.file_size
    if needed > (free := free_memory()):
        raise ValueError(f"its arrays take {needed:,} bytes, {free:,} are free")
