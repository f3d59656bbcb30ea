"""The journal keeps rows and tries of the same inputs, and knows other data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.journal import Journal
from selfinformed.training.features import FeatureStore


def test_rows_and_tries_come_back_for_the_same_inputs_only(problem: Problem, tmp_path) -> None:
    path, evaluation = tmp_path / "rows.jsonl", evaluate(problem.net, problem.store("test"))
    journal = Journal(path, ["a", {"rate": 1e-3}])
    journal.add("base", 0, evaluation, 1.5, 0.5)
    journal.add_try("dense", 0.5, 0.25)
    journal.add_try("dense", 2.0, float("nan"))
    again = Journal(path, ["a", {"rate": 1e-3}])
    assert again.rows == journal.rows == {("base", 0): {"arm": "base", "seed": 0, **evaluation.figures(), "seconds": 1.5, "head_seconds": 0.5}}
    np.testing.assert_array_equal(again.per_label["base", 0], evaluation.ranking.average_precision)
    assert again.tries["dense", 0.5] == 0.25
    assert np.isnan(again.tries["dense", 2.0])
    other = Journal(path, ["b", {"rate": 1e-3}])
    assert not other.rows
    assert not other.tries


def changed(store: FeatureStore, what: str) -> FeatureStore:
    if what == "features":
        return replace(store, attached=1.1 * store.attached)
    if what == "classifier input":
        return replace(store, penultimate=store.penultimate.roll(1, 0))
    if what == "targets":
        return replace(store, targets=store.targets.take(np.arange(len(store))[::-1]))
    return replace(store, fingerprint="another network")


@pytest.mark.parametrize("what", ["features", "classifier input", "targets", "network"])
def test_other_data_of_the_same_size_is_other_data(problem: Problem, what: str) -> None:
    store = problem.store("test")
    assert changed(store, what).digest() != store.digest()


def test_the_same_data_in_other_last_bits_is_the_same(problem: Problem) -> None:
    store = problem.store("test")
    noise = 1 + 1e-7 * torch.randn(store.attached.shape, generator=torch.Generator().manual_seed(0))
    again = FeatureStore(store.attached * noise, store.penultimate.clone(), store.targets, store.fingerprint, 9.0)
    assert again.digest() == store.digest()
