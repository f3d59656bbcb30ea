"""The loops of choosing heads, compiled by numba: PyTorch takes several passes and copies for each. All arrays are contiguous."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.runtime.compiling import compiled

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


@compiled
def best_groups(scores: FloatArray, labels: IntArray, starts: IntArray, always: npt.NDArray[np.bool_], top: int) -> IntArray:
    """The `top` groups [B, top] of each example with the highest score, the best first, the lower group of a tie: scores [B, C], labels of group g at
    `starts[g]` to `starts[g + 1]`, groups that come first `always`.
    """
    chosen = np.empty((len(scores), top), np.int64)
    own, kept = np.empty(scores.shape[1], scores.dtype), np.empty(top, scores.dtype)
    for row in range(len(scores)):
        own[:] = scores[row]  # in one sweep, since out of order memory is slow
        n_kept = 0
        for group in range(len(always)):
            highest = own[labels[starts[group]]]
            for place in range(starts[group] + 1, starts[group + 1]):
                highest = max(highest, own[labels[place]])
            if always[group]:
                highest = scores.dtype.type(np.inf)
            if n_kept < top:
                n_kept += 1
            elif not highest > kept[top - 1]:
                continue
            rank = n_kept - 1
            while rank > 0 and highest > kept[rank - 1]:
                kept[rank], chosen[row, rank] = kept[rank - 1], chosen[row, rank - 1]
                rank -= 1
            kept[rank], chosen[row, rank] = highest, group
    return chosen


@compiled
def by_group(chosen: IntArray, n_groups: int) -> tuple[IntArray, IntArray]:
    """How many examples chose each group [G], and which, rising, group by group [B * top]: chosen [B, top]."""
    counts = np.zeros(n_groups + 1, np.int64)
    for row in range(chosen.shape[0]):
        for rank in range(chosen.shape[1]):
            counts[chosen[row, rank] + 1] += 1
    at = np.cumsum(counts)[:-1]
    examples = np.empty(chosen.size, np.int64)
    for row in range(chosen.shape[0]):
        for rank in range(chosen.shape[1]):
            group = chosen[row, rank]
            examples[at[group]] = row
            at[group] += 1
    return counts[1:], examples


@compiled
def add_at(total: FloatArray, counts: IntArray, examples: IntArray, labels: IntArray, starts: IntArray, values: FloatArray) -> None:
    """Adds to the logits [B, C] what heads give, flat: group by group, for each of the `counts` examples that `by_group` says, a value for each of
    the group's labels (see `best_groups`).
    """
    pair = at = 0
    for group in range(len(counts)):
        for _ in range(counts[group]):
            own = total[examples[pair]]
            for place in range(starts[group], starts[group + 1]):
                own[labels[place]] += values[at]
                at += 1
            pair += 1


@compiled
def taken_at(total: FloatArray, counts: IntArray, examples: IntArray, labels: IntArray, starts: IntArray, values: FloatArray) -> None:
    """Fills `values` with what is where `add_at` would add them."""
    pair = at = 0
    for group in range(len(counts)):
        for _ in range(counts[group]):
            own = total[examples[pair]]
            for place in range(starts[group], starts[group + 1]):
                values[at] = own[labels[place]]
                at += 1
            pair += 1
