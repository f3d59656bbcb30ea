"""Counting loops, compiled by numba. Each works on rows of its own, so threads never meet and the sums are exact in any order.

A row of the matrix belongs to an *owner* label: in eq. (3) an annotated label, in eq. (4) a detected one. The examples of each owner are
gathered first (a counting sort); then a row needs only the detections of its own examples, and stays in cache while they are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.runtime.compiling import compiled

Array = npt.NDArray[Any]

@compiled
def admit(ids: Array, n_labels: int, out: Array) -> tuple[int, int]:  # pragma: no cover - compiled
    """Copies detections [B, K] into `out` of a narrower type.

    Returns (row, column) of the first entry that is not in 0..n_labels-1 or repeats an earlier one of its row, or (-1, -1).
    """
    seen = np.zeros(n_labels, np.int32)
    for row in range(ids.shape[0]):
        for k in range(ids.shape[1]):
            label = ids[row, k]
            if label < 0 or label >= n_labels or seen[label] == row + 1:
                return row, k
            seen[label] = row + 1
            out[row, k] = label
    return -1, -1


@compiled
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


@compiled
def add_dense(rows: Array, first: int, starts: Array, examples: Array, ids: Array) -> None:  # pragma: no cover - compiled
    """Adds to `rows` [R, C], whose owners are first, first + 1, ..., the detections `ids` [N, K] of each owner's examples."""
    for r in range(rows.shape[0]):
        row = rows[r]
        for e in range(starts[first + r], starts[first + r + 1]):
            detected = ids[examples[e]]
            for k in range(detected.shape[0]):
                row[np.uint64(detected[k])] += row.dtype.type(1)  # unsigned: no check for an index below zero


@compiled
def add_sparse(
    first: int, starts: Array, examples: Array, ids: Array, old: tuple[Array, Array, Array], columns: Array, data: Array, n_labels: int
) -> Array:  # pragma: no cover - compiled
    """A block of sparse rows `old` (starts, columns, data) plus new detections, written to `columns` and `data`.

    Columns of a row stay in the order in which they were first seen: sorting them would take longer than counting. `columns` needs room
    for one entry more than there can be. Returns the new starts, int64 [R + 1].
    """
    old_starts, old_columns, old_data = old
    new_starts = np.zeros(len(old_starts), np.int64)
    count = np.zeros(n_labels, data.dtype)
    filled = 0
    for r in range(len(old_starts) - 1):
        begin = filled
        for i in range(old_starts[r], old_starts[r + 1]):
            columns[filled] = old_columns[i]
            count[np.uint64(old_columns[i])] = old_data[i]
            filled += 1
        for e in range(starts[first + r], starts[first + r + 1]):
            detected = ids[examples[e]]
            for k in range(detected.shape[0]):
                label = np.uint64(detected[k])
                columns[filled] = detected[k]
                filled += count[label] == 0  # no branch to guess wrong
                count[label] += data.dtype.type(1)
        for i in range(begin, filled):
            label = np.uint64(columns[i])
            data[i] = count[label]
            count[label] = 0
        new_starts[r + 1] = filled
    return new_starts


@compiled
def fill_dense(starts: Array, columns: Array, data: Array, rows: Array) -> None:  # pragma: no cover - compiled
    """Writes sparse rows into dense ones [R, C] of zeros."""
    for r in range(rows.shape[0]):
        for i in range(starts[r], starts[r + 1]):
            rows[r, columns[i]] = data[i]


@compiled
def sparse_rows(rows: Array, columns: Array, data: Array) -> Array:  # pragma: no cover - compiled
    """Dense rows [R, C] as sparse ones in `columns` and `data`, which need room for one entry more; returns starts int64 [R + 1]."""
    starts = np.zeros(rows.shape[0] + 1, np.int64)
    filled = 0
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            columns[filled], data[filled] = c, rows[r, c]
            filled += rows[r, c] != 0
        starts[r + 1] = filled
    return starts


@compiled
def sort_rows(starts: Array, columns: Array, data: Array, n_labels: int) -> None:  # pragma: no cover - compiled
    """Puts the columns of each sparse row in ascending order, in place."""
    count = np.zeros(n_labels, data.dtype)
    for r in range(len(starts) - 1):
        row = columns[starts[r] : starts[r + 1]]
        for i in range(len(row)):
            count[row[i]] = data[starts[r] + i]
        row.sort()
        for i in range(len(row)):
            data[starts[r] + i] = count[row[i]]


@compiled
def count_columns(columns: Array, numbers: Array) -> None:  # pragma: no cover - compiled
    """Adds to `numbers` [C] how often each column occurs."""
    for i in range(len(columns)):
        numbers[np.uint64(columns[i])] += 1


@compiled
def transpose_into(
    first: int, starts: Array, columns: Array, data: Array, place: Array, out_columns: Array, out_data: Array
) -> None:  # pragma: no cover - compiled
    """Writes sparse rows as columns: entry (r, c) goes to `place[c]`, which moves on by one."""
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            column = np.uint64(columns[i])
            at = np.uint64(place[column])
            out_columns[at] = first + r
            out_data[at] = data[i]
            place[column] += 1


@compiled
def sparse_times(starts: Array, columns: Array, data: Array, block: Array, first: int, out: Array) -> None:  # pragma: no cover - compiled
    """Rows first, first + 1, ... of a sparse matrix times `block` [C, m], into `out` [R, m], in whose type sums are taken; four at a time: less is written."""
    number = out.dtype.type
    for r in range(out.shape[0]):
        row = out[r]
        row[:] = 0
        i, last = starts[first + r], starts[first + r + 1]
        while i + 4 <= last:
            a, b, c, d = block[columns[i]], block[columns[i + 1]], block[columns[i + 2]], block[columns[i + 3]]
            p, q, s, t = number(data[i]), number(data[i + 1]), number(data[i + 2]), number(data[i + 3])
            for k in range(len(row)):
                row[k] += p * a[k] + q * b[k] + s * c[k] + t * d[k]
            i += 4
        while i < last:
            a, p = block[columns[i]], number(data[i])
            for k in range(len(row)):
                row[k] += p * a[k]
            i += 1


@compiled
def components(starts: Array, columns: Array, n_labels: int) -> Array:  # pragma: no cover - compiled
    """For each label one label of its component, where labels that share a row are joined."""
    parent = np.arange(n_labels)
    for r in range(len(starts) - 1):
        for i in range(starts[r] + 1, starts[r + 1]):
            one, other = columns[starts[r]], columns[i]
            while parent[one] != one:
                parent[one] = parent[parent[one]]
                one = parent[one]
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            parent[max(one, other)] = min(one, other)
    for label in range(n_labels):
        parent[label] = parent[parent[label]]
    return parent
