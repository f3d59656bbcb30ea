"""Examples that are in two of train, hold-out and test: what is judged on them is not to be believed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.targets import Targets
from selfinformed.runtime.remarks import remark
from selfinformed.training.features import FeatureStore

_DIRECTIONS = 3
_GRID = 1e-3  # of a projection's spread: finer than other examples lie apart, coarser than the same example in another batch
_REPEATED = 8  # times that an example may stand in a part
_WORTH_SAYING = 0.01  # of the examples
_SURELY = 4.0  # standard deviations above what chance gives


def n_shared(store: FeatureStore, other: FeatureStore) -> int:
    """About how many examples of a store are in another too: those with the same features and labels, less as many as chance gives.

    Compared are random projections of the features, on a grid. Where inputs have few values, or a trunk tells few apart, other examples are alike by
    chance: how often, examples of the other store that are alike say (Good 1953: a cell seen t times holds (t + 1) n[t + 1] / N of what is drawn, where
    n[t] cells were seen t times).
    """
    width = store.attached.shape[1]
    if width != other.attached.shape[1] or not len(store) or not len(other):
        return 0
    half = any(part.attached[:1].dtype == torch.float16 for part in (store, other))
    rng = np.random.default_rng(0)
    directions = torch.from_numpy(rng.standard_normal((width, _DIRECTIONS), np.float32))
    of_cell = rng.integers(2**63, size=_DIRECTIONS, dtype=np.uint64)
    of_label = rng.integers(2**63, size=max(store.targets.n_labels, other.targets.n_labels), dtype=np.uint64)
    theirs, mine = (_projected(part, directions, half) for part in (other, store))
    low, center, high = np.quantile(theirs, (0.16, 0.5, 0.84), axis=0)
    cell = _GRID * np.where(high > low, high - low, theirs.std(0))
    if not (cell > 0).all():  # all alike
        return 0

    def keys(projected: npt.NDArray[np.float64], targets: Targets) -> npt.NDArray[np.uint64]:
        """One number for the labels of each example and the cell of the grid that it lies in."""
        cells = np.clip(np.rint((projected - center) / cell), -(2.0**62), 2.0**62).astype(np.int64).view(np.uint64)
        labels = np.zeros(len(targets), np.uint64)
        np.add.at(labels, np.repeat(np.arange(len(targets)), np.diff(targets.offsets)), of_label[targets.labels])
        found: npt.NDArray[np.uint64] = (cells * of_cell).sum(1, dtype=np.uint64) + labels
        return found

    known, times = np.unique(keys(theirs, other.targets), return_counts=True)
    wanted = keys(mine, store.targets)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    seen = np.where(known[place] == wanted, times[place], 0)
    found, cells = (np.bincount(numbers, minlength=_REPEATED + 2) for numbers in (seen, times))
    more, ratio = np.arange(2, _REPEATED + 2), len(store) / len(other)
    chance = ratio * more * cells[more]
    surplus = found[more - 1] - chance
    return round(float(surplus[surplus > _SURELY * np.sqrt((1 + chance) * (1 + ratio * more))].sum()))


def told_of_shared(parts: Mapping[str, FeatureStore | None]) -> str:
    """One sentence, also given as a warning, where more than a hundredth of one part's examples are in another, else none.

    Args:
        parts: features by what their examples are called, those that are trained on first.
    """
    given = [(name, store) for name, store in parts.items() if store is not None]
    found = []
    for (earlier, other), (name, store) in itertools.combinations(given, 2):
        n = n_shared(store, other)
        if n > _WORTH_SAYING * min(len(store), len(other)):
            found.append(f"{n:,} of {len(store):,} {name} examples are {earlier} examples too")
    if not found:
        return ""
    said = f"Not to be believed: {'; '.join(found)}."
    remark(said)
    return said


def _projected(store: FeatureStore, directions: torch.Tensor, half: bool) -> npt.NDArray[np.float64]:
    """Float64 [N, directions]; of `half` precision features where the other store's are so."""
    parts = []
    for rows in store.chunks():
        features = store.attached[rows].cpu()
        parts.append(((features.half() if half else features).float() @ directions).double().numpy())
    return np.concatenate(parts)
