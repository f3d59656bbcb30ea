"""A square table of int64 counts that is kept sparse while that is smaller, then dense, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from selfinformed.runtime.files import Chunks
from selfinformed.structure import kernels

Array = npt.NDArray[Any]
Block = tuple[Array, Array, Array]  # rows as (starts int64 [R + 1], columns int32 ascending in a row, counts int64)

_CELL, _ENTRY = 8, 12  # bytes of a dense cell, and of a sparse entry with its column
_PARTS = 8  # of the table, transposed side by side
_BLOCKS = 256  # row ranges worked on one by one: what is made anew beside the table is the size of a few of them


class CountTable:
    """Counts [C, C] by owner: row j holds, for each label, in how many of j's examples it was detected.

    Sparse blocks of rows while they take less room; dense as soon as that takes no more than 1.15 times the room of the sparse entries.
    """

    def __init__(self, n_labels: int) -> None:
        self.n_labels = n_labels
        self.dense: npt.NDArray[np.int64] | None = None
        edges = np.linspace(0, n_labels, min(n_labels, _BLOCKS) + 1).astype(np.int64)
        self._ranges = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        self._blocks: list[Block] = [_empty(last - first) for first, last in self._ranges]

    @property
    def entries(self) -> int:
        """How many cells are stored."""
        return self.n_labels**2 if self.dense is not None else sum(len(columns) for _, columns, _ in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes the counts take."""
        return self.n_labels**2 * _CELL if self.dense is not None else self.entries * _ENTRY + self.n_labels * _CELL

    def add(self, owners: Array, offsets: Array, ids: Array) -> None:
        """Adds one for each example, each of its owners and each of its detections.

        Args:
            owners: labels; example n's are `owners[offsets[n]:offsets[n + 1]]`, distinct.
            offsets: int64 [N + 1].
            ids: detections [N, K], distinct in a row.
        """
        starts, examples = kernels.gather(owners, offsets, self.n_labels)
        if self.dense is not None:
            dense = self.dense
            _each(lambda part: kernels.add_dense(dense[part[0] : part[1]], part[0], starts, examples, ids), self._ranges)
            return
        local = threading.local()

        def add_to(block: int) -> None:
            first, last = self._ranges[block]
            old = self._blocks[block]
            room = min(len(old[1]) + int(starts[last] - starts[first]) * ids.shape[1], (last - first) * self.n_labels)
            if getattr(local, "room", -1) < room:
                local.columns, local.data, local.room = np.empty(room, np.int32), np.empty(room, np.int64), room
            fresh = kernels.add_sparse(first, starts, examples, ids, old, local.columns, local.data, self.n_labels)
            self._blocks[block] = (fresh, local.columns[: fresh[-1]].copy(), local.data[: fresh[-1]].copy())

        _each(add_to, range(len(self._blocks)))
        self._settle_form()

    def merge(self, other: CountTable) -> None:
        """Adds another table of the same labels."""
        if other.dense is not None and self.dense is None:
            self._densify()
        for i, ((first, last), theirs) in enumerate(zip(self._ranges, other._blocks or [_empty(0)] * len(self._ranges), strict=True)):
            if self.dense is not None:
                self.dense[first:last] += other.dense[first:last] if other.dense is not None else self._matrix(theirs).toarray()
            elif len(theirs[1]):
                both = (self._matrix(self._blocks[i]) + self._matrix(theirs)).tocsr()
                both.sort_indices()
                self._blocks[i] = (both.indptr.astype(np.int64), both.indices.astype(np.int32), both.data)
        self._settle_form()

    def blocks(self) -> Iterator[Block]:
        """The table as consecutive sparse blocks of rows, zeros left out."""
        return map(self._block, range(len(self._ranges)))

    def transposed(self) -> sp.csr_array:
        """The counts as CSR [detected, owner]."""
        parts = np.array_split(np.arange(len(self._ranges)), _PARTS)
        in_column = np.zeros((len(parts) + 1, self.n_labels), np.int64)  # of each part, moved down by one row

        def number(part: int) -> None:
            for block in parts[part]:
                in_column[part + 1] += np.bincount(self._block(block)[1], minlength=self.n_labels)

        _each(number, range(len(parts)))
        starts = np.concatenate([[0], np.cumsum(in_column.sum(axis=0))])
        place = starts[:-1] + np.cumsum(in_column, axis=0)[:-1]  # where each part's first entry of a column goes
        index = np.int32 if starts[-1] < 2**31 else np.int64
        columns, data = np.empty(starts[-1], index), np.empty(starts[-1], np.int64)

        def move(part: int) -> None:
            for block in parts[part]:
                kernels.transpose_into(self._ranges[block][0], *self._block(block), place[part], columns, data)

        _each(move, range(len(parts)))
        return sp.csr_array((data, columns, starts.astype(index)), shape=(self.n_labels, self.n_labels))

    def to_arrays(self) -> dict[str, Array | Chunks]:
        """What a file holds: `rows` int64 [C, C], or `starts`, `columns` and `counts` of sparse rows, block by block."""
        if self.dense is not None:
            return {"rows": self.dense}
        starts = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(starts) for starts, _, _ in self._blocks]))])
        columns = Chunks((self.entries,), np.dtype(np.int32), (columns for _, columns, _ in self._blocks))
        return {"starts": starts, "columns": columns, "counts": Chunks((self.entries,), np.dtype(np.int64), (data for _, _, data in self._blocks))}

    @classmethod
    def from_arrays(cls, n_labels: int, arrays: dict[str, Array], largest: int) -> CountTable:
        """What `to_arrays` gave, kept without a copy; a `ValueError` says what is wrong with it."""
        table = cls(n_labels)
        counts = arrays.get("rows", arrays.get("counts"))
        if counts is None or counts.dtype != np.int64 or (counts.size and (counts.min() < ("counts" in arrays) or counts.max() > largest)):
            raise ValueError(f"counts are int64 from 0 to {largest}, the number of examples")
        if "rows" in arrays:
            if counts.shape != (n_labels, n_labels):
                raise ValueError(f"expected {n_labels} x {n_labels} counts, found {list(counts.shape)}")
            table.dense, table._blocks = counts, []
            return table
        starts, columns = arrays["starts"], arrays["columns"]
        matrix = sp.csr_array((counts, columns, starts), shape=(n_labels, n_labels))
        matrix.check_format(full_check=True)
        if not matrix.has_canonical_format:
            raise ValueError("columns of a row do not ascend")
        for i, (first, last) in enumerate(table._ranges):
            begin, end = starts[first], starts[last]
            table._blocks[i] = (starts[first : last + 1] - begin, columns[begin:end], counts[begin:end])
        return table

    def _block(self, number: int) -> Block:
        if self.dense is None:
            return self._blocks[number]
        first, last = self._ranges[number]
        return kernels.sparse_rows(self.dense[first:last])

    def _settle_form(self) -> None:
        if self.dense is None and self.n_labels**2 * _CELL <= 1.15 * self.entries * _ENTRY:
            self._densify()

    def _densify(self) -> None:
        self.dense = np.zeros((self.n_labels, self.n_labels), np.int64)
        for i, (first, last) in enumerate(self._ranges):
            self._matrix(self._blocks[i]).toarray(out=self.dense[first:last])
            self._blocks[i] = _empty(0)
        self._blocks = []

    def _matrix(self, block: Block) -> sp.csr_array:
        starts, columns, data = block
        return sp.csr_array((data, columns, starts), shape=(len(starts) - 1, self.n_labels))


def _empty(rows: int) -> Block:
    return np.zeros(rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)


def _each(work: Callable[[Any], None], items: Any) -> None:
    threads = torch.get_num_threads()
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
