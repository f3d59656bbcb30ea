"""What heads cost is known before they are built, and it is what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.network.cost import cost
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import measure
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, confusion_mass, plan


def papers(n_heads: int) -> HeadPlan:
    groups = LabelGroups(17_000, tuple(np.array_split(np.arange(17_000), n_heads)))
    return HeadPlan(groups, ((512, 512),) * n_heads, 9_216, 1_520_000_000, 100_000_000)


def test_the_papers_own_topology():
    """Table 2: 1.52 G base; 6 heads 1.56 G and 1.026x; 13 heads 1.60 G."""
    six, thirteen = papers(6), papers(13)
    assert f"{six.multiply_adds / 1e9:.2f}" == "1.56"
    assert 1.025 <= six.extra_computation <= 1.0265
    assert 1.59e9 <= thirteen.multiply_adds <= 1.60e9


@pytest.mark.parametrize("hidden", [(7,), (5, 3), (4, 4, 4)])
@pytest.mark.parametrize("cover", [False, True])
def test_planned_costs_are_counted_costs(problem: Problem, hidden, cover):
    groups = problem.groups
    if cover:
        groups = LabelGroups(groups.n_labels, (*groups.members, np.arange(5)))
    heads = plan(problem.net, groups, hidden=hidden)
    aug = augment(problem.net, heads)
    assert cost(aug.base, problem.net.example_inputs).multiply_adds == heads.multiply_adds
    kept = sum(p.numel() for p in problem.net.classifier.parameters())  # the base's own classifier stays for heads_disabled
    assert sum(p.numel() for p in aug.base.parameters()) - kept == heads.parameters
    assert heads.extra_computation == heads.multiply_adds / problem.net.cost.multiply_adds


@pytest.mark.parametrize("budget", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_budget_is_kept_and_used(problem: Problem, budget, depth):
    heads = plan(problem.net, problem.groups, budget=budget, depth=depth)
    assert heads.extra_computation <= 1 + budget
    assert len({*heads.hidden}) == 1
    wider = plan(problem.net, problem.groups, hidden=(heads.hidden[0][0] + 1,) * depth)
    assert wider.extra_computation > 1 + budget


def test_capacity_follows_what_it_is_given(problem: Problem):
    n = problem.net.n_labels
    groups = LabelGroups(n, (np.arange(0, n // 4), np.arange(n // 4, n)))
    examples = np.where(np.arange(n) < n // 4, 30, 1)
    counts = measure(problem.net, problem.holdout)
    masses = {"labels": [n // 4, n - n // 4], "examples": [examples[m].sum() for m in groups.members], "confusions": confusion_mass(counts, groups)}
    for capacity, mass in masses.items():
        heads = plan(problem.net, groups, budget=2.0, capacity=capacity, examples=examples, counts=counts)
        widths = [w[0] for w in heads.hidden]
        assert heads.extra_computation <= 3.0
        assert (widths[0] > widths[1]) == (mass[0] > mass[1])


def test_confusion_mass_is_what_lies_between_two_labels_of_a_group(problem: Problem):
    counts = measure(problem.net, problem.holdout)
    dense = counts.to_scipy().toarray()
    expected = [sum(dense[i, j] for i in m for j in m if i != j) for m in problem.groups.members]
    assert confusion_mass(counts, problem.groups).tolist() == expected


def test_a_dense_share_adds_one_head_over_all_labels(problem: Problem):
    heads = plan(problem.net, problem.groups, budget=2.0, dense_share=0.5)
    assert heads.groups.sizes == [*problem.groups.sizes, problem.net.n_labels]
    assert 2.5 < heads.extra_computation <= 3.0
    assert heads.head_multiply_adds[-1] > 0.8 * problem.net.cost.multiply_adds


def test_random_groups_cost_the_same(problem: Problem):
    heads = plan(problem.net, problem.groups, budget=0.5)
    random = heads.with_groups(problem.groups.randomized(0))
    assert (random.multiply_adds, random.parameters, random.hidden) == (heads.multiply_adds, heads.parameters, heads.hidden)
    with pytest.raises(SelfInformedError, match="groups of sizes"):
        heads.with_groups(LabelGroups.everything(problem.net.n_labels))


def test_saved_and_loaded_is_equal(problem: Problem, tmp_path):
    heads = plan(problem.net, problem.groups, hidden=(5, 3))
    heads.save(tmp_path / "plan.json")
    assert HeadPlan.load(tmp_path / "plan.json").to_dict() == heads.to_dict()
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SelfInformedError, match="not a valid plan file"):
        HeadPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1e-6}, "do not reach for"),
        ({"budget": 0}, "expected budget > 0"),
        ({"dense_share": 1.0}, "dense_share"),
        ({"depth": 0}, "depth >= 1"),
        ({"hidden": (3, 0)}, "at least 1 wide"),
        ({"capacity": "lots"}, "expected one of uniform"),
        ({"capacity": "examples"}, "needs examples="),
        ({"capacity": "confusions"}, "needs counts="),
    ],
)
def test_what_cannot_be_planned_is_refused(problem: Problem, options, message):
    with pytest.raises(SelfInformedError, match=message):
        plan(problem.net, problem.groups, **options)
    with pytest.raises(SelfInformedError, match="made for 3 labels"):
        plan(problem.net, LabelGroups.everything(3), **options)
