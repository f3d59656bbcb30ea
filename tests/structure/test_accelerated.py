"""The path for accelerators, run on the CPU: torch's operators are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure import accelerated
from selfinformed.structure.counts import ConfusionCounts

C, K = 23, 4


def batch(n: int, seed: int) -> tuple[torch.Tensor, list[list[int]]]:
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((n, C)), axis=1)[:, :K]
    return torch.from_numpy(ids), [rng.choice(C, rng.integers(0, 4), replace=False).tolist() for _ in range(n)]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "fits", lambda n_labels, device: True)
    monkeypatch.setattr(accelerated, "_AT_A_TIME", 50)


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
def test_counts_equal_brute_force_however_batches_come(kind: Any, everywhere: None) -> None:
    counts, expected = ConfusionCounts(C, K, kind), np.zeros((C, C), np.int64)
    for seed, n in enumerate([7, 1, 40, 0, 13]):
        ids, lists = batch(n, seed)
        counts.update_detections(ids if seed % 2 == 0 else ids.numpy(), lists)  # some batches from the accelerator, some not
        assert n == 0 or seed % 2 or counts._there is not None
        for detected, annotated in zip(ids.tolist(), lists, strict=True):
            for i in detected:
                for j in annotated if kind == "confusions" else detected:
                    expected[i, j] += 1
        if seed == 2:
            np.testing.assert_array_equal(counts.to_scipy().toarray(), expected)
    np.testing.assert_array_equal(counts.to_scipy().toarray(), expected)
    assert counts.n_examples == 61


@pytest.mark.parametrize(("row", "message"), [([0, 1, 2, C], f"has label {C}"), ([0, -1, 2, 3], "has label -1"), ([0, 1, 2, 0], "names label 0 twice")])
def test_what_is_wrong_is_named_as_on_the_cpu(row: list[int], message: str, everywhere: None) -> None:
    counts = ConfusionCounts(C, K)
    counts.update_detections(*batch(5, 0))
    with pytest.raises(SelfInformedError, match=f"detections: example 6 {message}"):
        counts.update_detections(torch.tensor([[0, 1, 2, 3], row]), [[1], [2]])
    assert counts.n_examples == 5


def test_the_cpu_is_no_accelerator() -> None:
    assert not accelerated.fits(2, torch.device("cpu"))
