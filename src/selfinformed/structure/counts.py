"""Confusion counts (eq. 3) and co-detection counts (eq. 4): exact integers, streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from selfinformed.data.labels import LabelSpace, as_labels
from selfinformed.data.targets import Targets, as_targets
from selfinformed.runtime.arguments import expect, one_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.runtime.reading import MOST_LABELS, naming, reason_of
from selfinformed.runtime.tabular import Table, frame
from selfinformed.structure import accelerated, kernels
from selfinformed.structure.detections import detections
from selfinformed.structure.tables import CountTable, in_threads, narrowest

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["confusions", "codetections"]
FORMAT = "selfinformed.counts/2"
_ADMITTED = 2048  # examples checked at a time
_WAITING = 64_000_000  # bytes of detections gathered at least before they are summed into the matrix


class ConfusionCounts:
    """N times the matrix A of eq. (3) or eq. (4), gathered example by example.

    `kind="confusions"` (eq. 3): count [i, j] is the number of examples in which label i is detected and label j annotated.
    `kind="codetections"` (eq. 4): both i and j are detected. Counts are exact int64, whatever the batches and their order.

    Args:
        n_labels: C.
        top_k: K, how many labels of an example count as detected, from 1 to C.
        kind: which matrix.
    """

    def __init__(self, n_labels: int, top_k: int, kind: Kind = "confusions") -> None:
        n_labels = whole_number("n_labels", n_labels)
        top_k = whole_number("top_k", top_k, n_labels, ", the number of labels")
        one_of("kind", kind, get_args(Kind))
        self.n_labels, self.top_k, self.kind = n_labels, top_k, kind
        self.n_examples = 0
        self._table = CountTable(n_labels)
        self._waiting: npt.NDArray[Any] | None = None  # detections not in the table yet [capacity, K], of which the first _n_waiting count
        self._owners: list[Targets] = []
        self._n_waiting = 0
        self._there: accelerated.DeviceCounts | None = None  # counts on the accelerator that the detections came from

    def __repr__(self) -> str:
        return f"ConfusionCounts({self.kind} of {self.n_labels} labels, {self.n_examples} examples, top_k {self.top_k})"

    def update(self, scores: torch.Tensor, targets: Any, name: Callable[[int], str] | None = None) -> None:
        """Counts a batch from logits [B, C] and targets in any form; `name` says how errors call row b."""
        scores = scores if isinstance(scores, torch.Tensor) else torch.as_tensor(scores, device="cpu")
        if scores.ndim == 2 and scores.shape[1] != self.n_labels:
            raise SelfInformedError(f"scores: {scores.shape[1]} columns, expected {self.n_labels}, one per label")
        self.update_detections(detections(scores, self.top_k, name or self._name), targets)

    def update_detections(self, ids: Any, targets: Any, name: Callable[[int], str] | None = None) -> None:
        """Counts a batch from detected labels int [B, K], distinct in each row, and targets in any form.

        A batch with anything wrong in it is not counted at all.
        """
        if isinstance(ids, torch.Tensor) and (self._there is not None or accelerated.fits(self.n_labels, ids.device)) and self._add_there(ids, targets):
            return
        ids = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
        if ids.ndim != 2 or ids.shape[1] != self.top_k or ids.dtype.kind not in "iu":
            raise SelfInformedError(f"detections: expected integers [batch, {self.top_k}], got {ids.dtype} {list(ids.shape)}")
        ids = ids.astype(ids.dtype.newbyteorder("="), copy=False)
        free = self._free()
        fits = len(ids) <= len(free)
        admitted = free[: len(ids)] if fits else np.empty(ids.shape, free.dtype)
        self._admit(ids, admitted, name or self._name)
        annotated = as_targets(targets, self.n_labels, self.n_examples)
        if len(annotated) != len(ids):
            raise SelfInformedError(f"targets: {len(annotated)} examples, but detections for {len(ids)}")
        self.n_examples += len(ids)
        start = 0
        while start < len(ids):
            free = self._free()
            n = min(len(ids) - start, len(free))
            if not fits:
                free[:n] = admitted[start : start + n]
            self._owners.append(annotated if n == len(ids) else annotated.take(np.arange(start, start + n)))
            self._n_waiting += n
            start += n
            if n == len(free):
                self._settle()

    def merge(self, other: ConfusionCounts) -> None:
        """Adds the counts of other examples."""
        mine, theirs = (self.n_labels, self.top_k, self.kind), (other.n_labels, other.top_k, other.kind)
        if mine != theirs:
            raise SelfInformedError(f"counts: cannot merge counts of (labels, top_k, kind) = {theirs} into {mine}")
        self._settle()
        other._settle()
        self._table.merge(other._table)
        self.n_examples += other.n_examples

    def to_scipy(self) -> sp.csr_array:
        """The counts as int64 CSR [C, C], indexed [detected, annotated] (eq. 4: [detected, detected])."""
        self._settle()
        return self._table.transposed()

    @property
    def never_annotated(self) -> npt.NDArray[np.int64]:
        """int64: the labels that no counted example was annotated with, in their order; of co-detections, where that is not known, none."""
        counted = self.to_scipy().sum(axis=0)
        return np.flatnonzero(counted == 0) if self.kind == "confusions" else np.empty(0, np.int64)

    def most_confused(self, n: int = 20, labels: LabelSpace | Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The n pairs {detected, annotated, examples} of two labels counted most, largest first; by name where `labels` are given. Of
        co-detections each pair stands once, as {detected, also_detected, examples}."""
        matrix = self.to_scipy().tocoo()
        rows, columns = matrix.coords
        off = rows < columns if self.kind == "codetections" else rows != columns
        rows, columns, data = rows[off], columns[off], matrix.data[off]
        order = np.lexsort([columns, rows, -data])[:n]
        other = "annotated" if self.kind == "confusions" else "also_detected"
        named: Callable[[int], Any] = int if labels is None else as_labels(labels, self.n_labels).names.__getitem__
        return [{"detected": named(rows[i]), other: named(columns[i]), "examples": int(data[i])} for i in order]

    def to_frame(self, n: int = 20, labels: LabelSpace | Sequence[str] | None = None) -> pd.DataFrame:
        """`most_confused` as a frame; needs the extra `pandas`."""
        return frame(self.most_confused(n, labels))

    def _repr_html_(self) -> str:
        return Table.of(f"{self.kind} in {self.n_examples:,} examples, top {self.top_k} of {self.n_labels:,} labels", self.most_confused()).to_html()

    @property
    def nbytes(self) -> int:
        """Bytes the counts take in memory, at most those of the int64 matrix."""
        self._settle()
        return self._table.nbytes

    def save(self, path: str | Path) -> None:
        """Writes safetensors, atomically and without a second copy in memory: equal counts give equal bytes."""
        self._settle()
        numbers = {"n_labels": self.n_labels, "top_k": self.top_k, "n_examples": self.n_examples}
        write_tensors(path, self._table.to_arrays(), {"format": FORMAT, "kind": self.kind, **{k: str(v) for k, v in numbers.items()}})

    @classmethod
    def load(cls, path: str | Path) -> ConfusionCounts:
        """Reads what `save` wrote and checks it."""
        arrays, metadata = read_tensors(path, FORMAT)
        try:
            n_labels, top_k, n_examples = (int(metadata[name]) for name in ("n_labels", "top_k", "n_examples"))
            if not 1 <= n_labels <= MOST_LABELS or not 0 <= n_examples < 2**62:
                raise ValueError(f"{n_labels} labels and {n_examples} examples; expected 1 to {MOST_LABELS} and 0 or more")
            with naming(path):
                counts = cls(n_labels, top_k, metadata["kind"])  # type: ignore[arg-type]
            counts.n_examples = n_examples
            counts._table = CountTable.from_arrays(n_labels, arrays, n_examples)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise SelfInformedError(f"{path} holds no valid counts ({reason_of(error)}); delete it to have it made again") from None
        return counts

    def _settle(self) -> None:
        """Moves what waits into the table."""
        if self._waiting is not None and self._n_waiting:
            ids = self._waiting[: self._n_waiting]
            if self.kind == "codetections":
                self._table.add(ids.ravel(), np.arange(len(ids) + 1) * self.top_k, ids)
            else:
                sizes = np.concatenate([np.diff(targets.offsets) for targets in self._owners])
                owners = np.concatenate([targets.labels.astype(ids.dtype) for targets in self._owners])
                self._table.add(owners, np.concatenate([[0], np.cumsum(sizes)]), ids)
            self._waiting, self._owners, self._n_waiting = None, [], 0
        if self._there is not None:
            self._table.merge(self._there.to_table())
            self._there = None

    def _add_there(self, ids: torch.Tensor, targets: Any) -> bool:
        """Counts a batch on its accelerator; False where something is wrong with it, which is then named on the CPU."""
        annotated = as_targets(targets, self.n_labels, self.n_examples)
        shaped = ids.ndim == 2 and ids.shape[1] == self.top_k and not ids.is_floating_point() and ids.dtype != torch.bool
        if not shaped or len(annotated) != len(ids) or not accelerated.sound(ids, self.n_labels):
            return False
        if self._there is None:
            self._there = accelerated.DeviceCounts(self.n_labels, ids.device)
        self._there.add(ids, annotated if self.kind == "confusions" else None)
        self.n_examples += len(ids)
        return True

    def _free(self) -> npt.NDArray[Any]:
        """Room for detections that wait."""
        if self._waiting is None:
            self._waiting = np.empty((self._capacity(), self.top_k), narrowest(self.n_labels))
        return self._waiting[self._n_waiting :]

    def _capacity(self) -> int:
        """Examples to wait for: a tenth of the matrix's bytes, or 64 MB."""
        each = self.top_k * (narrowest(self.n_labels).itemsize + (4 if self.kind == "codetections" else 0))
        return max(1, int(max(min(_WAITING, 1.6 * self.n_labels**2), self._table.matrix_bytes / 10)) // each)

    def _name(self, row: int) -> str:
        return f"example {self.n_examples + row}"

    def _admit(self, ids: npt.NDArray[Any], admitted: npt.NDArray[Any], name: Callable[[int], str]) -> None:
        """Copies detections, and stops at the first that is no label or named twice."""
        wrong: list[tuple[int, int]] = []

        def admit(start: int) -> None:
            row, column = kernels.admit(ids[start : start + _ADMITTED], self.n_labels, admitted[start : start + _ADMITTED])
            if row >= 0:
                wrong.append((start + row, column))

        in_threads(admit, range(0, len(ids), _ADMITTED))
        if wrong:
            row, column = min(wrong)
            label = ids[row, column]
            if 0 <= label < self.n_labels:
                raise SelfInformedError(f"detections: {name(row)} names label {label} twice; its top {self.top_k} must be distinct")
            raise SelfInformedError(f"detections: {name(row)} has label {label}; labels go from 0 to {self.n_labels - 1}")


def check_counts(counts: Any) -> None:
    expect(counts, ConfusionCounts, "counts", "what measure gave", "give si.measure(net, holdout)")
