"""Each head moves its own group's outputs, and no others; folding keeps the function."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.augmented.heads import Heads
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

PARTITION = LabelGroups(9, (np.array([7, 0, 3]), np.array([1, 2]), np.array([8, 4, 5])))  # label 6 is in no group
COVER = LabelGroups(9, (np.array([7, 0, 3]), np.array([3, 2, 0]), np.arange(9)))


def heads(groups: LabelGroups, hidden: tuple[int, ...] = (4,)) -> Heads:
    torch.manual_seed(0)
    made = Heads(HeadPlan(groups, (hidden,) * len(groups), 5, 1000, 1000))
    for weight in made.outputs.parameters():
        torch.nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("groups", [PARTITION, COVER, LabelGroups.everything(9)], ids=["partition", "cover", "dense"])
@pytest.mark.parametrize("hidden", [(4,), (4, 3), (2, 6, 3)])
def test_heads_equal_a_loop_over_groups(groups, hidden):
    made, features = heads(groups, hidden), torch.randn(6, 5)
    expected, start = torch.zeros(6, 9), 0
    for head, members in enumerate(groups.members):
        width = hidden[0]
        x = (features @ made.first.weight[start : start + width].T + made.first.bias[start : start + width]).relu()
        start += width
        for layer in made.hidden[head]:
            x = layer(x)
        expected[:, members] += x @ made.outputs[head].weight.T
    torch.testing.assert_close(made(features), expected)


@pytest.mark.parametrize("groups", [PARTITION, COVER], ids=["partition", "cover"])
def test_each_head_moves_only_its_groups_outputs(groups):
    made, features = heads(groups), torch.randn(6, 5)
    before = made(features)
    for head, members in enumerate(groups.members):
        changed = copy.deepcopy(made)
        torch.nn.init.normal_(changed.outputs[head].weight)
        moved = (changed(features) != before).any(0)
        others = np.setdiff1d(np.arange(9), members)
        assert not moved[others].any()
        assert moved[members].all()


def test_labels_in_no_head_get_nothing():
    assert torch.equal(heads(PARTITION)(torch.randn(6, 5))[:, 6], torch.zeros(6))


@pytest.mark.parametrize("hidden", [(4,), (4, 3)])
def test_fold_keeps_the_function(hidden):
    made, features = heads(PARTITION, hidden), 3 + 2 * torch.randn(50, 5)
    shift, transform = features.mean(0), torch.randn(5, 5)
    expected = made((features - shift) @ transform)
    made.fold(shift, transform)
    torch.testing.assert_close(made(features), expected, rtol=1e-4, atol=1e-4)


def test_unfold_keeps_the_function_of_trained_heads_and_the_weights_of_new_ones():
    made, features = heads(PARTITION), 3 + 2 * torch.randn(50, 5)
    shift, transform = features.mean(0), torch.randn(5, 5)
    weight = made.first.weight.clone()
    made.unfold(shift, transform)
    assert torch.equal(made.first.weight, weight)
    made.fold(torch.zeros(5), torch.eye(5))
    expected = made(features)
    made.unfold(shift, transform)
    torch.testing.assert_close(made((features - shift) @ transform), expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, unique=True), min_size=1, max_size=5), st.data())
def test_in_any_cover_a_head_moves_its_own_labels_only(members, data):
    made, features = heads(LabelGroups(9, tuple(members))), torch.randn(20, 5)
    head = data.draw(st.integers(0, len(members) - 1))
    before = made(features)
    with torch.no_grad():
        made.outputs[head].weight.add_(1.0)
    moved = (made(features) != before).any(dim=0)
    assert torch.nonzero(moved).flatten().tolist() == sorted(members[head])


def test_heads_may_differ_in_width_and_depth():
    torch.manual_seed(0)
    hidden, features = ((5, 3), (2,), (1, 4, 2)), torch.randn(7, 5)
    together = Heads(HeadPlan(PARTITION, hidden, 5, 1000, 1000), zero_outputs=False)
    assert together(features).abs().sum() > 0
    start = 0
    for head, (widths, members) in enumerate(zip(hidden, PARTITION.members, strict=True)):
        alone = Heads(HeadPlan(LabelGroups(9, (members,)), (widths,), 5, 1000, 1000))
        alone.hidden[0], alone.outputs[0] = together.hidden[head], together.outputs[head]
        with torch.no_grad():
            alone.first.weight.copy_(together.first.weight[start : start + widths[0]])
            alone.first.bias.copy_(together.first.bias[start : start + widths[0]])
        start += widths[0]
        torch.testing.assert_close(alone(features)[:, members], together(features)[:, members])


def test_new_heads_add_exactly_nothing_and_only_weights_are_state():
    made = Heads(HeadPlan(COVER, ((4, 2),) * 3, 5, 1000, 1000))
    assert torch.equal(made(torch.randn(6, 5)), torch.zeros(6, 9))
    assert set(made.state_dict()) == {name for name, _ in made.named_parameters()}
