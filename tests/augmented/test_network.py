"""Surgery leaves the model alone and starts from the base, bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import plan


def moved(aug):
    """The network with every new weight changed."""
    with torch.no_grad():
        for parameter in aug.new_parameters():
            parameter.add_(torch.randn_like(parameter))
    return aug


def test_before_training_the_augmented_network_is_the_base(either: Problem):
    aug, inputs = augment(either.net, either.plan((5, 3))), either.test.read(range(64))
    assert torch.equal(aug(inputs), either.net.logits(inputs))


@pytest.mark.parametrize("attach", ["trunk", "stack", None])
def test_heads_read_any_module(problem: Problem, attach):
    net = wrap(problem.net.model, problem.net.example_inputs, attach=attach)
    aug, inputs = augment(net, plan(net, problem.groups, hidden=(4,))), problem.test.read(range(8))
    assert torch.equal(aug(inputs), net.logits(inputs))
    features = moved(aug).net.features(inputs)
    torch.testing.assert_close(aug(inputs), aug.from_features(features.attached, features.penultimate))


def test_the_model_is_left_alone(problem: Problem):
    model = copy.deepcopy(problem.net.model)
    model.train()
    model.stack.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    net = wrap(model, problem.net.example_inputs)
    aug = moved(augment(net, plan(net, problem.groups, hidden=(4,))))
    aug(problem.test.read(range(4)))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_disabling_the_heads_gives_the_base_even_after_training(problem: Problem):
    aug, inputs = moved(augment(problem.net, problem.plan())), problem.test.read(range(16))
    assert not torch.equal(aug(inputs), problem.net.logits(inputs))
    with aug.heads_disabled() as base:
        assert torch.equal(base(inputs), problem.net.logits(inputs))
    assert not torch.equal(aug(inputs), problem.net.logits(inputs))


def test_a_copy_of_the_network_is_its_own(problem: Problem):
    aug, inputs = moved(augment(problem.net, problem.plan())), problem.test.read(range(16))
    twin, before = copy.deepcopy(aug), aug(inputs)
    assert torch.equal(twin(inputs), before)
    moved(twin)
    assert torch.equal(aug(inputs), before)
    assert not torch.equal(twin(inputs), before)


def test_reinitialise_starts_from_another_classifier(problem: Problem):
    aug = augment(problem.net, problem.plan(), classifier="reinitialise", seed=1)
    assert not torch.equal(aug.classifier.weight, problem.net.classifier.weight)
    with pytest.raises(SelfInformedError, match="expected 'keep' or 'reinitialise'"):
        augment(problem.net, problem.plan(), classifier="drop")


def test_no_heads_means_the_classifier_alone(problem: Problem):
    aug = augment(problem.net, plan(problem.net, LabelGroups(problem.net.n_labels, ()), hidden=(1,)))
    assert aug.heads is None
    assert sum(p.numel() for p in aug.new_parameters()) == sum(p.numel() for p in problem.net.classifier.parameters())


@pytest.mark.parametrize("kind", ["partition", "ungrouped", "ordered"])
def test_group_order_is_a_permutation_of_the_same_logits(problem: Problem, kind):
    n = problem.net.n_labels
    order = np.arange(n) if kind == "ordered" else np.random.default_rng(0).permutation(n)
    groups = LabelGroups(n, (order[: n // 3], order[n // 3 : n - (kind == "ungrouped") * 4]))
    aug = moved(augment(problem.net, plan(problem.net, groups, hidden=(4,))))
    features = problem.net.features(problem.test.read(range(8)))
    logits = aug.from_features(features.attached, features.penultimate)
    if kind == "ordered":
        assert aug.group_order is None
    else:
        permuted = aug.by_group(features.attached, features.penultimate, aug.group_order)
        torch.testing.assert_close(permuted, logits[:, aug.group_order])


def test_covers_have_no_group_order(problem: Problem):
    n = problem.net.n_labels
    cover = LabelGroups(n, (np.arange(n), np.arange(3)))
    assert augment(problem.net, plan(problem.net, cover, hidden=(4,))).group_order is None


def test_a_plan_for_another_network_is_refused(problem: Problem):
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 7))
    net = wrap(other, problem.net.example_inputs)
    with pytest.raises(SelfInformedError, match="plan: made for"):
        augment(net, problem.plan())
