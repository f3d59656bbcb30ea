"""Counting loops, compiled by numba. Each works on rows of its own, so threads never meet and the sums are exact in any order.

A row of the matrix belongs to an *owner* label: in eq. (3) an annotated label, in eq. (4) a detected one. The examples of each owner are
gathered first (a counting sort); then a row needs only the detections of its own examples, and stays in cache while they are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # its product with 2^n has another n in the top six bits for each n
_LOWEST_BIT = np.zeros(64, np.uint8)
_LOWEST_BIT[[(int(_DE_BRUIJN) << n & (1 << 64) - 1) >> 58 for n in range(64)]] = np.arange(64)


@njit(nogil=True, cache=True)
def first_wrong(ids: Array, n_labels: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """(row, column) of the first entry of `ids` [B, K] that is not in 0..n_labels-1 or repeats an earlier one of its row, or (-1, -1)."""
    seen = np.zeros(n_labels, np.int32)
    for row in range(ids.shape[0]):
        for k in range(ids.shape[1]):
            label = ids[row, k]
            if label < 0 or label >= n_labels or seen[label] == row + 1:
                return row, k
            seen[label] = row + 1
    return -1, -1


@njit(nogil=True, cache=True)
def gather(owners: Array, offsets: Array, n_labels: int) -> tuple[Array, Array]:  # pragma: no cover - compiled
    """Examples by owner: owner j's are `examples[starts[j]:starts[j + 1]]`, ascending; example n's owners `owners[offsets[n]:offsets[n + 1]]`."""
    starts = np.zeros(n_labels + 1, np.int64)
    for i in range(offsets[0], offsets[-1]):
        starts[owners[i] + 1] += 1
    for label in range(n_labels):
        starts[label + 1] += starts[label]
    place = starts[:-1].copy()
    examples = np.empty(starts[-1], np.int32)
    for example in range(len(offsets) - 1):
        for i in range(offsets[example], offsets[example + 1]):
            owner = owners[i]
            examples[place[owner]] = example
            place[owner] += 1
    return starts, examples


@njit(nogil=True, cache=True)
def add_dense(rows: Array, first: int, starts: Array, examples: Array, ids: Array) -> None:  # pragma: no cover - compiled
    """Adds to `rows` int64 [R, C], whose owners are first, first + 1, ..., the detections `ids` [N, K] of each owner's examples."""
    for r in range(rows.shape[0]):
        row = rows[r]
        for e in range(starts[first + r], starts[first + r + 1]):
            detected = ids[examples[e]]
            for k in range(detected.shape[0]):
                row[detected[k]] += 1


@njit(nogil=True, cache=True)
def add_sparse(
    first: int, starts: Array, examples: Array, ids: Array, old: tuple[Array, Array, Array], columns: Array, data: Array, n_labels: int
) -> Array:  # pragma: no cover - compiled
    """A block of sparse rows `old` (starts, columns, data) plus new detections, written to `columns` (ascending in a row) and `data`.

    Which columns of a row are taken is kept as a bit each, with a bit more for every 64 of those, so that they come out in order without
    sorting and without reading the whole row. Returns the new starts, int64 [R + 1].
    """
    old_starts, old_columns, old_data = old
    n_rows = len(old_starts) - 1
    new_starts = np.zeros(n_rows + 1, np.int64)
    count = np.zeros(n_labels, np.int64)
    taken = np.zeros((n_labels >> 6) + 1, np.uint64)
    taken64 = np.zeros((n_labels >> 12) + 1, np.uint64)
    one, six = np.uint64(1), np.uint64(63)
    filled = 0
    for r in range(n_rows):
        for i in range(old_starts[r], old_starts[r + 1]):
            label = np.int64(old_columns[i])
            count[label] = old_data[i]
            taken[label >> 6] |= one << (np.uint64(label) & six)
            taken64[label >> 12] |= one << (np.uint64(label >> 6) & six)
        for e in range(starts[first + r], starts[first + r + 1]):
            detected = ids[examples[e]]
            for k in range(detected.shape[0]):
                label = np.int64(detected[k])
                count[label] += 1
                taken[label >> 6] |= one << (np.uint64(label) & six)
                taken64[label >> 12] |= one << (np.uint64(label >> 6) & six)
        for high in range(len(taken64)):
            words = taken64[high]
            taken64[high] = 0
            while words:
                lowest = words & (~words + one)
                words ^= lowest
                middle = (high << 6) + np.int64(_LOWEST_BIT[(lowest * _DE_BRUIJN) >> np.uint64(58)])
                bits = taken[middle]
                taken[middle] = 0
                while bits:
                    bit = bits & (~bits + one)
                    bits ^= bit
                    label = (middle << 6) + np.int64(_LOWEST_BIT[(bit * _DE_BRUIJN) >> np.uint64(58)])
                    columns[filled], data[filled] = label, count[label]
                    count[label] = 0
                    filled += 1
        new_starts[r + 1] = filled
    return new_starts


@njit(nogil=True, cache=True)
def sparse_rows(rows: Array) -> tuple[Array, Array, Array]:  # pragma: no cover - compiled
    """Dense rows [R, C] as sparse ones: starts int64 [R + 1], columns int32, counts int64."""
    starts = np.zeros(rows.shape[0] + 1, np.int64)
    for r in range(rows.shape[0]):
        n = 0
        for c in range(rows.shape[1]):
            n += rows[r, c] != 0
        starts[r + 1] = starts[r] + n
    columns, data = np.empty(starts[-1] + 1, np.int32), np.empty(starts[-1] + 1, np.int64)  # a cell more, to write without asking
    filled = 0
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            columns[filled], data[filled] = c, rows[r, c]
            filled += rows[r, c] != 0
    return starts, columns[:filled], data[:filled]


@njit(nogil=True, cache=True)
def transpose_into(
    first: int, starts: Array, columns: Array, data: Array, place: Array, out_columns: Array, out_data: Array
) -> None:  # pragma: no cover - compiled
    """Writes sparse rows as columns: entry (r, c) goes to `place[c]`, which moves on by one."""
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            at = place[columns[i]]
            out_columns[at] = first + r
            out_data[at] = data[i]
            place[columns[i]] = at + 1
