from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.network.cost import cost
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import mass_within, plan
from selfinformed.structure.plans import HeadPlan, stack_cost

N_LABELS = 12
PARTITION = LabelGroups(N_LABELS, ([0, 1, 2, 3, 4], [5, 6, 7], [8, 9]))
COVER = LabelGroups(N_LABELS, ([0, 1, 2], [2, 3, 4, 5], list(range(N_LABELS))))


@pytest.fixture(scope="module")
def net() -> WrappedClassifier:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 64), nn.ReLU(), nn.Linear(64, N_LABELS)
    )  # fmt: skip
    return wrap(model, torch.randn(2, 1, 8, 8))


def spent(made: HeadPlan) -> int:
    return made.multiply_adds - made.base_multiply_adds


@pytest.mark.parametrize("groups", [PARTITION, COVER, LabelGroups.everything(N_LABELS), LabelGroups(N_LABELS, ())], ids=["partition", "cover", "dense", "none"])
@pytest.mark.parametrize(
    "options",
    [{"hidden": (7,)}, {"hidden": (7, 5)}, {"hidden": (3, 4, 2)}, {"budget": 0.5}, {"budget": 0.5, "depth": 2, "capacity": "labels"},
     {"budget": 0.5, "depth": 0}],
    ids=str,
)  # fmt: skip
def test_cost_is_what_the_built_network_executes(net: WrappedClassifier, groups: LabelGroups, options: dict[str, Any]) -> None:
    if not len(groups) and options.get("depth") == 0:
        pytest.skip("there is nothing to read a shared layer")
    made = plan(net, groups, **options)
    aug = augment(net, made)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        aug(torch.randn(1, 1, 8, 8))
    assert made.multiply_adds == counter.get_total_flops() // 2 == cost(aug, torch.randn(1, 1, 8, 8)).multiply_adds
    assert made.multiply_adds == made.base_multiply_adds + made.shared_multiply_adds + sum(made.head_multiply_adds)
    kept = sum(p.numel() for p in net.classifier.parameters())  # the original classifier is kept to be able to disable the heads
    assert made.parameters == sum(p.numel() for p in aug.base.parameters()) - kept
    assert made.extra_computation == made.multiply_adds / net.cost.multiply_adds


def test_stack_cost_by_hand() -> None:
    assert stack_cost(10, (4, 3), 5) == 10 * 4 + 4 * 3 + 3 * 5


@settings(max_examples=40)
@given(budget=st.floats(0.05, 2), depth=st.integers(1, 3), groups=st.sampled_from([PARTITION, COVER]))
def test_uniform_widths_are_the_largest_within_the_budget(net: WrappedClassifier, budget: float, depth: int, groups: LabelGroups) -> None:
    made = plan(net, groups, budget=budget, depth=depth)
    allowed = budget * net.cost.multiply_adds
    (widths,) = set(made.hidden)
    wider = HeadPlan(groups, (tuple(w + 1 for w in widths),) * len(groups), made.feature_size, made.base_multiply_adds, made.base_parameters)
    assert len(widths) == depth
    assert spent(made) <= allowed < spent(wider)


@settings(max_examples=40)
@given(
    budget=st.floats(0.5, 8),
    depth=st.integers(1, 3),
    capacity=st.sampled_from(["uniform", "labels", "examples", "confusions"]),
    dense_share=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
)
def test_no_capacity_ever_exceeds_the_budget(net: WrappedClassifier, budget: float, depth: int, capacity: Any, dense_share: float) -> None:
    counts = ConfusionCounts(N_LABELS, 2)
    counts.update_detections([[0, 1], [1, 2], [8, 9]], [0, 1, 8])
    made = plan(net, PARTITION, budget=budget, depth=depth, capacity=capacity, counts=counts, examples=np.arange(N_LABELS), dense_share=dense_share)
    assert 0 < spent(made) <= budget * net.cost.multiply_adds


def widths(made: HeadPlan) -> list[int]:
    return [w for (w,) in made.hidden]


def test_capacity_divides_the_budget_in_proportion(net: WrappedClassifier) -> None:
    counts = ConfusionCounts(N_LABELS, 1)
    counts.update_detections([[0]] * 6 + [[5]] * 2 + [[8]] * 5, [1] * 6 + [6] * 2 + [8] * 4 + [0])  # 8 detected as 8 is no confusion
    assert mass_within(counts, PARTITION).tolist() == [6, 2, 0]
    examples = [2, 2, 2, 2, 2, 5, 5, 10, 30, 10, 99, 99]  # 10, 20 and 40 in the groups
    modes = {"uniform": (1, 1, 1), "labels": (5, 3, 2), "examples": (1, 2, 4), "confusions": (6, 2, 0)}
    for mode, shares in modes.items():
        got = np.array(widths(plan(net, PARTITION, budget=8, capacity=mode, counts=counts, examples=examples)))  # type: ignore[arg-type]
        np.testing.assert_allclose(got / got.sum(), np.array(shares) / sum(shares), atol=0.01)
    assert got[2] == 1  # nothing confused: one unit, not none


def test_groups_without_any_mass_share_alike(net: WrappedClassifier) -> None:
    empty = plan(net, PARTITION, budget=1, capacity="confusions", counts=ConfusionCounts(N_LABELS, 1))
    assert empty.hidden == plan(net, PARTITION, budget=1).hidden


def test_dense_share_adds_a_head_over_all_labels(net: WrappedClassifier) -> None:
    made = plan(net, PARTITION, budget=1.0, dense_share=0.5)
    assert made.groups.sizes == [*PARTITION.sizes, N_LABELS]
    assert made.groups.names[-1] == "all labels"
    assert made.groups.assignment[:10].tolist() == PARTITION.assignment[:10].tolist()
    dense = made.head_multiply_adds[-1]
    assert spent(made) <= net.cost.multiply_adds < spent(made) + stack_cost(net.feature_size, (1,), N_LABELS)
    assert dense == pytest.approx(net.cost.multiply_adds / 2, rel=0.1)
    only_dense = plan(net, LabelGroups(N_LABELS, ()), budget=1.0, dense_share=0.5)
    assert only_dense.groups.sizes == [N_LABELS]


def test_the_papers_own_topology() -> None:
    """Table 2: 1.52 G base; 6 heads 1.56 G, 13 heads 1.59 to 1.60 G, wherever the 17,000 labels fall."""

    def made(n_heads: int, covered: int = 17_000) -> HeadPlan:
        groups = LabelGroups(17_000, tuple(np.array_split(np.arange(covered), n_heads)))
        return HeadPlan(groups, ((512, 512),) * n_heads, 9216, 1_520_000_000, 100_000_000)

    six, thirteen = made(6), made(13)
    assert sum(six.head_multiply_adds) == 6 * (9216 * 512 + 512 * 512) + 512 * 17_000
    assert round(six.multiply_adds / 1e9, 2) == 1.56
    assert 1.025 <= six.extra_computation <= 1.026
    assert 1.59e9 <= thirteen.multiply_adds <= 1.60e9
    assert round(made(6, covered=12_000).multiply_adds / 1e9, 2) == 1.56


@pytest.mark.parametrize("groups", [PARTITION, COVER], ids=["partition", "cover"])
def test_random_groups_cost_exactly_the_same(net: WrappedClassifier, groups: LabelGroups) -> None:
    made = plan(net, groups, budget=0.5)
    control = made.with_groups(groups.randomized(0))
    assert control.groups.sizes == made.groups.sizes
    assert control.hidden == made.hidden
    assert (control.multiply_adds, control.parameters, control.head_multiply_adds) == (made.multiply_adds, made.parameters, made.head_multiply_adds)
    with pytest.raises(SelfInformedError, match="plan: groups of sizes"):
        made.with_groups(LabelGroups.everything(N_LABELS))


def test_no_groups_need_no_budget(net: WrappedClassifier) -> None:
    made = plan(net, LabelGroups(N_LABELS, ()))
    assert made.hidden == ()
    assert made.extra_computation == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget: expected a number above 0; got"),
        ({"budget": float("nan")}, "budget: expected a number above 0; got"),
        ({"budget": float("inf")}, "budget: expected a number above 0; got"),
        ({"dense_share": 1}, "dense_share: expected a number of at least 0 and below 1; got"),
        ({"dense_share": -0.1}, "dense_share: expected a number of at least 0 and below 1; got"),
        ({"depth": -1}, "depth: expected a whole number of at least 0; got -1"),
        ({"budget": 1e-6}, "do not reach for 3 heads of one unit"),
        ({"budget": 0.05, "dense_share": 0.001}, "do not reach for 1 heads of one unit"),
        ({"capacity": "label"}, "capacity: expected one of uniform, labels, examples, confusions; got 'label'"),
        ({"capacity": "examples"}, "needs examples="),
        ({"capacity": "examples", "examples": [1, 2, 3]}, r"examples: expected 12 numbers, one per label; got shape \[3\]"),
        ({"capacity": "examples", "examples": [np.nan] + [1] * 11}, "examples: expected finite numbers of training examples, at least 0; got nan"),
        ({"capacity": "examples", "examples": [-1000] + [1] * 11}, "examples: expected finite .* got -1000"),
        ({"capacity": "confusions"}, "needs counts="),
        ({"capacity": "confusions", "counts": ConfusionCounts(20, 1)}, "counts: made for 20 labels, the groups for 12"),
        ({"hidden": ()}, "at least one ReLU layer"),
        ({"hidden": (4, 0)}, "hidden: expected a whole number of at least 1; got 0"),
    ],
)
def test_refused(net: WrappedClassifier, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        plan(net, PARTITION, **options)


def test_groups_for_other_labels_and_widths_for_other_heads_are_refused(net: WrappedClassifier) -> None:
    with pytest.raises(SelfInformedError, match="groups: made for 5 labels, the network has 12"):
        plan(net, LabelGroups.everything(5))
    with pytest.raises(SelfInformedError, match="widths for 1 heads, but 3 groups"):
        HeadPlan(PARTITION, ((4,),), 10, 100, 100)


def test_saved_and_loaded(net: WrappedClassifier, tmp_path: Path) -> None:
    made = plan(net, PARTITION, budget=0.5, depth=2)
    made.save(tmp_path / "plan.json")
    assert HeadPlan.load(tmp_path / "plan.json").to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "selfinformed.plan/0"}, "expected selfinformed.plan/1, found 'selfinformed.plan/0'"),
        ({"hidden": [[4]]}, "widths for 1 heads, but 3 groups"),
        ({"hidden": [[4], [4], ["x"]]}, "not a valid plan file"),
        ({"hidden": None}, "not a valid plan file"),
        ({"feature_size": float("inf")}, "not a valid plan file"),
        ({"feature_size": 0}, "expected at least 1"),
        ({"base_multiply_adds": 0}, "expected at least 1"),
        ({"groups": {"format": "other"}}, "expected selfinformed.groups/1"),
        ({"groups": None}, "not a valid groups file"),
    ],
    ids=str,
)
def test_invalid_files_are_refused(net: WrappedClassifier, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan(net, PARTITION, hidden=(4,)).to_dict() | change))
    with pytest.raises(SelfInformedError, match=message):
        HeadPlan.load(path)


def test_a_shared_layer_is_paid_for_by_the_examples_that_run_any_head(net: WrappedClassifier) -> None:
    groups, base = LabelGroups(12, tuple(np.arange(12).reshape(3, 4))), net.cost.multiply_adds
    shared, used = 30, 0.1
    made = plan(net, groups, budget=0.1, shared=shared, linear=True, usage=used, shared_usage=used)
    width = made.hidden[0][0]

    def executed(w: int) -> float:
        return used * (net.feature_size * shared + 3 * (shared * w + 4 * w))

    assert executed(width) <= 0.1 * base < executed(width + 1)
    with pytest.raises(SelfInformedError, match="do not reach for a layer of 30 shared units"):
        plan(net, groups, budget=0.001, shared=shared)


@pytest.mark.parametrize("capacity", ["examples", "labels"])
def test_heads_that_are_run_and_have_no_share_stay_at_one_unit(net: WrappedClassifier, capacity: str) -> None:
    groups = LabelGroups(12, (np.arange(4), np.arange(4, 8)))
    made = plan(net, groups, budget=0.5, capacity=capacity, examples=[0] * 4 + [5] * 8, usage=[1, 0])
    assert made.hidden[0] == (1,) if capacity == "examples" else made.hidden[0] > (1,)


def test_usage_lets_heads_that_few_examples_run_be_larger(problem: Problem) -> None:
    usage = [0.1, 0.2, 0.3, 0.1, 0.2, 0.1]
    base = problem.net.cost.multiply_adds
    made = plan(problem.net, problem.groups, budget=0.2, usage=usage)
    executed = sum(u * n for u, n in zip(usage, made.head_multiply_adds, strict=True))
    assert 0.19 * base < executed <= 0.2 * base
    assert made.extra_computation > 1.2
    assert plan(problem.net, problem.groups, budget=0.2, usage=1.0).hidden == plan(problem.net, problem.groups, budget=0.2).hidden
    for wrong in (1.5, -0.1):
        with pytest.raises(SelfInformedError, match="usage: expected a number of at least 0 and at most 1; got"):
            plan(problem.net, problem.groups, usage=wrong)
    for depth in (0, 1):
        with pytest.raises(SelfInformedError, match="no head is ever run"):
            plan(problem.net, problem.groups, usage=0.0, depth=depth)
    with pytest.raises(SelfInformedError, match="expected 6 shares from 0 to 1, or one for all"):
        plan(problem.net, problem.groups, usage=[1.0, 1.0])


def test_heads_without_layers_of_their_own_share_one_that_the_budget_sets(problem: Problem) -> None:
    base = problem.net.cost.multiply_adds
    made = plan(problem.net, problem.groups, budget=0.2, depth=0, usage=1 / 3)
    width = made.sources[0].shared
    assert made.hidden == ((),) * 6
    assert made.head_multiply_adds == [6 * width] * 6
    executed = made.shared_multiply_adds + sum(made.head_multiply_adds) / 3
    assert executed <= 0.2 * base < executed + 144 + 12
    assert made.parameters - made.base_parameters == 144 * width + width + 36 * width
    assert plan(problem.net, problem.groups, hidden=(), shared=width).to_dict() == made.to_dict()
    assert HeadPlan.from_dict(json.loads(json.dumps(made.to_dict()))).to_dict() == made.to_dict()
    for options in ({"hidden": ()}, {"hidden": (), "shared": 8, "linear": True}):
        with pytest.raises(SelfInformedError, match="its own or a shared one"):
            plan(problem.net, problem.groups, **options)
    with pytest.raises(SelfInformedError, match="do not reach for one shared unit"):
        plan(problem.net, problem.groups, budget=1e-6, depth=0)
    with pytest.raises(SelfInformedError, match="neither shared= nor dense_share="):
        plan(problem.net, problem.groups, depth=0, shared=8)


@pytest.mark.parametrize("options", [
    {"hidden": (2.5,)}, {"hidden": 8}, {"hidden": (True,)}, {"budget": "3%"}, {"budget": None}, {"budget": True}, {"depth": "1"}, {"depth": 1.5},
    {"shared": 2.5}, {"shared": -1}, {"kernel": 0},
], ids=str)  # fmt: skip
def test_widths_and_budgets_that_are_none_are_refused(net: WrappedClassifier, options: dict[str, Any]) -> None:
    with pytest.raises(SelfInformedError, match=r"^(hidden|budget|depth|shared|kernel): expected .* got "):
        plan(net, PARTITION, **options)


@pytest.mark.parametrize(
    "option", [{"dense_share": 0.5}, {"capacity": "labels"}, {"depth": 2}, {"usage": 0.5}, {"usage": [1, 1, 0.1]}, {"shared_usage": 0.5}], ids=str
)
def test_what_given_widths_would_ignore_is_refused(net: WrappedClassifier, option: dict[str, Any]) -> None:
    with pytest.raises(SelfInformedError, match=rf"plan: {next(iter(option))} is of widths that a budget sets, and hidden=\(4,\) gives them"):
        plan(net, PARTITION, hidden=(4,), **option)
