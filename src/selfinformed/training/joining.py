"""How heads and classifier become one network: heads that correct the classifier's mistakes, or heads that learn the labels beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.augmented.slot import NewClassifier
from selfinformed.data.targets import Targets
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.wrap import Output
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.losses import prior_of
from selfinformed.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Join:
    """With r = `residual`, c the classifier's logits, h what the heads add and p the logits of the labels' frequencies, training sees

        r c + (1 - r) p + h

    and the trained network is ((1 - r) c + that) / (2 - r): for r = 1 the paper's c + h, for r = 0 the mean of two networks that learned the same
    labels. Both are one set of weights: `fold` moves the factors and p into the classifier and the heads' output units, where they cost nothing.
    Where tau = `adjustment` is not 0 (`Recipe.logit_adjustment`), what was trained has no such frequencies in its scores, and c - tau p takes the place
    of the c that is averaged with it.

    A base that knows its training examples by heart leaves heads nothing there to correct; what it gets wrong it gets wrong on other examples. Heads
    that never saw its scores make other mistakes than it does.

    Attributes:
        residual: r, 0 to 1.
        prior: p [C], in the order of the labels that the logits have; zero where the classifier has no bias that could take it.
        adjustment: tau, at least 0.
    """

    residual: float
    prior: torch.Tensor
    adjustment: float = 0.0

    @classmethod
    def of(cls, aug: AugmentedClassifier, recipe: Recipe, targets: Targets, output: Output, n_views: int = 1) -> Join:
        """The join for a recipe and the label frequencies of these training examples, so many views of each; checks that the network can be trained so.

        Raises:
            SelfInformedError: with r < 1 only some examples would run heads, or heads are trained already; with r = 0 the classifier is new.
        """
        residual = recipe.residual
        if residual < 1 and aug.heads is not None:
            dispatch = aug.dispatch
            if dispatch is not None and (dispatch.share is not None or dispatch.above is not None):
                raise SelfInformedError("fit: with residual below 1 every example runs heads, or unlike scores would be ranked together; leave share at 1")
            if aug.heads.trained:
                raise SelfInformedError("fit: these heads are trained already, and residual below 1 trains them from the start; augment the network anew")
            if not residual and not torch.equal(aug.classifier.weight, aug.own_classifier.weight):
                said = "use classifier='keep', and no `onto` whose classifier was retrained"
                raise SelfInformedError(f"fit: residual=0 leaves the classifier as it is, and this one is not the network's own; {said}")
        return replace(cls.to(aug.classifier, residual, targets, output, n_views), adjustment=recipe.logit_adjustment)

    @classmethod
    def to(cls, classifier: nn.Linear | AveragedClassifier, residual: float, targets: Targets, output: Output, n_views: int = 1) -> Join:
        """The join of any heads to a classifier, for the label frequencies of these training examples, so many views of each."""
        prior = prior_of(targets, output, n_views).to(classifier.weight)
        return cls(residual, prior if classifier.bias is not None else torch.zeros_like(prior))

    @property
    def shift(self) -> torch.Tensor:
        """(1 - r) p [C]: what training adds to the classifier's logits."""
        return (1 - self.residual) * self.prior

    @property
    def folded_shift(self) -> torch.Tensor:
        """(1 - r) (1 - tau) p [C]: what `fold` adds to the classifier, up to a factor. Groups are chosen by the classifier as it will be."""
        return (1 - self.adjustment) * self.shift

    def in_training(self, logits: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """[B, C] and [B, C] to what the loss sees. With r = 0 the classifier gets no gradient."""
        if self.residual == 1:
            return logits + added
        return added + (torch.add(self.shift, logits, alpha=self.residual) if self.residual else self.shift)

    def trained(self, logits: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """[B, C] and [B, C] to the logits that the network has after `fold`."""
        return logits + added if self.residual == 1 else (logits + self.folded_shift + added) / (2 - self.residual)

    @torch.no_grad()
    def fold(self, aug: AugmentedClassifier) -> None:
        """Makes `trained` of the network's own parts their sum; `prior` must be in the labels' own order."""
        if self.residual == 1 or aug.heads is None:
            return
        divisor = 2 - self.residual
        parts = aug.classifier.parts if isinstance(aug.classifier, AveragedClassifier) else [aug.classifier]
        biases = [part.bias for part in parts if part.bias is not None]
        for part in parts:
            part.weight.div_(divisor)
        for bias in biases:  # whose sum is divided by the number of parts
            bias.add_(self.folded_shift * len(parts) / len(biases)).div_(divisor)
        for parameter in aug.heads.outputs.parameters():
            parameter.div_(divisor)


def classifier_for(residual: float, classifier: NewClassifier) -> NewClassifier:
    """How the classifier begins: as the base's where residual is 0, which does not train it."""
    return classifier if residual else "keep"
