"""The paper's Table 2 and more: the method against every control, over seeds, with intervals."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from selfinformed.data.examples import Examples
from selfinformed.evidence.arms import ARMS, DESCRIPTIONS, FOUND, GROUPED, HEADED, Bench
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.journal import Journal, Try
from selfinformed.evidence.numbers import tone
from selfinformed.evidence.papers import comparison_table
from selfinformed.evidence.rows import read_row
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import reason_of
from selfinformed.runtime.tabular import frame, percent
from selfinformed.runtime.versions import machine, versions
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.intervals import interval
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore
from selfinformed.training.overlaps import told_of_shared
from selfinformed.training.recipe import RESIDUALS, REVISION, Recipe
from selfinformed.training.structures import Structure, seen_of
from selfinformed.training.teachers import TeacherNetwork, keyed

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("searched", "confusions")  # what a comparison is about: the first of them that was run
FORMAT = "selfinformed.comparison/1"
_FINETUNE_FACTORS = [1.0, 4.0, 16.0]  # of the learning rate of the whole network
_FINETUNE_SHARE = 1 / 3  # of its time, for each
FloatArray = npt.NDArray[np.float64]


@dataclass(eq=False)
class Comparison:
    """Rows {arm, seed, mean_average_precision, ..., seconds} and, for each arm, the mean average precision of each label.

    Shares are from 0 to 1; multiply-adds are per example; seconds are what the arm's training took.
    """

    rows: list[dict[str, Any]]
    per_label: dict[str, FloatArray]
    top_k: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """The arms that were run, in the table's order."""
        present = {row["arm"] for row in self.rows}
        return [arm for arm in ARMS if arm in present]

    @property
    def method(self) -> str:
        """The arm that the others are controls of: the searched structure where there is one, else heads on groups from confusions."""
        return next((arm for arm in METHODS if arm in self.arms), METHODS[-1])

    @property
    def best_control(self) -> str | None:
        """The arm with the highest mAP apart from the base and the method."""
        scores = {arm: self.values(arm).mean() for arm in self.arms if arm not in ("base", self.method)}
        return max(scores, key=lambda arm: scores[arm] if scores[arm] == scores[arm] else -1.0, default=None)

    @property
    def groups(self) -> str:
        """Where the groups of the arm `confusions` come from, in words."""
        return GROUPED.get(str(self.about.get("grouping", "spectral")).removesuffix(" cover"), "that were given")

    def values(self, arm: str, column: str = "mean_average_precision") -> FloatArray:
        """One figure of an arm for each seed, in the order of the seeds."""
        rows = sorted((row for row in self.rows if row["arm"] == arm), key=lambda row: row["seed"])
        return np.array([row[column] for row in rows], dtype=float)

    def summary(self) -> list[dict[str, Any]]:
        """A row per arm: mean and 95% interval over seeds of mAP, its paired difference to the base and of the method to it; the same of further
        `figures` by name."""
        rows = []
        for arm in self.arms:
            description = DESCRIPTIONS[arm] if arm != "confusions" or self.groups == GROUPED["spectral"] else f"heads on groups {self.groups}"
            row: dict[str, Any] = {"arm": arm, "description": description + self._chosen(arm), "seeds": len(self.values(arm))}
            for column in ("mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds",
                           "extra_computation", "parameters", "seconds"):  # fmt: skip
                row[column] = float(self.values(arm, column).mean())
            row["interval"] = interval(self.values(arm))
            row["over_base"] = self.difference(arm, "base") if "base" in self.arms else None
            row["method_over_it"] = self.difference(self.method, arm) if self.method in self.arms and arm != self.method else None
            row["figures"] = {
                column: {
                    "interval": interval(self.values(arm, column)),
                    "over_base": self.difference(arm, "base", column) if "base" in self.arms else None,
                    "method_over_it": self.difference(self.method, arm, column) if self.method in self.arms and arm != self.method else None,
                } for column in ("mean_average_precision_per_example", "top1", "top5")
            }  # fmt: skip
            rows.append(row)
        return rows

    def _chosen(self, arm: str) -> str:
        """How an arm was trained where hold-out data chose otherwise than was given, in words."""
        tuned = self.about.get("tuned", {}).get(arm, {})
        first: dict[str, Any] = next(iter(tuned.get("tries") or ()), {})  # as given
        factor, residual = float(tuned.get("factor", 1)), float(tuned.get("residual", 1))
        words = [f"{'its own ' if arm in FOUND else ''}learning rates x{factor:g}"] if factor != 1 else []
        words += [seen_of(residual)] if residual != float(first.get("residual", 1)) else []
        return "; " + ", ".join(words) if words else ""

    def difference(self, one: str, other: str, column: str = "mean_average_precision") -> dict[str, float]:
        """Mean of the paired differences in a figure, one minus other, with its 95% interval {mean, low, high}."""
        paired = self.values(one, column) - self.values(other, column)
        low, high = interval(paired)
        return {"mean": float(paired.mean()), "low": low, "high": high}

    @property
    def verdict(self) -> str:
        """Whether the method won, at what cost, and what beat it."""
        method = self.method
        if not {method, "base"} <= set(self.arms):
            return "The comparison holds no base or no augmented network."
        gain, cost, of_labels = self.difference(method, "base"), self.values(method, "extra_computation").mean(), self._over_labels(method, "base")
        if np.isnan(gain["mean"]):
            return f"What was gained is not known: mAP@{self.top_k} is not defined on these test data."
        subject, raises, lowers, unclear, beats, loses = _WORDS[method]
        change = {"good": raises, "bad": lowers}.get(self.gain_tone, unclear)
        by = _points(gain, len(self.values(method)), of_labels, change != lowers)
        shared = f"{self.about['shared']} " if self.about.get("shared") else ""
        text = f"{shared}{subject.format(groups=self.groups)} {change} mAP@{self.top_k} by {by} for {100 * (cost - 1):.1f}% more multiply-adds."
        above, below = self._told_apart()
        unsure = [arm for arm in self.arms if arm not in (method, "base", *above, *below)]
        if above:
            text += f" {beats} {_listed(above, self)}."
        if unsure:
            text += f" Not told apart at this number of seeds: {_listed(unsure, self)}."
        if below:
            text += f" {loses} {_listed(below, self)}, which did better."
        if left_out := self.about.get("left_out"):
            text += f" Left out: {', '.join(left_out)}."
        return text

    @property
    def gain_tone(self) -> str:
        """`good` or `bad` where the intervals of what was gained over the base, over seeds and over labels, both lie above zero or below; else empty."""
        ends = [tuple(self.difference(self.method, "base")[end] for end in ("low", "high")), self._over_labels(self.method, "base")]
        tones = {tone(*interval) for interval in ends if interval}
        return tones.pop() if len(tones) == 1 else ""

    @property
    def left_out(self) -> list[str]:
        """A line for each arm that was left out: what it would have needed."""
        return [f"left out: {arm}, which needs {what}" for arm, what in self.about.get("left_out", {}).items()]

    @property
    def line(self) -> str:
        """The same on one line for `grep`, always with these words in this order and `-` for what there is none of:
        `selfinformed: mAP@K base X method X gain X (LOW to HIGH) cost Xx beats ARM,ARM loses ARM`. mAP in percent, the gain's 95% interval,
        and the controls that the method surely beats and loses to."""
        known = {self.method, "base"} <= set(self.arms)
        above, below = self._told_apart() if known else ([], [])
        base, method = (percent(float(self.values(arm).mean()) if known else None) for arm in ("base", self.method))
        gain: dict[str, Any] = self.difference(self.method, "base") if known else dict.fromkeys(("mean", "low", "high"))
        mean, low, high = (percent(gain[key], "+") for key in ("mean", "low", "high"))
        cost = f"{self.values(self.method, 'extra_computation').mean():.3f}x" if known else "-"
        arms = f"beats {','.join(above) or '-'} loses {','.join(below) or '-'}"
        return f"selfinformed: mAP@{self.top_k} base {base} method {method} gain {mean} ({low} to {high}) cost {cost} {arms}"

    def to_frame(self) -> pd.DataFrame:
        """A row per arm and seed {arm, seed, mean_average_precision, ..., seconds}; needs the extra `pandas`."""
        return frame(self.rows)

    def summary_frame(self) -> pd.DataFrame:
        """A row per arm: means over seeds, and the ends of 95% intervals as KEY_low and KEY_high; needs the extra `pandas`."""
        return frame(comparison_table(self).rows)

    def _repr_html_(self) -> str:
        return comparison_table(self).to_html() + f"<p>{html.escape(self.verdict)}</p>"

    def _over_labels(self, one: str, other: str) -> tuple[float, ...]:
        """95% interval over labels of the differences in average precision, mean over seeds: what test data with other labels would change. Empty where
        fewer than two labels are judged."""
        if not {one, other} <= self.per_label.keys():
            return ()
        differences = self.per_label[one] - self.per_label[other]
        found = differences[np.isfinite(differences)]
        return interval(found) if len(found) > 1 else ()

    def _told_apart(self) -> tuple[list[str], list[str]]:
        """The controls that the method surely beats, and those that surely beat it."""
        others = [arm for arm in self.arms if arm not in (self.method, "base")]
        differences = {arm: self.difference(self.method, arm) for arm in others}
        return [arm for arm in others if differences[arm]["low"] > 0], [arm for arm in others if differences[arm]["high"] < 0]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "top_k": self.top_k, "verdict": self.verdict, "line": self.line, "rows": self.rows, "summary": self.summary(),
            "per_label": {arm: values.tolist() for arm, values in self.per_label.items()}, "about": self.about,
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Reads what `save` wrote."""
        content = read_json(path, "comparison")
        try:
            per_label = {arm: np.array(values, dtype=float) for arm, values in content["per_label"].items()}
            found = cls([read_row(row) for row in content["rows"]], per_label, int(content["top_k"]), content["about"])
            missing = [name for name in ("seeds", "n_train", "n_test", "versions") if name not in found.about]
            seeds = {arm: sorted(row["seed"] for row in found.rows if row["arm"] == arm) for arm in found.arms}
            if missing or not seeds or len({tuple(of) for of in seeds.values()}) > 1 or len({values.shape for values in per_label.values()}) > 1:
                raise ValueError("arms of other seeds or labels than the rest, or a field is missing")
            if not set(found.arms) <= set(DESCRIPTIONS) or not set(per_label) <= set(found.arms) or any(values.ndim != 1 for values in per_label.values()):
                raise ValueError("an arm that is none, or whose average precision by label is no list")
            if not 1 <= found.top_k < 2**31 or not isinstance(found.about["seeds"], int) or not isinstance(found.about["versions"], dict):
                raise ValueError("top_k, seeds or versions are not what they should be")
            found.summary()
            return found
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SelfInformedError(f"{path}: not a valid comparison ({reason_of(error)}); delete it to have it made again") from None

    def __str__(self) -> str:
        head = f"{'arm':<15}{'mAP@' + str(self.top_k):>8}  {'95% interval':<16}{'over base':>10}{'top-1':>8}{'top-5':>8}{'multiply-adds':>16}{'extra':>9}"
        lines = [head]
        for row in self.summary():
            low, high = (100 * end for end in row["interval"])
            spread = f"{low:.2f} to {high:.2f}" if np.isfinite(high - low) and row["arm"] != "base" else ""
            over = "" if row["over_base"] is None else f"{100 * row['over_base']['mean']:+.2f}"
            lines.append(
                f"{row['arm']:<15}{100 * row['mean_average_precision']:8.2f}  {spread:<16}{over:>10}"
                f"{100 * row['top1']:8.2f}{100 * row['top5']:8.2f}{row['multiply_adds']:16,.0f}{row['extra_computation']:8.3f}x"
            )
        lines += self.left_out
        return "\n".join(lines)


def compare(
    net: WrappedClassifier,
    plan: HeadPlan,
    train: Examples | FeatureStore,
    test: Examples | FeatureStore,
    *,
    holdout: Examples | FeatureStore | None = None,
    codetections: HeadPlan | None = None,
    hinton: HeadPlan | None = None,
    searched: Structure | None = None,
    searched_dense: Structure | None = None,
    views: Examples | FeatureStore | None = None,
    seeds: int = 3,
    arms: Sequence[str] | None = None,
    top_k: int = 50,
    epochs: float = 2,
    tuning: int | Sequence[float] | None = None,
    tune_finetune: bool = True,
    finetune_learning_rate: float = 5e-4,
    classifier: Literal["keep", "reinitialise"] = "keep",
    journal: str | Path | None = None,
    **training: Any,
) -> Comparison:
    """Trains the method and every control alike and judges them on the same test data.

    `plan` sets the multiply-adds of all controls: `random` permutes its labels, `dense` spends them on one head, `gated` on a mixture of
    experts, `adapter` on a low-rank adapter, `views` on a second look at so many test examples. Where `searched` runs heads on the least certain
    share of the examples, `chance` runs the same heads on as large a share drawn at random, in training and on test data.

    Args:
        net: the wrapped base.
        plan: the method's heads, on groups from confusions.
        train, test: examples, or cached features (`finetune` needs the examples they were built from).
        holdout: what learning rates and residuals are chosen by, and what `Recipe.patience` watches.
        codetections: heads on groups from co-detections; without it that arm is left out.
        hinton: heads on as many groups at the same budget from `cluster(counts, method="hinton")`; likewise.
        searched: what `search` found; likewise. It is then the method that the controls are held against.
        searched_dense: the best dense head that it found, a control with the same search behind it, and in a search by latency of the same time; likewise.
        views: another, augmented view of the test examples in the same order; likewise.
        seeds: how many; seed s draws the new weights, the order of examples, the permutation and the examples of `chance`.
        arms: which of base, classifier, confusions, codetections, random, dense, hinton, finetune, gated, adapter, views, searched,
            searched_dense, chance (default: all there is input for).
        top_k: K of mAP@K.
        epochs: passes over `train` for each arm on cached features.
        tuning: factors of both learning rates, e.g. (0.5, 1, 2), or how many powers of two about 1. Each arm, method and controls alike, is first
            trained once with each, at seed 0, and keeps for all seeds the one with the highest mAP on `holdout`: as many more trainings per arm.
            Default: none. Beside `searched`, since a search tries them too, every arm but `finetune` also tries these times the factor of what was
            found, and every arm with heads each `residual` of 1, 0.25 and 0. These tries are not part of the rows' seconds.
        tune_finetune: whether `finetune` chooses its learning rate too, where `holdout` has examples: among 1, 4 and 16 times the one given, each tried
            for a third of the time that the method took, its features counted.
        finetune_learning_rate: peak of the `finetune` arm's schedule.
        classifier: whether the arms keep the trained classifier or re-initialise it (the paper's choice).
        journal: a file that takes each row and each try as it is done; with it a stopped comparison of the same inputs goes on where it was.
        **training: further options of `fit`, the same for every arm on cached features.

    Raises:
        SelfInformedError: an arm is asked for that lacks its input, `views` are of other examples, or `tuning` has no hold-out data.
    """
    if not isinstance(plan, HeadPlan):
        raise SelfInformedError(f"compare: expected the heads of the method first, as plan gives them, then training and test data; got {type(plan).__name__}")
    train, test = _features(net, train, "train"), _features(net, test, "test")
    holdout = None if holdout is None else _features(net, holdout, "hold-out")
    views = None if views is None else _features(net, views, "views of the test")
    bench = Bench(
        net, plan, train, test, holdout, codetections, hinton, searched, searched_dense, views, epochs, classifier, finetune_learning_rate,
        training,
    )  # fmt: skip
    chosen = bench.choose(arms)
    if seeds < 1:
        raise SelfInformedError(f"seeds: expected at least 1, got {seeds}")
    factors = _factors(tuning, holdout)
    tune_finetune = tune_finetune and holdout is not None and holdout.examples is not None
    residuals = [Recipe.of(training.get("recipe")).residual]
    rates = factors  # of the arms beside what was found
    beside = [arm for arm in ARMS if arm not in ("base", "finetune", *FOUND)]
    if searched and "searched" in chosen and {*beside} & {*chosen}:
        if searched.rate != 1:
            rates = list(dict.fromkeys([*(factors or [1.0]), *(searched.rate * factor for factor in factors or [1.0])]))
        if {*HEADED} & {*chosen} and (holdout is not None or searched.residual not in residuals):
            residuals = list(dict.fromkeys([*residuals, *RESIDUALS, searched.residual]))
    if holdout is None and (len(residuals) > 1 or rates):
        raise SelfInformedError(
            "searched: it was trained with another residual or learning rate than the other arms, which choose theirs on hold-out data; give holdout="
        )
    inputs = [
        REVISION, net.fingerprint, net.output, [store and store.digest() for store in (train, test, holdout, views)], plan.to_dict(),
        codetections and codetections.to_dict(), hinton and hinton.to_dict(), searched and searched.to_dict(),
        top_k, epochs, factors, tune_finetune and _FINETUNE_FACTORS, finetune_learning_rate, classifier, keyed(training),
        *([residuals] if len(residuals) > 1 else []),
        *([rates] if rates != factors else []),
    ]  # fmt: skip
    done = Journal(journal, inputs, {"searched_dense": searched_dense.digest()} if searched_dense else {})
    wanted = [(arm, seed) for seed in range(seeds) for arm in chosen]
    missing = sorted((key for key in wanted if key not in done.rows), key=lambda key: (key[1], key[0] == "finetune"))  # which waits for the method's time
    base = evaluate(net, test, top_k) if any(arm == "base" for arm, _ in missing) else None
    teacher = training.get("teacher")
    caching = sum(store.seconds for store in (train, holdout, teacher.features if isinstance(teacher, TeacherNetwork) else None) if store is not None)
    tries = {
        arm: [
            Try(factor, residual)
            for factor in (_FINETUNE_FACTORS if arm == "finetune" else rates if arm in beside else factors) or [1.0]
            for residual in (residuals if arm in HEADED and len(residuals) > 1 else [None])
        ] for arm in ARMS
    }  # fmt: skip
    tuned = {
        arm: _tuned_as(arm) for arm in chosen
        if arm != "base" and (factors or len(tries[_tuned_as(arm)]) > 1) and (arm != "finetune" or tune_finetune)
    }  # fmt: skip
    steps: dict[tuple[str, int, Try | None], None] = {}  # in their order: the tries that an arm still wants, then its row
    for arm, seed in missing:
        if arm in tuned:
            steps |= dict.fromkeys((tuned[arm], 0, tried) for tried in tries[tuned[arm]] if (tuned[arm], tried) not in done.tries)
        steps[arm, seed, None] = None
    for arm, seed, tried in progress(steps, len(steps), "comparing"):
        seconds = caching + _seconds_of_heads(done, seed) if arm == "finetune" else 0.0
        if tried is not None:
            done.add_try(arm, tried, _tried(bench, arm, tried, top_k, _FINETUNE_SHARE * seconds))
        elif base is not None and arm == "base":
            done.add(arm, seed, base, 0.0)
        else:
            best = _best(done, tuned[arm], tries[tuned[arm]]) if arm in tuned else Try()
            aug, history = bench.trained(arm, seed, best.factor, seconds, best.residual)
            own, head_seconds = (history.seconds, 0.0) if arm == "finetune" else (caching + history.seconds, history.seconds)
            done.add(arm, seed, bench.judged(arm, aug, top_k, seed), own, head_seconds)
    shared = told_of_shared({"training": train, "hold-out": holdout, "test": test})
    about = {
        **({"shared": shared} if shared else {}),
        **({"left_out": left_out} if arms is None and (left_out := bench.left_out(chosen)) else {}),
        "date": date.today().isoformat(), "grouping": plan.groups.method,
        "seeds": seeds, "epochs": epochs, "n_train": train.n_inputs, "n_test": len(test), "revision": REVISION, "versions": versions(), "machine": machine(),
        "tuned": {arm: _tuning(done, of, tries[of]) for arm, of in tuned.items()}, "searched": searched and searched.description,
        "found": searched and searched.digest(), "found_dense": searched_dense and searched_dense.digest(),
    }  # fmt: skip
    rows = [done.rows[key] for key in wanted]
    per_label = {arm: _mean_over_seeds([done.per_label[arm, seed] for seed in range(seeds)]) for arm in chosen}
    return Comparison(rows, per_label, top_k, about)


def _features(net: WrappedClassifier, data: Examples | FeatureStore, what: str) -> FeatureStore:
    return data if isinstance(data, FeatureStore) else FeatureStore.build(net, data, what=f"caching {what} features")


def _factors(tuning: int | Sequence[float] | None, holdout: FeatureStore | None) -> list[float]:
    """The learning-rate factors that each arm tries; none without tuning."""
    if tuning is None:
        return []
    factors = [2.0 ** (i - (tuning - 1) // 2) for i in range(tuning)] if isinstance(tuning, int) else [float(factor) for factor in tuning]
    if not factors or not all(0 < factor < np.inf for factor in factors):
        raise SelfInformedError(f"tuning: expected at least one learning-rate factor above 0, or a number of them; got {tuning!r}")
    if holdout is None:
        raise SelfInformedError("tuning: learning rates are chosen on hold-out data; give holdout=")
    return factors


def _tuned_as(arm: str) -> str:
    """The arm whose learning rates an arm uses: `views` trains what `classifier` trains."""
    return "classifier" if arm == "views" else arm


def _tried(bench: Bench, arm: str, tried: Try, top_k: int, seconds: float) -> float:
    """mAP on hold-out data of an arm trained so, at seed 0; NaN where it cannot be."""
    try:
        aug, _ = bench.trained(arm, 0, tried.factor, seconds, tried.residual)
        return bench.score(arm, aug, top_k)
    except SelfInformedError:  # a rate too high for the loss to stay finite; what is wrong with every rate is raised by the rows
        return float("nan")


def _best(done: Journal, arm: str, tries: Sequence[Try]) -> Try:
    """The try with the highest mAP on hold-out data, the first of several."""
    scores = [done.tries[arm, tried] for tried in tries]
    return tries[max(range(len(tries)), key=lambda i: scores[i] if scores[i] == scores[i] else -1.0)]


def _tuning(done: Journal, arm: str, tries: Sequence[Try]) -> dict[str, Any]:
    """The best try, and what each gave."""
    rows = [{**tried.to_dict(), "mean_average_precision": done.tries[arm, tried]} for tried in tries]
    return {**_best(done, arm, tries).to_dict(), "tries": rows}


def _seconds_of_heads(done: Journal, seed: int) -> float:
    """How long this seed's method trained, or the longest of its arms where the method is not among them."""
    taken = {arm: row["head_seconds"] for (arm, s), row in done.rows.items() if s == seed}
    return float(next((taken[arm] for arm in METHODS if arm in taken), max(taken.values(), default=0.0)))


def _mean_over_seeds(values: Sequence[FloatArray]) -> FloatArray:
    return np.array([nan_mean(column) for column in np.stack(values).T])


_EQUAL = 0.85  # of the extra multiply-adds: controls that have less, or the inverse of it more, are not of equal cost, and that is told
_WORDS = {
    "confusions": ("Heads on groups {groups}", "raise", "lower", "do not surely change", "They beat", "They do not beat"),
    "searched": ("The structure that the search found", "raises", "lowers", "does not surely change", "It beats", "It does not beat"),
}


def _points(difference: dict[str, float], seeds: int, of_labels: tuple[float, ...], signed: bool) -> str:
    ends = {"seeds": (difference["low"], difference["high"]) if seeds > 1 else (), "labels": of_labels}
    known = [f"over {what} {100 * both[0]:+.2f} to {100 * both[1]:+.2f}" for what, both in ends.items() if both]
    missing = [] if seeds > 1 else ["one seed"]
    spread = f" (95% interval {', '.join([*known, *missing])})" if known else " (one seed: no interval)"
    mean = 100 * difference["mean"]
    return (f"{mean:+.2f}" if signed else f"{abs(mean):.2f}") + f" points{spread}"


def _listed(arms: Sequence[str], comparison: Comparison) -> str:
    def listed(arm: str) -> str:
        also = ", at a learning rate that was not tuned" if arm == "finetune" and arm not in comparison.about.get("tuned", {}) else ""
        own, spent = (comparison.values(name, "extra_computation").mean() - 1 for name in (arm, comparison.method))
        if 0 < own < _EQUAL * spent or own > spent / _EQUAL:
            also += f", at {100 * own:.2g}% more multiply-adds"
        return f"{arm} ({100 * comparison.difference(comparison.method, arm)['mean']:+.2f}{also})"

    return ", ".join(map(listed, arms))
