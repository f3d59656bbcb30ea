"""The probe says beforehand whether there is anything to gain, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import N_LABELS, Problem, SmallNet, make_problem
from selfinformed.augmented.network import augment
from selfinformed.data.targets import as_targets
from selfinformed.network.points import AttachPoint
from selfinformed.network.stages import with_earlier_points
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training import headroom as module
from selfinformed.training.choices import seen_of
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit
from selfinformed.training.headroom import Headroom, probe
from selfinformed.training.recipe import RESIDUALS


@pytest.fixture(scope="module")
def headroom(problem: Problem) -> Headroom:
    return probe(problem.net, problem.store("train"), problem.store("holdout"), groups=problem.groups, width=128)


def test_headroom_is_found_where_it_is(headroom: Headroom, problem: Problem) -> None:
    assert headroom.worth_it
    assert headroom.gain > 10
    assert headroom.verdict.startswith("There is headroom: heads reading the input of 'stack.0'")
    assert headroom.base.mean_average_precision == rank(problem.net, problem.store("holdout")).mean_average_precision
    assert headroom.gain == pytest.approx(100 * (headroom.dense.mean_average_precision - headroom.base.mean_average_precision))


def test_none_is_found_on_a_converged_network(converged: Problem) -> None:
    found = probe(converged.net, converged.train, converged.holdout, width=64)
    assert not found.worth_it
    assert "little to gain" in found.verdict
    assert found.by_group() == []


def test_shares_of_the_groups_sum_to_one(headroom: Headroom, problem: Problem) -> None:
    rows = headroom.by_group()
    assert [row["group"] for row in rows] == list(problem.groups.names)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    gains = headroom.dense.average_precision - headroom.base.average_precision
    assert rows[2]["gain"] == pytest.approx(np.nanmean(gains[problem.groups.members[2]]))


def test_what_some_groups_lose_is_no_share_of_the_gain(headroom: Headroom, problem: Problem) -> None:
    change = np.zeros(len(headroom.base.average_precision))
    for group, gain in enumerate((0.1, 0.3, -0.2, -0.1, 0.0, 0.0)):
        change[problem.groups.members[group]] = gain
    dense = replace(headroom.dense, average_precision=headroom.base.average_precision + change)
    assert [row["share"] for row in replace(headroom, dense=dense).by_group()] == pytest.approx([0.25, 0.75, 0, 0, 0, 0])
    assert all(np.isnan(row["share"]) for row in replace(headroom, dense=headroom.base).by_group())


def test_where_the_wide_head_fails_a_narrow_one_speaks(problem: Problem) -> None:
    """A learning rate at which 2,048 units lose and the few of the budget gain."""
    found = probe(problem.net, problem.store("train"), problem.store("holdout"), width=2048, learning_rate=0.1, epochs=3, budget=0.1, residuals=(1.0,))
    assert found.points[0]["gain"] < found.points[0]["budget_gain"]
    assert found.worth_it
    assert 100 * found.points[0]["budget_gain"] == pytest.approx(found.gain)
    assert found.gain >= found.forecast.gain
    assert found.width < 2048
    assert found.diagnosis.holdout["dense"] == pytest.approx(100 * found.dense.mean_average_precision)


def test_training_and_holdout_examples_are_judged_on_as_many(problem: Problem) -> None:
    """The base saw none of either: that it seems better on the fewer ones is no lack of data."""
    few = FeatureStore.build(problem.net, problem.test.take(range(80)))
    found = probe(problem.net, few, problem.store("holdout"), width=32, epochs=1)
    whole = 100 * rank(problem.net, problem.store("holdout")).mean_average_precision
    assert min(found.diagnosis.train["base"], found.diagnosis.holdout["base"]) > whole + 5  # precision among fewer examples is higher


def test_patience_stops_by_holdout_examples(problem: Problem, monkeypatch) -> None:
    watched = []
    fit = module.fit

    def noting(aug, store, **options):
        watched.append(options["holdout"])
        return fit(aug, store, **options)

    monkeypatch.setattr(module, "fit", noting)
    probe(problem.net, problem.store("train"), problem.store("holdout"), width=8, epochs=0.2, recipe={"patience": 3})
    assert {id(store) for store in watched} == {id(problem.store("holdout"))}


def test_labels_with_most_headroom_come_first(headroom: Headroom) -> None:
    rows = headroom.most(5)
    gains = [row["gain"] for row in rows]
    assert len(rows) == 5
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == np.nanmax(headroom.by_label())


def test_a_cheap_gain_sends_one_to_the_classifier(headroom: Headroom) -> None:
    found = replace(headroom, classifier=headroom.dense)
    assert "retraining the classifier alone" in found.verdict
    assert "do that first" in found.verdict


def test_as_text_it_is_the_verdict_and_a_line_for_each_place(headroom: Headroom) -> None:
    row = headroom.points[0]
    assert str(headroom).splitlines() == [
        headroom.verdict,
        "reading                 wide head    gain  gain at the budget",
        f"the input of 'stack.0'  {100 * row['mean_average_precision']:9.2f}{100 * row['gain']:+8.2f}{100 * row['budget_gain']:+20.2f}",
    ]
    several = replace(headroom, points=[row | {"budget_gain": None}, row | {"attach": "elsewhere"}])
    assert [line.split()[-1] for line in str(several).splitlines()[2:]] == ["-", f"{100 * row['budget_gain']:+.2f}"]


def test_the_verdict_says_how_to_train_them(headroom: Headroom) -> None:
    assert headroom.residual in RESIDUALS
    found = replace(headroom, residual=0.25)
    assert "heads reading the input of 'stack.0', trained with residual 0.25, could add" in found.verdict
    assert found.to_dict()["residual"] == 0.25


def test_saved_as_json(headroom: Headroom, tmp_path) -> None:
    headroom.save(tmp_path / "probe.json")
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["verdict"] == headroom.verdict
    assert content["worth_it"] is True
    assert content["gain"] == pytest.approx(headroom.gain / 100)
    assert len(content["groups"]) == 6
    assert len(content["labels"]) == 20
    assert content["limited_by"] == "capacity"
    assert content["forecast"] == json.loads(json.dumps(headroom.forecast.to_dict()))
    assert content["diagnosis"].keys() == {"train", "holdout", "half_data", "gap", "learning"}
    assert content["attach_points"] == headroom.points


class Blind(nn.Module):
    """Sees a picture's mean brightness only."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.AvgPool2d(6), nn.Flatten())
        self.stack, self.classifier = nn.Sequential(nn.Linear(1, 64), nn.ReLU()), nn.Linear(64, N_LABELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stack(self.trunk(x)))


def trained_on(model: nn.Module, problem: Problem, n: int, steps: int) -> Problem:
    """A whole network trained on the first n training examples, which are all that there are."""
    pictures, labels = problem.train.read(range(n)), torch.from_numpy(problem.train.targets.labels[:n])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
    net = wrap(model.eval(), pictures[:2], labels=problem.train.labels)
    return Problem(net, problem.train.take(range(n)), problem.holdout, problem.test)


@pytest.fixture(scope="module")
def blind(problem: Problem) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained_on(Blind(), problem, 1500, 200)


@pytest.fixture(scope="module")
def starved() -> Problem:
    """Knows its 300 noisy examples by heart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained_on(SmallNet(stack=128).train(), make_problem(steps=1, noise=1.5), 300, 100)


def test_limited_by_capacity(headroom: Headroom) -> None:
    assert headroom.limited_by == "capacity"
    assert "limited by its capacity" in headroom.verdict


def test_limited_by_nothing(converged: Problem) -> None:
    found = probe(converged.net, converged.store("train"), converged.store("holdout"), width=64)
    assert found.limited_by == "nothing"
    assert found.forecast.gain == pytest.approx(0, abs=0.1)


def test_limited_by_its_trunk(blind: Problem) -> None:
    found = probe(blind.net, blind.store("train"), blind.store("holdout"), width=64)
    assert found.limited_by == "trunk"
    assert found.diagnosis.train["dense"] < 20
    assert "attach heads earlier, or train the trunk on" in found.verdict


def test_limited_by_its_data(starved: Problem) -> None:
    found = probe(starved.net, starved.store("train"), starved.store("holdout"), width=64)
    assert found.limited_by == "data"
    assert found.diagnosis.gap > 30
    assert "more augmented views" in found.verdict


@pytest.mark.parametrize("kind", ["problem", "several", "converged", "blind", "starved"])
def test_the_forecast_is_what_the_best_then_gains_on_test_data(kind: str, request: pytest.FixtureRequest) -> None:
    p: Problem = request.getfixturevalue(kind)
    budget = 0.1
    found = probe(p.net, p.store("train"), p.store("holdout"), width=16, budget=budget, seed=0)
    dense, nothing = plan(p.net, LabelGroups.everything(N_LABELS), hidden=(1,)), LabelGroups(N_LABELS, ())
    if dense.extra_computation <= 1 + budget:
        dense = plan(p.net, LabelGroups.everything(N_LABELS), budget=budget)
    gains = {}
    for name, heads in {"dense": dense, "classifier": plan(p.net, nothing, hidden=(1,))}.items():
        recipe, reached = {"residual": next((r for r in RESIDUALS[1:] if seen_of(r) in found.forecast.choice), 1.0)}, []
        for seed in (1, 2, 3):
            aug = augment(p.net, heads, seed=seed)
            fit(aug, p.store("train"), holdout=p.store("holdout"), epochs=2, seed=seed, recipe=recipe)
            reached.append(rank(aug, p.store("test")).mean_average_precision)
        gains[name] = 100 * (np.mean(reached) - rank(p.net, p.store("test")).mean_average_precision)
    gained = max(gains["classifier" if found.forecast.choice == "classifier" else "dense"], 0.0)
    assert abs(found.forecast.gain - gained) < 0.5 + 0.1 * gained
    assert found.forecast.low <= found.forecast.gain <= found.forecast.high


def test_headroom_is_found_at_the_attach_point_where_it_is(problem: Problem) -> None:
    """The stack's 16 units have lost what the trunk's 144 features hold."""
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=["trunk", "stack"])
    found = probe(net, problem.train, problem.holdout, width=64, budget=0.1)
    trunk, stack, both = found.points
    assert [row["attach"] for row in found.points] == ["the output of 'trunk'", "the output of 'stack'", "all attach points side by side"]
    assert min(trunk["gain"], both["gain"]) > stack["gain"] + 0.05
    assert found.attach in (trunk["attach"], both["attach"])
    assert f"heads reading {found.attach} could add" in found.verdict
    for row in found.points:
        assert row["gain"] == pytest.approx(row["mean_average_precision"] - found.base.mean_average_precision)
        assert row["budget_gain"] <= row["gain"] + 0.05
    assert found.dense.mean_average_precision == max(row["mean_average_precision"] for row in found.points)
    assert 100 * max(row["budget_gain"] for row in found.points) == pytest.approx(found.forecast.gain + found.forecast.optimism)
    assert found.forecast.choice.startswith("a dense head reading ")


def test_maps_are_probed_one_by_one(problem: Problem) -> None:
    points = [AttachPoint("trunk.2", "output", "map"), AttachPoint("trunk")]
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=points)
    found = probe(net, problem.train.take(range(200)), problem.holdout.take(range(100)), width=4, epochs=1)
    assert [row["attach"] for row in found.points] == ["the output of 'trunk.2'", "the output of 'trunk'"]


def test_earlier_points_are_probed_too(problem: Problem) -> None:
    found = probe(with_earlier_points(problem.net, 1), problem.train.take(range(200)), problem.holdout.take(range(100)), width=4, epochs=1)
    assert [row["attach"] for row in found.points][:2] == ["the output of 'trunk.2'", "the input of 'stack.0'"]


def test_a_budget_too_small_for_a_head_leaves_the_classifier(problem: Problem) -> None:
    found = probe(problem.net, problem.store("train"), problem.store("holdout"), width=4, budget=1e-4)
    assert (found.points[0]["budget_gain"], found.width) == (None, 4)
    assert found.forecast.choice == "classifier"


def test_nothing_is_trained_on_holdout_data(problem: Problem, monkeypatch) -> None:
    trained: list[tuple[FeatureStore, int]] = []

    def spy(aug, train, **options):
        trained.append((train, options["epochs"]))
        return fit(aug, train, **options)

    monkeypatch.setattr(module, "fit", spy)
    train = problem.store("train")
    probe(problem.net, train, problem.store("holdout"), width=4, epochs=1)
    assert [(len(store), epochs) for store, epochs in trained] == [(1500, 1)] * 7 + [(750, 2)]  # three ways of training the heads
    assert all(store is train for store, _ in trained[:7])
    rows = {tuple(row) for row in train.penultimate.tolist()}
    half = {tuple(row) for row in trained[7][0].penultimate.tolist()}
    assert len(half) == 750
    assert half <= rows


def test_half_of_the_examples_is_half_in_every_view(problem: Problem, monkeypatch) -> None:
    trained: list[FeatureStore] = []
    monkeypatch.setattr(module, "fit", lambda aug, train, **options: trained.append(train) or fit(aug, train, **options))
    images = problem.train.take(range(300))
    probe(problem.net, FeatureStore.build(problem.net, [images, images]), problem.store("holdout"), width=4, epochs=1)
    half = trained[-1]
    assert len(half) == 300
    assert torch.equal(half.penultimate[:150], half.penultimate[150:])


def test_halves_are_judged_as_they_are_alone(either: Problem) -> None:
    store, first = either.store("holdout"), np.random.default_rng(0).random(600) < 0.3
    found = module._judged(either.net, store, 50, first)
    for got, rows in ((found.whole, np.arange(600)), (found.halves[0], np.flatnonzero(first)), (found.halves[1], np.flatnonzero(~first))):
        np.testing.assert_array_equal(got.average_precision, rank(either.net, module._take(store, rows)).average_precision)


def test_the_same_seed_says_the_same(problem: Problem, headroom: Headroom) -> None:
    again = probe(problem.net, problem.store("train"), problem.store("holdout"), groups=problem.groups, width=128)
    assert again.to_dict() == headroom.to_dict()


def test_the_wide_head_is_no_narrower_than_that_of_the_budget(problem: Problem) -> None:
    few, heads = problem.train.take(range(50)), plan(problem.net, LabelGroups.everything(N_LABELS), budget=0.1)
    assert probe(problem.net, few, few, width=4, epochs=0, budget=0.1).width == heads.hidden[0][0] > 4


@pytest.mark.parametrize("n", [2, 3, 513])
def test_few_examples_are_enough(problem: Problem, n: int) -> None:
    found = probe(problem.net, problem.train.take(range(n)), problem.holdout.take(range(n)), width=2, epochs=1)
    assert np.isfinite(found.forecast.gain)


@pytest.mark.parametrize(
    ("options", "n", "message"),
    [({"budget": 0.0}, 5, "budget: expected a number above 0, extra multiply-adds"), ({}, 1, "expected at least 2 training and 2 hold-out examples")],
)
def test_what_cannot_be_probed_is_said(problem: Problem, options: dict[str, float], n: int, message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        probe(problem.net, problem.train.take(range(5)), problem.holdout.take(range(n)), **options)


def test_a_base_near_chance_is_named(problem: Problem) -> None:
    """As where label folders stand in another order than the outputs."""
    order = np.random.default_rng(0).permutation(36)
    shuffled = [replace(store, targets=as_targets(order[store.targets.labels], 36)) for store in (problem.store("train"), problem.store("holdout"))]
    found = probe(problem.net, *shuffled, width=16, epochs=1)
    assert found.near_chance
    assert found.verdict.endswith("are the labels in the order of its outputs, and the inputs as it was trained on them?")
    assert not probe(problem.net, problem.store("train"), problem.store("holdout"), width=16, epochs=1).near_chance


def test_a_width_below_one_is_refused(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="width: expected a whole number of at least 1; got 0"):
        probe(problem.net, problem.store("train"), problem.store("holdout"), width=0)


def test_hold_out_examples_without_a_label_are_no_evidence(problem):
    unlabelled = replace(problem.store("holdout"), targets=as_targets([[]] * len(problem.store("holdout")), problem.net.n_labels))
    with pytest.raises(SelfInformedError, match="probe: no hold-out example has a label, so nothing can be judged"):
        probe(problem.net, problem.store("train"), unlabelled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1}, "budget: expected a number above 0, extra multiply-adds"), ({"width": 0}, "width: "), ({"top_k": 0}, "top_k: "),
        ({"epoch": 1}, "probe: its trainings share no option 'epoch'; expected some of"), ({"recipe": {"ema": 2}}, "recipe: ema: expected"),
        ({"learning_rates": 1}, "did you mean 'learning_rate'"), ({"checkpoint": "x"}, "no option 'checkpoint'"), ({"head_input": "white"}, "head_input: "),
    ],
)  # fmt: skip
def test_options_are_checked_before_anything_is_computed(problem: Problem, options: dict[str, Any], message: str) -> None:
    unread = replace(problem.train, read=None)
    with pytest.raises(SelfInformedError, match=message):
        probe(problem.net, unread, unread, **options)
