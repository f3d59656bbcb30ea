"""The loss and, in closed form, its gradient in the scores: training never needs autograd through the loss, nor mostly its value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from selfinformed.data.targets import Targets
from selfinformed.network.wrap import Output
from selfinformed.training.recipe import Recipe

_LEAST = 1e-15  # of a probability
_LOW = -15.0  # where exp(x) and log(1 + exp(x)) are the same number


def loss_of(scores: torch.Tensor, targets: Targets, output: Output) -> torch.Tensor:
    """Mean over examples of cross-entropy (softmax) or of binary cross-entropy summed over labels (logistic).

    scores [B, C]; for softmax each example has exactly one label.
    """
    examples, labels = _pairs(targets, scores)
    if output == "softmax":
        return F.cross_entropy(scores, labels)
    return (_softplus(scores).sum() - scores[examples, labels].sum()) / len(scores)


def gradient_of(scores: torch.Tensor, targets: Targets, output: Output, n: int | None = None) -> torch.Tensor:
    """The gradient [B, C] of `loss_of` in the scores: probabilities minus annotations, over B. A third of the work of the loss itself.

    `n` is the number of examples where these are only some of a batch, and the mean is over all of it.
    """
    examples, labels = _pairs(targets, scores)
    gradient = _probabilities(scores.detach(), output)
    gradient[examples, labels] -= 1
    return gradient.div_(len(scores) if n is None else n)


@dataclass(frozen=True, eq=False)
class Objective:
    """What training lowers: (1 - soft) times the mean of weight times `loss_of` of the shifted scores against smoothed targets, plus soft
    times temperature^2 times the cross-entropy with a teacher's outputs, both sides' logits divided by the temperature.

    Attributes:
        output: softmax or logistic.
        smoothing: of the targets; see `Recipe.label_smoothing`.
        shift: [C], added to the scores; see `Recipe.logit_adjustment`.
        weights: [C], of each label's examples; see `Recipe.class_weights`.
        soft, temperature: see `Recipe.soft_targets`.
    """

    output: Output
    smoothing: float = 0.0
    shift: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    soft: float = 0.0
    temperature: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe, targets: Targets, output: Output, n_views: int = 1) -> Objective:
        """The objective of a recipe, for the label frequencies of these training examples, of which so many are views of the same."""
        shift = (recipe.logit_adjustment * prior_of(targets, output, n_views)).float() if recipe.logit_adjustment else None
        weights = None
        if recipe.class_weights:
            counts = targets.positives() / n_views
            inverse = np.where(counts > 0, (1 - recipe.class_weights) / np.maximum(1 - recipe.class_weights**counts, 1e-300), 0.0)
            weights = torch.from_numpy(inverse / inverse[counts > 0].mean() if counts.any() else inverse).float()
        return cls(output, recipe.label_smoothing, shift, weights, recipe.soft_targets, recipe.temperature)

    @property
    def plain(self) -> bool:
        """Whether it is `loss_of`."""
        return not self.smoothing and self.shift is None and self.weights is None and not self.soft

    def loss(self, scores: torch.Tensor, targets: Targets, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """The value, a scalar, for scores and the teacher's logits [B, C]; differentiable."""
        if self.plain:
            return loss_of(scores, targets, self.output)
        examples, labels = _pairs(targets, scores)
        shifted = scores if self.shift is None else scores + self.shift.to(scores)
        if self.output == "softmax":
            log = shifted.log_softmax(1)
            each = -(1 - self.smoothing) * log[examples, labels] - self.smoothing * log.mean(1)
        else:
            chosen = torch.zeros_like(scores[:, 0]).index_add(0, examples, shifted[examples, labels])
            each = _softplus(shifted).sum(1) - (1 - self.smoothing) * chosen - self.smoothing / 2 * shifted.sum(1)
        if self.weights is not None:
            each = each * self._example_weights(targets, scores)
        total = (1 - self.soft) * each.mean()
        if self.soft and teacher is not None:
            own, wanted = scores / self.temperature, _probabilities(teacher.to(scores) / self.temperature, self.output)
            entropies = -(wanted * own.log_softmax(1)) if self.output == "softmax" else _softplus(own) - wanted * own
            total = total + self.soft * self.temperature**2 * entropies.sum(1).mean()
        return total

    def gradient(self, scores: torch.Tensor, targets: Targets, teacher: torch.Tensor | None = None, n: int | None = None) -> torch.Tensor:
        """The gradient [B, C] of `loss` in the scores; `n` as in `gradient_of`."""
        if self.plain:
            return gradient_of(scores, targets, self.output, n)
        scores = scores.detach()
        examples, labels = _pairs(targets, scores)
        gradient = _probabilities(scores if self.shift is None else scores + self.shift.to(scores), self.output)
        if self.smoothing:
            gradient -= self.smoothing / (scores.shape[1] if self.output == "softmax" else 2)
        gradient[examples, labels] -= 1 - self.smoothing
        if self.weights is not None:
            gradient *= self._example_weights(targets, scores)[:, None]
        if self.soft and teacher is not None:
            own, wanted = (_probabilities(logits.to(scores) / self.temperature, self.output) for logits in (scores, teacher))
            gradient.mul_(1 - self.soft).add_(own.sub_(wanted), alpha=self.soft * self.temperature)
        return gradient.div_(len(scores) if n is None else n)

    def _example_weights(self, targets: Targets, scores: torch.Tensor) -> torch.Tensor:
        assert self.weights is not None
        examples, labels = _pairs(targets, scores)
        sizes = torch.from_numpy(np.diff(targets.offsets)).to(scores)
        sums = torch.zeros_like(sizes).index_add(0, examples, self.weights.to(scores)[labels])
        return torch.where(sizes > 0, sums / sizes.clamp(min=1), 1.0)


def prior_of(targets: Targets, output: Output, n_views: int = 1) -> torch.Tensor:
    """float64 [C]: the logits of the labels' frequencies: the log of each label's share of the examples (softmax) or its log odds (logistic).

    Labels without an example count as half an example, however many views there are of each.
    """
    counts, n = targets.positives() / n_views, len(targets) / n_views
    others = 1.0 if output == "softmax" else np.maximum(n - counts, 0.5) / n
    return torch.from_numpy(np.log(np.maximum(counts, 0.5) / n / others))


def _probabilities(logits: torch.Tensor, output: Output) -> torch.Tensor:
    """[B, C]; those below 1e-15, of which a trained network gives mostly, are 0.

    They move no weight, but their products, and their squares in AdamW, are subnormal numbers, with which processors calculate many times as long.
    """
    return F.threshold(logits.softmax(1) if output == "softmax" else logits.sigmoid(), _LEAST, 0.0, inplace=True)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)). PyTorch's takes four to eight times as long where most of x is far below zero, as a trained network's logits are."""
    return F.softplus(x.clamp(min=_LOW)) + (x.clamp(-80.0, _LOW).exp() - math.exp(_LOW))


def _pairs(targets: Targets, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    examples, labels = (torch.from_numpy(array).to(scores.device) for array in targets.pairs())
    return examples, labels
