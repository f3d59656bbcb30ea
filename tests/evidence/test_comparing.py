"""The method against its controls: fair, exact, resumable."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from test_arms import another_view, two_of_six

from conftest import Problem, refused
from selfinformed.augmented.network import augment
from selfinformed.evidence import arms as module
from selfinformed.evidence import comparing
from selfinformed.evidence.arms import ARMS, Bench
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.intervals import interval
from selfinformed.structure.planning import plan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit
from selfinformed.training.searching import SearchResult
from selfinformed.training.stepping import Training
from selfinformed.training.structures import Structure

CONTRACT = {
    "arm", "seed", "mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds", "extra_computation", "parameters",
}  # fmt: skip
CACHED = ["base", "classifier", "confusions", "random", "dense", "gated", "adapter"]
COSTING = ("confusions", "codetections", "random", "dense", "hinton", "gated", "adapter", "views", "searched", "searched_dense", "chance")


def one_dense_head(problem: Problem) -> Structure:
    return Structure(plan(problem.net, LabelGroups.everything(36), hidden=(20,)), None, 1.0, "one dense head", 0.5, 0.25)


def compared(problem: Problem, **options) -> Comparison:
    options = {"seeds": 2, "arms": CACHED, "epochs": 1, "holdout": problem.store("holdout"), **options}
    return compare(problem.net, options.pop("plan", problem.plan()), problem.store("train"), problem.store("test"), **options)


@pytest.fixture(scope="module")
def table(problem: Problem) -> Comparison:
    codetections, hinton = (problem.plan().with_groups(problem.groups.randomized(seed)) for seed in (7, 8))
    found = {"searched": replace(two_of_six(problem.plan()), share=0.8), "searched_dense": one_dense_head(problem)}
    return compared(problem, arms=None, codetections=codetections, hinton=hinton, **found, views=another_view(problem), epochs=2)


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
    for arm in COSTING:
        assert table.values("base", "multiply_adds")[0] < table.values(arm, "multiply_adds")[0] <= heads.multiply_adds
    extra = heads.multiply_adds - table.values("base", "multiply_adds")[0]
    assert table.values("unsure_dense", "multiply_adds")[0] - heads.multiply_adds == pytest.approx(0, abs=0.1 * extra)  # hold-out data say who is unsure
    for arm in ("dense", "gated", "views"):  # to within one unit; of views, one example
        assert table.values(arm, "multiply_adds")[0] > heads.multiply_adds - 200


def test_the_base_is_judged_as_evaluate_does_and_heads_help(table: Comparison, problem: Problem) -> None:
    base = evaluate(problem.net, problem.store("test")).figures()
    row = next(row for row in table.rows if row["arm"] == "base")
    assert {key: row[key] for key in base} == base
    for arm in ("confusions", "codetections", "random", "dense", "hinton", "gated", "searched"):
        assert table.difference(arm, "base")["mean"] > 0
    per_example = {arm: table.values(arm, "mean_average_precision_per_example").mean() for arm in ARMS}
    assert per_example["base"] < per_example["classifier"]
    assert per_example["base"] < per_example["adapter"]
    assert per_example["classifier"] < per_example["views"]
    np.testing.assert_allclose(np.nanmean(table.per_label["base"]), base["mean_average_precision"])


def test_finetuning_takes_as_long_as_features_and_heads(table: Comparison, problem: Problem) -> None:
    for seed in range(2):
        seconds = {row["arm"]: row["seconds"] for row in table.rows if row["seed"] == seed}
        assert seconds["finetune"] >= seconds["searched"]
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
    assert len(calls) == 9
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


@pytest.mark.parametrize(
    "changed",
    [{"epochs": 2}, {"top_k": 7}, {"learning_rate": 1e-3}, {"classifier": "reinitialise"}, {"finetune_learning_rate": 0.1}, {"tuning": [1.0]}],
)
def test_a_journal_of_other_inputs_is_ignored(problem: Problem, tmp_path, monkeypatch, changed) -> None:
    compared(problem, journal=tmp_path / "rows.jsonl", seeds=1, arms=["base", "classifier"])
    calls, fit = [], module.fit
    monkeypatch.setattr(module, "fit", lambda *args, **options: calls.append(args) or fit(*args, **options))
    compared(problem, journal=tmp_path / "rows.jsonl", seeds=1, arms=["base", "classifier"], **changed)
    assert len(calls) == 1


def test_a_journal_of_other_data_of_the_same_size_is_ignored(problem: Problem, tmp_path) -> None:
    first = compared(problem, journal=tmp_path / "rows.jsonl", seeds=1, arms=["base"])
    shuffled = FeatureStore.build(problem.net, problem.test.take(np.random.default_rng(0).permutation(600)[::-1]))
    other = FeatureStore(shuffled.attached, shuffled.penultimate.roll(1, 0), shuffled.targets, shuffled.fingerprint, 0.0)
    options = {"seeds": 1, "arms": ["base"], "epochs": 1, "holdout": problem.store("holdout"), "journal": tmp_path / "rows.jsonl"}
    again = compare(problem.net, problem.plan(), problem.store("train"), other, **options)
    assert again.values("base") < first.values("base")


def test_every_arm_tries_the_same_learning_rates_and_keeps_its_best(problem: Problem, tmp_path, monkeypatch) -> None:
    rates, fit = [], module.fit

    def watched(aug, *args, **options):
        rates.append((options.get("learning_rate", 6e-3), options.get("classifier_learning_rate", 3e-3), options["seed"]))
        return fit(aug, *args, **options)

    monkeypatch.setattr(module, "fit", watched)
    options = {"arms": ["base", "confusions", "adapter"], "tuning": (0.1, 1, 8), "journal": tmp_path / "rows.jsonl"}
    tuned = compared(problem, **options)
    assert [(round(r / 6e-3, 6), round(c / 3e-3, 6), seed) for r, c, seed in rates[:3]] == [(0.1, 0.1, 0), (1, 1, 0), (8, 8, 0)]
    assert len(rates) == 2 * (3 + 1)  # the best try is the row of seed 0
    for arm in ("confusions", "adapter"):
        found = tuned.about["tuned"][arm]
        assert [t["factor"] for t in found["tries"]] == [0.1, 1, 8]
        assert found["factor"] == max(found["tries"], key=lambda t: t["mean_average_precision"])["factor"]
    assert tuned.about["tuned"]["confusions"]["factor"] == 8  # so few steps reward a high rate
    assert tuned.about["tuned"].keys() == {"confusions", "adapter"}
    assert rates[6] == pytest.approx((8 * 6e-3, 8 * 3e-3, 1))
    rates.clear()
    assert compared(problem, **options).about["tuned"] == tuned.about["tuned"]  # from the journal
    assert not rates
    lines = [line for line in (tmp_path / "rows.jsonl").read_text().splitlines() if '"factor": 8' not in line or '"confusions"' not in line]
    (tmp_path / "rows.jsonl").write_text("\n".join(line for line in lines if '"arm": "confusions", "seed"' not in line) + "\n")
    again = compared(problem, **options)
    assert len(rates) == 1 + 1  # the try that was lost, which is the row of seed 0 too, and the other row
    assert without_seconds(again) == without_seconds(tuned)
    rates.clear()
    lines = [line for line in (tmp_path / "rows.jsonl").read_text().splitlines() if '"arm": "confusions", "seed"' not in line]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert without_seconds(compared(problem, **options)) == without_seconds(tuned)
    assert len(rates) == 2  # of the tries there are only the figures


def test_a_rate_at_which_training_fails_is_not_chosen(problem: Problem, monkeypatch) -> None:
    fit = module.fit

    def failing(aug, *args, **options):
        if options.get("learning_rate", 0) > 0.01:
            raise SelfInformedError("fit: the loss became nan")
        return fit(aug, *args, **options)

    monkeypatch.setattr(module, "fit", failing)
    found = compared(problem, arms=["confusions"], seeds=1, tuning=2).about["tuned"]["confusions"]
    assert found["factor"] == 1
    assert np.isnan(found["tries"][1]["mean_average_precision"])
    with pytest.raises(SelfInformedError, match="the loss became nan"):
        compared(problem, arms=["confusions"], seeds=1, tuning=[4.0])


def test_the_whole_network_tries_learning_rates_of_its_own(problem: Problem, monkeypatch) -> None:
    rates, fit_whole = [], module.fit_whole
    steps = {"seconds": None, "epochs": 0.3}
    monkeypatch.setattr(module, "fit_whole", lambda *a, **o: rates.append((o["learning_rate"], o["seconds"], o["recipe"])) or fit_whole(*a, **{**o, **steps}))
    options = {"arms": ["base", "confusions", "finetune"], "seeds": 1, "tuning": 3, "finetune_learning_rate": 1e-3, "recipe": {"epsilon": 1e-6}}
    untuned = compared(problem, **options, tune_finetune=False)
    assert untuned.about["tuned"].keys() == {"confusions"}
    assert [rate for rate, *_ in rates] == [1e-3]
    assert ", at a learning rate that was not tuned)" in untuned.verdict
    rates.clear()
    found = compared(problem, **options)
    tuned = found.about["tuned"]["finetune"]
    best = max(tuned["tries"], key=lambda t: t["mean_average_precision"])["factor"]
    assert tuned["factor"] == best
    assert [rate for rate, *_ in rates] == [1e-3, 4e-3, 16e-3, 1e-3 * best]
    seconds = [seconds for _, seconds, _ in rates]
    assert seconds[:3] == pytest.approx([seconds[3] / 3] * 3)
    assert all(recipe == {"epsilon": 1e-6} for *_, recipe in rates)
    assert "not tuned" not in found.verdict
    bare = problem.store("holdout")
    bare = FeatureStore(bare.attached, bare.penultimate, bare.targets, bare.fingerprint, 0.0)
    assert "not tuned" in compared(problem, **options, holdout=bare).verdict


def test_arms_with_heads_choose_how_much_of_the_base_they_see_where_the_searched_structure_did(problem: Problem, tmp_path) -> None:
    searched = Structure(problem.plan(), residual=0.25)
    options = {"arms": ["base", "classifier", "dense", "random", "searched"], "seeds": 1, "searched": searched, "journal": tmp_path / "rows.jsonl"}
    found = compared(problem, **options)
    assert found.about["tuned"].keys() == {"dense", "random"}
    for arm in ("dense", "random"):
        tuned = found.about["tuned"][arm]
        assert [row["residual"] for row in tuned["tries"]] == [1.0, 0.25, 0.0]
        best = max(tuned["tries"], key=lambda row: row["mean_average_precision"])
        assert tuned["residual"] == best["residual"]
        aug = augment(problem.net, Bench(problem.net, problem.plan(), problem.store("train"), problem.store("test")).plan_of(arm, 0), seed=0)
        fit(aug, problem.store("train"), holdout=problem.store("holdout"), epochs=1, recipe={"residual": best["residual"]})
        assert found.values(arm)[0] == rank(aug, problem.store("test")).mean_average_precision
    assert without_seconds(compared(problem, **options)) == without_seconds(found)
    before = compared(problem, **{**options, "arms": ["base", "dense"], "journal": tmp_path / "other.jsonl"})
    assert not before.about["tuned"]
    after = compared(problem, **{**options, "journal": tmp_path / "other.jsonl"})  # rows of arms that chose nothing do not serve it
    assert without_seconds(after) == without_seconds(found)
    begun_anew = compared(problem, **{**options, "arms": ["dense"], "classifier": "reinitialise", "recipe": {"residual": 0.0}})
    assert begun_anew.values("dense")[0] > found.values("base")[0]  # it kept the classifier, which is not trained then
    with refused("searched: it was trained with another residual", "give holdout="):
        compared(problem, **{**options, "holdout": None})


def test_arms_try_the_learning_rate_of_the_searched_structure(problem: Problem) -> None:
    arms = ["base", "classifier", "adapter", "dense", "searched"]
    found = compared(problem, arms=arms, seeds=1, searched=Structure(problem.plan(), rate=0.25))
    tuned = found.about["tuned"]
    assert tuned.keys() == {"classifier", "adapter", "dense"}
    assert [row["factor"] for row in tuned["classifier"]["tries"]] == [row["factor"] for row in tuned["adapter"]["tries"]] == [1.0, 0.25]
    assert [(row["factor"], row["residual"]) for row in tuned["dense"]["tries"]] == [(rate, seen) for rate in (1.0, 0.25) for seen in (1.0, 0.25, 0.0)]
    best = max(tuned["dense"]["tries"], key=lambda row: row["mean_average_precision"])
    assert (tuned["dense"]["factor"], tuned["dense"]["residual"]) == (best["factor"], best["residual"])
    said = {row["arm"]: row["description"] for row in found.summary()}
    for arm, description in said.items():
        assert ("learning rates x0.25" in description) == (tuned.get(arm, {}).get("factor") == 0.25)
        assert ("of the base's scores" in description or "without" in description) == (tuned.get(arm, {}).get("residual", 1) != 1)
    again = compared(problem, arms=arms, seeds=1, searched=Structure(problem.plan(), rate=0.25), tuning=2).about["tuned"]
    assert {arm: sorted({row["factor"] for row in tried["tries"]}) for arm, tried in again.items()} == {
        "classifier": [0.25, 0.5, 1.0, 2.0], "adapter": [0.25, 0.5, 1.0, 2.0], "dense": [0.25, 0.5, 1.0, 2.0], "searched": [1.0, 2.0],
    }  # fmt: skip
    with refused("another residual or learning rate", "give holdout="):
        compared(problem, arms=["base", "classifier", "searched"], searched=Structure(problem.plan(), rate=0.25), holdout=None)


def test_the_bar_counts_tries_too_and_only_what_is_left(problem: Problem, monkeypatch, tmp_path) -> None:
    drawn = []
    monkeypatch.setattr(comparing, "progress", lambda items, total, what: drawn.append(total) or iter(items))
    options = {"arms": ["base", "classifier", "dense", "searched"], "searched": Structure(problem.plan(), rate=0.25), "journal": tmp_path / "rows.jsonl"}
    compared(problem, seeds=1, **options)
    compared(problem, seeds=2, **options)
    assert drawn == [4 + 2 + 6, 4]


@pytest.mark.parametrize("views", [["views"], ["classifier", "views"]])
def test_a_second_view_is_trained_at_the_learning_rate_that_the_classifier_chose(problem: Problem, views) -> None:
    again = problem.store("test")
    found = compared(problem, arms=["base", *views, "searched"], seeds=1, searched=Structure(problem.plan(), rate=0.25), views=again)
    tuned = found.about["tuned"]
    assert tuned.keys() == {*views}
    assert [row["factor"] for row in tuned["views"]["tries"]] == [1.0, 0.25]


@pytest.mark.parametrize("tuning", [0, [], [0.0], [-1.0], [float("inf")], [float("nan")]])
def test_factors_that_are_none_are_refused(problem: Problem, tuning) -> None:
    with pytest.raises(SelfInformedError, match="tuning: expected a (list of numbers|number|whole number)"):
        compared(problem, tuning=tuning)
    with pytest.raises(SelfInformedError, match="tuning: learning rates are chosen on hold-out data"):
        compared(problem, tuning=3, holdout=None)


def test_arms_that_cannot_be_run_say_what_they_need(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match=r"expected some of base, classifier.*got 'mean'"):
        compared(problem, arms=["mean"])
    with pytest.raises(SelfInformedError, match=r"'codetections' needs the plan .*codetections="):
        compared(problem, arms=["codetections"])
    with pytest.raises(SelfInformedError, match=r"'hinton' needs the plan .*method='hinton'"):
        compared(problem, arms=["hinton"])
    with pytest.raises(SelfInformedError, match=r"'searched' needs what search found \(searched=\)"):
        compared(problem, arms=["searched"])
    with pytest.raises(SelfInformedError, match=r"'views' needs another view"):
        compared(problem, arms=["views"])
    with pytest.raises(SelfInformedError, match="seeds: expected a whole number of at least 1"):
        compared(problem, seeds=0)
    bare = {s: FeatureStore(x.attached, x.penultimate, x.targets, x.fingerprint, x.seconds) for s in ("train", "test") for x in [problem.store(s)]}
    with pytest.raises(SelfInformedError, match="'finetune' needs examples"):
        compare(problem.net, problem.plan(), bare["train"], bare["test"], arms=["finetune"])
    left = compare(problem.net, problem.plan(), bare["train"], bare["test"], seeds=1, epochs=1)
    assert left.arms == CACHED


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


def test_what_is_left_out_is_said(problem: Problem) -> None:
    given = compare(problem.net, problem.plan(), problem.store("train"), problem.store("test"), seeds=1, epochs=0.1, tune_finetune=False)
    left_out = given.about["left_out"]
    assert set(left_out) == {"codetections", "hinton", "views"}
    assert given.verdict.endswith("Left out: codetections, hinton, views.")
    assert "left out: hinton, which needs the plan of heads on groups from cluster(counts, method='hinton') (hinton=)" in str(given)
    assert "left_out" not in compared(problem, arms=["base", "confusions"], seeds=1, epochs=0.1).about


def test_every_figure_has_an_interval_and_paired_differences(problem: Problem) -> None:
    found = compared(problem, arms=["base", "confusions", "dense"], seeds=3, epochs=0.2)
    for row in found.summary():
        for column, of in row["figures"].items():
            values = found.values(row["arm"], column)
            assert of["interval"] == interval(values)
            assert of["over_base"] == found.difference(row["arm"], "base", column)
            if row["arm"] != "confusions":
                paired = found.values("confusions", column) - values
                assert (of["method_over_it"]["mean"], of["method_over_it"]["low"], of["method_over_it"]["high"]) == (paired.mean(), *interval(paired))


def test_a_journal_knows_the_outputs_and_every_arm_has_the_same_loss(problem: Problem, tmp_path, monkeypatch) -> None:
    losses = []
    init = Training.__init__

    def made(self, groups, order, epochs, forward, targets, objective, *args, **options) -> None:
        losses.append(objective.output)
        init(self, groups, order, epochs, forward, targets, objective, *args, **options)

    monkeypatch.setattr(Training, "__init__", made)
    options = {"arms": ["base", "confusions", "finetune"], "seeds": 1, "epochs": 0.1, "journal": tmp_path / "rows.jsonl", "tune_finetune": False}
    for wrapped, given in (("softmax", None), ("logistic", None), ("softmax", "logistic")):
        net = wrap(problem.net.model, problem.holdout.example_inputs(), labels=problem.net.labels, output=wrapped)
        stores = [FeatureStore.build(net, examples.take(range(60))) for examples in (problem.train, problem.test)]
        losses.clear()
        compare(net, problem.plan(), *stores, **options, output=given)
        assert losses == [given or wrapped] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": "dense"}, "arms: expected some of base, .*, in a list; got 'dense'"), ({"arms": ["bse"]}, "arms: .*got 'bse'"),
        ({"arms": []}, "arms: .*got none"),
        ({"seeds": 0}, "seeds: "), ({"top_k": 0}, "top_k: "), ({"tuning": 3}, "tuning: learning rates are chosen on hold-out data"),
        ({"classifier": "x"}, "classifier: expected one of keep"), ({"seed": 1}, "compare: its trainings share no option 'seed'"),
        ({"finetune": True}, "no option 'finetune'"), ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
        ({"output": "x"}, "output: expected one of softmax"),
    ],
)  # fmt: skip
def test_options_are_checked_before_anything_is_computed(problem: Problem, options, message) -> None:
    unread = replace(problem.train, read=None)
    with pytest.raises(SelfInformedError, match=message):
        compare(problem.net, problem.plan(), unread, unread, **options)


def test_arms_may_be_given_one_by_one_and_a_search_as_it_is(problem: Problem) -> None:
    found = two_of_six(problem.plan())
    result = SearchResult(found, found, [], 0.5, 0.1)
    table = compared(problem, arms=(arm for arm in ("base", "searched")), searched=result, seeds=1, epochs=0)
    assert table.arms == ["base", "searched"]
    assert table.about["found"] == found.digest()
