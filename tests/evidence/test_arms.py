"""What each arm is: its size, its training, its judge."""

from __future__ import annotations

import pytest
import torch

from conftest import Problem
from selfinformed.evidence.arms import ARMS, DESCRIPTIONS, Bench, scaled
from selfinformed.evidence.evaluation import evaluate
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, plan
from selfinformed.training.features import FeatureStore
from selfinformed.training.structures import Structure


def two_of_six(plan: HeadPlan) -> Structure:
    """As what search finds."""
    return Structure(plan, 2, 1.0, "two of six heads")


def another_view(problem: Problem) -> FeatureStore:
    """The test pictures again, with a little noise."""
    pictures = problem.test.read(range(len(problem.test)))
    noisy = pictures + 0.05 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    features = problem.net.features(noisy)
    return FeatureStore(features.attached, features.penultimate, problem.test.targets, problem.net.fingerprint, 0.0)


def bench(problem: Problem, heads: HeadPlan | None = None, **options) -> Bench:
    given = {"holdout": problem.store("holdout"), "epochs": 1, **options}
    return Bench(problem.net, heads or problem.plan(), problem.store("train"), problem.store("test"), **given)


def test_every_arm_is_described() -> None:
    assert list(DESCRIPTIONS) == list(ARMS)


def test_random_heads_have_the_methods_sizes(problem: Problem) -> None:
    heads = problem.plan()
    random = bench(problem).plan_of("random", 3)
    assert random.groups.sizes == heads.groups.sizes
    assert random.hidden == heads.hidden
    assert any(set(a) != set(b) for a, b in zip(random.groups.members, heads.groups.members, strict=True))


@pytest.mark.parametrize("hidden", [(1,), (7,), (12, 5), (30, 30, 4)])
@pytest.mark.parametrize("shared", [0, 5])
def test_a_dense_head_fits_any_methods_budget_and_nearly_fills_it(problem: Problem, hidden: tuple[int, ...], shared: int) -> None:
    heads = plan(problem.net, problem.groups, hidden=hidden, shared=shared)
    dense = bench(problem, heads).plan_of("dense", 0)
    assert len(dense.groups) == 1
    assert len(dense.hidden[0]) == len(hidden)
    assert dense.multiply_adds <= heads.multiply_adds
    wider = tuple(width + 1 for width in dense.hidden[0])
    assert plan(problem.net, LabelGroups.everything(36), hidden=wider).multiply_adds > heads.multiply_adds


def test_a_structure_is_judged_as_it_says(problem: Problem) -> None:
    made = bench(problem, searched=two_of_six(problem.plan()))
    aug, history = made.trained("searched", 0)
    assert history.seconds > 0
    with aug.conditional(2):
        expected = evaluate(aug, problem.store("test")).figures()
        held_out = evaluate(aug, problem.store("holdout")).figures()
    assert made.judged("searched", aug, 50).figures() == expected
    assert made.score("searched", aug, 50) == held_out["mean_average_precision"]
    assert expected["multiply_adds"] < problem.plan().multiply_adds


def test_arms_without_what_they_need_are_left_out(problem: Problem) -> None:
    assert bench(problem).choose(None) == ["base", "classifier", "confusions", "random", "dense", "finetune", "gated", "adapter"]
    tiny = plan(problem.net, LabelGroups(36, ([0],)), hidden=(1,))
    assert "gated" not in bench(problem, tiny).choose(None)
    with pytest.raises(SelfInformedError, match=r"'gated' needs other heads or a larger budget \(gated: 145 multiply-adds do not reach"):
        bench(problem, tiny).choose(["gated"])
    with pytest.raises(SelfInformedError, match="views: expected another view of the 600 test examples"):
        bench(problem, views=problem.store("train")).choose(None)


def test_all_learning_rates_are_scaled_the_given_or_fits_own() -> None:
    assert scaled({"batch_size": 8}, 1) == {"batch_size": 8}
    rates = {"learning_rate": 0.2, "classifier_learning_rate": 6e-3, "finetune_learning_rate": 2e-3}
    assert scaled({"learning_rate": 0.1, "batch_size": 8}, 2) == {**rates, "batch_size": 8}
