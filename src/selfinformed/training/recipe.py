"""How to train beyond passes, rates and batch size: one frozen set of options, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from selfinformed.runtime.arguments import expect, near, one_of, real_number, whole_number
from selfinformed.runtime.errors import SelfInformedError

REVISION = 5  # of what the same options train: what was kept by another is made again
RESIDUALS = (1.0, 0.25, 0.0)  # what is tried where nothing is said of `residual`
Schedule = Literal["one_cycle", "cosine", "constant"]
Watched = Literal["mean_average_precision", "loss"]


@dataclass(frozen=True)
class Recipe:
    """Options of training; the defaults are plain training.

    Attributes:
        residual: r, 0 to 1: share of the classifier's logits that heads see in training. With 1 they learn what it gets wrong on the
            training examples (the paper's way); with 0 they learn the labels beside it, it stays as it is, and the network is the mean of both
            (see `Join`). 0.25 or so is for a base that knows its training examples by heart. Heads must be new, and all examples run them.
        schedule: of the learning rates: `one_cycle` (up over the first tenth, down to zero), `cosine` (down to zero) or `constant`.
        weight_decay: of AdamW, at least 0.
        epsilon: of AdamW, above 0. It divides gradients, means over the batch, by their own size plus this. With thousands of logistic outputs most
            gradients are of the labels' negatives and next to nothing; at 1e-8 they move weights as far as a label's few positives do. A
            larger one, 1e-4 to 1e-3, lets the positives decide; it wants learning rates some three times higher. With tens of labels it only slows
            training down.
        label_smoothing: share, from 0 to below 1, of each target that is spread over all labels (softmax) or moved towards 1/2 (logistic; of hundreds of
            labels nearly all are negatives of an example, and moving those drowns its few positives).
        logit_adjustment: tau, at least 0. Training sees the scores plus tau times the log of each label's share of the training
            examples (logistic: its log odds), so that the scores themselves rank labels as if all were equally frequent at tau = 1
            (Menon et al. 2021, eq. 10). Labels without an example count as half an example.
        class_weights: beta, from 0 to below 1. An example's loss is weighted by (1 - beta) / (1 - beta^n) for a label of n examples, scaled
            to 1 on average over labels (Cui et al. 2019, eq. 2); with several labels by their mean, with none by 1.
        balanced_sampling: power, from 0 (none) to 1 (every label equally often): examples are drawn in proportion to the mean over
            their labels of n^-power, as many a pass as there are. They are then read in no particular order.
        soft_targets: share, 0 to 1, of the loss that is cross-entropy with the teacher's outputs (the paper's section 3), times the
            squared temperature, which keeps the size of its gradient (Hinton et al. 2014).
        temperature: above 0, divides the teacher's logits and the network's in that part.
        ema: decay, from 0 (off) to below 1, of an exponential moving average of the weights, which is what training then gives. The average
            forgets faster at first: the decay of step t is at most (1 + t) / (10 + t).
        tail_average: share, 0 (off) to 1, of the last steps whose weights' mean is what training gives.
        patience: passes without a better figure on the held-out examples after which training stops; those of the best pass are kept. 0 is off.
        watch: the figure: `mean_average_precision` (at 50) or `loss`.
    """

    residual: float = 1.0
    schedule: Schedule = "one_cycle"
    weight_decay: float = 1e-4
    epsilon: float = 1e-8
    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0
    class_weights: float = 0.0
    balanced_sampling: float = 0.0
    soft_targets: float = 0.0
    temperature: float = 2.0
    ema: float = 0.0
    tail_average: float = 0.0
    patience: int = 0
    watch: Watched = "mean_average_precision"

    def __post_init__(self) -> None:
        for name, bounds in _RANGES.items():
            object.__setattr__(self, name, real_number(f"recipe: {name}", getattr(self, name), **bounds))
        object.__setattr__(self, "patience", whole_number("recipe: patience", self.patience, least=0))
        for name, choices in (("schedule", get_args(Schedule)), ("watch", get_args(Watched))):
            one_of(f"recipe: {name}", getattr(self, name), choices)
        if self.ema and self.tail_average:
            raise SelfInformedError("recipe: ema and tail_average are two ways of averaging the weights; leave one of them at 0")

    @classmethod
    def of(cls, options: Recipe | Mapping[str, Any] | None) -> Recipe:
        """A recipe as it is, or from its options by name."""
        if isinstance(options, Recipe):
            return options
        expect(options, Mapping | None, "recipe", "a Recipe or its options by name", "give Recipe(ema=0.99), or {'ema': 0.99}")
        known = [field.name for field in fields(cls)]
        for name in options or ():
            if name not in known:
                hint = near(name, known, f"expected some of {', '.join(known)}")
                raise SelfInformedError(f"recipe: unknown option {name!r}; {hint}")
        return cls(**(options or {}))


_SHARE, _BELOW_ONE, _NOT_NEGATIVE, _POSITIVE = {"least": 0, "most": 1}, {"least": 0, "below": 1}, {"least": 0}, {"above": 0}
_RANGES: dict[str, dict[str, Any]] = {
    "residual": _SHARE, "weight_decay": _NOT_NEGATIVE, "epsilon": _POSITIVE, "label_smoothing": _BELOW_ONE, "logit_adjustment": _NOT_NEGATIVE,
    "class_weights": _BELOW_ONE, "balanced_sampling": _SHARE, "soft_targets": _SHARE, "temperature": _POSITIVE, "ema": _BELOW_ONE, "tail_average": _SHARE,
}  # fmt: skip
