"""The path for accelerators, run on the CPU: torch's operators are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from devices import SecondDevice, There
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


def test_batches_may_come_from_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(accelerated, "fits", lambda n_labels, device: not asked.append(device))
    counts, expected = ConfusionCounts(C, K), ConfusionCounts(C, K)
    with SecondDevice():
        for seed in range(3):
            ids, lists = batch(5, seed)
            counts.update_detections(ids.as_subclass(There) if seed == 1 else ids, lists)
            expected.update_detections(ids.numpy(), lists)
    np.testing.assert_array_equal(counts.to_scipy().toarray(), expected.to_scipy().toarray())
    assert len(asked) == 1  # what is there has room there


def test_an_example_counts_when_it_is_counted() -> None:
    counts = accelerated.DeviceCounts(C, torch.device("cpu"))
    with pytest.raises(IndexError):
        counts.add(torch.full((2, K), C * C), None)
    assert counts.n_examples == 0


def test_only_cuda_counts_where_detections_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "free_on", lambda device: 16 * 100**2)
    assert accelerated.fits(100, torch.device("cuda"))
    assert not accelerated.fits(101, torch.device("cuda"))
    assert not any(accelerated.fits(2, torch.device(kind)) for kind in ("cpu", "mps", "xpu"))
