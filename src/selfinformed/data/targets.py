"""Annotations as sorted, distinct label lists in compressed rows."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_LABELS, shown

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """The labels annotated on each of N examples.

    Attributes:
        offsets: int64 [N + 1]; example n's labels are `labels[offsets[n]:offsets[n + 1]]`.
        labels: int64, ascending and distinct within an example, each in 0..n_labels-1.
        n_labels: C.
    """

    offsets: IntArray
    labels: IntArray
    n_labels: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, example: int) -> IntArray:
        """The labels of one example."""
        return self.labels[self.offsets[example] : self.offsets[example + 1]]

    def is_same(self, other: Targets) -> bool:
        """Whether as many examples have the same labels, in the same order."""
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.labels, other.labels)

    def take(self, rows: npt.ArrayLike) -> Targets:
        """The targets of some examples, by number or by a mask of all, in the order given."""
        rows = example_numbers(rows, len(self))
        sizes = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return Targets(offsets, self.labels[np.repeat(self.offsets[rows], sizes) + within], self.n_labels)

    def pairs(self) -> tuple[IntArray, IntArray]:
        """(example, label) of every annotation."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.labels

    def multi_hot(self) -> torch.Tensor:
        """float32 [N, C], 1 where annotated: g_j(x) of eq. (1)."""
        examples, labels = self.pairs()
        hot = torch.zeros(len(self), self.n_labels, device="cpu")
        hot[torch.from_numpy(examples), torch.from_numpy(labels)] = 1.0
        return hot

    def positives(self) -> IntArray:
        """How many examples carry each label, int64 [C]."""
        return np.bincount(self.labels, minlength=self.n_labels)

    @property
    def single(self) -> bool:
        """Whether every example carries exactly one label."""
        return len(self.labels) == len(self) and bool((np.diff(self.offsets) == 1).all())


def checked_targets(offsets: IntArray, labels: IntArray, n_labels: int, n_examples: int) -> Targets:
    """Targets of so many examples, as they were read from a file.

    Raises:
        ValueError: these are no lists of labels of so many examples.
    """
    if not 1 <= n_labels <= MOST_LABELS:
        raise ValueError(f"it is of {n_labels:,} labels; expected 1 to {MOST_LABELS:,}")
    if len(offsets) != n_examples + 1 or offsets[0] != 0 or offsets[-1] != len(labels) or (np.diff(offsets) < 0).any():
        raise ValueError(f"its targets are no lists of labels of {n_examples:,} examples")
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_labels:
        raise ValueError(f"its labels are not from 0 to {n_labels - 1}")
    return Targets(offsets, labels, n_labels)


def example_numbers(rows: npt.ArrayLike, n: int) -> IntArray:
    """int64: numbers of examples, from 0 to n - 1, as they are given, or those that a mask [n] chooses.

    Raises:
        SelfInformedError: they are neither.
    """
    given = np.asarray(rows)
    if given.dtype == np.bool_ and given.shape == (n,):
        return np.flatnonzero(given)
    whole = given.ndim == 1 and (given.dtype.kind in "iu" or not given.size)
    if not whole or (given.size and not 0 <= given.min() <= given.max() < n):
        raise SelfInformedError(f"examples: expected numbers from 0 to {n - 1}, or True or False for each of {n}; got {shown(given.tolist())}")
    return given.astype(np.int64)


def as_targets(targets: Any, n_labels: int | None = None, first_example: int = 0) -> Targets:
    """Reads targets in any of the three forms.

    Args:
        targets: one class per example [B], multi-hot [B, C] of 0 and 1 (or booleans; sparse too), or a list of label lists.
        n_labels: C; by default the columns of multi-hot targets, or one more than the largest label.
        first_example: the number of the first example, for error messages.

    Raises:
        SelfInformedError: a label out of range, a shape that is none of these, an entry that is not 0 or 1.
    """
    if isinstance(targets, Targets):
        if n_labels not in (None, targets.n_labels):
            raise SelfInformedError(f"targets: made for {targets.n_labels} labels, expected {n_labels}")
        return targets
    if isinstance(targets, torch.Tensor):
        targets = targets.detach().cpu()
        if targets.dtype == torch.bfloat16:  # which NumPy has not
            targets = targets.float()
        if targets.layout != torch.strided and targets.ndim == 2:
            entries = targets.to_sparse_coo().coalesce()  # in the order of the rows
            values = entries.values().numpy()
            indices = entries.indices().numpy()[:, values != 0]
            return _from_multi_hot(targets.shape, tuple(indices), values[values != 0], n_labels, first_example)
        targets = targets.to_dense().numpy()
    if isinstance(targets, Iterator):
        targets = list(targets)
    if hasattr(targets, "tocsr") and targets.ndim == 2:  # of SciPy
        rows = targets.tocsr(copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return _from_multi_hot(targets.shape, rows.nonzero(), rows.data, n_labels, first_example)
    if getattr(targets, "ndim", 0) == 1 and (column := np.asarray(targets)).dtype == object:
        targets = column.tolist()
    if isinstance(targets, Sequence) and any(isinstance(row, _ROWS) and getattr(row, "ndim", 1) for row in targets):
        return _from_lists(targets, n_labels, first_example)
    array = np.asarray(targets)
    if array.ndim == 1 and (array.dtype.kind in "iu" or array.size == 0):
        if array.dtype == np.uint64:  # the largest would become negative
            array = np.minimum(array, np.iinfo(np.int64).max)
        return _checked(np.arange(len(array) + 1, dtype=np.int64), array.astype(np.int64), n_labels, first_example)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return _from_multi_hot(array.shape, np.nonzero(array), array[array != 0], n_labels, first_example)
    raise SelfInformedError(
        f"targets: expected class numbers [B], multi-hot [B, {n_labels or 'labels'}] or a list of label lists; "
        f"got an array of {array.dtype} with shape {list(array.shape)}"
    )


_ROWS = (Sequence, np.ndarray, set, torch.Tensor)


def _from_multi_hot(shape: Any, entries: tuple[Any, ...], values: npt.NDArray[Any], n_labels: int | None, first_example: int) -> Targets:
    """Entries are (examples, labels) of what is not 0, in this order."""
    examples, labels = entries
    if n_labels not in (None, shape[1]):
        raise SelfInformedError(f"targets: multi-hot targets have {shape[1]} columns, expected {n_labels}, one per label")
    for i in np.flatnonzero(values != 1)[:1]:
        raise SelfInformedError(f"targets: example {first_example + examples[i]} has {values[i]} for label {labels[i]}; multi-hot targets are 0 or 1")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(examples, minlength=shape[0]))])
    return Targets(offsets.astype(np.int64), labels.astype(np.int64), shape[1])


def _from_lists(rows: Sequence[Any], n_labels: int | None, first_example: int) -> Targets:
    sets = []
    for i, row in enumerate(rows):
        values = row.tolist() if isinstance(row, np.ndarray | torch.Tensor) else row
        try:
            labels = np.array(sorted({operator.index(label) for label in values}), dtype=np.int64)
            if len(labels) < len(values) or any(isinstance(label, bool) for label in values):
                raise TypeError
        except (TypeError, OverflowError):
            raise _no_list(values, first_example + i) from None
        sets.append(labels)
    offsets = np.cumsum([0, *(len(labels) for labels in sets)]).astype(np.int64)
    targets = _checked(offsets, np.concatenate(sets) if sets else np.empty(0, np.int64), n_labels, first_example)
    if targets.n_labels == 2 and len(targets.labels) == 2 * len(rows) and len({int(next(iter(row))) for row in rows}) == 2:
        raise _no_list(rows[0], first_example)  # each would have both labels, but in two orders: it is a 0 or 1 for each
    return targets


def _no_list(row: Any, example: int) -> SelfInformedError:
    return SelfInformedError(
        f"targets: example {example} has {shown(row)}; expected a list of label numbers, each once, not one 0 or 1 for each label: give such rows as one "
        "array or tensor [N, C] (of a map-style data set, as its attribute `targets`)"
    )


def _checked(offsets: IntArray, labels: IntArray, n_labels: int | None, first_example: int) -> Targets:
    n_labels = int(labels.max(initial=0)) + 1 if n_labels is None else n_labels
    bad = np.flatnonzero((labels < 0) | (labels >= min(n_labels, MOST_LABELS)))
    if len(bad):
        example = first_example + int(np.searchsorted(offsets, bad[0], side="right")) - 1
        raise SelfInformedError(
            f"targets: example {example} has label {labels[bad[0]]}; labels go from 0 to {min(n_labels, MOST_LABELS) - 1} ({n_labels} labels)"
        )
    return Targets(offsets, labels, n_labels)
