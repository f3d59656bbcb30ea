"""The probe says beforehand whether there is anything to gain, and where."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import Problem
from selfinformed.training.features import rank
from selfinformed.training.headroom import Headroom, probe


@pytest.fixture(scope="module")
def headroom(problem: Problem) -> Headroom:
    return probe(problem.net, problem.store("train"), problem.store("holdout"), groups=problem.groups, width=128)


def test_headroom_is_found_where_it_is(headroom: Headroom, problem: Problem) -> None:
    assert headroom.worth_it
    assert headroom.gain > 10
    assert headroom.verdict.startswith("There is headroom: heads reading the input of 'stack.0'")
    assert headroom.base.mean_average_precision == rank(problem.net, problem.store("holdout")).mean_average_precision
    assert headroom.gain == pytest.approx(100 * (headroom.dense.mean_average_precision - headroom.base.mean_average_precision))


def test_none_is_found_on_a_converged_network(converged: Problem) -> None:
    found = probe(converged.net, converged.train, converged.holdout, width=64)
    assert not found.worth_it
    assert "little to gain" in found.verdict
    assert found.by_group() == []


def test_shares_of_the_groups_sum_to_one(headroom: Headroom, problem: Problem) -> None:
    rows = headroom.by_group()
    assert [row["group"] for row in rows] == list(problem.groups.names)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    gains = headroom.dense.average_precision - headroom.base.average_precision
    assert rows[2]["gain"] == pytest.approx(np.nanmean(gains[problem.groups.members[2]]))


def test_labels_with_most_headroom_come_first(headroom: Headroom) -> None:
    rows = headroom.most(5)
    gains = [row["gain"] for row in rows]
    assert len(rows) == 5
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == np.nanmax(headroom.by_label())


def test_a_cheap_gain_sends_one_to_the_classifier(headroom: Headroom) -> None:
    found = Headroom(headroom.base, headroom.dense, headroom.dense, 64, "the trunk", headroom.labels)
    assert "retraining the classifier alone" in found.verdict
    assert "do that first" in found.verdict


def test_saved_as_json(headroom: Headroom, tmp_path) -> None:
    headroom.save(tmp_path / "probe.json")
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["verdict"] == headroom.verdict
    assert content["worth_it"] is True
    assert content["gain"] == pytest.approx(headroom.gain / 100)
    assert len(content["groups"]) == 6
    assert len(content["labels"]) == 20
