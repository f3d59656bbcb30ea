"""Confusion counts (eq. 3) and co-detection counts (eq. 4): exact integers, streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.targets import as_targets
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.structure.detections import default_top_k, detections

Kind = Literal["confusions", "codetections"]
FORMAT = "selfinformed.counts/1"
_PENDING = 4_000_000  # cells gathered before they are summed into the matrix


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
        if n_labels < 1:
            raise SelfInformedError(f"n_labels: expected at least 1, got {n_labels}")
        if not 1 <= top_k <= n_labels:
            raise SelfInformedError(f"top_k: expected 1 to {n_labels}, the number of labels; got {top_k}")
        if kind not in get_args(Kind):
            raise SelfInformedError(f"kind: expected one of {', '.join(get_args(Kind))}; got {kind!r}")
        self.n_labels, self.top_k, self.kind = n_labels, top_k, kind
        self.n_examples = 0
        self._matrix = sp.csr_array((n_labels, n_labels), dtype=np.int64)
        self._pending: list[npt.NDArray[np.int64]] = []  # cells as detected * C + annotated

    def update(self, scores: torch.Tensor, targets: Any, name: Callable[[int], str] | None = None) -> None:
        """Counts a batch from logits [B, C] and targets in any form; `name` says how errors call row b."""
        scores = torch.as_tensor(scores)
        if scores.ndim == 2 and scores.shape[1] != self.n_labels:
            raise SelfInformedError(f"scores: {scores.shape[1]} columns, expected {self.n_labels}, one per label")
        if name is None:
            first = self.n_examples
            name = lambda row: f"example {first + row}"  # noqa: E731
        self.update_detections(detections(scores, self.top_k, name), targets)

    def update_detections(self, ids: Any, targets: Any) -> None:
        """Counts a batch from detected labels int [B, K], distinct in each row, and targets in any form."""
        ids = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
        self._check_detections(ids)
        annotated = as_targets(targets, self.n_labels, self.n_examples)
        if len(annotated) != len(ids):
            raise SelfInformedError(f"targets: {len(annotated)} examples, but detections for {len(ids)}")
        ids = ids.astype(np.int64)
        if self.kind == "codetections":
            cells = (ids[:, :, None] * self.n_labels + ids[:, None, :]).ravel()
        else:
            examples, labels = annotated.pairs()
            cells = (ids[examples] * self.n_labels + labels[:, None]).ravel()
        self.n_examples += len(ids)
        self._pending.append(cells)
        if sum(map(len, self._pending)) > _PENDING:
            self._settle()

    def merge(self, other: ConfusionCounts) -> None:
        """Adds the counts of other examples."""
        mine, theirs = (self.n_labels, self.top_k, self.kind), (other.n_labels, other.top_k, other.kind)
        if mine != theirs:
            raise SelfInformedError(f"counts: cannot merge counts of (labels, top_k, kind) = {theirs} into {mine}")
        self._settle()
        self._matrix = self._matrix + other.to_scipy()
        self.n_examples += other.n_examples

    def to_scipy(self) -> sp.csr_array:
        """The counts as int64 CSR [C, C], indexed [detected, annotated] (eq. 4: [detected, detected])."""
        self._settle()
        return self._matrix.copy()

    def save(self, path: str | Path) -> None:
        """Writes safetensors, atomically."""
        self._settle()
        matrix = self._matrix
        arrays = {"indptr": matrix.indptr.astype(np.int64), "indices": matrix.indices.astype(np.int64), "data": matrix.data}
        numbers = {"n_labels": self.n_labels, "top_k": self.top_k, "n_examples": self.n_examples}
        write_tensors(path, arrays, {"format": FORMAT, "kind": self.kind, **{k: str(v) for k, v in numbers.items()}})

    @classmethod
    def load(cls, path: str | Path) -> ConfusionCounts:
        """Reads what `save` wrote and checks it."""
        arrays, metadata = read_tensors(path, FORMAT)
        try:
            counts = cls(int(metadata["n_labels"]), int(metadata["top_k"]), metadata["kind"])  # type: ignore[arg-type]
            counts.n_examples = int(metadata["n_examples"])
            shape = (counts.n_labels, counts.n_labels)
            counts._matrix = sp.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
            counts._matrix.check_format(full_check=True)
            data = arrays["data"]
            if data.dtype != np.int64 or ((data < 1) | (data > counts.n_examples)).any():
                raise ValueError(f"counts are integers from 1 to {counts.n_examples}, the number of examples")
        except (KeyError, ValueError) as error:
            raise SelfInformedError(f"{path} holds no valid counts ({error}); delete it to have it made again") from None
        return counts

    def _settle(self) -> None:
        if self._pending:
            cells, numbers = np.unique(np.concatenate(self._pending), return_counts=True)
            rows, columns = np.divmod(cells, self.n_labels)
            fresh = sp.coo_array((numbers.astype(np.int64), (rows, columns)), shape=self._matrix.shape)
            self._matrix = (self._matrix + fresh.tocsr()).tocsr()
            self._matrix.sort_indices()
            self._pending = []

    def _check_detections(self, ids: npt.NDArray[Any]) -> None:
        if ids.ndim != 2 or ids.shape[1] != self.top_k or ids.dtype.kind not in "iu":
            raise SelfInformedError(f"detections: expected integers [batch, {self.top_k}], got {ids.dtype} {list(ids.shape)}")
        wrong = np.argwhere((ids < 0) | (ids >= self.n_labels))
        if len(wrong):
            row, column = wrong[0]
            raise SelfInformedError(
                f"detections: example {self.n_examples + row} has label {ids[row, column]}; labels go from 0 to {self.n_labels - 1}"
            )
        ordered = np.sort(ids, axis=1)
        twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if len(twice):
            raise SelfInformedError(f"detections: example {self.n_examples + twice[0]} names a label twice; its top {self.top_k} must be distinct")


def measure(
    net: WrappedClassifier,
    holdout: Examples,
    top_k: int | None = None,
    kind: Kind = "confusions",
    batch_size: int = 64,
) -> ConfusionCounts:
    """Runs a network over held-out examples and counts what it detects (eqs. 2 to 4).

    Args:
        net: the wrapped network.
        holdout: examples not used in training, with the network's labels.
        top_k: K; by default min(100, max(5, C // 150)), the paper's ratio.
        kind: `confusions` (eq. 3) or `codetections` (eq. 4).
        batch_size: examples per forward pass.
    """
    check_labels(net, holdout)
    counts = ConfusionCounts(net.n_labels, default_top_k(net.n_labels) if top_k is None else top_k, kind)
    for rows, inputs in holdout.batches(batch_size, "measuring"):
        counts.update(net.logits(inputs).cpu(), holdout.targets.take(rows), lambda b, rows=rows: holdout.name(int(rows[b])))  # type: ignore[misc]
    return counts


def check_labels(net: WrappedClassifier, examples: Examples) -> None:
    """Stops where examples are labelled for another number of labels than the network has."""
    if len(examples.labels) != net.n_labels:
        raise SelfInformedError(
            f"data: examples with {len(examples.labels)} labels for a network with {net.n_labels} outputs; "
            "open the data with the network's own label names, in the order of its outputs"
        )
