"""Soft targets from the base, from logits, and from a function."""

from __future__ import annotations

import pytest
import torch

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.features import FeatureStore, score_batches
from selfinformed.training.fitting import fit


def shuffled(problem: Problem):
    """A plan whose groups are not side by side, so that training renumbers the labels."""
    plan = problem.plan()
    return plan.with_groups(plan.groups.randomized(1))


def taught(problem: Problem, teacher=None, share: float = 1.0):
    aug = augment(problem.net, shuffled(problem))
    fit(aug, problem.store("train"), epochs=2, recipe={"soft_targets": share}, teacher=teacher)
    return aug


def logits(problem: Problem, model=None) -> torch.Tensor:
    return torch.cat([scores for scores, _, _ in score_batches(model or problem.net, problem.store("train"))])


def test_the_base_its_logits_and_a_function_teach_alike(either: Problem) -> None:
    of_base = logits(either)
    asked = []

    def function(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        return of_base[rows]

    base, tensor, called = taught(either, share=0.5), taught(either, of_base, share=0.5), taught(either, function, share=0.5)
    for one, two, three in zip(base.new_parameters(), tensor.new_parameters(), called.new_parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
        assert torch.equal(two, three)
    assert torch.equal(torch.cat(asked[: len(asked) // 2]).sort().values, torch.arange(1500))


def test_the_base_alone_teaches_nothing_new(problem: Problem) -> None:
    """With heads that start at zero and the base as the only teacher, the gradient is zero but for rounding."""
    assert (logits(problem, taught(problem)) - logits(problem)).abs().max() < 0.1 * logits(problem).std()


def test_a_teacher_that_knows_more_helps(problem: Problem) -> None:
    """Logits from the annotations, without any annotation in the loss."""
    store = problem.store("train")
    aug = taught(problem, 4 * store.targets.multi_hot())
    right = (logits(problem, aug).argmax(1).numpy() == store.targets.labels).mean()
    assert right > (logits(problem).argmax(1).numpy() == store.targets.labels).mean() + 0.05


def test_a_teacher_of_another_shape_is_refused(problem: Problem) -> None:
    store = FeatureStore.build(problem.net, problem.train.take(range(50)))
    aug = augment(problem.net, problem.plan())
    for teacher, message in [
        (torch.zeros(49, 36), r"expected logits \[50, 36\], one row per training example, got \[49, 36\]"),
        (lambda rows: torch.zeros(len(rows), 35), r"expected finite logits \[50, 36\] for that many example numbers, got \[50, 35\]"),
        (lambda rows: torch.full((len(rows), 36), float("nan")), "some that are not finite"),
    ]:
        with pytest.raises(SelfInformedError, match=message):
            fit(aug, store, recipe={"soft_targets": 0.5}, teacher=teacher)
    with pytest.raises(SelfInformedError, match="a teacher is given, but soft_targets is 0"):
        fit(aug, store, teacher=torch.zeros(50, 36))
