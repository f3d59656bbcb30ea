"""Soft targets from the base, from logits, and from a function."""

from __future__ import annotations

import pytest
import torch

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.evidence.comparing import compare
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.features import FeatureStore, score_batches
from selfinformed.training.fitting import fit
from selfinformed.training.headroom import probe
from selfinformed.training.teachers import TeacherNetwork, keyed, of_rows, told


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


def test_another_network_teaches_by_its_cached_features_and_in_its_own_order_of_labels(problem: Problem, converged: Problem) -> None:
    features = FeatureStore.build(converged.net, problem.train)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    teacher = TeacherNetwork(converged.net, features, order)
    expected = torch.cat([converged.net.logits(inputs) for _, inputs in problem.train.batches()])[:, order]
    rows = torch.tensor([7, 3, 1499, 3])
    torch.testing.assert_close(teacher(rows), expected[rows], rtol=1e-4, atol=1e-4)
    one, other = taught(problem, teacher), taught(problem, expected)
    torch.testing.assert_close(logits(problem, one), logits(problem, other), rtol=1e-2, atol=1e-2)


def test_a_better_network_helps(problem: Problem, converged: Problem) -> None:
    """Not with an annotation in the loss."""
    store = problem.store("train")
    teacher = TeacherNetwork(converged.net, FeatureStore.build(converged.net, problem.train))
    right = [(scores.argmax(1).numpy() == store.targets.labels).mean() for scores in (logits(problem, taught(problem, teacher)), logits(problem))]
    assert right[0] > right[1] + 0.02


def test_teachers_are_told_apart(problem: Problem, converged: Problem) -> None:
    net, store = problem.net, problem.store("train")
    some, other, rounded = torch.zeros(3, 36), torch.eye(3, 36), torch.zeros(3, 36, dtype=torch.bfloat16)
    networks = [TeacherNetwork(net, store), TeacherNetwork(net, store, torch.arange(36)), TeacherNetwork(converged.net, converged.store("train"))]
    assert len({told(teacher) for teacher in (None, some, other, rounded, lambda rows: some, *networks)}) == 8
    assert told(some) == told(some.clone())
    assert told(networks[0]) == told(TeacherNetwork(net, problem.store("train")))


def test_a_teacher_of_other_examples_is_refused(problem: Problem, converged: Problem) -> None:
    with pytest.raises(SelfInformedError, match="teacher: these features are of another network"):
        TeacherNetwork(problem.net, converged.store("train"))
    short = FeatureStore.build(converged.net, problem.train.take(range(1, 1500)))
    aug = augment(problem.net, problem.plan())
    for features in (short, converged.store("holdout"), FeatureStore.build(converged.net, [problem.train.take(range(750))] * 2)):
        with pytest.raises(SelfInformedError, match="teacher: its features are of .* not the 1500 training examples or have other labels"):
            fit(aug, problem.store("train"), recipe={"soft_targets": 0.5}, teacher=TeacherNetwork(converged.net, features))


def test_how_often_a_teacher_is_right(converged: Problem) -> None:
    store = converged.store("train")
    found = TeacherNetwork(converged.net, store).right()
    scores = torch.cat([scores for scores, _, _ in score_batches(converged.net, store)])
    assert found == pytest.approx((scores.argmax(1).numpy() == store.targets.labels).mean())


def test_journals_tell_teachers_apart(problem: Problem, tmp_path) -> None:
    """Also those that are alike where torch shows them."""
    one = torch.zeros(1500, 36)
    other = one.clone()
    other[100:1400] = 4 * problem.store("train").targets.multi_hot()[100:1400]
    options = {"arms": ["confusions"], "seeds": 1, "epochs": 1, "recipe": {"soft_targets": 0.9}, "journal": tmp_path / "rows.jsonl"}
    stores = problem.store("train"), problem.store("test")
    first, second, again = (compare(problem.net, problem.plan(), *stores, teacher=teacher, **options) for teacher in (one, other, one.clone()))
    assert first.rows == again.rows != second.rows
    assert keyed({"epochs": 2, "teacher": (function := lambda rows: one[rows])})["teacher"] is function
    assert keyed({"epochs": 2}) == {"epochs": 2}


def test_a_training_does_not_go_on_with_another_teacher(problem: Problem, tmp_path) -> None:
    store, options = problem.store("train"), {"recipe": {"soft_targets": 0.5}, "checkpoint": tmp_path / "training.safetensors", "epochs": 1}
    fit(augment(problem.net, problem.plan()), store, teacher=torch.zeros(1500, 36), **options)
    with pytest.raises(SelfInformedError, match="teacher"):
        fit(augment(problem.net, problem.plan()), store, teacher=torch.eye(1500, 36), **options)


def test_the_teacher_of_some_examples(problem: Problem) -> None:
    whole, rows = torch.arange(12.0).reshape(6, 2), torch.tensor([1, 4, 5])
    for teacher in (whole, lambda some: whole[some]):
        assert torch.equal(of_rows(teacher, rows)(torch.tensor([2, 0])), whole[[5, 1]])  # type: ignore[operator]


def test_the_probe_teaches_each_example_with_its_own_logits(problem: Problem) -> None:
    """On half of the examples, too."""
    asked = []
    wanted = 4 * problem.store("train").targets.multi_hot()

    def function(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        return wanted[rows]

    options = {"groups": problem.groups, "width": 16, "epochs": 1, "residuals": (1.0,), "recipe": {"soft_targets": 1.0}}
    found = probe(problem.net, problem.store("train"), problem.store("holdout"), teacher=wanted, **options)
    again = probe(problem.net, problem.store("train"), problem.store("holdout"), teacher=function, **options)
    assert found.diagnosis.half_data == again.diagnosis.half_data > found.diagnosis.holdout["base"]
    assert torch.cat(asked).max() == 1499
