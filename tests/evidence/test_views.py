"""Test-time views: just the least certain examples are seen twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_arms import another_view

from conftest import Problem
from selfinformed.augmented.dispatch import uncertainty
from selfinformed.augmented.network import augment
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.views import evaluate_with_views
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.average_precision import mean_average_precision
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan


def retrained(problem: Problem):
    return augment(problem.net, plan(problem.net, LabelGroups(36, ()), hidden=(1,)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 1.0])
def test_the_unsure_share_counts_with_the_mean_of_both_views(either: Problem, share: float) -> None:
    aug, test, views = retrained(either), either.store("test"), another_view(either)
    scores, others = (either.net.classifier(s.penultimate).detach() for s in (test, views))
    unsure = uncertainty(scores, "softmax" if test.targets.single else "logistic").tolist()
    order = sorted(range(600), key=lambda i: (-unsure[i], i))[: int(share * 600)]
    for i in order:
        scores[i] = (scores[i] + others[i]) / 2
    found = evaluate_with_views(aug, test, views, share)
    assert found.ranking.mean_average_precision == pytest.approx(mean_average_precision(scores, test.targets), abs=1e-6)
    assert found.multiply_adds == int(either.net.cost.multiply_adds * (1 + len(order) / 600))
    if not share:
        assert found.figures() == evaluate(aug, test).figures()


def test_for_softmax_the_mean_is_that_of_log_probabilities_but_for_a_number_per_example() -> None:
    one, other = torch.randn(2, 5, 7)
    difference = (one + other) / 2 - (one.log_softmax(1) + other.log_softmax(1)) / 2
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 7))


def test_views_of_other_examples_are_refused(problem: Problem) -> None:
    aug, test = retrained(problem), problem.store("test")
    for rows in (range(599), np.random.default_rng(0).permutation(600)):
        with pytest.raises(SelfInformedError, match="views: expected another view of the 600 test examples in the same order"):
            evaluate_with_views(aug, test, type(test).build(problem.net, problem.test.take(rows)), 0.5)
