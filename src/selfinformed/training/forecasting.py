"""From judged trainings to a forecast of what a budget gains, and to what limits a network. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.structure.intervals import interval

WORTH_IT = 1.0  # points of mAP: a smaller gain is not worth acting on
GAP = 5.0  # points of mAP between training and held-out examples, above which a network knows its training examples by heart
STEEP = 0.5  # points of mAP that the second half of the training examples brings, above which still more of them would help
CEILING = 95.0  # mAP in percent on held-out examples, above which there is next to nothing left to gain

Limit = Literal["capacity", "data", "trunk", "nothing"]


@dataclass(frozen=True, eq=False)
class Judged:
    """A network judged on all hold-out examples, and on either half of them."""

    whole: Ranking
    halves: tuple[Ranking, Ranking]


@dataclass(frozen=True)
class Forecast:
    """What structures at a budget will gain over the base, in points of mAP (hundredths); 0 where keeping the base is best.

    Attributes:
        gain: the forecast.
        low, high: its 95% interval over labels.
        choice: what gained most on the hold-out examples: `classifier`, or a dense head and where it reads.
        optimism: what was taken off, because `choice` was chosen on the examples that judge it.
        budget: extra multiply-adds as a share of the base's.
    """

    gain: float
    low: float
    high: float
    choice: str
    optimism: float
    budget: float

    def __str__(self) -> str:
        ends = f"{self.low:+.1f} to {self.high:+.1f}" if np.isfinite(self.high) else "of one label: no interval"
        return f"at {100 * self.budget:.3g}% more multiply-adds about {self.gain:+.1f} mAP ({ends})"

    def to_dict(self) -> dict[str, Any]:
        """Gains as shares from 0 to 1."""
        interval = [self.low / 100, self.high / 100]
        return {"gain": self.gain / 100, "interval": interval, "choice": self.choice, "optimism": self.optimism / 100, "budget": self.budget}


def foresee(base: Judged, candidates: Mapping[str, Judged], budget: float) -> Forecast:
    """The gain on hold-out data of the best candidate, less what choosing it there flatters it by.

    The best of several on the same examples is partly the luckiest. So the choice, base included, is made on one half of the examples and judged
    on the other, both ways; how much worse it is there on average is the optimism. It is 0 where both halves choose alike. (The gain itself is
    of all examples, since average precision among half as many examples is another scale.) The interval is Student's over labels, of their
    differences in average precision; it leaves out what another training seed or another distribution of test examples would change.

    Args:
        base: the network as it is.
        candidates: by name, what may be chosen in its place; at least one.
        budget: that they keep to.
    """
    gains = {name: [_gain(base.whole, c.whole), *map(_gain, base.halves, c.halves)] for name, c in candidates.items()}
    with_base = np.array([[0.0, 0.0, 0.0], *gains.values()])[:, 1:]  # [candidates, halves]
    chosen = with_base.argmax(0)
    optimism = float(np.mean([with_base[chosen[half], half] - with_base[chosen[half], 1 - half] for half in (0, 1)]))
    choice = max(gains, key=lambda name: gains[name][0])
    differences = 100 * (candidates[choice].whole.average_precision - base.whole.average_precision)
    differences = differences[~np.isnan(differences)]
    gain, low, high = (max(0.0, float(x) - optimism) for x in (gains[choice][0], *(interval(differences) if len(differences) else (0.0, 0.0))))
    return Forecast(gain, low, high, choice, optimism, budget)


@dataclass(frozen=True)
class Diagnosis:
    """What keeps a network from scoring higher, and the evidence: mAP in percent.

    Attributes:
        holdout: of `base`, `classifier` (retrained) and `dense` (the best dense head that was tried, wide or within the budget) on hold-out examples.
        train: of the same on as many training examples; where there are fewer of these, `holdout` is of a sample as large.
        half_data: of that head on hold-out examples, trained on half of the training examples for twice the passes: as many steps, fewer examples.
    """

    holdout: Mapping[str, float]
    train: Mapping[str, float]
    half_data: float

    @property
    def gap(self) -> float:
        """By how much that dense head is better on training examples than on hold-out examples."""
        return self.train["dense"] - self.holdout["dense"]

    @property
    def learning(self) -> float:
        """What the second half of the training examples brought."""
        return self.holdout["dense"] - self.half_data

    @property
    def by_heart(self) -> bool:
        """Whether base and head are both at least `GAP` better on training examples than on hold-out examples."""
        return self.gap >= GAP and self.train["base"] - self.holdout["base"] >= GAP

    @property
    def limited_by(self) -> Limit:
        """The first that holds:

        - `capacity`: on hold-out examples the best dense head is at least `WORTH_IT` above the retrained classifier.
        - `nothing`: the best of the three is at `CEILING` or above.
        - `data`: the gap is at least `GAP`, and either the second half of the training examples brought at least `STEEP`, or the base has
          such a gap of its own (then its trunk knows all of them by heart, whatever a head is trained on).
        - `trunk`: the rest. The features do not tell the labels apart for a head of any width, not even on training examples, or only there.
        """
        if self.holdout["dense"] - self.holdout["classifier"] >= WORTH_IT:
            return "capacity"
        if max(self.holdout.values()) >= CEILING:
            return "nothing"
        return "data" if self.by_heart or (self.gap >= GAP and self.learning >= STEEP) else "trunk"

    def __str__(self) -> str:
        """One sentence: what limits the network, why, and what to do."""
        over_classifier = self.holdout["dense"] - self.holdout["classifier"]
        scores, base = (f"{self.train[of]:.1f} mAP on training examples and {self.holdout[of]:.1f} on held-out ones" for of in ("dense", "base"))
        also = f" It knows its training examples by heart ({base}), so more of them, or more augmented views, would help too." if self.by_heart else ""
        return {
            "capacity": f"It is limited by its capacity: a dense head is {over_classifier:+.1f} mAP above the retrained classifier, so plan heads.{also}",
            "nothing": f"Nothing holds it back: it reaches {max(self.holdout.values()):.1f} mAP already, so keep it.",
            "data": (
                f"It is limited by its data: a dense head reaches {scores}, and the second half of the training examples "
                f"brought {self.learning:+.1f}; get more of them, or more augmented views."
            ),
            "trunk": (
                f"It is limited by its trunk: a dense head reaches {scores}, and more of the same examples would hardly help; attach heads earlier, or "
                "train the trunk on."
            ),
        }[self.limited_by]

    def to_dict(self) -> dict[str, Any]:
        """mAP as shares from 0 to 1."""
        holdout, train = ({name: value / 100 for name, value in figures.items()} for figures in (self.holdout, self.train))
        return {"train": train, "holdout": holdout, "half_data": self.half_data / 100, "gap": self.gap / 100, "learning": self.learning / 100}


def _gain(base: Ranking, other: Ranking) -> float:
    """Points of mAP; 0 where no label has a positive."""
    return 100 * float(np.nan_to_num(nan_mean(other.average_precision - base.average_precision)))
