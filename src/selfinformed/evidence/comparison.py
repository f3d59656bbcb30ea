"""The paper's Table 2 and more: the method against every control, over seeds, with intervals."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from selfinformed.evidence.arms import ARMS, DESCRIPTIONS, FOUND, GROUPED
from selfinformed.evidence.numbers import tone
from selfinformed.evidence.papers import comparison_table
from selfinformed.evidence.rows import read_row
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.runtime.reading import reason_of
from selfinformed.runtime.tabular import frame, percent
from selfinformed.structure.intervals import interval
from selfinformed.training.choices import seen_of

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("searched", "confusions")  # what a comparison is about: the first of them that was run
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
        change = {"good": raises, "bad": lowers}.get(self.tone(method, "base"), unclear)
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

    def tone(self, one: str, other: str) -> str:
        """`good` where the first arm is surely above the other in mAP, `bad` where below, else empty: by the interval of the difference over seeds and, of
        the method over the base, by that over labels too."""
        found = self.difference(one, other)
        of_labels = self._over_labels(one, other) if (one, other) == (self.method, "base") else ()
        tones = {tone(*ends) for ends in ((found["low"], found["high"]), of_labels) if ends}
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
        """As comparison.json holds it."""
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
            if not isinstance(found.about["n_test"], int) or not isinstance(found.about.get("left_out", {}), dict):
                raise ValueError("n_test or left_out are not what they should be")
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
            over = "" if row["over_base"] is None else f"{100 * row['over_base']['mean']:+z.2f}"
            lines.append(
                f"{row['arm']:<15}{100 * row['mean_average_precision']:8.2f}  {spread:<16}{over:>10}"
                f"{100 * row['top1']:8.2f}{100 * row['top5']:8.2f}{row['multiply_adds']:16,.0f}{row['extra_computation']:8.3f}x"
            )
        lines += self.left_out
        return "\n".join(lines)


_EQUAL = 0.85  # of the extra multiply-adds: controls that have less, or the inverse of it more, are not of equal cost, and that is told
_WORDS = {
    "confusions": ("Heads on groups {groups}", "raise", "lower", "do not surely change", "They beat", "They do not beat"),
    "searched": ("The structure that the search found", "raises", "lowers", "does not surely change", "It beats", "It does not beat"),
}


def _points(difference: dict[str, float], seeds: int, of_labels: tuple[float, ...], signed: bool) -> str:
    ends = {"seeds": (difference["low"], difference["high"]) if seeds > 1 else (), "labels": of_labels}
    known = [f"over {what} {100 * both[0]:+z.2f} to {100 * both[1]:+z.2f}" for what, both in ends.items() if both]
    missing = [] if seeds > 1 else ["one seed"]
    spread = f" (95% interval {', '.join([*known, *missing])})" if known else " (one seed: no interval)"
    mean = 100 * difference["mean"]
    return (f"{mean:+z.2f}" if signed else f"{abs(mean):.2f}") + f" points{spread}"


def _listed(arms: Sequence[str], comparison: Comparison) -> str:
    def listed(arm: str) -> str:
        also = ", at a learning rate that was not tuned" if arm == "finetune" and arm not in comparison.about.get("tuned", {}) else ""
        own, spent = (comparison.values(name, "extra_computation").mean() - 1 for name in (arm, comparison.method))
        if 0 < own < _EQUAL * spent or own > spent / _EQUAL:
            also += f", at {100 * own:.2g}% more multiply-adds"
        return f"{arm} ({100 * comparison.difference(comparison.method, arm)['mean']:+z.2f}{also})"

    return ", ".join(map(listed, arms))
