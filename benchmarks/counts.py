"""Counting at 17,000 labels, K = 100, 3 true labels, against scipy.sparse, torch and torchmetrics in the same run.

    make bench-counts
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from common import bandwidth, median_seconds, peak_bytes, resident_bytes, save, spread_detections

from selfinformed.structure.counts import ConfusionCounts

C, K, TRUE, SEED = 17_000, 100, 3, 0
BATCH = 4096
RUNS = [("confusions", 20_000), ("confusions", 100_000), ("confusions", 1_000_000), ("codetections", 20_000)]
N_TORCH = {"confusions": 20_000, "codetections": 2_000}


def main() -> None:
    rows = [compared(kind, n) for kind, n in RUNS]
    save("counts", {"seed": SEED, "n_labels": C, "top_k": K, "true_labels": TRUE, "copy_bandwidth": bandwidth(), "rows": rows})


def compared(kind: Any, n: int) -> dict[str, Any]:
    n_torch = N_TORCH[kind]
    ids, true = data(n)
    multi_hot = sparse_rows(true)
    detected = sparse_rows(ids)
    other = multi_hot if kind == "confusions" else detected
    exact = detected.T @ other
    assert (count(kind, ids, true).to_scipy() != exact).nnz == 0, "counts differ from scipy's"
    del exact
    seconds = {
        "selfinformed": median_seconds(lambda: count(kind, ids, true)),
        "selfinformed, with to_scipy": median_seconds(lambda: count(kind, ids, true).to_scipy()),
        "scipy": median_seconds(lambda: detected.T @ other),
    }
    rates = {name: n / s for name, s in seconds.items()}
    rates["torch index_add_"] = n_torch / median_seconds(lambda: by_torch(kind, ids[:n_torch], true[:n_torch]))
    rates["torchmetrics"] = n_torch / median_seconds(lambda: by_torchmetrics(kind, ids[:n_torch], true[:n_torch]))
    peak, nbytes = peak_bytes(memory, kind, n)
    increments = n * K * (TRUE if kind == "confusions" else K)
    return {
        "kind": kind, "examples": n, "examples_per_second": rates,
        "ratio_to": {name: rates["selfinformed"] / rate for name, rate in rates.items() if name != "selfinformed"},
        "increments_per_second": increments / seconds["selfinformed"],
        # each detection read as two bytes for each increment, each count written once
        "share_of_copy_bandwidth": (increments * 2 + nbytes) / seconds["selfinformed"] / bandwidth(),
        "matrix_bytes": nbytes, "peak_over_matrix": peak / nbytes,
    }  # fmt: skip


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    return spread_detections(n, C, K, SEED), spread_detections(n, C, TRUE, SEED + 1)


def count(kind: Any, ids: np.ndarray, true: np.ndarray) -> ConfusionCounts:
    """As a user counts: batch by batch, everything checked, and all of it in the matrix at the end."""
    counts = ConfusionCounts(C, K, kind)
    for start in range(0, len(ids), BATCH):
        counts.update_detections(ids[start : start + BATCH], annotated(true[start : start + BATCH]))
    assert counts.nbytes
    return counts


def annotated(true: np.ndarray) -> Any:
    from selfinformed.data.targets import Targets

    return Targets(np.arange(len(true) + 1) * TRUE, np.sort(true, axis=1).ravel(), C)


def sparse_rows(labels: np.ndarray) -> sp.csr_array:
    n, width = labels.shape
    return sp.csr_array((np.ones(n * width, np.int64), labels.ravel().astype(np.int32), np.arange(n + 1) * width), shape=(n, C))


def by_torch(kind: str, ids: np.ndarray, true: np.ndarray) -> torch.Tensor:
    matrix = torch.zeros(C, C, dtype=torch.int64)
    others = true if kind == "confusions" else ids
    flat = matrix.view(-1)
    for start in range(0, len(ids), 256):
        one, other = torch.from_numpy(ids[start : start + 256]), torch.from_numpy(others[start : start + 256])
        cells = (one[:, :, None] * C + other[:, None, :]).reshape(-1)
        flat.index_add_(0, cells, torch.ones(1, dtype=torch.int64).expand(len(cells)))
    return matrix


def by_torchmetrics(kind: str, ids: np.ndarray, true: np.ndarray) -> torch.Tensor:
    """Its confusion matrix of (detected, annotated) pairs, all in one update: it allocates the whole matrix for every batch."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    others = true if kind == "confusions" else ids
    one, other = np.broadcast_arrays(ids[:, :, None], others[:, None, :])
    return multiclass_confusion_matrix(torch.from_numpy(one.ravel()), torch.from_numpy(other.ravel()), C, validate_args=False)


def memory(kind: Any, n: int) -> tuple[int, int]:
    count(kind, *data(1000))  # compiled code and libraries are not the matrix
    counts = ConfusionCounts(C, K, kind)
    before = resident_bytes()
    for start in range(0, n, BATCH):  # made as it goes: what the data takes is not the matrix either
        ids, true = spread_detections(min(BATCH, n - start), C, K, start), spread_detections(min(BATCH, n - start), C, TRUE, start + 1)
        counts.update_detections(ids, annotated(true))
    return before, counts.nbytes


if __name__ == "__main__":
    sys.exit(main())
