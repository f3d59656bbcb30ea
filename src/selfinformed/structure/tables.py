"""A square table of exact counts that is kept sparse while that is smaller, then dense, and never twice."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from selfinformed.runtime.files import Chunks
from selfinformed.runtime.memory import require_memory
from selfinformed.structure import kernels

Array = npt.NDArray[Any]
Block = tuple[Array, Array, Array]  # rows as (starts int64 [R + 1], columns, counts)

_NARROW = np.iinfo(np.uint32)
_BLOCKS = 64  # row ranges worked on one by one: what is made anew beside the table is the size of a few of them
_SAMPLE = 16  # every 16th block is counted first and tells how full the others will be
_PARTS = 8  # of the table, transposed side by side


class CountTable:
    """Counts [C, C] by owner: row j holds, for each label, in how many of j's examples it was detected.

    Sparse blocks of rows, or dense from where that takes no more room than the int64 matrix that is given out (compressed rows, 12 bytes
    an entry). Inside, a count takes four bytes while there are fewer than 2^32 examples and eight from then on.
    """

    def __init__(self, n_labels: int) -> None:
        self.n_labels = n_labels
        self.column_type = narrowest(n_labels)
        self.dense: Array | None = None
        self._largest = 0  # no count can be larger
        edges = np.linspace(0, n_labels, min(n_labels, _BLOCKS) + 1).astype(np.int64)
        self._ranges = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        self._blocks = [self._empty(last - first) for first, last in self._ranges]

    @property
    def nbytes(self) -> int:
        """Bytes the counts take in memory."""
        return self.dense.nbytes if self.dense is not None else sum(array.nbytes for block in self._blocks for array in block)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the matrix in int64: compressed rows with int32 columns, or dense where that is smaller."""
        cells = self.n_labels**2
        entries = cells if self.dense is not None else sum(len(columns) for _, columns, _ in self._blocks)
        return min(12 * entries, 8 * cells)

    def add(self, owners: Array, offsets: Array, ids: Array) -> None:
        """Adds one for each example, each of its owners and each of its detections.

        Args:
            owners: labels; example n's are `owners[offsets[n]:offsets[n + 1]]`, distinct.
            offsets: int64 [N + 1].
            ids: detections [N, K] in the column type, distinct in a row.
        """
        self._allow(self._largest + len(ids))
        starts, examples = kernels.gather(owners, offsets, self.n_labels)

        def add_to(number: int) -> None:
            first, last = self._ranges[number]
            if self.dense is not None:
                kernels.add_dense(self.dense[first:last], first, starts, examples, ids)
            else:
                old = self._blocks[number]
                room = min(len(old[1]) + int(starts[last] - starts[first]) * ids.shape[1], (last - first) * self.n_labels)
                columns, counts = self._space(room)
                fresh = kernels.add_sparse(first, starts, examples, ids, old, columns, counts, self.n_labels)
                self._blocks[number] = (fresh, columns[: fresh[-1]], counts[: fresh[-1]])

        rest = np.arange(len(self._ranges))
        if self.dense is None and len(rest) > _SAMPLE:
            sample, rest = rest[::_SAMPLE], np.delete(rest, rest[::_SAMPLE])
            in_threads(add_to, sample)
            self._choose_form(sample)
        in_threads(add_to, rest)
        self._choose_form(np.arange(len(self._ranges)))

    def merge(self, other: CountTable) -> None:
        """Adds another table of the same labels."""
        self._allow(self._largest + other._largest)
        if other.dense is not None:
            self._densify()
        for number, (first, last) in enumerate(self._ranges):
            if self.dense is not None:
                starts, columns, counts = other._block(number)
                self.dense[np.repeat(np.arange(first, last), np.diff(starts)), columns] += counts.astype(self._count_type)
            else:
                both = self._matrix(number) + other._matrix(number)
                self._blocks[number] = (
                    both.indptr.astype(np.int64), both.indices.astype(self.column_type), both.data.astype(self._count_type)
                )  # fmt: skip
        self._choose_form(np.arange(len(self._ranges)))

    def transposed(self) -> sp.csr_array:
        """The counts as int64 CSR [detected, owner], columns ascending."""
        parts = np.array_split(np.arange(len(self._ranges)), _PARTS)
        in_column = np.zeros((_PARTS + 1, self.n_labels), np.int64)  # of each part, moved down by one row

        def number(part: int) -> None:
            for block in parts[part]:
                kernels.count_columns(self._block(block)[1], in_column[part + 1])

        in_threads(number, range(_PARTS))
        starts = np.concatenate([[0], np.cumsum(in_column.sum(axis=0))])
        place = starts[:-1] + np.cumsum(in_column, axis=0)[:-1]  # where each part's first entry of a column goes
        index = np.int32 if starts[-1] < 2**31 else np.int64
        columns, data = np.empty(starts[-1], index), np.empty(starts[-1], np.int64)

        def move(part: int) -> None:
            for block in parts[part]:
                kernels.transpose_into(self._ranges[block][0], *self._block(block), place[part], columns, data)

        in_threads(move, range(_PARTS))
        return sp.csr_array((data, columns, starts.astype(index)), shape=(self.n_labels, self.n_labels))

    def to_arrays(self) -> dict[str, Array | Chunks]:
        """What a file holds, block by block: `starts`, `columns` (ascending) and `counts` int64 of sparse rows, or `rows` int64 [C, C].

        The smaller of the two, by the counts alone: equal counts can be in different forms here, by the order in which they came.
        """
        wide, numbers = np.dtype(np.int64), range(len(self._ranges))
        starts = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(self._block(number)[0]) for number in numbers]))])
        entry = wide.itemsize + self.column_type.itemsize  # at most 12 bytes: a table still sparse here is smaller sparse in the file too
        if self.dense is not None and self.dense.size * wide.itemsize <= starts[-1] * entry:
            return {"rows": Chunks(self.dense.shape, wide, (self.dense[first:last] for first, last in self._ranges))}
        for block in self._blocks:
            kernels.sort_rows(*block, self.n_labels)
        columns = Chunks((int(starts[-1]),), self.column_type, (self._block(number)[1] for number in numbers))
        return {"starts": starts, "columns": columns, "counts": Chunks(columns.shape, wide, (self._block(number)[2] for number in numbers))}

    @classmethod
    def from_arrays(cls, n_labels: int, arrays: dict[str, Array], largest: int) -> CountTable:
        """What `to_arrays` gave; a `ValueError` says what is wrong with it."""
        table = cls(n_labels)
        table._allow(largest)
        counts = arrays["rows" if "rows" in arrays else "counts"]
        if counts.dtype != np.int64 or (counts.size and (counts.min() < ("counts" in arrays) or counts.max() > largest)):
            raise ValueError(f"counts are int64 from 0 to {largest}, the number of examples")
        if "rows" in arrays:
            if counts.shape != (n_labels, n_labels):
                raise ValueError(f"expected {n_labels} x {n_labels} counts, found {list(counts.shape)}")
            table.dense, table._blocks = counts.astype(table._count_type), []
            return table
        starts, columns = arrays["starts"], arrays["columns"]
        if starts.dtype != np.int64 or columns.dtype != table.column_type:
            raise ValueError(f"starts are int64 and columns {table.column_type}, found {starts.dtype} and {columns.dtype}")
        matrix = sp.csr_array((counts, columns.astype(np.int64), starts), shape=(n_labels, n_labels))
        matrix.check_format(full_check=True)
        if starts[-1] != len(columns):
            raise ValueError(f"starts end at {starts[-1]}, expected {len(columns)}, the number of columns")
        if not matrix.has_canonical_format:
            raise ValueError("columns of a row do not ascend")
        for number, (first, last) in enumerate(table._ranges):
            inside = slice(starts[first], starts[last])
            table._blocks[number] = (
                starts[first : last + 1] - starts[first], columns[inside].copy(), counts[inside].astype(table._count_type)
            )  # fmt: skip
        table._choose_form(np.arange(len(table._ranges)))
        return table

    @property
    def _count_type(self) -> np.dtype[Any]:
        return np.dtype(np.uint32 if self._largest <= _NARROW.max else np.int64)

    def _allow(self, largest: int) -> None:
        """Makes room for counts up to `largest`."""
        before, self._largest = self._count_type, largest
        if self._count_type != before:
            if self.dense is not None:
                self.dense = self.dense.astype(self._count_type)
            self._blocks = [(starts, columns, counts.astype(self._count_type)) for starts, columns, counts in self._blocks]

    def _choose_form(self, measured: Array) -> None:
        """Makes the table dense if, by the blocks measured, that is smaller than the int64 matrix."""
        if self.dense is None:
            entries = sum(len(self._blocks[number][1]) for number in measured)
            cells = self.n_labels * sum(self._ranges[number][1] - self._ranges[number][0] for number in measured)
            if cells * self._count_type.itemsize <= 12 * entries:
                self._densify()

    def _densify(self) -> None:
        if self.dense is None:
            cells = self.n_labels**2 * self._count_type.itemsize
            require_memory(cells, f"measure: counts of {self.n_labels:,} x {self.n_labels:,} labels", "give a smaller --top-k")
            dense = np.zeros((self.n_labels, self.n_labels), self._count_type)

            def move(number: int) -> None:
                first, last = self._ranges[number]
                kernels.fill_dense(*self._blocks[number], dense[first:last])
                self._blocks[number] = self._empty(0)
                if number % 8 == 0:
                    _give_back()

            in_threads(move, range(len(self._ranges)))
            self.dense, self._blocks = dense, []

    def _block(self, number: int) -> Block:
        if self.dense is None:
            return self._blocks[number]
        first, last = self._ranges[number]
        columns, counts = self._space((last - first) * self.n_labels)
        starts = kernels.sparse_rows(self.dense[first:last], columns, counts)
        return starts, columns[: starts[-1]], counts[: starts[-1]]

    def _matrix(self, number: int) -> sp.csr_array:
        starts, columns, counts = self._block(number)
        return sp.csr_array((counts, columns.astype(np.int32), starts), shape=(len(starts) - 1, self.n_labels))

    def _space(self, room: int) -> tuple[Array, Array]:
        """Columns and counts for `room` entries and one more."""
        wide = self._count_type.itemsize
        space = np.empty((room + 1) * (wide + self.column_type.itemsize), np.uint8)  # in one piece: large ones come in huge pages
        return space[(room + 1) * wide :].view(self.column_type), space[: (room + 1) * wide].view(self._count_type)

    def _empty(self, rows: int) -> Block:
        return np.zeros(rows + 1, np.int64), np.zeros(0, self.column_type), np.zeros(0, self._count_type)


def narrowest(n_labels: int) -> np.dtype[Any]:
    """The smaller of uint16 and uint32 that holds labels 0 to n_labels - 1."""
    return np.dtype(np.uint16 if n_labels <= 2**16 else np.uint32)


def _give_back() -> None:
    """Has the C library return freed memory to the system: else the sparse blocks would still be held while the dense table fills."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def in_threads(work: Callable[[Any], None], items: Any) -> None:
    """Does `work` for each item on torch's number of threads; items must not touch the same things."""
    if torch.get_num_threads() == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(work, items):
            pass
