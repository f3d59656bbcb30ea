"""Whether the groups are there in the labels, or only in this sample of examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from selfinformed.data.predictions import Predictions
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.progress import progress
from selfinformed.runtime.remarks import unremarked
from selfinformed.runtime.tabular import frame
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.groupings import Method
from selfinformed.structure.groups import LabelGroups

if TYPE_CHECKING:
    import pandas as pd

_STREAM = 0x5AB1  # numpy's seeds [0, 0, 0] and 0 are one: without a number of our own, halves could follow the order of the user's random data
Weights = Callable[[np.random.Generator, int], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Stability:
    """Adjusted Rand indices (Hubert and Arabie 1985): 1 is the same groups, 0 what chance gives; NaN where a sample has no groups.

    Attributes:
        n_groups: how many were asked of each sample.
        halves: between the groups found on two halves of the examples, drawn at random.
        bootstraps: between the groups and those found on samples of as many examples, drawn with replacement.
    """

    n_groups: int
    halves: float
    bootstraps: tuple[float, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row {sample, adjusted_rand_index} for the halves and for each bootstrap; needs the extra `pandas`."""
        rows = [("halves", self.halves), *((f"bootstrap {i + 1}", index) for i, index in enumerate(self.bootstraps))]
        return frame({"sample": sample, "adjusted_rand_index": index} for sample, index in rows)

    def __str__(self) -> str:
        known = [index for index in self.bootstraps if index == index]
        bootstraps = f"; {len(known)} bootstraps agree with them {min(known):.2f} to {max(known):.2f}" if known else ""
        if fewer := len(self.bootstraps) - len(known):
            bootstraps += f"; {fewer} of {len(self.bootstraps)} bootstraps have no such groups"
        return f"groups from two halves of the examples agree {self.halves:.2f}{bootstraps} (adjusted Rand index: 1 the same, 0 chance)"


def stability(
    predictions: Predictions, groups: LabelGroups, kind: Kind = "confusions", bootstraps: int = 3, seed: int = 0, method: Method = "spectral"
) -> Stability:
    """Finds as many groups again, by the same method of `cluster`, on two halves of the examples and on bootstrap samples.

    A bootstrap takes each example a number of times drawn from a Poisson distribution of mean 1, so that predictions are read as a stream.
    """

    def again(number: int, weights: Weights, half: int = 0) -> LabelGroups | None:
        counts = _weighted(predictions, kind, lambda first, n: weights(np.random.default_rng([seed, number, first, _STREAM]), n))
        try:
            with unremarked():
                found = cluster(counts, len(groups), seed if method != "random" else seed + 1 + 2 * number + half, method=method)
        except SelfInformedError:
            return None
        return found if sum(found.sizes) >= len(groups) else None  # too few examples to have that many groups

    def half(which: int) -> LabelGroups | None:
        return again(0, lambda rng, n: (rng.integers(0, 2, n) == which).astype(np.int64), which)

    steps: list[Callable[[], float]] = [lambda: agreement(half(0), half(1))]
    steps += [lambda number=number: agreement(groups, again(number, lambda rng, n: rng.poisson(1.0, n))) for number in range(1, bootstraps + 1)]  # type: ignore[misc]
    halves, *others = [step() for step in progress(steps, len(steps), "stability")]
    return Stability(len(groups), halves, tuple(others))


def agreement(one: LabelGroups | None, other: LabelGroups | None) -> float:
    """Adjusted Rand index of two groupings over the labels that both have put in a group."""
    from sklearn.metrics import adjusted_rand_score

    if one is None or other is None:
        return float("nan")
    a, b = one.assignment, other.assignment
    both = (a >= 0) & (b >= 0)
    return float(adjusted_rand_score(a[both], b[both])) if both.any() else float("nan")


def _weighted(predictions: Predictions, kind: Kind, weights: Callable[[int, int], npt.NDArray[Any]]) -> ConfusionCounts:
    """Counts in which each example stands as often as `weights` of (first example, number) says."""
    counts, first = ConfusionCounts(predictions.n_labels, predictions.top_k, kind), 0
    for ids, targets in predictions.batches():
        rows = np.repeat(np.arange(len(ids)), weights(first, len(ids)))
        first += len(ids)
        if len(rows):
            counts.update_detections(ids[rows], targets.take(rows))
    return counts
