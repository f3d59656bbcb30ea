"""The journal keeps rows and tries of the same inputs, and knows other data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.journal import Journal, Try
from selfinformed.training.features import FeatureStore


def test_rows_and_tries_come_back_for_the_same_inputs_only(problem: Problem, tmp_path) -> None:
    path, evaluation = tmp_path / "rows.jsonl", evaluate(problem.net, problem.store("test"))
    journal = Journal(path, ["a", {"rate": 1e-3}])
    journal.add("base", 0, evaluation, 1.5, 0.5)
    journal.add_try("dense", Try(0.5), 0.25)
    journal.add_try("dense", Try(2.0, 0.25), float("nan"))
    again = Journal(path, ["a", {"rate": 1e-3}])
    assert again.rows == journal.rows == {("base", 0): {"arm": "base", "seed": 0, **evaluation.figures(), "seconds": 1.5, "head_seconds": 0.5}}
    np.testing.assert_array_equal(again.per_label["base", 0], evaluation.ranking.average_precision)
    assert again.tries["dense", Try(0.5)] == 0.25
    assert np.isnan(again.tries["dense", Try(2.0, 0.25)])
    other = Journal(path, ["b", {"rate": 1e-3}])
    assert not other.rows
    assert not other.tries


SHARES = ("mean_average_precision", "mean_average_precision_per_example", "top1", "top5")


def judged(score: float, *per_label: float) -> Any:
    figures = {**dict.fromkeys(SHARES, score), "multiply_adds": 1, "extra_computation": 1.0, "parameters": 1}
    return SimpleNamespace(figures=lambda: figures, ranking=SimpleNamespace(average_precision=np.array(per_label)))


def test_without_a_file_it_remembers_all_the_same() -> None:
    journal = Journal(None, ["a"])
    journal.add("dense", 1, judged(0.5, 0.25, float("nan")), 2.0)
    assert journal.rows == {("dense", 1): {"arm": "dense", "seed": 1, **judged(0.5).figures(), "seconds": 2.0, "head_seconds": 0.0}}
    np.testing.assert_array_equal(journal.per_label["dense", 1], [0.25, np.nan])


def test_an_arm_with_inputs_of_its_own_is_not_another_ones_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, ["a"]).add("base", 0, judged(0.1), 1.0)
    for digest, score in (("x", 0.2), ("y", 0.3)):
        journal = Journal(path, ["a"], {"searched_dense": digest})
        journal.add("searched_dense", 0, judged(score), 1.0)
        journal.add_try("searched_dense", Try(), score)
    for digest, score in (("x", 0.2), ("y", 0.3)):
        journal = Journal(path, ["a"], {"searched_dense": digest})
        assert {arm: row["top1"] for (arm, _), row in journal.rows.items()} == {"base": 0.1, "searched_dense": score}
        assert journal.tries == {("searched_dense", Try()): score}
    assert list(Journal(path, ["a"]).rows) == [("base", 0)]


def test_lines_of_other_inputs_stay_and_serve_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for inputs, score in (("a", 0.1), ("b", 0.2)):
        journal = Journal(path, [inputs])
        journal.add("base", 0, judged(score), 1.0)
        journal.add_try("dense", Try(0.5), score)
    assert len(path.read_text("utf-8").splitlines()) == 4
    for inputs, score in (("a", 0.1), ("b", 0.2)):
        journal = Journal(path, [inputs])
        assert journal.rows["base", 0]["mean_average_precision"] == score
        assert journal.tries == {("dense", Try(0.5)): score}


def test_a_line_cut_short_is_made_again_and_the_later_of_two_rows_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, ["a"])
    journal.add("base", 0, judged(0.1), 1.0)
    journal.add("base", 0, judged(0.2), 1.0)
    journal.add("dense", 0, judged(0.3), 1.0)
    path.write_bytes(path.read_bytes()[:-20])
    again = Journal(path, ["a"])
    assert {key: row["mean_average_precision"] for key, row in again.rows.items()} == {("base", 0): 0.2}
    again.add("dense", 0, judged(0.4), 1.0)
    assert [json.loads(line)["row"]["mean_average_precision"] for line in path.read_text("utf-8").splitlines()] == [0.1, 0.2, 0.4]


def test_inputs_count_by_what_they_hold_not_by_the_order_of_their_keys() -> None:
    first, second = Journal(None, [{"rate": 1e-3, "seeds": (0, 1)}]), Journal(None, [{"seeds": [0, 1], "rate": 1e-3}])
    assert first.key == second.key != Journal(None, [{"rate": 1e-3, "seeds": (0, 2)}]).key


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
