"""The paper's Table 2 and more: the method against every control, over seeds, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.evidence.evaluation import Evaluation, evaluate
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import plain, read_json, write_json, write_text
from selfinformed.runtime.progress import progress
from selfinformed.runtime.versions import machine, versions
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, plan
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import fit, fit_whole

ARMS = ("base", "classifier", "confusions", "codetections", "random", "dense", "finetune")
METHOD = "confusions"
DESCRIPTIONS = {
    "base": "the network as it is",
    "classifier": "classifier retrained, nothing added",
    "confusions": "heads on groups from confusions (eq. 3)",
    "codetections": "heads on groups from co-detections (eq. 4)",
    "random": "the same heads, labels permuted",
    "dense": "one head over all labels, same cost",
    "finetune": "the whole network trained on for the same time",
}
FORMAT = "selfinformed.comparison/1"
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

    def values(self, arm: str, column: str = "mean_average_precision") -> FloatArray:
        """One figure of an arm for each seed, in the order of the seeds."""
        rows = sorted((row for row in self.rows if row["arm"] == arm), key=lambda row: row["seed"])
        return np.array([row[column] for row in rows], dtype=float)

    def summary(self) -> list[dict[str, Any]]:
        """A row per arm: mean and 95% interval over seeds of mAP, its paired difference to the base and of the method to it."""
        rows = []
        for arm in self.arms:
            row: dict[str, Any] = {"arm": arm, "description": DESCRIPTIONS[arm], "seeds": len(self.values(arm))}
            for column in ("mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds",
                           "extra_computation", "parameters", "seconds"):  # fmt: skip
                row[column] = float(self.values(arm, column).mean())
            row["interval"] = interval(self.values(arm))
            row["over_base"] = self.difference(arm, "base") if "base" in self.arms else None
            row["method_over_it"] = self.difference(METHOD, arm) if METHOD in self.arms and arm != METHOD else None
            rows.append(row)
        return rows

    def difference(self, one: str, other: str) -> dict[str, float]:
        """Mean of the paired differences in mAP, one minus other, with its 95% interval {mean, low, high}."""
        paired = self.values(one) - self.values(other)
        low, high = interval(paired)
        return {"mean": float(paired.mean()), "low": low, "high": high}

    @property
    def verdict(self) -> str:
        """Whether the method won, at what cost, and what beat it."""
        if not {METHOD, "base"} <= set(self.arms):
            return "The comparison holds no base or no augmented network."
        gain, cost = self.difference(METHOD, "base"), self.values(METHOD, "extra_computation").mean()
        change = "raise" if gain["low"] > 0 else "lower" if gain["high"] < 0 else "do not surely change"
        text = (
            f"Heads on groups from confusions {change} mAP@{self.top_k} by {_points(gain)} for {100 * (cost - 1):.1f}% more multiply-adds."
        )
        others = [arm for arm in self.arms if arm not in (METHOD, "base")]
        above = [arm for arm in others if self.difference(METHOD, arm)["low"] > 0]
        below = [arm for arm in others if self.difference(METHOD, arm)["high"] < 0]
        unsure = [arm for arm in others if arm not in above and arm not in below]
        if above:
            text += f" They beat {_listed(above, self)}."
        if unsure:
            text += f" Not told apart at this number of seeds: {_listed(unsure, self)}."
        if below:
            text += f" They do not beat {_listed(below, self)}, which did better."
        return text

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "top_k": self.top_k, "verdict": self.verdict, "rows": self.rows, "summary": self.summary(),
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
            return cls(content["rows"], per_label, int(content["top_k"]), content["about"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SelfInformedError(f"{path}: not a valid comparison ({error!r}); delete it to have it made again") from None

    def __str__(self) -> str:
        head = f"{'arm':<13}{'mAP@' + str(self.top_k):>8}  {'95% interval':<16}{'over base':>10}{'top-1':>8}{'top-5':>8}{'multiply-adds':>16}{'extra':>9}"
        lines = [head]
        for row in self.summary():
            low, high = row["interval"]
            over = "" if row["over_base"] is None else f"{100 * row['over_base']['mean']:+.2f}"
            lines.append(
                f"{row['arm']:<13}{100 * row['mean_average_precision']:8.2f}  {f'{100 * low:.2f} to {100 * high:.2f}':<16}{over:>10}"
                f"{100 * row['top1']:8.2f}{100 * row['top5']:8.2f}{row['multiply_adds']:16,.0f}{row['extra_computation']:8.3f}x"
            )
        return "\n".join(lines)


def compare(
    net: WrappedClassifier,
    plan: HeadPlan,
    train: Examples | FeatureStore,
    test: Examples | FeatureStore,
    *,
    holdout: Examples | FeatureStore | None = None,
    codetections: HeadPlan | None = None,
    seeds: int = 3,
    arms: Sequence[str] | None = None,
    top_k: int = 50,
    epochs: int = 2,
    finetune_learning_rate: float = 5e-4,
    classifier: Literal["keep", "reinitialise"] = "keep",
    journal: str | Path | None = None,
    **training: Any,
) -> Comparison:
    """Trains the method and every control alike and judges them on the same test data.

    Args:
        net: the wrapped base.
        plan: the method's heads, on groups from confusions; `random` permutes its labels, `dense` spends its multiply-adds on one head.
        train, test: examples, or cached features (`finetune` needs the examples they were built from).
        holdout: where the mean and covariance of the heads' input come from (default: `train`).
        codetections: heads on groups from co-detections; without it that arm is left out.
        seeds: how many; seed s draws the new weights, the order of examples and the permutation.
        arms: which of base, classifier, confusions, codetections, random, dense, finetune (default: all there is input for).
        top_k: K of mAP@K.
        epochs: passes over `train` for each arm on cached features.
        finetune_learning_rate: peak of the `finetune` arm's schedule.
        classifier: whether the arms keep the trained classifier or re-initialise it (the paper's choice).
        journal: a file that takes each row as it is done; with it a stopped comparison goes on where it was.
        **training: further options of `fit`, the same for every arm on cached features.
    """
    train = train if isinstance(train, FeatureStore) else FeatureStore.build(net, train, what="caching train features")
    test = test if isinstance(test, FeatureStore) else FeatureStore.build(net, test, what="caching test features")
    if isinstance(holdout, Examples):
        holdout = FeatureStore.build(net, holdout, what="caching hold-out features")
    chosen = _choose_arms(arms, plan, codetections, train, test)
    if seeds < 1:
        raise SelfInformedError(f"seeds: expected at least 1, got {seeds}")
    inputs = [net.fingerprint, plan.to_dict(), codetections and codetections.to_dict(), len(train), len(test), top_k, epochs, finetune_learning_rate]
    done = _Journal(journal, [*inputs, classifier, training])
    wanted = [(arm, seed) for seed in range(seeds) for arm in chosen]
    base = evaluate(net, test, top_k) if any((arm, seed) not in done.rows for arm, seed in wanted) else None
    caching = train.seconds + (holdout.seconds if holdout is not None else 0.0)
    for arm, seed in progress(wanted, len(wanted), "comparing"):
        if (arm, seed) in done.rows or base is None:
            continue
        if arm == "base":
            done.add(arm, seed, base, 0.0)
        elif arm == "finetune":
            seconds = caching + _seconds_of_heads(done, seed)
            done.add(arm, seed, *_finetuned(net, plan, train, test, top_k, seconds, finetune_learning_rate, seed))
        else:
            aug = augment(net, _plan_of(arm, net, plan, codetections, seed), classifier=classifier, seed=seed)
            history = fit(aug, train, holdout=holdout, epochs=epochs, seed=seed, **training)
            done.add(arm, seed, evaluate(aug, test, top_k), caching + history.seconds, history.seconds)
    about = {"seeds": seeds, "epochs": epochs, "n_train": len(train), "n_test": len(test), "versions": versions(), "machine": machine()}
    rows = [done.rows[key] for key in wanted]
    per_label = {arm: _mean_over_seeds([done.per_label[arm, seed] for seed in range(seeds)]) for arm in chosen}
    return Comparison(rows, per_label, top_k, about)


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of the mean over seeds, by Student's t; a single value gives (-inf, inf)."""
    from scipy.stats import t

    if len(values) < 2:
        return (float("-inf"), float("inf"))
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return (float(values.mean()) - half, float(values.mean()) + half)


class _Journal:
    """The rows done so far, in memory and, if asked for, in a file of one JSON line each."""

    def __init__(self, path: str | Path | None, inputs: Sequence[Any]) -> None:
        import hashlib

        self.path = Path(path) if path else None
        self.key = hashlib.sha256(json.dumps(plain(inputs), sort_keys=True).encode()).hexdigest()
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.per_label: dict[tuple[str, int], FloatArray] = {}
        self._lines: list[str] = []
        if self.path and self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                self._take(line)

    def add(self, arm: str, seed: int, evaluation: Evaluation, seconds: float, head_seconds: float = 0.0) -> None:
        row = {"arm": arm, "seed": seed, **evaluation.figures(), "seconds": seconds, "head_seconds": head_seconds}
        line = json.dumps(plain({"key": self.key, "row": row, "per_label": evaluation.ranking.average_precision}))
        self._take(line)
        if self.path:
            write_text(self.path, "\n".join(self._lines) + "\n")

    def _take(self, line: str) -> None:
        try:
            content = json.loads(line)
        except ValueError:  # half written: that row is made again
            return
        if content["key"] == self.key:  # rows of other inputs are forgotten
            arm, seed = content["row"]["arm"], content["row"]["seed"]
            self.rows[arm, seed] = content["row"]
            self.per_label[arm, seed] = np.array(content["per_label"], dtype=float)
            self._lines.append(line)


def _choose_arms(
    arms: Sequence[str] | None, plan: HeadPlan, codetections: HeadPlan | None, train: FeatureStore, test: FeatureStore
) -> list[str]:
    missing = {
        "codetections": None if codetections else "the plan of heads on groups from co-detections (codetections=)",
        "finetune": None if train.examples and test.examples else "examples, not cached features alone, for train and test",
    }
    if arms is None:
        return [arm for arm in ARMS if not missing.get(arm)]
    for arm in arms:
        if arm not in ARMS:
            raise SelfInformedError(f"arms: expected some of {', '.join(ARMS)}; got {arm!r}")
        if missing.get(arm):
            raise SelfInformedError(f"arms: {arm!r} needs {missing[arm]}")
    return [arm for arm in ARMS if arm in arms]


def _plan_of(arm: str, net: WrappedClassifier, heads: HeadPlan, codetections: HeadPlan | None, seed: int) -> HeadPlan:
    if arm == "confusions":
        return heads
    if arm == "codetections" and codetections is not None:
        return codetections
    if arm == "random":
        return heads.with_groups(heads.groups.randomized(seed))
    if arm == "dense":
        depth = max(map(len, heads.hidden))
        allowed = sum(heads.head_multiply_adds) + 0.5  # costs are whole numbers: the half keeps rounding from losing a unit that just fits
        return plan(net, LabelGroups.everything(net.n_labels), budget=allowed / heads.base_multiply_adds, depth=depth)
    return plan(net, LabelGroups(net.n_labels, ()), hidden=(1,))


def _finetuned(
    net: WrappedClassifier, heads: HeadPlan, train: FeatureStore, test: FeatureStore, top_k: int, seconds: float, learning_rate: float, seed: int
) -> tuple[Evaluation, float]:
    assert train.examples is not None
    assert test.examples is not None
    aug = augment(net, _plan_of("classifier", net, heads, None, seed), seed=seed)
    history = fit_whole(aug, train.examples, seconds=seconds, learning_rate=learning_rate, seed=seed)
    return evaluate(aug, test.examples, top_k), history.seconds


def _seconds_of_heads(done: _Journal, seed: int) -> float:
    """How long this seed's method trained, or the longest of its arms where the method is not among them."""
    taken = {arm: row["head_seconds"] for (arm, s), row in done.rows.items() if s == seed}
    return float(taken.get(METHOD, max(taken.values(), default=0.0)))


def _mean_over_seeds(values: Sequence[FloatArray]) -> FloatArray:
    return np.array([nan_mean(column) for column in np.stack(values).T])


def _points(difference: dict[str, float]) -> str:
    low, high = (100 * difference[key] for key in ("low", "high"))
    spread = f" (95% interval {low:+.2f} to {high:+.2f})" if np.isfinite(low) else " (one seed: no interval)"
    return f"{100 * difference['mean']:+.2f} points{spread}"


def _listed(arms: Sequence[str], comparison: Comparison) -> str:
    return ", ".join(f"{arm} ({100 * comparison.difference(METHOD, arm)['mean']:+.2f})" for arm in arms)

