"""Wall-clock, measured in alternation."""

from __future__ import annotations

import pytest

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.evidence.latency import latency
from selfinformed.runtime.errors import SelfInformedError


def test_every_batch_size_has_its_row(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    result = latency(aug, problem.test, batch_sizes=(1, 4), repeats=5)
    assert [row["batch_size"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert 0 < row["base_p50"] <= row["base_p95"]
        assert 0 < row["augmented_p50"] <= row["augmented_p95"]
        assert row["ratio"] > 0
    assert result["extra_computation"] == aug.plan.extra_computation
    assert result["machine"]["threads"] >= 1
    assert "torch" in result["versions"]


def test_fewer_examples_than_the_batch_are_repeated(problem: Problem, monkeypatch) -> None:
    sizes = []
    aug = augment(problem.net, problem.plan())
    monkeypatch.setattr(aug, "logits", lambda inputs: sizes.append(len(inputs)))
    latency(aug, problem.test.take(range(3)), batch_sizes=(8,), repeats=1)
    assert set(sizes) == {8}
    with pytest.raises(SelfInformedError, match="there is no example to time"):
        latency(aug, problem.test.take([]), repeats=1)
