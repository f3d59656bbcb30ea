"""Heads that see some or none of the base's scores in training: one formula, folded into the weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import Problem, make_problem, refused
from selfinformed.augmented.controls import gated
from selfinformed.augmented.network import augment
from selfinformed.data.opening import open_dataset
from selfinformed.network.wrap import wrap
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, rank, scores_from_features
from selfinformed.training.fitting import fit
from selfinformed.training.joining import Join
from selfinformed.training.losses import loss_of, prior_of
from selfinformed.training.recipe import Recipe
from selfinformed.training.structures import Structure


@pytest.fixture(scope="module")
def sure() -> Problem:
    """A base that knows its training examples by heart: many features, much noise, a classifier trained to the end."""
    return make_problem(steps=400, stack=512, noise=2.5)


def trained(problem: Problem, residual: float, heads=None, **options):
    aug = augment(problem.net, heads or problem.plan(), seed=3)
    options = {"epochs": 2, "holdout": problem.store("holdout"), **options}
    recipe = {"residual": residual, **options.pop("recipe", {})}
    return aug, fit(aug, problem.store("train"), recipe=recipe, **options)


@given(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**31))
def test_training_and_trained_logits_are_those_of_the_formula(residual: float, tau: float, seed: int) -> None:
    c, h, p = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    join = Join(residual, p[0], tau)
    seen = residual * c + (1 - residual) * p[0] + h
    torch.testing.assert_close(join.in_training(c, h), seen)
    torch.testing.assert_close(join.trained(c, h), ((1 - residual) * (c - tau * p[0]) + seen) / (2 - residual))


def test_with_one_it_is_the_papers_sum_bit_for_bit(either: Problem) -> None:
    c, h = torch.randn(2, 5, 36)
    join = Join.of(augment(either.net, either.plan()), Recipe(), either.train.targets, "softmax")
    assert torch.equal(join.in_training(c, h), c + h)
    assert torch.equal(join.trained(c, h), c + h)
    plain = augment(either.net, either.plan(), seed=3)
    fit(plain, either.store("train"), epochs=2, holdout=either.store("holdout"))
    for one, other in zip(plain.new_parameters(), trained(either, 1.0)[0].new_parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_the_classifiers_scores_training_is_the_same_as_with_them_beside_it(either: Problem, monkeypatch) -> None:
    """Their product is left out where nothing needs it; where heads are chosen by them it is not."""
    alone, beside = (augment(either.net, either.plan(), seed=3) for _ in range(2))
    options = {"epochs": 1, "learning_rate": 1e-3, "recipe": {"residual": 0.0}}
    with beside.conditional(len(beside.plan.groups)):
        fit(beside, either.store("train"), **options)
    monkeypatch.setattr(alone.classifier, "forward", lambda penultimate: pytest.fail("computed"))
    fit(alone, either.store("train"), **options)
    monkeypatch.undo()
    inputs = either.test.read(range(200))
    torch.testing.assert_close(alone.logits(inputs), beside.logits(inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("adjustment", [0.0, 1.0])
@pytest.mark.parametrize("residual", [0.0, 0.25])
def test_folding_changes_no_logit(either: Problem, residual: float, adjustment: float) -> None:
    aug, rows = augment(either.net, either.plan()), torch.arange(60)
    with torch.no_grad():
        for parameter in aug.heads.parameters():
            parameter.normal_(std=0.3)
    aug.heads.trained = 0  # as `fit` has them while they are trained
    at_heads, at_classifier = either.store("test").batch(rows)
    join = Join.of(aug, Recipe(residual=residual, logit_adjustment=adjustment), either.train.targets, "logistic")
    before = aug.from_features(at_heads, at_classifier, join.trained)
    join.fold(aug)
    torch.testing.assert_close(aug.from_features(at_heads, at_classifier), before, rtol=1e-4, atol=1e-4)
    assert (before - join.in_training(aug.classifier(at_classifier), aug.heads(at_heads))).abs().max() > 0.1  # there was something to fold


@pytest.mark.parametrize("residual", [1.0, 0.25, 0.0])
def test_adjusted_logits_hold_no_frequencies_however_much_of_the_base_heads_see(residual: float) -> None:
    """Inputs that say nothing, labels of unlike frequencies which the base knows: all that there is to learn is not to go by them."""
    shares = torch.tensor([0.85, 0.1, 0.04, 0.01])
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[3].weight.mul_(0.01)
        model[3].bias.copy_(shares.log())
    generator = torch.Generator().manual_seed(0)
    data = open_dataset((torch.randn(2000, 8, generator=generator), torch.multinomial(shares, 2000, True, generator=generator)), list("abcd"))
    net = wrap(model, data.example_inputs(), labels=list("abcd"), output="softmax")
    aug = augment(net, plan(net, LabelGroups.everything(4), hidden=(4,)))
    fit(aug, data, epochs=30, recipe={"residual": residual, "logit_adjustment": 1.0})
    logits = aug.logits(data.read(range(2000))).mean(0)
    assert logits.max() - logits.min() < 0.9  # 4.4 where frequencies are learnt


def test_without_scores_the_network_is_the_mean_of_the_base_and_of_heads_that_never_saw_it(either: Problem) -> None:
    aug, _ = trained(either, 0.0)
    prior = prior_of(either.train.targets, aug.output).float()
    own = either.net.classifier
    assert torch.equal(aug.classifier.weight, own.weight / 2)
    assert torch.equal(aug.classifier.bias, (own.bias + prior) / 2)
    model = copy.deepcopy(either.net.model)
    with torch.no_grad():
        for parameter in (*model.stack.parameters(), *model.classifier.parameters()):
            parameter.normal_()
    other = replace(either, net=wrap(model, either.test.example_inputs(), labels=either.net.labels, output=either.net.output))
    for one, another in zip(aug.heads.parameters(), trained(other, 0.0)[0].heads.parameters(), strict=True):
        assert torch.equal(one, another)
    with aug.heads_disabled():
        inputs = either.test.read(range(20))
        assert torch.equal(aug(inputs), either.net.logits(inputs))


def test_the_prior_counts_labels(several: Problem) -> None:
    targets = several.train.targets
    counts = np.maximum(targets.positives(), 0.5)
    np.testing.assert_allclose(prior_of(targets, "softmax").numpy(), np.log(counts / len(targets)))
    np.testing.assert_allclose(prior_of(targets, "logistic").exp().numpy(), counts / (len(targets) - targets.positives()))


def test_a_base_that_knows_its_training_examples_gains_most_from_heads_that_hardly_see_it(sure: Problem) -> None:
    base, test = rank(sure.net, sure.store("test")).mean_average_precision, sure.store("test")
    assert rank(sure.net, sure.store("train")).mean_average_precision > base + 0.2
    heads = plan(sure.net, LabelGroups.everything(36), hidden=(64,))
    corrected, beside = (rank(trained(sure, residual, heads, epochs=10)[0], test).mean_average_precision for residual in (1.0, 0.25))
    assert beside > max(base, corrected) + 0.01


@pytest.mark.parametrize("residual", [0.0, 0.25])
def test_patience_watches_the_network_that_training_gives(either: Problem, residual: float) -> None:
    aug, history = trained(either, residual, epochs=1, recipe={"patience": 1})
    assert rank(aug, either.store("holdout")).mean_average_precision == pytest.approx(history.rows[0]["holdout_mean_average_precision"], abs=1e-4)


def test_a_cover_and_labels_in_no_group_and_experts_and_chosen_heads(either: Problem) -> None:
    cover = LabelGroups(36, (np.arange(10), np.arange(5, 20)))
    for heads in (plan(either.net, cover, hidden=(8,)), either.plan((8, 6))):
        aug, _ = trained(either, 0.0, heads)
        inputs = either.test.read(range(30))
        features = FeatureStore.build(either.net, either.test.take(range(30)))
        torch.testing.assert_close(aug.logits(inputs), aug.from_features(features.attached, features.penultimate), rtol=1e-4, atol=1e-4)
    experts = gated(either.net, either.plan())
    fit(experts, either.store("train"), epochs=1, recipe={"residual": 0.0})
    assert torch.equal(experts.classifier.weight, either.net.classifier.weight / 2)
    some = augment(either.net, either.plan())
    with some.conditional(2):
        fit(some, either.store("train"), epochs=1, recipe={"residual": 0.0})
        assert rank(some, either.store("test")).mean_average_precision > 0


def test_a_retrained_classifier_alone_is_no_matter_of_it(problem: Problem) -> None:
    nothing = plan(problem.net, LabelGroups(36, ()), hidden=(1,))
    one, other = (trained(problem, residual, nothing)[0] for residual in (0.0, 1.0))
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert not torch.equal(one.classifier.weight, problem.net.classifier.weight)


@pytest.mark.parametrize("residual", [0.0, 0.25])
def test_training_and_the_trained_network_choose_the_same_heads_where_labels_are_rare_and_frequent(problem: Problem, residual: float) -> None:
    labels = problem.train.targets.labels
    kept = np.flatnonzero((labels % 6 == 0) | (np.arange(len(labels)) % 12 == 0))
    rows = problem.train.take(kept.tolist())
    train, test = FeatureStore.build(problem.net, rows), problem.store("holdout")
    aug = augment(problem.net, problem.plan())
    with aug.conditional(1) as dispatch:
        history = fit(aug, train, holdout=test, epochs=1, recipe={"residual": residual, "patience": 1})
        assert dispatch.shift is None
        assert rank(aug, test).mean_average_precision == pytest.approx(history.rows[0]["holdout_mean_average_precision"], abs=1e-4)
    choice = Choice("confusions", 6, top_groups=1, residual=residual)
    builder = Builder(problem.net, train, 0.2)
    structure = builder.structure(choice)
    trained, _ = structure.train(problem.net, train, epochs=1)
    with structure.evaluating(trained):
        rank(trained, train)
        assert 0.15 < trained.dispatch.multiply_adds / problem.net.cost.multiply_adds - 1 <= 0.2


def test_a_classifier_without_a_bias_takes_no_prior(problem: Problem) -> None:
    model = copy.deepcopy(problem.net.model)
    model.classifier.bias = None
    net = wrap(model, problem.test.example_inputs(), labels=problem.net.labels)
    store, test = FeatureStore.build(net, problem.train), FeatureStore.build(net, problem.holdout)
    aug = augment(net, problem.plan())
    history = fit(aug, store, holdout=test, epochs=1, recipe={"residual": 0.0, "patience": 1, "watch": "loss"})
    logits = scores_from_features(aug, *test.batch(torch.arange(len(test))))
    assert loss_of(logits, test.targets, "softmax").item() == pytest.approx(history.rows[0]["holdout_loss"], rel=1e-5)


def test_no_head_run_is_no_error(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    with aug.conditional(0):
        fit(aug, problem.store("train"), epochs=1, recipe={"residual": 0.0})
    assert all(not weight.any() for name, weight in aug.heads.to_weights().items() if name.startswith("outputs"))


def test_a_structure_without_scores_keeps_the_bases_classifier_whatever_the_others_do(problem: Problem) -> None:
    options = {"holdout": problem.store("holdout"), "epochs": 1}
    stores, ways = (problem.net, problem.store("train")), ("keep", "reinitialise")
    kept, other = (Structure(problem.plan(), residual=0.0).train(*stores, classifier=way, **options) for way in ways)
    assert torch.equal(kept[0].classifier.weight, other[0].classifier.weight)


def test_what_cannot_be_trained_so_is_refused(problem: Problem) -> None:
    aug, _ = trained(problem, 0.0)
    with refused("these heads are trained already", "augment the network anew"):
        fit(aug, problem.store("train"), recipe={"residual": 0.5})
    with refused("this one is not the network's own", "classifier='keep'"):
        fit(augment(problem.net, problem.plan(), classifier="reinitialise"), problem.store("train"), recipe={"residual": 0.0})
    aug = augment(problem.net, problem.plan())
    aug.output = "softmax"
    with aug.conditional(share=0.5), refused("every example runs heads", "leave share at 1"):
        fit(aug, problem.store("train"), recipe={"residual": 0.0})
