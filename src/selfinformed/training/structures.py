"""Structures: heads, and which of them each example runs; how they are trained, judged and kept."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch

from selfinformed.augmented.dispatch import running, uncertainty
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.slot import NewClassifier
from selfinformed.data.examples import Examples
from selfinformed.network.wrap import Output, WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import fit, guess_output
from selfinformed.training.joining import classifier_for
from selfinformed.training.moments import HeadInput
from selfinformed.training.recipe import Recipe
from selfinformed.training.stepping import History


@dataclass(frozen=True, eq=False)
class Structure:
    """Heads, and which of them each example runs.

    Attributes:
        plan: the heads.
        top_groups: heads that each example runs; None for all.
        share: of the examples, 0 to 1, the least certain: only they run heads.
        rate: factor of all learning rates of `fit`.
        description: in words.
        residual: of the recipe that trains it.
        head_input: of `fit`; None: as it is told.
    """

    plan: HeadPlan
    top_groups: int | None = None
    share: float = 1.0
    description: str = ""
    rate: float = 1.0
    residual: float = 1.0
    head_input: HeadInput | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether some examples leave some heads out."""
        return self.top_groups is not None or self.share < 1

    def train(
        self, net: WrappedClassifier, train: Examples | FeatureStore, *, holdout: Examples | FeatureStore | None = None, seed: int = 0,
        classifier: NewClassifier = "keep", chance: int | None = None, **training: Any,
    ) -> tuple[AugmentedClassifier, History]:
        """Trains it as `fit` does, on the examples each head will see; `training` are options of `fit`, whose recipe has the structure's `residual`.

        With a `share` below 1, hold-out data (or else the training data) say which uncertainty that share of the examples exceeds. The network then
        runs, and is saved, so that each example runs the heads that it was trained for (`run_conditionally`). With `chance`, a seed, as many
        examples drawn at random run heads instead: the control of that choice, which `evaluating` judges.
        """
        if self.share < 1 and training.get("finetune"):
            raise SelfInformedError("structure: with a share below 1 the threshold is the frozen network's; leave finetune at False")
        aug = augment(net, self.plan, classifier=classifier_for(self.residual, classifier), seed=seed)
        aug.output = training.get("output") or aug.output or guess_output(train.targets)
        with aug.conditional(self.top_groups, share=self.share, chance=chance) if self.is_conditional else nullcontext():
            history = fit(aug, train, holdout=holdout, seed=seed, **changed(training, self.rate, self.residual, self.head_input))
        above = None
        if self.share < 1 and chance is None:
            judged = train if holdout is None else holdout
            above = _threshold(uncertainties(aug, FeatureStore.of(net, judged)), self.share)
        aug.run_conditionally(self.top_groups, above)
        return aug, history

    @contextmanager
    def evaluating(self, aug: AugmentedClassifier, chance: int | None = None) -> Iterator[AugmentedClassifier]:
        """Within this context the trained network runs the heads that the structure says, and counts the multiply-adds it executes.

        With `chance`, a seed, they run on the structure's share of each batch, drawn at random whatever the scores.
        """
        run: dict[str, Any] = {"above": aug.above} if chance is None else {"share": self.share, "chance": chance}
        with aug.conditional(self.top_groups, **run) if self.is_conditional else nullcontext():
            yield aug

    def digest(self) -> str:
        """SHA-256 over the heads, their groups and widths, which of them are run, and how they are trained."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As search.json holds it."""
        content = {"plan": self.plan.to_dict(), "top_groups": self.top_groups, "share": self.share, "rate": self.rate, "description": self.description}
        content |= {"residual": self.residual} if self.residual != 1 else {}
        return content | ({"head_input": self.head_input} if self.head_input else {})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "structure") -> Structure:
        """Reads what `to_dict` gave; `where` is named in errors."""
        try:
            top_groups, residual = content["top_groups"], float(content.get("residual", 1.0))  # files of earlier versions have none
            if not 0 <= residual <= 1:
                raise ValueError(f"residual {residual}")
            if not 0 < (share := float(content["share"])) <= 1:
                raise ValueError(f"share {share}")
            if (head_input := content.get("head_input")) not in (None, *get_args(HeadInput)):
                raise ValueError(f"head_input {head_input}")
            return cls(
                HeadPlan.from_dict(content["plan"], where), None if top_groups is None else int(top_groups), share,
                str(content["description"]), float(content["rate"]), residual, head_input,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SelfInformedError(f"{where}: not a valid structure ({error!r}); delete it to have it made again") from None


_RATES: dict[str, float] = {
    name: inspect.signature(fit).parameters[name].default for name in ("learning_rate", "classifier_learning_rate", "finetune_learning_rate")
}


def changed(training: Mapping[str, Any], factor: float = 1.0, residual: float | None = None, head_input: HeadInput | None = None) -> dict[str, Any]:
    """The options of `fit` with all learning rates, given or its own, times a factor, with another `residual` in its recipe, and another input."""
    options = dict(training)
    if head_input is not None:
        options["head_input"] = head_input
    if factor != 1:
        options |= {name: factor * training.get(name, own) for name, own in _RATES.items()}
    if residual is not None and residual != (recipe := Recipe.of(training.get("recipe"))).residual:
        options["recipe"] = replace(recipe, residual=residual)
    return options


def _threshold(unsure: np.ndarray, share: float) -> float:
    """What so large a share of the examples exceeds, give or take half a percent of them: the middle of the widest gap there, since an example that lies
    on a threshold would run heads or not by the last bit of its scores."""
    falling = np.sort(unsure.astype(np.float64))[::-1]
    n, number = len(falling), running(share, len(falling))
    below = np.append(falling[1:], falling[-1] / 2)
    places = np.arange(max(1, number - n // 200), min(n, number + n // 200) + 1)  # so many run
    place = places[np.argmax((falling - below)[places - 1])]
    return float(falling[place - 1] + below[place - 1]) / 2


def uncertainties(model: WrappedClassifier | AugmentedClassifier, store: FeatureStore) -> np.ndarray:
    """float32 [N]: `uncertainty` of a network's classifier, without heads, on each example."""
    output: Output = model.output or guess_output(store.targets)
    found = []
    with torch.no_grad():
        for rows in torch.arange(len(store), device="cpu").split(512):  # type: ignore[no-untyped-call]
            read = store.batch(rows)[1].to(model.classifier.weight)
            found.append(uncertainty(model.classifier(read), output).cpu())
    return torch.cat(found).float().numpy()
