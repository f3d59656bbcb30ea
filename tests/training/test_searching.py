"""Successive halving over structures at one budget."""

from __future__ import annotations

from itertools import groupby

import pytest

from conftest import Problem
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.training.searching import search


def test_rounds_shrink_and_the_best_of_the_last_wins(problem: Problem, counts: ConfusionCounts) -> None:
    found = search(problem.net, problem.store("train"), problem.holdout, budget=0.25, n_groups=(3, 6), counts=[counts], epochs=2)
    rounds = [list(rows) for _, rows in groupby(found.trials, key=lambda row: row["epochs"])]
    assert [rows[0]["epochs"] for rows in rounds] == [2, 1]  # the last round first
    assert [len(rows) for rows in rounds] == [2, 5]  # dense, and 2 numbers of groups x 2 dense shares
    for rows in rounds:
        scores = [row["mean_average_precision"] for row in rows]
        assert scores == sorted(scores, reverse=True)
    assert {row["structure"] for row in rounds[0]} == {row["structure"] for row in rounds[1][:2]}
    assert all(1 < row["extra_computation"] <= 1.25 for row in found.trials)
    assert found.plan.extra_computation == found.trials[0]["extra_computation"] <= 1.25


def test_structures_the_data_cannot_carry_are_left_out(problem: Problem, counts: ConfusionCounts) -> None:
    found = search(problem.net, problem.store("test"), problem.holdout, budget=0.03, n_groups=(2, 30, 40), dense_shares=(0.0,), counts=[counts], epochs=1)
    assert {row["structure"] for row in found.trials} == {"dense", "2 groups from confusions"}


def test_there_must_be_something_to_try(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="at least one number of groups"):
        search(problem.net, problem.store("train"), problem.holdout, n_groups=())
    with pytest.raises(SelfInformedError, match="raise the budget"):
        search(problem.net, problem.store("train"), problem.holdout, budget=1e-6)
