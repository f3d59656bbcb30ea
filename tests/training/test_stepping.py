"""Schedules, averages, the best pass, and a stopped training that goes on to the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import Problem, failing_in_step
from selfinformed.augmented.network import augment
from selfinformed.data.opening import open_dataset
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.features import rank
from selfinformed.training.fitting import fit, fit_whole
from selfinformed.training.recipe import Recipe
from selfinformed.training.stepping import SCHEDULES, Order, Training

LONG_TAIL = {"label_smoothing": 0.1, "logit_adjustment": 0.3, "class_weights": 0.9, "balanced_sampling": 0.5, "soft_targets": 0.3}


class Stopped(Exception):
    pass


def trained(problem: Problem, **options):
    """New heads after three passes of six steps."""
    aug = augment(problem.net, problem.plan())
    return aug, fit(aug, problem.store("train"), holdout=problem.store("holdout"), epochs=3, batch_size=250, **options)


def stopped(problem: Problem, step: int, monkeypatch, **options) -> None:
    """The same, but it fails in that step, counted from 1."""
    with failing_in_step(monkeypatch, step, Stopped):
        trained(problem, **options)


def counted(problem: Problem, monkeypatch, **options):
    """The same, with the number of steps taken."""
    steps, original = [], Training._step
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", lambda self, rows: (steps.append(rows), original(self, rows)))
        return *trained(problem, **options), len(steps)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.new_parameters(), other.new_parameters(), strict=True))


def rows(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.9, "patience": 3, **LONG_TAIL}, {"tail_average": 0.4, "patience": 2, "watch": "loss", "residual": 0.0}])
@pytest.mark.parametrize("every", [None, 4])
def test_stopped_anywhere_it_goes_on_to_the_same_weights(either: Problem, tmp_path, monkeypatch, recipe, every) -> None:
    whole, history = trained(either, recipe=recipe)
    for stop in (1, 8, 18):
        path = tmp_path / f"{stop}.safetensors"
        options = {"recipe": recipe, "checkpoint": path, "checkpoint_every": every}
        stopped(either, stop, monkeypatch, **options)
        again, history_again = trained(either, **options)
        assert same(again, whole), stop
        assert rows(history_again) == rows(history)


def test_examples_drawn_by_chance_are_the_same_where_it_goes_on(problem: Problem, tmp_path, monkeypatch) -> None:
    def train(**options):
        aug = augment(problem.net, problem.plan())
        aug.output = "softmax"
        with aug.conditional(2, share=0.5, chance=7):
            fit(aug, problem.store("train"), epochs=3, **options)
        return aug

    options = {"checkpoint": tmp_path / "state.safetensors", "checkpoint_every": 4}
    with failing_in_step(monkeypatch, 10, Stopped):
        train(**options)
    assert same(train(**options), train())


@pytest.mark.parametrize("average", [{}, {"ema": 0.9}])
def test_weights_that_the_last_step_made_infinite_are_told(problem: Problem, average) -> None:
    aug = augment(problem.net, problem.plan())
    before = [parameter.clone() for parameter in aug.new_parameters()]
    with pytest.raises(SelfInformedError, match=r"after step 1 weights are not finite; lower the learning rate \(now 1e\+38\)"):
        fit(aug, problem.store("train"), epochs=0.01, learning_rate=1e38, recipe={"schedule": "constant", **average})
    assert all(torch.equal(one, other) for one, other in zip(aug.new_parameters(), before, strict=True))


def test_what_was_done_is_not_done_again(problem: Problem, tmp_path, monkeypatch) -> None:
    path = tmp_path / "state.safetensors"
    stopped(problem, 11, monkeypatch, checkpoint=path, checkpoint_every=5)
    whole, _, steps = counted(problem, monkeypatch, checkpoint=path, checkpoint_every=5)
    assert steps == 8  # of 18, after the tenth
    again, _, steps = counted(problem, monkeypatch, checkpoint=path, checkpoint_every=5)
    assert steps == 0
    assert same(whole, again)


def test_within_a_pass_it_is_kept_as_time_goes_by(problem: Problem, tmp_path, monkeypatch) -> None:
    path = tmp_path / "state.safetensors"
    whole, history = trained(problem)
    monkeypatch.setattr("selfinformed.training.stepping._SAVE_EVERY", 0.0)
    monkeypatch.setattr("selfinformed.training.stepping._SAVE_SHARE", float("inf"))
    stopped(problem, 5, monkeypatch, checkpoint=path)
    again, history_again, steps = counted(problem, monkeypatch, checkpoint=path)
    assert steps == 18 - 4
    assert same(again, whole)
    assert rows(history_again) == rows(history)


def test_early_stopping_that_was_cut_short_does_not_train_on(problem: Problem, tmp_path, monkeypatch) -> None:
    options = {"recipe": {"patience": 1}, "learning_rate": 1e-9, "classifier_learning_rate": 1e-9, "checkpoint": tmp_path / "state.safetensors"}

    def fail(self):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", fail)
        with pytest.raises(Stopped):
            trained(problem, **options)
    _, history, steps = counted(problem, monkeypatch, **options)
    assert (steps, len(history.rows)) == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"recipe": {"ema": 0.5}}, r"ema 0.0, now 0.5"),
        ({"learning_rate": 0.1}, "learning_rate 0.006, now 0.1"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(problem: Problem, tmp_path, change, message: str) -> None:
    path = tmp_path / "state.safetensors"
    trained(problem, checkpoint=path)
    with pytest.raises(SelfInformedError, match=rf"is of another training \({message}\); delete it"):
        trained(problem, checkpoint=path, **change)


def test_a_checkpoint_of_other_data_or_weights_is_refused(problem: Problem, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    train = problem.store("train")
    fit(augment(problem.net, problem.plan()), train, epochs=1, checkpoint=path)
    with pytest.raises(SelfInformedError, match="starting weights"):
        fit(augment(problem.net, problem.plan(), seed=1), train, epochs=1, checkpoint=path)
    with pytest.raises(SelfInformedError, match=r"heads run None, now \[2, None, None\]"), (aug := augment(problem.net, problem.plan())).conditional(2):
        fit(aug, train, epochs=1, checkpoint=path)
    with pytest.raises(SelfInformedError, match="features"):
        fit(augment(problem.net, problem.plan()), problem.store("test"), epochs=1, checkpoint=path)


def test_a_damaged_checkpoint_says_what_to_do(problem: Problem, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(SelfInformedError, match="delete it"):
        trained(problem, checkpoint=path)


def test_patience_keeps_the_best_pass(problem: Problem) -> None:
    """At a rate that is far too high the figures fall after a while."""
    aug = augment(problem.net, problem.plan())
    options = {"learning_rate": 0.3, "classifier_learning_rate": 0.3}
    history = fit(aug, problem.store("train"), holdout=problem.store("holdout"), epochs=30, recipe={"patience": 2, "schedule": "constant"}, **options)
    figures = [row["holdout_mean_average_precision"] for row in history.rows]
    best = max(range(len(figures)), key=figures.__getitem__)
    assert len(figures) == best + 3 < 30
    assert [row["epoch"] for row in history.rows if row["kept"]] == [best + 1]
    assert rank(aug, problem.store("holdout")).mean_average_precision == pytest.approx(figures[best], abs=1e-3)  # folding rounds
    assert figures[-1] < figures[best] - 1e-3


def test_patience_watches_the_loss_if_asked(several: Problem) -> None:
    aug = augment(several.net, several.plan())
    history = fit(aug, several.store("train"), holdout=several.holdout, epochs=4, recipe={"patience": 1, "watch": "loss"})
    losses = [row["holdout_loss"] for row in history.rows]
    assert [row["kept"] for row in history.rows] == [loss == min(losses) for loss in losses]


def test_patience_needs_held_out_examples(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="give holdout="):
        fit(augment(problem.net, problem.plan()), problem.store("train"), recipe=Recipe(patience=1))


def test_a_tail_is_the_last_share_of_the_time_where_that_is_what_is_given(problem: Problem, monkeypatch) -> None:
    clock, averaged, own = [0.0], [], Training._update_average

    def update(self) -> None:
        clock[0] += 1.0  # a second a step
        own(self)
        averaged.append(self.average is not None)

    monkeypatch.setattr("selfinformed.training.stepping.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Training, "_update_average", update)
    fit_whole(augment(problem.net, problem.plan()), problem.train, seconds=40, recipe={"tail_average": 0.25})
    assert (len(averaged), sum(averaged)) == (40, 10)
    assert averaged[-10:] == [True] * 10


def test_a_checkpoint_knows_which_examples_were_drawn(several: Problem, tmp_path) -> None:
    def train(**options) -> None:
        aug = augment(several.net, several.plan())
        with aug.conditional(1, share=0.5, **options):
            fit(aug, several.store("train"), epochs=0.2, checkpoint=tmp_path / "state.safetensors")

    train()
    train()
    with pytest.raises(SelfInformedError, match=r"heads run \[1, 0.5, None\], now \[1, 0.5, None, 3\]"):
        train(chance=3)


@pytest.mark.parametrize("kind", ["ema", "tail_average"])
def test_averages_are_of_the_weights_after_each_step(problem: Problem, monkeypatch, kind: str) -> None:
    seen: list[list[torch.Tensor]] = []
    step = Training._step

    def spied(self, rows):
        step(self, rows)
        seen.append([p.detach().clone() for p in self.parameters])

    finish, given = Training._finish, []

    def finished(self):
        finish(self)
        given.extend(p.detach().clone() for p in self.parameters)

    monkeypatch.setattr(Training, "_step", spied)
    monkeypatch.setattr(Training, "_finish", finished)
    trained(problem, recipe={kind: 0.8 if kind == "ema" else 0.5})
    for i, result in enumerate(given):
        if kind == "ema":
            expected = seen[0][i]
            for t, weights in enumerate(seen, start=1):
                decay = min(0.8, (1 + t) / (10 + t))
                expected = decay * expected + (1 - decay) * weights[i]
        else:
            expected = torch.stack([weights[i] for weights in seen[9:]]).mean(0)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


def test_schedules_start_and_end_where_they_should() -> None:
    assert [SCHEDULES["cosine"](done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert {SCHEDULES["constant"](done / 9) for done in range(10)} == {1.0}


@pytest.mark.parametrize("recipe", [{"schedule": "cosine"}, {"ema": 0.9}, {"tail_average": 0.5}, {"label_smoothing": 0.1}, {"soft_targets": 0.3}])
def test_every_recipe_still_helps(either: Problem, recipe) -> None:
    aug = augment(either.net, either.plan())
    fit(aug, either.store("train"), holdout=either.store("holdout"), epochs=4, recipe=recipe)
    assert rank(aug, either.store("test")).mean_average_precision > rank(either.net, either.store("test")).mean_average_precision + 0.03


@pytest.mark.parametrize("recipe", [{"tail_average": 1.0}, {"ema": 0.999}])
def test_an_average_of_short_numbers_is_taken_in_longer_ones(recipe, monkeypatch) -> None:
    own, seen = Training._update_average, []

    def update(self) -> None:
        seen.append(self.parameters[0].detach().double().clone())
        own(self)

    monkeypatch.setattr(Training, "_update_average", update)
    x = torch.randn(400, 10).bfloat16()
    net = wrap(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8)).bfloat16(), x[:2], output="softmax")
    aug = augment(net, plan(net, LabelGroups.everything(8), hidden=(4,)))
    fit(aug, open_dataset((x, x[:, :8].float().argmax(1)), net.labels), epochs=10, batch_size=16, recipe={"schedule": "constant", **recipe})
    expected = seen[0]
    for t, weights in enumerate(seen, 1):
        amount = 1 / t if "tail_average" in recipe else 1 - min(0.999, (1 + t) / (10 + t))
        expected = expected + amount * (weights - expected)
    assert (aug.classifier.weight.double() - expected).norm() < 0.02 * (seen[-1] - seen[0]).norm()


def test_a_last_batch_that_is_too_small_joins_the_one_before() -> None:
    for n, sizes in ((9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1])):
        order = Order(n, 4, 0, lambda generator, n=n: torch.arange(n), least=2)
        assert [len(rows) for rows in order] == sizes
        assert order.steps == len(sizes)
        assert torch.equal(torch.cat(list(order)), torch.arange(n))


def test_patience_wants_held_out_labels(problem: Problem) -> None:
    bare = open_dataset((problem.holdout.read(range(5)), [[]] * 5), problem.net.labels)
    with pytest.raises(SelfInformedError, match="fit: patience watches held-out examples, and none of them has a label"):
        fit(augment(problem.net, problem.plan()), problem.store("train"), holdout=bare, recipe={"patience": 2})


def test_a_checkpoint_knows_how_the_watched_figure_ranks(problem: Problem, tmp_path) -> None:
    def train(output: str | None) -> None:
        net = wrap(problem.net.model, problem.holdout.example_inputs(), labels=problem.net.labels, output=output)
        options = {"epochs": 0.2, "recipe": {"patience": 1}, "checkpoint": tmp_path / "state.safetensors", "output": "softmax"}
        fit(augment(net, problem.plan()), problem.store("train"), holdout=problem.store("holdout"), **options)

    train("softmax")
    with pytest.raises(SelfInformedError, match="watched by 'softmax', now None"):
        train(None)
