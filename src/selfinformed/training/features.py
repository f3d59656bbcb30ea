"""The feature store: what heads and classifier read, computed once by the frozen network."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.augmented.readers import InputTransform
from selfinformed.data.examples import Examples
from selfinformed.data.inputs import Inputs, joined, take_inputs
from selfinformed.data.targets import Targets, checked_targets
from selfinformed.network.points import FeatureShape
from selfinformed.network.trunk import CopiedEnd
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import one_of, whole_number
from selfinformed.runtime.device import wait_for
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.runtime.memory import free_memory
from selfinformed.runtime.reading import naming, parsed, reason_of
from selfinformed.runtime.remarks import remark
from selfinformed.structure.average_precision import Ranking, RankingMetrics
from selfinformed.structure.measuring import check_labels
from selfinformed.structure.plans import Source
from selfinformed.training.moments import HeadInput, transform_of
from selfinformed.training.shards import FeatureType, compute, part_widths, places_read, write_shards
from selfinformed.training.stored import Rows, Shards, StoredRows, TransformedRows, open_shards

FORMAT = "selfinformed.features/1"
_FEATURES_AT_ONCE = 512
_VALUES_AT_ONCE = 2**22
_SHARE_OF_MEMORY = 0.5
_DIGESTED = 16  # examples whose features a digest holds
_NOTHING = "features: there is no example to read"


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Cached features of N examples, in memory or, where they take more, on disk. Read them through `batch`.

    Attributes:
        attached: [N, D], the attach point, in float32 or float16: a tensor, or what gives one when indexed with rows or a slice.
        penultimate: [N, P], the classifier's input, likewise.
        targets: annotations.
        fingerprint: of the network that computed them.
        seconds: how long that took.
        examples: what they were computed from, where that is at hand.
        shapes: of the attach points, whose features stand side by side.
        n_views: how many views of the same examples follow one another.
        places: [module, side, reduce] of each attach point; None where these are not known.
        skips: whether some view of an example could not be read.
        shards: where all these examples were read from a folder, what gives the order of a pass.
    """

    attached: Rows
    penultimate: Rows
    targets: Targets
    fingerprint: str
    seconds: float
    examples: Examples | None = None
    shapes: tuple[FeatureShape, ...] = ()
    n_views: int = 1
    places: list[list[str]] | None = None
    skips: bool = False
    shards: Shards | None = None
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)  # transforms, which several trainings ask for alike

    def __post_init__(self) -> None:
        if not self.shapes:
            object.__setattr__(self, "shapes", (FeatureShape(self.attached.shape[1]),))
        for part in (self.attached, self.penultimate):  # what is on disk was checked before it was written
            bad = _first_not_finite(part) if isinstance(part, torch.Tensor) else None
            if bad is not None:
                who = self.examples.name(bad) if self.examples is not None else f"example {bad}"
                raise SelfInformedError(f"features: the network gives {who} features that are not finite; mend the example or the network")

    def __len__(self) -> int:
        return len(self.attached)

    def __repr__(self) -> str:
        return f"FeatureStore({len(self)} examples, {self.attached.shape[1]} features, {self.targets.n_labels} labels)"

    @property
    def n_inputs(self) -> int:
        """Examples that differ in more than their view: the first so many are one view of each. All N, where some view of an example could not be read."""
        return len(self) if self.skips or len(self) % self.n_views else len(self) // self.n_views

    def check(self, net: WrappedClassifier, who: str, to: str) -> None:
        """That these are what a network gives its heads and its classifier.

        Raises:
            SelfInformedError: `who`: they are of another network, or were read elsewhere in it; cache them again with the one `to` ....
        """
        if self.fingerprint != net.fingerprint:
            raise SelfInformedError(f"{who}: these features are of another network; cache them again with the one {to}")
        if self.places not in (None, own := places_read(net)):
            read, reads = ("; ".join(" ".join(place) for place in places) for places in (self.places or (), own))
            raise SelfInformedError(f"{who}: these features were read at {read}, and this network's heads read {reads}; cache them again with the one {to}")

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What heads and classifier read of some examples, int64 [b] or a mask [N]: float32 [b, D] and [b, P]."""
        rows = torch.nonzero(rows).flatten() if rows.dtype == torch.bool else rows
        attached = self.attached[rows].float()
        return attached, attached if self.penultimate is self.attached else self.penultimate[rows].float()

    def permutation(self, generator: torch.Generator) -> torch.Tensor:
        """All example numbers, of all views, in a random order that can be read fast, and depends on nothing but the generator and what is stored."""
        return torch.randperm(len(self), generator=generator, device="cpu") if self.shards is None else self.shards.permutation(generator)

    def transformed(self, transform: InputTransform) -> FeatureStore:
        """The same examples as heads see them behind a transform: all at once if memory holds that too, else whenever some are read."""
        if self._made.get("transform") is not transform:
            self._made.pop("transformed", None)  # before another as large is made
            self._made.update(transform=transform, transformed=self._transformed(transform))
        return self._made["transformed"]  # type: ignore[no-any-return]

    def _transformed(self, transform: InputTransform) -> FeatureStore:
        if not isinstance(self.attached, torch.Tensor) or 4 * self.attached.numel() > _SHARE_OF_MEMORY * free_memory():
            return replace(self, attached=TransformedRows(self.attached, transform))
        whole = torch.empty(self.attached.shape, device="cpu")
        for rows in self.chunks():
            whole[rows] = transform(self.attached[rows].float())
        return replace(self, attached=whole)

    @classmethod
    def of(cls, net: WrappedClassifier, data: Examples | FeatureStore, what: str = "caching features") -> FeatureStore:
        """Features as they are, or those of examples, in memory; `what` is said beside the progress."""
        return data if isinstance(data, FeatureStore) else cls.build(net, data, what=what)

    @classmethod
    def build(
        cls,
        net: WrappedClassifier,
        examples: Examples | Sequence[Examples],
        batch_size: int = 64,
        what: str = "caching features",
        folder: str | Path | None = None,
        dtype: FeatureType = "float32",
        memory: float = _SHARE_OF_MEMORY,
    ) -> FeatureStore:
        """Runs the network once over the examples; unreadable ones that may be skipped are left out.

        Args:
            net: the wrapped network.
            examples: or several views of the same examples, which follow one another.
            batch_size: examples per forward pass.
            what: the name of the work, for progress and errors.
            folder: keeps the features there, shard by shard. Then this can be killed and called again, any number of processes that share the
                folder divide the work, and the features may take more than memory.
            dtype: `float32`, or `float16`: half the size, and each feature rounded to 11 bits.
            memory: the share of free memory that features in a folder may take; larger ones are read from there as they are needed.

        Raises:
            SelfInformedError: no example can be read; features are not finite, or beyond 65504 for float16; the disk is too small or full; the
                folder holds features of another network, other data or another type; more examples are unreadable than `skip_bad` allows.
        """
        are_views = isinstance(examples, list | tuple) and all(isinstance(view, Examples) for view in examples)
        examples = cast("Examples", _one_after_another(examples) if are_views else examples)  # type: ignore[arg-type]
        check_wrapped(net)
        check_labels(net, examples)
        batch_size = whole_number("batch_size", batch_size)
        one_of("dtype", dtype, get_args(FeatureType))
        if not len(examples):
            raise SelfInformedError(_NOTHING)
        if folder is not None:
            write_shards(net, examples, Path(folder), batch_size, dtype, what)
            return cls.load(folder, net, examples, memory)
        start = time.perf_counter()
        rows, parts = compute(net, examples, batch_size, dtype, examples.name, what)
        if not len(rows):
            raise SelfInformedError(_NOTHING)
        source = examples.take(rows) if examples.skipped else examples
        seconds, penultimate = time.perf_counter() - start, parts["penultimate"]
        attached = parts.get("attached", penultimate)
        places, skips = places_read(net), bool(examples.skipped)
        return cls(attached, penultimate, source.targets, net.fingerprint, seconds, source, net.shapes, examples.n_views, places, skips)

    def save(self, path: str | Path) -> None:
        """Writes safetensors, atomically."""
        arrays = {
            "attached": self.attached[:].numpy(), "penultimate": self.penultimate[:].numpy(),
            "offsets": self.targets.offsets, "labels": self.targets.labels,
        }  # fmt: skip
        numbers = {"n_labels": str(self.targets.n_labels), "fingerprint": self.fingerprint, "seconds": str(self.seconds), "n_views": str(self.n_views)}
        numbers |= {"skips": "1"} if self.skips else {}
        places = {} if self.places is None else {"attach": json.dumps(self.places)}
        write_tensors(path, arrays, {"format": FORMAT, **numbers, **places})

    @classmethod
    def load(cls, path: str | Path, net: WrappedClassifier, examples: Examples | None = None, memory: float = _SHARE_OF_MEMORY) -> FeatureStore:
        """Reads what `save` wrote, or a folder that `build` filled, for the same network only.

        Args:
            path: the file or folder.
            net: the network that computed the features.
            examples: those they were computed from; of a file, without those that were left out.
            memory: the share of free memory that a folder's features may take; larger ones are read from disk as they are needed.
        """
        if Path(path).is_dir():
            return cls._open(Path(path), net, examples, memory)
        arrays, metadata = read_tensors(path, FORMAT)
        if metadata.get("fingerprint") != net.fingerprint:
            raise SelfInformedError(f"{path} holds features of another network; delete it to have them computed again")
        try:
            targets = checked_targets(arrays["offsets"], arrays["labels"], int(metadata["n_labels"]), len(arrays["attached"]))
            attached, penultimate = torch.from_numpy(arrays["attached"]), torch.from_numpy(arrays["penultimate"])
            seconds, n_views = float(metadata["seconds"]), int(metadata.get("n_views", "1"))
            places = parsed(metadata["attach"]) if "attach" in metadata else None  # earlier versions did not say
            if places not in (None, places_read(net)):
                raise SelfInformedError(f"{path} holds features of another place in the network; delete it to have them computed again")
            with naming(path):
                return cls(attached, penultimate, targets, metadata["fingerprint"], seconds, examples, net.shapes, n_views, places, "skips" in metadata)
        except (KeyError, ValueError, TypeError) as error:
            raise SelfInformedError(f"{path} holds no valid features ({reason_of(error)}); delete it to have them computed again") from None

    @classmethod
    def _open(cls, folder: Path, net: WrappedClassifier, examples: Examples | None, memory: float) -> FeatureStore:
        room = int(memory * free_memory())
        shards = open_shards(folder, net, examples)
        if not len(shards):
            raise SelfInformedError(_NOTHING)
        source = examples.take(shards.rows) if examples is not None and shards.skipped else examples
        resident = len(shards) * shards.row_bytes <= room
        parts: dict[str, Rows] = {part: shards.load(part) if resident else StoredRows(shards, part) for part in shards.widths}
        attached, penultimate = parts.get("attached", parts["penultimate"]), parts["penultimate"]
        with naming(folder):
            places, skips = places_read(net), bool(shards.skipped)
            return cls(attached, penultimate, shards.targets, net.fingerprint, shards.seconds, source, net.shapes, shards.n_views, places, skips, shards)

    def input_transform(self, kind: HeadInput, copies: Mapping[Source, CopiedEnd] | None = None) -> InputTransform:
        """What gives each attach point, over these examples (and the positions of a map), zero mean and unit deviations (`standardised`)
        or also no correlations (`whitened`, symmetric, shrunk by a hundredth of the mean variance).

        What copies of the trunk's end read stays as it is; what they give, as the trunk's own weights would, is transformed.
        """
        copies = copies or {}
        key = (kind, *copies)
        if key not in self._made:
            starts = itertools.accumulate((shape.size for shape in self.shapes), initial=0)
            read = [place for place, start in enumerate(starts) if any(source.start == start for source in copies)]
            made = transform_of((self.attached[rows].float() for rows in self.chunks()), self.shapes, kind, read)
            given = {source: transform_of(self._given(copy, source), [FeatureShape(copy.end.size)], kind) for source, copy in copies.items()}
            self._made[key] = replace(made, copied={source: (its.shifts[0], its.matrices[0]) for source, its in given.items()})
        return self._made[key]  # type: ignore[no-any-return]

    def _given(self, copy: CopiedEnd, source: Source) -> Iterator[torch.Tensor]:
        """What a copy gives of these examples, in chunks."""
        weight = next(copy.parameters(), torch.zeros(0, device="cpu"))
        for rows in torch.arange(len(self), device="cpu").split(_FEATURES_AT_ONCE):  # type: ignore[no-untyped-call]
            with torch.no_grad():
                part = self.attached[rows][:, source.start : source.stop].to(weight)
                yield copy(part.unflatten(1, copy.end.shape)).float().cpu()  # type: ignore[no-untyped-call]

    def digest(self) -> str:
        """SHA-256 over the network that computed the features, the targets, and a few examples' features.

        These are means over the columns in three digits, so that the last bits, which another number of threads may change, do not count.
        """
        digest = hashlib.sha256(f"{self.fingerprint} {len(self)} {self.targets.n_labels}".encode())
        for array in (self.targets.offsets, self.targets.labels):
            digest.update(np.ascontiguousarray(array).data)
        rows = torch.linspace(0, len(self) - 1, min(_DIGESTED, len(self)), device="cpu").long()
        for part in self.batch(rows):
            digest.update(" ".join(f"{value:.3g}" for value in part.double().abs().mean(1).tolist()).encode())
        return digest.hexdigest()

    def chunks(self) -> Iterator[slice]:
        """All examples in turn, some megabytes at a time."""
        size = max(1, _VALUES_AT_ONCE // max(1, self.attached.shape[1]))
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))


def estimate(
    net: WrappedClassifier, examples: Examples | Sequence[Examples], batch_size: int = 64, dtype: FeatureType = "float32"
) -> dict[str, float]:
    """What `FeatureStore.build` will take, from one timed batch: {bytes, seconds, forward_seconds}, the last without reading the inputs."""
    views = [examples] if isinstance(examples, Examples) else examples
    n, batches = sum(map(len, views)), views[0].batches(batch_size)
    start = time.perf_counter()
    rows, inputs = next(batches, (None, None))
    if rows is None or inputs is None:
        raise SelfInformedError(_NOTHING)
    reading = time.perf_counter() - start
    wait_for(net.features(inputs).logits)  # the first call is slower
    start = time.perf_counter()
    wait_for(net.features(inputs).logits)
    forward = time.perf_counter() - start
    size = torch.finfo(getattr(torch, dtype)).bits // 8 * sum(part_widths(net).values())
    return {"bytes": float(n * size), "seconds": n / len(rows) * (reading + forward), "forward_seconds": n / len(rows) * forward}


def _one_after_another(views: Sequence[Examples]) -> Examples:
    """Views of the same examples as one set of examples."""
    if not views:
        raise SelfInformedError("features: there is no view of the examples; give at least one")
    first = views[0]
    if len(views) == 1:
        return first
    for number, view in enumerate(views):
        if view.labels != first.labels or not view.targets.is_same(first.targets):
            raise SelfInformedError(f"features: view {number} has other targets than view 0; give views of the same examples in the same order")

    targets = first.targets.take(np.tile(np.arange(len(first)), len(views)))
    names = [name for view in views for name in view.names or ()] if all(view.names is not None for view in views) else None
    skip_bad, n_views, whole = sum(view.skip_bad for view in views), sum(view.n_views for view in views), _InTurn(views)
    return Examples(whole.read, targets, first.labels, names, skip_bad, content=whole.content, n_views=n_views)


@dataclass(frozen=True)
class _InTurn:
    """The inputs of several views, view after view."""

    views: Sequence[Examples]

    def read(self, rows: Sequence[int]) -> Inputs:
        if not len(rows):
            return self.views[0].read([])
        view, row = np.divmod(np.asarray(rows, dtype=np.int64), len(self.views[0]))
        order = np.argsort(view, kind="stable")
        parts = [self.views[v].read(row[order[view[order] == v]].tolist()) for v in np.unique(view)]
        return take_inputs(joined(parts), torch.from_numpy(np.argsort(order)))

    def content(self) -> bytes:
        return "".join(view.fingerprint for view in self.views).encode()


def _first_not_finite(features: torch.Tensor) -> int | None:
    """The first row with a value that is not finite; without a copy of the features."""
    bad = torch.nonzero(~(features.amax(1).isfinite() & features.amin(1).isfinite())).flatten()  # both are NaN where there is one
    return int(bad[0]) if len(bad) else None


Model = WrappedClassifier | AugmentedClassifier


def net_of(model: Model) -> WrappedClassifier:
    """The wrapped network, with heads or without."""
    net = model if isinstance(model, WrappedClassifier) else getattr(model, "net", None)
    if not isinstance(net, WrappedClassifier):
        raise SelfInformedError(f"network: expected one from wrap or augment, got {type(model).__name__}; give si.wrap(model, example_inputs)")
    return net


def metrics_of(model: Model, top_k: int = 50) -> RankingMetrics:
    """What judges a model: by its probabilities where it was wrapped with `output="softmax"`, else by its logits."""
    net = net_of(model)
    return RankingMetrics(net.n_labels, top_k, "probabilities" if net.output == "softmax" else "logits")


def rank(model: Model, data: Examples | FeatureStore, top_k: int = 50, what: str | None = None) -> Ranking:
    """mAP@K and top-1/5 of a model over examples, or over the cached features of its frozen part.

    A network wrapped with `output="softmax"` is judged by its probabilities, others by their logits; a warning says where it was wrapped with
    neither and every example has one label.
    """
    metrics = metrics_of(model, top_k)
    for scores, targets, name in score_batches(model, data, what=what):
        metrics.update(scores, targets, name)
    found = metrics.compute()
    if net_of(model).output is None and data.targets.single:
        remark(
            f"mAP@{top_k} ranks the logits of different examples against one another, which says little of a network trained with softmax: wrap it with "
            'output="softmax", or with output="logistic" where its logits are so meant'
        )
    return found


def score_batches(
    model: Model, data: Examples | FeatureStore, what: str | None = None
) -> Iterator[tuple[torch.Tensor, Targets, Callable[[int], str]]]:
    """Logits [b, C], targets and a name for row b of errors, batch by batch, in order."""
    net = net_of(model)
    if isinstance(data, FeatureStore):
        data.check(net, "features", "to judge")
        if isinstance(model, AugmentedClassifier):
            model.compare_base()
        for start in range(0, len(data), _FEATURES_AT_ONCE):
            stop = min(start + _FEATURES_AT_ONCE, len(data))
            with torch.no_grad():
                scores = scores_from_features(model, *data.batch(torch.arange(start, stop, device="cpu"))).cpu()
            yield scores, data.targets.take(np.arange(start, stop)), lambda b, start=start: f"example {start + b}"  # type: ignore[misc]
        return
    check_labels(net, data)
    for rows, inputs in data.batches(what=what):
        yield model.logits(inputs).cpu(), data.targets.take(rows), lambda b, rows=rows: data.name(int(rows[b]))  # type: ignore[misc]


def scores_from_features(model: Model, attached: torch.Tensor, penultimate: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] from cached features, with gradients for an augmented network."""
    if isinstance(model, AugmentedClassifier) and model.base_was_tuned:
        raise SelfInformedError("features: the whole network was trained on since they were cached; give examples instead")
    classifier = model.classifier
    attached, penultimate = attached.to(classifier.weight), penultimate.to(classifier.weight)
    return classifier(penultimate) if isinstance(model, WrappedClassifier) else model.from_features(attached, penultimate)
