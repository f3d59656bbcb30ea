"""Examples that are in two of train, hold-out and test: what is judged on them is not to be believed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.runtime.remarks import remark
from selfinformed.training.features import FeatureStore

_DIRECTIONS = 3
_GRID = 1e-3  # of a projection's spread: finer than other examples lie apart, coarser than the same example in another batch
_REPEATED = 8  # times that an example may stand in a part
_SEVERAL = 100  # cells of the grid, of which all hold a multiple of the same number of examples by chance never
_WORTH_SAYING = 0.01  # of the examples
_SURELY = 4.0  # standard deviations above what chance gives


@dataclass(frozen=True)
class _Sketch:
    """What is compared of a store: random projections of the features, float64 [N, directions], and a number for the labels of each example, uint64 [N]."""

    projected: npt.NDArray[np.float64]
    labels: npt.NDArray[np.uint64]


def n_shared(store: FeatureStore, other: FeatureStore) -> int:
    """About how many examples of a store are in another too: those with the same features and labels, less as many as chance gives.

    Compared are random projections of the features, on a grid. Where inputs have few values, or a trunk tells few apart, other examples are alike by
    chance: how often, examples of the other store that are alike say (Good 1953: a cell seen t times holds (t + 1) n[t + 1] / N of what is drawn, where
    n[t] cells were seen t times).
    """
    return _n_shared(*_sketches((store, other)))


def told_of_shared(parts: Mapping[str, FeatureStore | None]) -> str:
    """One sentence, also given as a warning, where more than a hundredth of one part's examples are in another, else none.

    Args:
        parts: features by what their examples are called, those that are trained on first.
    """
    given = {name: store for name, store in parts.items() if store is not None}
    sketches = zip(given, _sketches([*given.values()]), strict=True)
    found = []
    for (earlier, other), (name, store) in itertools.combinations(sketches, 2):
        n, size = _n_shared(store, other), len(store.labels)
        if n > _WORTH_SAYING * min(size, len(other.labels)):
            found.append(f"{n:,} of {size:,} {name} examples are {earlier} examples too")
    if not found:
        return ""
    said = f"Not to be believed: {'; '.join(found)}."
    remark(said)
    return said


def _sketches(stores: Sequence[FeatureStore]) -> list[_Sketch]:
    """Of all stores alike: by the same directions, of features in the coarsest type of any."""
    half = any(store.attached[:1].dtype == torch.float16 for store in stores)
    rng = np.random.default_rng(0)
    of_label = rng.integers(2**63, size=max(store.targets.n_labels for store in stores), dtype=np.uint64)
    made = []
    for store in stores:
        directions = torch.from_numpy(np.random.default_rng(1).standard_normal((store.attached.shape[1], _DIRECTIONS), np.float32))
        projected = np.empty((len(store), _DIRECTIONS))
        for rows in store.chunks():
            features = store.attached[rows].cpu()
            projected[rows] = (features.half() if half else features).float() @ directions
        labels = np.zeros(len(store), np.uint64)
        np.add.at(labels, np.repeat(np.arange(len(store)), np.diff(store.targets.offsets)), of_label[store.targets.labels])
        made.append(_Sketch(projected, labels))
    return made


def _n_shared(mine: _Sketch, theirs: _Sketch) -> int:
    if not len(mine.labels) or not len(theirs.labels):
        return 0
    low, center, high = np.quantile(theirs.projected, (0.16, 0.5, 0.84), axis=0)
    cell = _GRID * np.where(high > low, high - low, theirs.projected.std(0))
    if not (cell > 0).all():  # all alike
        return 0
    of_cell = np.random.default_rng(2).integers(2**63, size=_DIRECTIONS, dtype=np.uint64)

    def keys(sketch: _Sketch) -> npt.NDArray[np.uint64]:
        """One number for the labels of each example and the cell of the grid that it lies in."""
        cells = np.clip(np.rint((sketch.projected - center) / cell), -(2.0**62), 2.0**62).astype(np.int64).view(np.uint64)
        found: npt.NDArray[np.uint64] = (cells * of_cell).sum(1, dtype=np.uint64) + sketch.labels
        return found

    known, times = np.unique(keys(theirs), return_counts=True)
    n = len(theirs.labels)
    if len(known) >= _SEVERAL and not (times % times.min()).any():  # every example stands there so many times: views, or sampled so
        n, times = n // int(times.min()), times // times.min()
    wanted = keys(mine)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    seen = np.where(known[place] == wanted, times[place], 0)
    found, cells = (np.bincount(numbers, minlength=_REPEATED + 2) for numbers in (seen, times))
    more, ratio = np.arange(2, _REPEATED + 2), len(wanted) / n
    chance = ratio * more * cells[more]
    surplus = found[more - 1] - chance
    return round(float(surplus[surplus > _SURELY * np.sqrt((1 + chance) * (1 + ratio * more))].sum()))
