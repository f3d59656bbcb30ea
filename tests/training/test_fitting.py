"""Training moves the heads and the classifier, and nothing else."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import Problem, refused
from selfinformed.augmented.network import augment
from selfinformed.augmented.saved import load
from selfinformed.data.opening import open_dataset
from selfinformed.data.targets import as_targets
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit, fit_whole, guess_output
from selfinformed.training.losses import gradient_of, loss_of
from selfinformed.training.recipe import Recipe
from selfinformed.training.stepping import Training, one_cycle


def weights(aug) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in aug.state_dict().items()}


def is_new(name: str) -> bool:
    return name.startswith("base.classifier.") and not name.startswith("base.classifier.original.")


def test_a_base_left_behind_on_another_device_is_remarked(problem: Problem, monkeypatch) -> None:
    monkeypatch.setattr(FeatureStore, "build", lambda *_, **__: 1 / 0)
    aug = augment(problem.net, problem.plan()).to("meta")
    said = "^fit: the heads are on meta, and the network that computes what they read on cpu; move the model before wrap"
    with pytest.warns(Remark, match=said), pytest.raises(ZeroDivisionError):
        fit(aug, problem.train)


def test_only_heads_and_classifier_change(either: Problem) -> None:
    before_model = copy.deepcopy(either.net.model.state_dict())
    aug = augment(either.net, either.plan())
    before = weights(aug)
    fit(aug, either.store("train"), holdout=either.store("holdout"))
    after = weights(aug)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(map(is_new, changed))
    assert {name for name in before if is_new(name)} == changed
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(tensor, either.net.model.state_dict()[name]) for name, tensor in before_model.items())
    assert not any(module.training for module in aug.modules())


def test_training_helps_and_the_loss_falls(either: Problem) -> None:
    aug = augment(either.net, either.plan())
    history = fit(aug, either.store("train"), holdout=either.store("holdout"), epochs=4)
    losses = [row["loss"] for row in history.rows]
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4]
    assert {row["stage"] for row in history.rows} == {"heads"}
    assert losses == sorted(losses, reverse=True)
    assert history.seconds > 0
    gain = rank(aug, either.store("test")).mean_average_precision - rank(either.net, either.store("test")).mean_average_precision
    assert gain > 0.03


def test_epsilon_is_adamws(problem: Problem) -> None:
    def moved(epsilon: float) -> float:
        aug = augment(problem.net, problem.plan())
        before = aug.classifier.weight.detach().clone()
        fit(aug, problem.store("train"), epochs=1, recipe={"epsilon": epsilon, "weight_decay": 0.0})
        return (aug.classifier.weight - before).abs().max().item()

    assert 0 < moved(100.0) < 1e-3 < moved(1e-8)


def test_same_seed_same_weights_other_seed_other_weights(problem: Problem) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        torch.seed()  # the state outside does not matter
        aug = augment(problem.net, problem.plan(), seed=seed)
        fit(aug, problem.store("train"), epochs=1, seed=seed)
        return weights(aug)

    one, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["base.classifier.heads.readers.0.layer.weight"], other["base.classifier.heads.readers.0.layer.weight"])


def test_examples_train_as_their_features_do(problem: Problem) -> None:
    one, other = augment(problem.net, problem.plan()), augment(problem.net, problem.plan())
    fit(one, problem.train, holdout=problem.holdout, epochs=1, recipe={"patience": 1})
    fit(other, problem.store("train"), holdout=problem.store("holdout"), epochs=1, recipe={"patience": 1})
    assert all(torch.equal(a, b) for a, b in zip(one.new_parameters(), other.new_parameters(), strict=True))


def test_held_out_examples_are_for_patience_alone(problem: Problem) -> None:
    """Heads that the examples which judge them had whitened would score otherwise on those than on others."""
    one, other = augment(problem.net, problem.plan()), augment(problem.net, problem.plan())
    fit(one, problem.store("train"), epochs=1)
    unread = replace(problem.holdout, read=lambda rows: pytest.fail("read"))
    fit(other, problem.store("train"), holdout=unread, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(one.new_parameters(), other.new_parameters(), strict=True))


def test_losses_are_torchs() -> None:
    scores = torch.randn(17, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.arange(17) % 9
    torch.testing.assert_close(loss_of(scores, as_targets(classes, 9), "softmax"), F.cross_entropy(scores, classes))
    targets = as_targets([[], [0], [1, 8], *[[i % 9] for i in range(14)]], 9)
    expected = F.binary_cross_entropy_with_logits(scores, targets.multi_hot().double(), reduction="none").sum(1).mean()
    torch.testing.assert_close(loss_of(scores, targets, "logistic"), expected)


def test_the_loss_has_torchs_gradient() -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = as_targets([[0, 1], [2], [3], [], [0, 1, 2, 3]], 4)
    (mine,) = torch.autograd.grad(loss_of(scores, targets, "logistic"), scores)
    (torchs,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(scores, targets.multi_hot(), reduction="none").sum(1).mean(), scores)
    torch.testing.assert_close(mine, torchs)


def test_output_is_guessed_from_the_targets(problem: Problem, several: Problem) -> None:
    assert guess_output(problem.train.targets) == "softmax"
    assert guess_output(several.train.targets) == "logistic"
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"), epochs=0)
    assert aug.output == "softmax"


def test_softmax_with_several_labels_is_refused(several: Problem) -> None:
    with pytest.raises(SelfInformedError, match="exactly one label per example"):
        fit(augment(several.net, several.plan()), several.store("train"), output="softmax")


@pytest.mark.parametrize("kind", ["whitened", "standardised", "raw"])
def test_folded_after_training_the_network_is_the_one_trained(problem: Problem, kind, monkeypatch) -> None:
    aug, store = augment(problem.net, problem.plan((12, 8))), problem.store("train")
    transform = store.input_transform(kind)
    trained = []
    fold = aug.heads.fold

    def spied(*how: torch.Tensor) -> None:
        trained.append(aug.heads(transform(store.attached)).detach())
        fold(*how)

    monkeypatch.setattr(aug.heads, "fold", spied)
    fit(aug, store, head_input=kind)
    torch.testing.assert_close(aug.heads(store.attached).detach(), trained[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["whitened", "standardised", "raw"])
def test_fitting_twice_starts_where_the_first_ended(problem: Problem, kind) -> None:
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"), epochs=1)
    before = aug.logits(problem.train.read(range(100)))
    fit(aug, problem.store("train"), epochs=0, head_input=kind)
    torch.testing.assert_close(aug.logits(problem.train.read(range(100))), before, rtol=1e-3, atol=1e-3)
    history = fit(aug, problem.store("train"), epochs=1, learning_rate=1e-3, head_input=kind)
    assert history.rows[0]["loss"] < fit(augment(problem.net, problem.plan()), problem.store("train"), epochs=1).rows[0]["loss"]


def test_finetuning_changes_the_trunk_and_is_saved_whole(problem: Problem, tmp_path) -> None:
    model_before = copy.deepcopy(problem.net.model.state_dict())
    aug = augment(problem.net, problem.plan())
    history = fit(aug, problem.train, holdout=problem.store("holdout"), epochs=1, finetune=True)
    assert [row["stage"] for row in history.rows] == ["heads", "whole network"]
    assert aug.base_was_tuned
    assert not torch.equal(aug.base.trunk[0].weight, problem.net.model.trunk[0].weight)
    assert not torch.equal(aug.base.trunk[1].running_mean, problem.net.model.trunk[1].running_mean)
    assert all(torch.equal(tensor, problem.net.model.state_dict()[name]) for name, tensor in model_before.items())
    assert [p.requires_grad for p in aug.new_parameters()] == [True] * len(aug.new_parameters())
    assert not aug.base.trunk[0].weight.requires_grad
    aug.save_pretrained(tmp_path)
    again = load(tmp_path, problem.net)
    inputs = problem.test.read(range(64))
    assert again.base_was_tuned
    assert torch.equal(again.logits(inputs), aug.logits(inputs))


def test_features_cached_before_finetuning_are_refused(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    fit_whole(aug, problem.train.take(range(200)), epochs=1)
    with pytest.raises(SelfInformedError, match="trained on since they were cached; give examples"):
        rank(aug, problem.store("test"))
    assert rank(aug, problem.test).n_examples == 600


def test_finetuning_leaves_out_what_could_not_be_read(problem: Problem) -> None:
    def read(rows):
        if 5 in rows:
            raise SelfInformedError("data: picture 5 cannot be read")
        return problem.train.read(rows)

    train = replace(problem.train.take(range(100)), read=read, skip_bad=1, skipped={})
    fit(augment(problem.net, problem.plan()), train, epochs=1, batch_size=32, finetune=True)
    assert set(train.skipped) == {5}


def test_finetuning_needs_examples(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="needs examples"):
        fit(augment(problem.net, problem.plan()), replace(problem.store("train"), examples=None), finetune=True)


def test_features_that_know_their_examples_are_not_computed_again(problem: Problem, monkeypatch) -> None:
    store, few = problem.store("train"), {"epochs": 0.2, "finetune": True}
    other = augment(problem.net, problem.plan())
    fit(other, problem.train, **few)
    monkeypatch.setattr(FeatureStore, "build", lambda *_: pytest.fail("features were computed"))
    aug = augment(problem.net, problem.plan())
    assert fit(aug, store, **few).rows[-1]["stage"] == "whole network"
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(aug.state_dict().values(), other.state_dict().values(), strict=True))


def test_no_pass_over_the_whole_network_changes_nothing(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    before = copy.deepcopy(aug.state_dict())
    assert fit_whole(aug, problem.train, epochs=0).rows == []
    assert [row["stage"] for row in fit(aug, problem.train, epochs=0, finetune=True, finetune_epochs=0).rows] == []
    assert not aug.base_was_tuned
    assert all(torch.equal(tensor, aug.state_dict()[name]) for name, tensor in before.items() if ".heads." not in name)


def test_the_whole_network_trains_for_a_given_time(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    history = fit_whole(aug, problem.train, seconds=0.3)
    assert 0.3 <= history.seconds < 3
    assert history.rows[-1]["steps"] >= 1


WITHIN = {
    "schedule": "constant", "weight_decay": 0.5, "epsilon": 1.0, "label_smoothing": 0.3, "logit_adjustment": 1.0, "class_weights": 0.999,
    "balanced_sampling": 1.0, "ema": 0.5, "tail_average": 1.0,
}  # fmt: skip
WITHOUT = {"residual": 0.0, "soft_targets": 0.5, "temperature": 3.0, "patience": 1, "watch": "loss"}  # of heads beside a base, a teacher, held-out data


def test_the_whole_network_trains_by_the_recipe(problem: Problem) -> None:
    def trained(recipe: dict[str, Any]) -> torch.Tensor:
        aug = augment(problem.net, problem.plan(), seed=0)
        fit_whole(aug, problem.train.take(range(300)), epochs=1, recipe=recipe)
        return torch.cat([parameter.detach().flatten() for parameter in aug.all_parameters()])

    assert WITHIN.keys() | WITHOUT.keys() == {option.name for option in fields(Recipe)}
    plain = trained({})
    assert torch.equal(trained(WITHOUT), plain)
    for option, value in WITHIN.items():
        assert not torch.equal(trained({option: value}), plain), option


def test_a_loss_that_is_not_finite_is_an_error_and_loses_nothing(several: Problem) -> None:
    aug = augment(several.net, several.plan())
    fit(aug, several.store("train"), epochs=0.2)
    before = weights(aug)
    for train, options in ((several.store("train"), {"learning_rate": 1e30, "classifier_learning_rate": 1e30}), (several.train, {"learning_rate": 1e30})):
        with pytest.raises(SelfInformedError, match=r"the loss became .* lower the learning rate"):
            (fit if isinstance(train, FeatureStore) else fit_whole)(aug, train, **options)
        after = weights(aug)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not aug.base_was_tuned
    fit(aug, several.store("train"), epochs=0.2)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"output": "softmx"}, "output: expected one of softmax, logistic; got 'softmx'"), ({"learning_rate": -1}, "learning_rate: expected .* got -1"),
     ({"classifier_learning_rate": float("nan")}, "classifier_learning_rate: expected .* got nan"),
     ({"finetune_learning_rate": float("inf")}, "finetune_learning_rate: expected .* got inf"),
     ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1; got 2.5"), ({"batch_size": 0}, "batch_size: .* got 0"),
     ({"epochs": -1}, "epochs: expected a number of at least 0; got -1")],
)  # fmt: skip
def test_options_that_cannot_be(problem: Problem, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SelfInformedError, match=said):
        fit(augment(problem.net, problem.plan()), problem.store("train"), **options)


def test_a_network_in_float16_says_what_adamw_needs(problem: Problem) -> None:
    inputs = problem.test.read(range(8)).half()
    net = wrap(copy.deepcopy(problem.net.model).half(), inputs)
    train = open_dataset((problem.train.read(range(200)).half(), problem.train.targets.take(np.arange(200)).labels.tolist()), net.labels)
    aug = augment(net, plan(net, problem.groups, hidden=(4,)))
    with pytest.raises(SelfInformedError, match=r"epsilon 1e-08 is zero in float16; wrap model\.float\(\)"):
        fit(aug, train, epochs=0.2)
    fit(aug, train, epochs=0.2, recipe={"epsilon": 1e-4})


@pytest.mark.parametrize("kind", ["whitened", "raw"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_features_that_are_not_finite_are_an_error(problem: Problem, kind, value: float) -> None:
    attached = problem.store("test").attached.clone()
    attached[2, 4] = value
    with pytest.raises(SelfInformedError, match="not finite"):
        fit(augment(problem.net, problem.plan()), replace(problem.store("test"), attached=attached), head_input=kind)


def test_without_heads_only_the_classifier_trains(problem: Problem) -> None:
    from selfinformed.structure.groups import LabelGroups
    from selfinformed.structure.planning import plan

    aug = augment(problem.net, plan(problem.net, LabelGroups(36, ()), hidden=(1,)))
    fit(aug, FeatureStore.build(problem.net, problem.train.take(range(100))))
    assert aug.heads is None
    assert not torch.equal(aug.classifier.weight, problem.net.classifier.weight)


@given(st.floats(0, 1))
def test_one_cycle_stays_between_zero_and_one(done: float) -> None:
    assert 0 <= one_cycle(done) <= 1


@pytest.mark.parametrize("warm_up", [0.1, 0.3])
def test_one_cycle_starts_low_peaks_after_warming_up_and_ends_at_zero(warm_up: float) -> None:
    assert one_cycle(0, warm_up) == pytest.approx(0.04)
    assert one_cycle(warm_up, warm_up) == pytest.approx(1)
    assert one_cycle(warm_up - 1e-9, warm_up) == pytest.approx(1)
    assert one_cycle(1, warm_up) == pytest.approx(0)
    assert one_cycle(1.5, warm_up) == pytest.approx(0)
    rates = [one_cycle(i / 100, warm_up) for i in range(101)]
    peak = round(100 * warm_up)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("output", ["softmax", "logistic"])
def test_gradient_equals_autograd(output):
    scores = torch.randn(7, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    lists = [[i] for i in range(7)] if output == "softmax" else [[0, 3], [], [1], [2, 5, 10], [4], [6], [0]]
    targets = as_targets(lists, 11)
    loss_of(scores, targets, output).backward()
    torch.testing.assert_close(gradient_of(scores, targets, output), scores.grad)


def test_every_epoch_of_few_steps_has_a_loss(problem: Problem) -> None:
    store = FeatureStore.build(problem.net, problem.train.take(range(60)))
    history = fit(augment(problem.net, problem.plan()), store, epochs=6)  # one step each
    assert [row["steps"] for row in history.rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] > 0.1 for row in history.rows)


def test_gradients_that_are_switched_off_around_it_do_not_keep_it_from_training(problem: Problem):
    logits = []
    for context in (torch.enable_grad, torch.no_grad):
        aug = augment(problem.net, problem.plan())
        with context():
            fit(aug, problem.store("train"), epochs=0.5)
            fit_whole(aug, problem.train.take(range(256)), epochs=1)
        logits.append(aug.logits(problem.test.read(range(50))))
    assert torch.equal(*logits)


def test_where_nothing_can_be_trained_it_says_so(problem: Problem):
    aug = augment(problem.net, problem.plan())
    with refused(r"fit: within torch.inference_mode\(\) nothing can be trained; call it outside"), torch.inference_mode():
        fit(aug, problem.store("train"))
    with refused("fit: nothing to train: no parameter of heads and classifier asks for gradients"):
        fit(aug.requires_grad_(False), problem.store("train"))


class Picked(nn.Module):
    """Has a parameter of whole numbers, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.arange(10), requires_grad=False)
        self.hidden, self.norm, self.classifier = nn.Linear(10, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.hidden(x[:, self.columns])).relu())


def test_the_whole_network_is_trained_on_though_one_example_is_left_over() -> None:
    x = torch.randn(129, 10)
    data = open_dataset((x, x[:, :8].argmax(1)))
    net = wrap(Picked().eval(), x[:2], output="softmax")
    aug = augment(net, plan(net, LabelGroups.everything(8), hidden=(4,)))
    assert fit_whole(aug, data, batch_size=128).rows[-1]["steps"] == 1
    assert aug.base.columns.requires_grad is False
    assert fit(augment(net, plan(net, LabelGroups.everything(8), hidden=(4,))), data, finetune=True).rows[-1]["stage"] == "whole network"


def test_a_model_that_fails_in_training_is_given_back_as_it_was() -> None:
    x = torch.randn(1, 10)
    net = wrap(Picked().eval(), torch.randn(2, 10), output="softmax")
    aug = augment(net, plan(net, LabelGroups.everything(8), hidden=(4,)))
    before = aug.logits(x)
    with pytest.raises(SelfInformedError, match="Expected more than 1 value per channel"):
        fit_whole(aug, open_dataset((x, [3]), net.labels))
    assert torch.equal(aug.logits(x), before)
    assert not aug.base_was_tuned


def test_the_second_stage_takes_the_loss_and_the_epsilon_that_it_is_given(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    fit_whole(aug, problem.train.take(range(20)), output="logistic")
    assert aug.output == "logistic"
    x = torch.randn(4, 10).half()
    net = wrap(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8)).half(), x, output="softmax")
    with pytest.raises(SelfInformedError, match="fit: AdamW's epsilon 1e-08 is zero in float16"):
        fit_whole(augment(net, plan(net, LabelGroups.everything(8), hidden=(4,))), open_dataset((x, [0, 1, 2, 3]), net.labels))


@pytest.mark.parametrize(("options", "name"), [({"head_input": "white"}, "head_input"), ({"finetune": True, "finetune_epochs": -1}, "finetune_epochs")])
def test_options_are_checked_before_anything_is_computed(problem: Problem, options: dict[str, Any], name: str) -> None:
    with pytest.raises(SelfInformedError, match=f"{name}: expected"):
        fit(augment(problem.net, problem.plan()), replace(problem.train, read=None), **options)


@pytest.mark.parametrize("whole", [False, True])
def test_a_training_that_was_stopped_leaves_the_network_as_it_was(problem: Problem, monkeypatch, whole: bool) -> None:
    aug, steps = augment(problem.net, problem.plan()), []
    before = copy.deepcopy(aug.state_dict())

    original = Training._step

    def step(self: Training, rows: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        original(self, rows)

    monkeypatch.setattr(Training, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        (fit_whole if whole else fit)(aug, problem.train.take(range(300)), batch_size=64)
    assert all(torch.equal(before[name], value) for name, value in aug.state_dict().items())
    assert not aug.base_was_tuned
