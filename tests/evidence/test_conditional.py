"""The curve of mAP against executed multiply-adds."""

from __future__ import annotations

import pytest

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.evidence.conditional import conditional_curve
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.figures import conditional_figure
from selfinformed.training.fitting import fit


@pytest.mark.parametrize("cached", [True, False])
def test_the_curve_goes_from_the_classifier_to_full_evaluation(problem: Problem, cached):
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"))
    data = problem.store("test") if cached else problem.test
    rows = conditional_curve(aug, data)
    assert [row["top_groups"] for row in rows] == [0, 1, 2, 4, 6]
    each = sum(aug.plan.head_multiply_adds) / 6  # groups of one size: every head costs the same
    assert [row["multiply_adds"] for row in rows] == [problem.net.cost.multiply_adds + round(n * each) for n in (0, 1, 2, 4, 6)]
    full = evaluate(aug, data).figures()
    assert rows[-1] == {"top_groups": 6, **full}
    assert rows[0]["mean_average_precision"] < rows[2]["mean_average_precision"]
    assert aug.dispatch is None
    assert conditional_figure(rows, 0.3).axes


def test_numbers_of_heads_may_be_given(problem: Problem):
    rows = conditional_curve(augment(problem.net, problem.plan()), problem.store("test"), [3, 99])
    assert [row["top_groups"] for row in rows] == [3, 6]
