"""Examples that are in two of train, hold-out and test: what is judged on them is not to be believed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.targets import Targets
from selfinformed.training.features import FeatureStore

_GRID = 1e-4  # of a projection's standard deviation: finer than other examples lie apart, coarser than the same example in another batch
_WORTH_SAYING = 0.01  # of the examples


def n_shared(store: FeatureStore, other: FeatureStore) -> int:
    """How many examples of a store have the features and the labels of one example of another: the same inputs.

    Compared are four random projections of the features. Inputs that the trunk cannot tell apart are left out: those with the features of several
    examples of the other, and those of which every feature is zero.
    """
    if store.attached.shape[1] != other.attached.shape[1]:
        return 0
    rng = np.random.default_rng(0)
    directions = torch.from_numpy(rng.standard_normal((store.attached.shape[1], 4), np.float32))
    of_label, of_cell = rng.integers(2**63, size=store.targets.n_labels, dtype=np.uint64), rng.integers(2**63, size=4, dtype=np.uint64)
    theirs, mine = _projected(other, directions), _projected(store, directions)
    center, width = theirs.mean(0), _GRID * theirs.std(0)
    if not (width > 0).all():  # all alike
        return 0

    def keys(projected: npt.NDArray[np.float64], targets: Targets) -> npt.NDArray[np.uint64]:
        """One number for the labels of each example and the cell of a grid that it lies in."""
        cells = np.rint((projected - center) / width).astype(np.int64).view(np.uint64)
        rows = np.repeat(np.arange(len(targets)), np.diff(targets.offsets))
        labels = np.zeros(len(targets), np.uint64)
        np.add.at(labels, rows, of_label[targets.labels])
        found: npt.NDArray[np.uint64] = ((cells * of_cell).sum(1, dtype=np.uint64) + labels)[projected.any(1)]
        return found

    known, times = np.unique(keys(theirs, other.targets), return_counts=True)
    return int(np.isin(keys(mine, store.targets), known[times == 1]).sum())


def told_of_shared(parts: Mapping[str, FeatureStore | None]) -> str:
    """One sentence, also given as a warning, where a hundredth or more of the examples of one part are in another, else none.

    Args:
        parts: features by what their examples are called, those that are trained on first.
    """
    given = [(name, store) for name, store in parts.items() if store is not None]
    found = []
    for (earlier, other), (name, store) in itertools.combinations(given, 2):
        n = n_shared(store, other)
        if n >= max(1, _WORTH_SAYING * len(store)):
            found.append(f"{n:,} of {len(store):,} {name} examples are {earlier} examples too")
    if not found:
        return ""
    said = f"Not to be believed: {'; '.join(found)}."
    warnings.warn(said, stacklevel=3)
    return said


def _projected(store: FeatureStore, directions: torch.Tensor) -> npt.NDArray[np.float64]:
    """Float64 [N, 4]."""
    return np.concatenate([(store.attached[rows].float().cpu() @ directions).double().numpy() for rows in store.chunks()])
