"""Every loss as plainly written, and its gradient as autograd gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.data.targets import as_targets
from selfinformed.training.losses import Objective, gradient_of, loss_of, prior_of
from selfinformed.training.recipe import Recipe


@st.composite
def cases(draw):
    """Scores, a teacher's, targets, and a recipe with any of the options."""
    n, c, output = draw(st.integers(1, 6)), draw(st.integers(2, 7)), draw(st.sampled_from(["softmax", "logistic"]))
    label = st.integers(0, c - 1)
    lists = draw(st.lists(st.lists(label, min_size=1, max_size=1) if output == "softmax" else st.lists(label, unique=True), min_size=n, max_size=n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scores, teacher = (3 * torch.randn(n, c, generator=generator, dtype=torch.float64) for _ in range(2))
    share = st.sampled_from([0.0, 0.1, 0.7])
    recipe = Recipe(
        label_smoothing=draw(share), logit_adjustment=draw(share), class_weights=draw(st.sampled_from([0.0, 0.5, 0.99])),
        soft_targets=draw(share), temperature=draw(st.sampled_from([0.5, 1.0, 3.0])),
    )  # fmt: skip
    return scores, teacher, as_targets(lists, c), output, recipe


def plainly(scores, teacher, targets, output, recipe):
    """The loss example by example, as the papers write it; frequencies are those of the same targets."""
    n, c = scores.shape
    counts = [sum(label in targets.of(i) for i in range(n)) for label in range(c)]
    seen = [k for k in counts if k]
    total = 0.0
    for i in range(n):
        labels = targets.of(i).tolist()
        z = scores[i]
        if recipe.logit_adjustment:
            pi = torch.tensor([max(k, 0.5) / n for k in counts], dtype=torch.float64)
            rest = torch.tensor([max(n - k, 0.5) / n for k in counts], dtype=torch.float64)
            z = z + recipe.logit_adjustment * (pi / rest if output == "logistic" else pi).log().float()  # kept in single precision
        hot = torch.zeros(c, dtype=torch.float64)
        hot[labels] = 1
        spread = 0.5 if output == "logistic" else 1 / c
        wanted = (1 - recipe.label_smoothing) * hot + recipe.label_smoothing * spread
        hard = F.cross_entropy(z, wanted) if output == "softmax" else F.binary_cross_entropy_with_logits(z, wanted, reduction="sum")
        if recipe.class_weights:
            beta = recipe.class_weights
            weight = {label: (1 - beta) / (1 - beta ** counts[label]) for label in labels}
            mean = np.mean([(1 - beta) / (1 - beta**k) for k in seen]) if seen else 1.0
            hard = hard * (np.mean([weight[label] for label in labels]) / mean if labels else 1.0)
        t = recipe.temperature
        if output == "softmax":
            soft = F.cross_entropy(scores[i] / t, (teacher[i] / t).softmax(0))
        else:
            soft = F.binary_cross_entropy_with_logits(scores[i] / t, (teacher[i] / t).sigmoid(), reduction="sum")
        total = total + (1 - recipe.soft_targets) * hard + recipe.soft_targets * t**2 * soft
    return total / n


@settings(max_examples=150)
@given(cases())
def test_value_is_the_plain_loss_and_gradient_is_autograds(case) -> None:
    scores, teacher, targets, output, recipe = case
    objective = Objective.of(recipe, targets, output)
    scores.requires_grad_(True)
    expected = plainly(scores, teacher, targets, output, recipe)
    (gradient,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(objective.loss(scores, targets, teacher).detach(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(objective.gradient(scores, targets, teacher), gradient, rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(cases(), st.integers(1, 3))
def test_parts_of_a_batch_add_up_to_it(case, parts: int) -> None:
    scores, teacher, targets, output, recipe = case
    objective = Objective.of(recipe, targets, output)
    whole = objective.gradient(scores, targets, teacher)
    for part in range(parts):
        rows = torch.arange(len(scores))[part::parts]
        torch.testing.assert_close(objective.gradient(scores[rows], targets.take(rows.numpy()), teacher[rows], len(scores)), whole[rows])


@pytest.mark.parametrize("output", ["softmax", "logistic"])
def test_without_options_it_is_the_plain_loss_bit_for_bit(output) -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    targets = as_targets([[0], [1], [3], [3], [2]], 4)
    objective = Objective.of(Recipe(), targets, output)
    assert torch.equal(objective.loss(scores, targets), loss_of(scores, targets, output))
    assert torch.equal(objective.gradient(scores, targets), gradient_of(scores, targets, output))


def test_logit_adjustment_of_equal_labels_changes_nothing_and_of_rare_ones_raises_them() -> None:
    scores = torch.zeros(4, 2)
    equal, skewed = as_targets([[0], [1], [0], [1]], 2), as_targets([[0], [0], [0], [1]], 2)
    recipe = Recipe(logit_adjustment=1)
    torch.testing.assert_close(Objective.of(recipe, equal, "softmax").gradient(scores, equal), gradient_of(scores, equal, "softmax"))
    # at equal scores the adjusted probabilities are the labels' shares, so nothing pulls either way on the whole
    torch.testing.assert_close(Objective.of(recipe, skewed, "softmax").gradient(scores, skewed).sum(0), torch.zeros(2))


def test_views_of_an_example_do_not_make_its_labels_more_frequent() -> None:
    one, several = (as_targets([[0], [0], [0], [1]] * n, 2) for n in (1, 4))
    recipe = Recipe(class_weights=0.9)
    torch.testing.assert_close(Objective.of(recipe, several, "softmax", 4).weights, Objective.of(recipe, one, "softmax").weights)


@pytest.mark.parametrize("output", ["softmax", "logistic"])
def test_views_of_the_same_examples_are_no_more_examples(output) -> None:
    once, four = (as_targets([0, 1, 1, 2] * n, 4) for n in (1, 4))
    torch.testing.assert_close(prior_of(four, output, 4), prior_of(once, output))
    recipe = Recipe(class_weights=0.9, logit_adjustment=1.0)
    one, of_four = Objective.of(recipe, once, output), Objective.of(recipe, four, output, 4)
    torch.testing.assert_close(one.weights, of_four.weights)
    torch.testing.assert_close(one.shift, of_four.shift)


def test_class_weights_are_one_on_average_over_labels_with_examples() -> None:
    targets = as_targets([[0]] * 90 + [[1]] * 9 + [[2]], 4)
    weights = Objective.of(Recipe(class_weights=0.999), targets, "softmax").weights
    assert weights[:3].mean() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]
    assert weights[2] / weights[0] == pytest.approx((1 - 0.999**90) / (1 - 0.999), rel=1e-4)
    assert weights[3] == 0


@pytest.mark.parametrize("output", ["softmax", "logistic"])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(logit_adjustment=1.0)], ids=["plain", "adjusted"])
def test_gradients_of_a_sure_network_hold_no_number_whose_square_is_subnormal(output, recipe) -> None:
    """With subnormal numbers a step takes many times as long."""
    scores = 30 * torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    targets = as_targets([[i % 200] for i in range(64)], 200)
    objective = Objective.of(recipe, targets, output)
    gradient = objective.gradient(scores, targets)
    assert ((gradient == 0) | (gradient.abs() >= 1e-15 / 64)).all()
    assert (gradient == 0).float().mean() > 0.1
    exact = scores.double().requires_grad_()
    objective.loss(exact, targets).backward()
    torch.testing.assert_close(gradient.double(), exact.grad, rtol=1e-4, atol=2e-7)


def test_the_loss_of_any_score_is_exact() -> None:
    scores = torch.linspace(-200, 200, 4001)[:, None]
    for labels, sign in (([], 1), ([0], -1)):
        for i in range(0, 4001, 7):
            value = loss_of(scores[i : i + 1], as_targets([labels], 1), "logistic").item()
            assert value == pytest.approx(np.logaddexp(0, sign * float(scores[i])), rel=1e-6, abs=3e-5 if labels else 1e-13)
