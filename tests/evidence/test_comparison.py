"""The method against its controls: fair, exact, resumable."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from conftest import Problem
from selfinformed.evidence import comparison as module
from selfinformed.evidence.comparison import ARMS, Comparison, _plan_of, compare, interval
from selfinformed.evidence.evaluation import evaluate
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import plan
from selfinformed.training.features import FeatureStore

CONTRACT = {
    "arm", "seed", "mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds", "extra_computation", "parameters",
}  # fmt: skip
CACHED = ["base", "classifier", "confusions", "random", "dense"]


def compared(problem: Problem, **options) -> Comparison:
    options = {"seeds": 2, "arms": CACHED, "epochs": 1, "holdout": problem.store("holdout"), **options}
    return compare(problem.net, options.pop("plan", problem.plan()), problem.store("train"), problem.store("test"), **options)


@pytest.fixture(scope="module")
def table(problem: Problem) -> Comparison:
    codetections = problem.plan().with_groups(problem.groups.randomized(7))
    return compared(problem, arms=None, codetections=codetections)


def without_seconds(comparison: Comparison) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "head_seconds")} for row in comparison.rows]


def test_every_arm_and_seed_has_a_row_of_the_contracts_columns(table: Comparison) -> None:
    assert table.arms == list(ARMS)
    assert [(row["arm"], row["seed"]) for row in table.rows] == [(arm, seed) for seed in range(2) for arm in ARMS]
    assert all(row.keys() == CONTRACT | {"seconds", "head_seconds"} for row in table.rows)
    assert all(len(values) == 36 for values in table.per_label.values())


def test_the_controls_cost_what_the_method_costs(table: Comparison, problem: Problem) -> None:
    heads = problem.plan()
    for column in ("multiply_adds", "parameters", "extra_computation"):
        assert set(table.values("random", column)) == set(table.values("confusions", column)) == {getattr(heads, column)}
    assert table.values("base", "multiply_adds")[0] < table.values("dense", "multiply_adds")[0] <= heads.multiply_adds
    assert set(table.values("classifier", "extra_computation")) == set(table.values("base", "extra_computation")) == {1.0}
    random = _plan_of("random", problem.net, heads, None, 3)
    assert random.groups.sizes == heads.groups.sizes
    assert random.hidden == heads.hidden
    assert any(set(a) != set(b) for a, b in zip(random.groups.members, heads.groups.members, strict=True))


@pytest.mark.parametrize("hidden", [(1,), (7,), (12, 5), (30, 30, 4)])
def test_a_dense_head_fits_any_methods_budget_and_nearly_fills_it(problem: Problem, hidden: tuple[int, ...]) -> None:
    heads = problem.plan(hidden)
    dense = _plan_of("dense", problem.net, heads, None, 0)
    assert len(dense.groups) == 1
    assert len(dense.hidden[0]) == len(hidden)
    assert dense.multiply_adds <= heads.multiply_adds
    wider = tuple(width + 1 for width in dense.hidden[0])
    assert plan(problem.net, LabelGroups.everything(36), hidden=wider).multiply_adds > heads.multiply_adds


def test_the_base_is_judged_as_evaluate_does_and_heads_help(table: Comparison, problem: Problem) -> None:
    base = evaluate(problem.net, problem.store("test")).figures()
    row = next(row for row in table.rows if row["arm"] == "base")
    assert {key: row[key] for key in base} == base
    assert table.difference("confusions", "base")["mean"] > 0
    np.testing.assert_allclose(np.nanmean(table.per_label["base"]), base["mean_average_precision"])


def test_finetuning_takes_as_long_as_features_and_heads(table: Comparison, problem: Problem) -> None:
    for seed in range(2):
        seconds = {row["arm"]: row["seconds"] for row in table.rows if row["seed"] == seed}
        assert seconds["finetune"] >= seconds["confusions"]
        assert seconds["base"] == 0


def test_intervals_are_students(table: Comparison) -> None:
    values = np.array([0.3, 0.35, 0.31, 0.4])
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert interval(values) == pytest.approx(expected)
    assert interval(values[:1]) == (-np.inf, np.inf)
    one, other = table.values("confusions"), table.values("dense")
    paired = stats.ttest_rel(one, other).confidence_interval(0.95)
    difference = table.difference("confusions", "dense")
    assert difference["mean"] == pytest.approx((one - other).mean())
    assert (difference["low"], difference["high"]) == pytest.approx((paired.low, paired.high))


def test_differences_are_paired_by_seed_in_any_order_of_rows() -> None:
    made = by_hand({"base": [0.1, 0.2], "confusions": [0.11, 0.21]})
    made.rows.reverse()
    assert made.difference("confusions", "base") == pytest.approx({"mean": 0.01, "low": 0.01, "high": 0.01})


def test_a_stopped_comparison_goes_on_where_it_was(problem: Problem, tmp_path, monkeypatch) -> None:
    whole, calls = compared(problem), []

    def stopped(*args, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return fit(*args, **options)

    fit = module.fit
    monkeypatch.setattr(module, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        compared(problem, journal=tmp_path / "rows.jsonl")
    done = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(done) == 4  # the base, which trains nothing, and three arms
    calls.clear()
    monkeypatch.setattr(module, "fit", lambda *args, **options: calls.append(args) or fit(*args, **options))
    resumed = compared(problem, journal=tmp_path / "rows.jsonl")
    assert len(calls) == 5
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.arms == whole.arms
    for arm in CACHED:
        np.testing.assert_array_equal(resumed.per_label[arm], whole.per_label[arm])
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("nothing is left to train"))
    assert compared(problem, journal=tmp_path / "rows.jsonl").rows == resumed.rows


def test_a_half_written_last_line_costs_that_row_only(problem: Problem, tmp_path, monkeypatch) -> None:
    journal = tmp_path / "rows.jsonl"
    whole = compared(problem, journal=journal, seeds=1)
    journal.write_text(journal.read_text()[:-200], "utf-8")
    calls, fit = [], module.fit
    monkeypatch.setattr(module, "fit", lambda *args, **options: calls.append(args) or fit(*args, **options))
    again = compared(problem, journal=journal, seeds=1)
    assert len(calls) == 1
    assert without_seconds(again) == without_seconds(whole)
    assert [json.loads(line)["row"]["arm"] for line in journal.read_text().splitlines()] == CACHED


@pytest.mark.parametrize("changed", [{"epochs": 2}, {"top_k": 7}, {"learning_rate": 1e-3}, {"classifier": "reinitialise"}, {"finetune_learning_rate": 0.1}])
def test_a_journal_of_other_inputs_is_ignored(problem: Problem, tmp_path, monkeypatch, changed) -> None:
    compared(problem, journal=tmp_path / "rows.jsonl", seeds=1, arms=["base", "classifier"])
    calls, fit = [], module.fit
    monkeypatch.setattr(module, "fit", lambda *args, **options: calls.append(args) or fit(*args, **options))
    compared(problem, journal=tmp_path / "rows.jsonl", seeds=1, arms=["base", "classifier"], **changed)
    assert len(calls) == 1


def test_arms_that_cannot_be_run_say_what_they_need(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match=r"expected some of base, classifier.*got 'hinton'"):
        compared(problem, arms=["hinton"])
    with pytest.raises(SelfInformedError, match=r"'codetections' needs the plan .*codetections="):
        compared(problem, arms=["codetections"])
    with pytest.raises(SelfInformedError, match="seeds: expected at least 1"):
        compared(problem, seeds=0)
    bare = {s: FeatureStore(x.attached, x.penultimate, x.targets, x.fingerprint, x.seconds) for s in ("train", "test") for x in [problem.store(s)]}
    with pytest.raises(SelfInformedError, match="'finetune' needs examples"):
        compare(problem.net, problem.plan(), bare["train"], bare["test"], arms=["finetune"])
    left = compare(problem.net, problem.plan(), bare["train"], bare["test"], seeds=1, epochs=1)
    assert left.arms == CACHED


def by_hand(values: dict[str, list[float]]) -> Comparison:
    rows = [
        {
            "arm": arm, "seed": seed, "mean_average_precision": value, "mean_average_precision_per_example": value, "top1": value, "top5": value,
            "multiply_adds": 100, "extra_computation": 1.0 if arm == "base" else 1.03, "parameters": 10, "seconds": 1.0, "head_seconds": 1.0,
        }
        for arm, column in values.items() for seed, value in enumerate(column)
    ]  # fmt: skip
    return Comparison(rows, {arm: np.array([np.mean(column)]) for arm, column in values.items()}, 50)


def test_the_verdict_says_what_won_and_what_did_better() -> None:
    verdict = by_hand({"base": [0.4, 0.4], "confusions": [0.5, 0.501], "random": [0.45, 0.451], "dense": [0.6, 0.602]}).verdict
    assert "Heads on groups from confusions raise mAP@50 by +10.05 points" in verdict
    assert "3.0% more multiply-adds" in verdict
    assert "They beat random (+5.00)" in verdict
    assert "They do not beat dense (-10.05), which did better" in verdict


def test_the_verdict_does_not_claim_what_seeds_do_not_show() -> None:
    assert "do not surely change" in by_hand({"base": [0.4, 0.4], "confusions": [0.3, 0.5]}).verdict
    assert "lower mAP@50" in by_hand({"base": [0.4, 0.4], "confusions": [0.3, 0.301]}).verdict
    one = by_hand({"base": [0.4], "confusions": [0.5], "dense": [0.6]}).verdict
    assert "one seed: no interval" in one
    assert "Not told apart at this number of seeds: dense (-10.00)" in one
    assert by_hand({"base": [0.4], "dense": [0.5]}).verdict == "The comparison holds no base or no augmented network."


def test_saved_and_loaded(table: Comparison, tmp_path) -> None:
    table.save(tmp_path / "comparison.json")
    again = Comparison.load(tmp_path / "comparison.json")
    assert again.rows == table.rows
    assert again.about == table.about
    assert (again.verdict, str(again), again.top_k) == (table.verdict, str(table), 50)
    for arm, values in table.per_label.items():
        np.testing.assert_array_equal(again.per_label[arm], values)
    for content in ("{", "[]", "{}", '{"rows": [], "per_label": []}'):
        (tmp_path / "comparison.json").write_text(content)
        with pytest.raises(SelfInformedError, match="delete it"):
            Comparison.load(tmp_path / "comparison.json")


def test_the_printed_table_holds_every_arm(table: Comparison) -> None:
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ARMS)
    assert f"{100 * table.values('dense').mean():.2f}" in lines[1 + ARMS.index("dense")]
