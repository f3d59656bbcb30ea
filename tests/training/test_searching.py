"""Successive halving over structures at one budget."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.data.targets import as_targets
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import plain, read_json
from selfinformed.structure.intervals import interval
from selfinformed.training import latency_budgets
from selfinformed.training import searching as module
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.searching import SearchResult, search
from selfinformed.training.spaces import Space
from selfinformed.training.structures import Structure

SMALL = Space(
    grouping=("confusions", "codetections"), n_groups=(3, 6), detections=(None,), dense_share=(0.0, 0.5), cover_share=(None,), depth=(1,),
    capacity=("uniform",), share=(1.0,), top_groups=(None, 1), shared=(0,), residual=(1.0,),
)  # fmt: skip


def searched(problem: Problem, **options) -> SearchResult:
    options = {"budget": 0.25, "space": SMALL, "candidates": 10, "rounds": 2, "epochs": 2, **options}
    return search(problem.net, problem.store("train"), problem.store("holdout"), **options)


@pytest.fixture(scope="module")
def found(problem: Problem) -> SearchResult:
    return searched(problem)


def test_rounds_shrink_train_longer_and_the_best_of_the_last_wins(found: SearchResult, problem: Problem) -> None:
    rounds = [list(rows) for _, rows in groupby(found.trials, key=lambda row: row["round"])]
    assert [rows[0]["epochs"] for rows in rounds] == [2, pytest.approx(2 / 3)]  # the last round first
    assert len(rounds[1]) == 10
    going_on = {row["structure"] for row in rounds[1][:3]} | {next(row["structure"] for row in rounds[1] if row["choice"]["grouping"] == "dense")}
    assert 3 <= len(going_on) <= 4  # a third, and the best dense head
    at_other_rates = {row["structure"] for row in rounds[0]} - going_on
    assert len(rounds[0]) == len(going_on) + len(at_other_rates)
    assert {name.partition(", learning rates")[0] for name in at_other_rates} <= {
        one.description.partition(", learning rates")[0] for one in (found.best, found.dense)
    }
    for rows in rounds:
        scores = [row["mean_average_precision"] for row in rows]
        assert scores == sorted(scores, reverse=True)
    assert {row["structure"] for row in rounds[1][:3]} <= {row["structure"] for row in rounds[0]}
    assert all(1 < row["extra_computation"] <= 1.25 for row in found.trials)
    assert found.best.description == found.trials[0]["structure"]
    assert found.plan is found.best.plan
    assert found.base == rank(problem.net, problem.store("holdout")).mean_average_precision


def test_a_result_is_saved_as_json(found: SearchResult, tmp_path: Path) -> None:
    found.save(tmp_path / "search.json")
    content = read_json(tmp_path / "search.json", "search")
    assert content == json.loads(json.dumps(plain(found.to_dict())))
    assert Structure.from_dict(content["best"]).digest() == found.best.digest()


def test_what_wins_only_when_trained_for_long_reaches_the_last_round(problem: Problem, monkeypatch) -> None:
    """Heads that learn the labels beside the base are behind all others in short training."""

    def judged(net, structure, train, holdout, epochs, *_):
        score = 0.5 + (structure.residual == 1) * 0.1 + len(structure.plan.groups) / 1000
        if epochs == 2:
            score += 0.2 * (structure.residual == 0)
        return {"mean_average_precision": score, "extra_computation": 1.1, "seconds": 0.0}, True

    monkeypatch.setattr(module, "_judged", judged)
    space = replace(SMALL, residual=(1.0, 0.25, 0.0))
    result = searched(problem, space=space, candidates=30, rounds=3)
    last = [row["choice"] for row in result.trials if row["round"] == 3]
    assert {choice["residual"] for choice in last} == {1.0, 0.25, 0.0}
    assert {choice["residual"] for choice in last if choice["grouping"] == "dense"} == {1.0, 0.25, 0.0}
    assert result.best.residual == result.dense.residual == 0
    assert len(result.best.plan.groups) > 1
    assert len(last) <= 6 + 2 * 2


def test_the_best_of_each_kind_goes_on() -> None:
    choices = [Choice("dense", depth=2), Choice("dense"), Choice("dense", shared=64), Choice("confusions", 6), Choice("hinton", 6)]
    choices += [Choice("confusions", 6, depth=0, top_groups=2), Choice("confusions", 12, depth=0, top_groups=2), Choice("dense", residual=0.0)]
    kept = module._going_on({str(choice): choice for choice in choices})
    assert sorted(kept) == sorted(str(choices[i]) for i in (0, 1, 3, 5, 7))  # the best third, and the best of each kind


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_best_and_the_best_dense_head_are_judged_at_every_rate(problem: Problem, monkeypatch, rounds: int) -> None:
    def judged(net, structure, train, holdout, epochs, *_):
        score = 0.5 + len(structure.plan.groups) / 1000 + (structure.rate if epochs < 2 else -structure.rate) / 10  # short training likes high rates
        return {"mean_average_precision": score, "extra_computation": 1.1, "seconds": 0.0}, True

    monkeypatch.setattr(module, "_judged", judged)
    result = searched(problem, candidates=6, rounds=rounds)
    assert result.best.rate == result.dense.rate == 0.25
    assert result.best.description.endswith("learning rates x0.25")
    assert len(result.best.plan.groups) > 1
    last = [row["structure"] for row in result.trials if row["round"] == rounds]
    assert len(last) == len(set(last))
    for found in (result.best, result.dense):
        assert {name for name in last if name.partition(", learning")[0] == found.description.partition(", learning")[0]} == {
            found.description.partition(", learning")[0] + rate for rate in ("", ", learning rates x0.5", ", learning rates x0.25")
        }


def test_the_best_dense_head_is_always_in_the_last_round(found: SearchResult) -> None:
    last = [row["structure"] for row in found.trials if row["round"] == 2]
    assert found.dense.description in last
    assert found.over_dense >= 0


def test_the_verdict_says_whether_specialists_were_worth_it(found: SearchResult, problem: Problem) -> None:
    assert "Of 10 structures at 25.0%" in found.verdict
    assert str(found) == found.verdict
    assert repr(found) == f"SearchResult({len(found.trials)} trials, best {found.best.description})"
    beaten = replace(found, best=found.dense, again={})
    assert "Specialists were not ahead: " in beaten.verdict
    for low, high, said in ((-0.03, -0.01, "were not"), (-0.03, 0.01, "may have been"), (0.01, 0.03, "may have been")):
        over = {"over_base": {"mean": 0.1, "low": 0.1, "high": 0.1}, "over_dense": {"mean": -0.01, "low": low, "high": high}}
        assert f"Specialists {said} worth it: " in replace(beaten, again=over).verdict
    other = Structure(problem.plan(), 1, 1.0, found.trials[1]["structure"])
    trials = [{**row, "mean_average_precision": 0.9 if row["structure"] == other.description else 0.8} for row in found.trials]
    dense = Structure(found.plan, description=found.trials[0]["structure"])
    ahead = replace(found, best=other, dense=dense, trials=trials, again={})
    assert "Specialists were ahead: +10.00 over the best dense head" in ahead.verdict
    clear, behind, unclear = ({"mean": mean, "low": mean - 0.02, "high": mean + 0.02} for mean in (0.05, -0.05, 0.01))
    for over, said in ((clear, "were worth it"), (behind, "were not worth it"), (unclear, "may not have been worth it")):
        assert f"Specialists {said}: +10.00 over" in replace(ahead, again={"over_base": clear, "over_dense": over}).verdict
        assert f"{100 * over['mean']:+.2f} ({100 * over['low']:+.2f} to" in replace(ahead, again={"over_base": clear, "over_dense": over}).verdict
    assert "nothing that was tried surely helps" in replace(ahead, again={"over_base": unclear, "over_dense": clear}).verdict
    assert "keep the network as it is" in replace(found, base=2.0).verdict


def best_grouped(found: SearchResult) -> str:
    return next(row["structure"] for row in found.trials if row["choice"]["grouping"] != "dense")


def test_one_label_says_nothing_of_others() -> None:
    assert module._over(np.array([0.5, np.nan]), np.array([0.4, 0.1])) == {"mean": pytest.approx(0.1), "low": -1, "high": 1}
    assert module._over(np.array([np.nan]), np.array([0.4])) == {"mean": 0, "low": -1, "high": 1}


def test_a_stopped_search_goes_on_where_it_was(found: SearchResult, problem: Problem, tmp_path, monkeypatch) -> None:
    journal, calls = tmp_path / "search.jsonl", []
    train = Structure.train

    def stopped(self, *args, **options):
        calls.append(self.description)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return train(self, *args, **options)

    monkeypatch.setattr(Structure, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        searched(problem, journal=journal)
    again = searched(problem, journal=journal)
    once_more = {found.best.description, found.dense.description, best_grouped(found)}  # from another seed
    assert len(calls) == 7 + len(found.trials) - 6 + len(once_more)
    figures = [{k: v for k, v in row.items() if k != "seconds"} for row in again.trials]
    assert figures == [{k: v for k, v in row.items() if k != "seconds"} for row in found.trials]
    n = len(calls)
    searched(problem, journal=journal)
    assert len(calls) == n  # all read
    text = journal.read_text("utf-8")
    journal.write_text(re.sub(r'"checksum": "[^"]*"', '"x": 1', text).replace('"structure": "', '"structure": "no such '), "utf-8")
    renamed = searched(problem, journal=journal)
    assert [row["structure"] for row in renamed.trials] == [row["structure"] for row in found.trials]
    assert len(calls) == n
    searched(problem, journal=journal, seed=1)
    n_other, lines = len(calls), len(journal.read_text("utf-8").splitlines())
    assert n_other > n  # other inputs, nothing read
    searched(problem, journal=journal)
    assert len(calls) == n_other  # and nothing forgotten
    assert len(journal.read_text("utf-8").splitlines()) == lines


def test_structures_the_data_cannot_carry_are_left_out(problem: Problem) -> None:
    space = replace(SMALL, n_groups=(3, 40), grouping=("confusions",))
    left = searched(problem, space=space, rounds=1, epochs=0.2).left_out
    assert left
    assert all("40 groups" in row["structure"] for row in left)
    assert all("n_groups" in row["reason"] for row in left)


def test_a_budget_of_latency_is_measured(problem: Problem, monkeypatch) -> None:
    monkeypatch.setattr(latency_budgets, "_extra_time", lambda net, structure, batches: 4 * (structure.plan.extra_computation - 1))
    result = searched(problem, budget=0.4, budget_of="latency", space=replace(SMALL, top_groups=(None,)), rounds=1, epochs=0.1)
    extras = [row["extra_computation"] - 1 for row in result.trials]
    assert 0.05 < max(extras) <= 0.1


def test_a_stopped_search_by_latency_goes_on_with_the_widths_it_measured(problem: Problem, monkeypatch, tmp_path) -> None:
    def by_latency(factor: float):
        def extra_time(net, structure, batches):
            return factor * (structure.plan.extra_computation - 1) if len(structure.plan.groups) < 3 else 9 - factor

        monkeypatch.setattr(latency_budgets, "_extra_time", extra_time)
        options = {"budget": 0.4, "budget_of": "latency", "space": replace(SMALL, top_groups=(None,)), "rounds": 1, "epochs": 0.1}
        return searched(problem, journal=tmp_path / "search.jsonl", **options)

    first, lines = by_latency(4), (tmp_path / "search.jsonl").read_text()
    assert first.left_out  # at their smallest the others take five times as long
    assert all(0.3 <= row["extra_time"] <= 0.4 for row in first.trials)
    again = by_latency(8.9)  # the machine has become another meanwhile
    assert again.to_dict() == first.to_dict()
    assert (tmp_path / "search.jsonl").read_text() == lines
    (tmp_path / "search.jsonl").write_text(lines.replace('"budget": ', '"budget": -'))  # damaged lines are measured again
    assert by_latency(4).best.plan.to_dict() == first.best.plan.to_dict()


def test_a_structure_whose_loss_is_no_number_comes_last(problem: Problem) -> None:
    result = searched(problem, space=replace(SMALL, rate=(1.0, 1e30)), rounds=1, epochs=0.2, candidates=12)
    bad = [row for row in result.trials if "reason" in row]
    assert bad
    assert "lower the learning rate" in bad[0]["reason"] or "must be finite" in bad[0]["reason"]
    assert result.trials[-1] in bad
    assert result.trials[0] not in bad
    with pytest.raises(SelfInformedError, match="no dense head could be trained; fit: the loss became"):
        searched(problem, learning_rate=1e30, classifier_learning_rate=1e30, rounds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1e-6}, "not one dense head fits"), ({"candidates": 0}, "candidates: expected a whole number"), ({"epochs": 0}, "epochs: expected "),
        ({"budget_of": "time"}, "budget_of: expected one of multiply_adds, latency"), ({"budget": "0.03"}, "budget: expected a number above 0; got '0.03'"),
        ({"candidates": 2.5}, "candidates: expected a whole number"), ({"rounds": 1.5}, "rounds: expected a whole number"),
        ({"space": replace(SMALL, attach=("nope",))}, "attach 'nope' is none of the network's attach points"),
        ({"recipe": {"residual": 0.0}}, "residual 0.0 is asked for, and the space has 1.0"),
        ({"head_input": "raw", "space": replace(SMALL, head_input=("whitened",))}, "head_input 'raw' is asked for"),
    ],
)  # fmt: skip
def test_impossible_searches_are_refused(problem: Problem, options, message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        searched(problem, **options)


def test_hold_out_data_without_a_label_are_refused(problem: Problem) -> None:
    store = problem.store("holdout")
    bare = replace(store, targets=as_targets([[] for _ in range(len(store))], problem.net.n_labels))
    with pytest.raises(SelfInformedError, match="search: no hold-out example has a label, so nothing can be judged"):
        search(problem.net, problem.store("train"), bare)


def test_heads_that_run_beyond_the_budget_become_narrower(problem: Problem, monkeypatch) -> None:
    def judged(net, structure, *_):
        planned = structure.plan.extra_computation - 1
        executed = planned * (1.5 if structure.is_conditional else 1)  # once trained, more examples run a head than was foreseen
        return {"mean_average_precision": 0.5 + structure.is_conditional / 10, "extra_computation": 1 + executed, "seconds": 0.0}, True

    monkeypatch.setattr(module, "_judged", judged)
    result = searched(problem, space=replace(SMALL, top_groups=(1,)))
    assert result.best.is_conditional
    assert all(row["extra_computation"] <= 1.25 for row in result.trials if "reason" not in row)
    row = next(row for row in result.trials if row["structure"] == result.best.description)
    assert 1.2 < row["extra_computation"] == 1 + 1.5 * (result.plan.extra_computation - 1)


def test_what_stays_beyond_the_budget_cannot_win(problem: Problem, monkeypatch) -> None:
    def judged(net, structure, *_):
        beyond = structure.is_conditional / 10
        return {"mean_average_precision": 0.5 + beyond, "extra_computation": 1.2 + beyond, "seconds": 0.0}, True

    monkeypatch.setattr(module, "_judged", judged)
    result = searched(problem, space=replace(SMALL, top_groups=(1,)))
    assert not result.best.is_conditional
    assert "once trained it runs 30.00% more multiply-adds than the base, beyond the budget" in result.verdict


def test_what_could_not_be_trained_is_no_score_and_is_tried_again(problem: Problem, monkeypatch, tmp_path) -> None:
    train, calls = Structure.train, []

    def short(self, *args, **options):
        calls.append(self.description)
        if len(self.plan.groups) > 1:
            raise SelfInformedError("fit: too little memory is free just now")
        return train(self, *args, **options)

    options = {"rounds": 1, "epochs": 0.2, "candidates": 5, "journal": tmp_path / "search.jsonl"}
    with monkeypatch.context() as patch:
        patch.setattr(Structure, "train", short)
        hindered = searched(problem, **options)
    assert "could not be trained in some round (fit: too little memory is free just now)" in hindered.verdict
    assert hindered.verdict.endswith("No structure with groups was tried to the end.") or "surely helps" in hindered.verdict or "keep" in hindered.verdict
    assert not [row for row in searched(problem, **options).trials if "reason" in row]


def test_a_dense_head_for_some_examples_is_no_specialist(found: SearchResult) -> None:
    some = Choice("dense", share=0.5)
    trials = [{**found.trials[0], "structure": str(some), "choice": vars(some)}, *(row for row in found.trials if Choice(**row["choice"]).is_dense)]
    result = replace(found, best=replace(found.best, description=str(some)), trials=trials, again={})
    assert "A dense head for the least certain examples alone was" in result.verdict
    assert "Specialists" not in result.verdict


def test_maps_and_copies_of_the_trunk_are_tried(problem: Problem) -> None:
    attach = [AttachPoint("trunk.2", reduce="map"), AttachPoint("stack.0", "input")]
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=attach)
    space = Space.of(net)
    assert space.attach == (None, "trunk.2", "stack.0")
    assert (space.kernel, space.copy, space.share[-1]) == ((1, 3), (False, True), 0.1)
    assert Space.of(problem.net) == Space()
    train, holdout = (FeatureStore.build(net, getattr(problem, split)) for split in ("train", "holdout"))
    assert {(c.copy, c.kernel) for c in space.anchors() if c.attach == "trunk.2"} == {(True, 1), (False, 3)}
    found = search(net, train, holdout, budget=0.3, candidates=40, rounds=1, epochs=0.2, space=replace(
        space, grouping=("confusions",), n_groups=(3,), top_groups=(1,), dense_share=(0.0,), cover_share=(None,), depth=(1,), shared=(0,), rate=(1.0,),
    ))  # fmt: skip
    tried = [row["choice"] for row in found.trials if "reason" not in row]
    assert sum(choice["copy"] for choice in tried) > 1
    assert {choice["attach"] for choice in tried} == {"trunk.2", "stack.0"}
    assert {choice["grouping"] for choice in tried if choice["kernel"] == 3} >= {"dense", "confusions"}
    assert all(row["extra_computation"] < 1.4 for row in found.trials)
    assert any("one costs 82,944" in row["reason"] for row in found.left_out)  # a copy that every example runs


def test_the_winner_is_trained_again_from_another_seed(found: SearchResult, problem: Problem, tmp_path, monkeypatch) -> None:
    journal = tmp_path / "search.jsonl"
    result = searched(problem, journal=journal)
    net, train, holdout = problem.net, problem.store("train"), problem.store("holdout")
    base = module.rank(net, holdout).average_precision
    aug, _ = result.best.train(net, train, holdout=holdout, epochs=2, seed=1)
    with result.best.evaluating(aug):
        over = module.rank(aug, holdout).average_precision - base
    again = result.again["over_base"]
    assert again["mean"] == pytest.approx(np.nanmean(over))
    assert again["high"] - again["mean"] == pytest.approx(again["mean"] - again["low"])
    assert (again["low"], again["high"]) == pytest.approx(interval(over[np.isfinite(over)]))
    assert len(result.best.plan.groups) == 1  # the best with groups is held against it, from another seed too, before that is called worse
    groups = result.again["over_dense"]
    assert f"Specialists {'were not' if groups['high'] < 0 else 'may have been'} worth it" in result.verdict
    assert f"over this dense head with {best_grouped(result)}, and {100 * groups['mean']:+.2f} (" in result.verdict
    monkeypatch.setattr(module, "_ranked", None)  # all that is wanted is in the journal
    assert searched(problem, journal=journal).again == result.again
    assert result.to_dict()["again"] == result.again


def test_on_labels_that_say_nothing_nothing_surely_helps(problem: Problem) -> None:
    generator = torch.Generator().manual_seed(0)
    stores = [problem.store(part) for part in ("train", "holdout")]
    noise = [replace(store, targets=as_targets(torch.randint(36, (len(store),), generator=generator), 36)) for store in stores]
    verdict = search(problem.net, *noise, budget=0.25, space=SMALL, candidates=6, rounds=1, epochs=0.3).verdict
    assert "surely helps" in verdict or "keep the network as it is" in verdict


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k: "), ({"classifier": "x"}, "classifier: expected one of keep"), ({"batchsize": 1}, "search: .*did you mean 'batch_size'"),
        ({"log": "x"}, "no option 'log'"),
    ],
)  # fmt: skip
def test_options_are_checked_before_anything_is_computed(problem: Problem, options, message):
    unread = replace(problem.train, read=None)
    with pytest.raises(SelfInformedError, match=message):
        search(problem.net, unread, unread, **options)
