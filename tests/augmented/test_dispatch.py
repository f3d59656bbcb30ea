"""Conditional evaluation equals running the chosen heads one by one; all chosen, it is full evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Problem
from selfinformed.augmented.dispatch import Dispatch
from selfinformed.augmented.heads import Heads
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, Source, plan
from selfinformed.training.fitting import fit


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_plan_runs_just_the_chosen_heads(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    n_labels, n, batch = int(rng.integers(2, 40)), int(rng.integers(1, 7)), int(rng.integers(1, 9))
    members = [rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)] for _ in range(n)]
    if data.draw(st.booleans()):
        members = [m for m in np.array_split(rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)], n) if len(m)]
    sources = [Source(0, 12), Source(0, 12, (3, 2, 2)), Source(0, 12, shared=4)]
    n = len(members)
    made = HeadPlan(
        LabelGroups(n_labels, tuple(members)), tuple(tuple(rng.integers(1, 9, rng.integers(1, 3)).tolist()) for _ in members), 12, 1000, 1000,
        tuple(sources[i] for i in rng.integers(0, 3, n)),
    )  # fmt: skip
    torch.manual_seed(0)
    heads, top = Heads(made, zero_outputs=False), int(rng.integers(0, n + 1))
    features, logits = torch.randn(batch, 12), torch.randint(-3, 3, (batch, n_labels)).float()  # with ties
    dispatch = Dispatch(made, top)
    added = dispatch(heads, features, logits)
    executed = 0
    for row in range(batch):
        score = [(-np.inf if len(m) == n_labels else -float(logits[row, m].max()), g) for g, m in enumerate(members)]
        expected = torch.zeros(n_labels)
        for _, g in sorted(score)[:top]:
            reader = heads.readers[heads.reader_of[g]]
            expected[members[g]] += heads.head(g, reader.inputs(features[row : row + 1]))[0]
            executed += made.head_multiply_adds[g]
        torch.testing.assert_close(added[row], expected, rtol=1e-4, atol=1e-5)
    fixed = 1000 + (made.shared_multiply_adds if top else 0)
    assert dispatch.examples == batch
    assert dispatch.multiply_adds == pytest.approx(fixed + executed / batch)
    if top == n:
        assert torch.equal(added, heads(features))
        assert dispatch.multiply_adds == pytest.approx(made.multiply_adds)


@pytest.fixture
def trained(problem: Problem) -> AugmentedClassifier:
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"), epochs=1)
    return aug


def test_all_groups_chosen_is_full_evaluation_and_none_the_classifier(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(40))
    with trained.conditional(len(problem.groups)):
        everything = trained.logits(inputs)
    assert torch.equal(everything, trained.logits(inputs))
    features = problem.net.features(inputs)
    with trained.conditional(0) as dispatch:
        torch.testing.assert_close(trained.logits(inputs), trained.classifier(features.penultimate))
    assert dispatch.multiply_adds == problem.net.cost.multiply_adds
    assert trained.dispatch is None
    assert torch.equal(everything, trained.logits(inputs))


def test_an_examples_logits_do_not_depend_on_the_others_of_its_batch(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(30))
    with trained.conditional(2):
        together = trained.logits(inputs)
        alone = torch.cat([trained.logits(inputs[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together, trained.logits(inputs))


def test_contexts_nest_and_survive_an_error(problem: Problem, trained: AugmentedClassifier):
    with trained.conditional(3) as outer:
        with pytest.raises(RuntimeError, match="mine"), trained.conditional(1):
            raise RuntimeError("mine")
        assert trained.dispatch is outer
    assert trained.dispatch is None


@pytest.mark.parametrize("wrong", [-1, True])
def test_a_wrong_number_of_groups_is_refused(trained: AugmentedClassifier, wrong):
    with pytest.raises(SelfInformedError, match="top_groups: expected a number of heads from 0 to 6"), trained.conditional(wrong):
        pass


def test_training_within_the_context_trains_on_the_examples_that_choose_a_head(problem: Problem):
    full, conditional = (augment(problem.net, problem.plan()) for _ in range(2))
    fit(full, problem.store("train"), epochs=2)
    with conditional.conditional(1) as dispatch:
        fit(conditional, problem.store("train"), epochs=2)
    assert dispatch.examples == 2 * len(problem.train)
    assert conditional.heads is not None
    before, after = full.heads.to_weights(), conditional.heads.to_weights()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    inputs, targets = problem.test.read(range(600)), torch.from_numpy(problem.test.targets.labels)
    with conditional.conditional(1):
        right = float((conditional.logits(inputs).argmax(1) == targets).float().mean())
    assert right > float((problem.net.logits(inputs).argmax(1) == targets).float().mean())


def test_quantized_heads_are_near_the_float_ones_and_leave_them_alone(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(8))
    expected = trained.logits(inputs)
    with trained.quantized_heads():
        got = trained.logits(inputs)
        grads = trained(inputs)
        with trained.conditional(2):
            few = trained.logits(inputs)
    with trained.conditional(2):
        torch.testing.assert_close(few, trained.logits(inputs), rtol=0.05, atol=0.1)
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.1)
    assert grads.requires_grad  # training within the context is training in float
    assert torch.equal(trained.logits(inputs), expected)


def test_the_method_applied_again_at_another_attach_point(problem: Problem, trained: AugmentedClassifier):
    from selfinformed.network.wrap import wrap
    from selfinformed.structure.clustering import cluster
    from selfinformed.structure.measuring import measure

    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=[problem.net.attach, "trunk.2"])
    groups = cluster(measure(trained, problem.holdout), n_groups=3)
    again = augment(net, plan(net, groups, hidden=(8,), attach="trunk.2"), onto=trained)
    inputs = problem.test.read(range(40))
    torch.testing.assert_close(again.logits(inputs), trained.logits(inputs), rtol=1e-4, atol=1e-5)
    assert len(again.plan.groups) == 9
    assert again.plan.multiply_adds > trained.plan.multiply_adds
    fit(again, problem.train, epochs=1)
    assert not torch.equal(again.logits(inputs), trained.logits(inputs))
    other = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach="trunk.2")
    with pytest.raises(SelfInformedError, match="attach points that begin with the input of 'stack.0'"):
        augment(other, plan(other, groups, hidden=(8,)), onto=trained)
