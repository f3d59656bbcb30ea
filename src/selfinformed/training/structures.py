"""Structures: what a search chooses among, and how each becomes a plan at a budget and a trained network."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch

from selfinformed.augmented.dispatch import Dispatch, running, uncertainty
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.slot import NewClassifier
from selfinformed.data.examples import Examples
from selfinformed.data.targets import Targets
from selfinformed.network.trunk import trunk_end
from selfinformed.network.wrap import Output, WrappedClassifier
from selfinformed.runtime.arguments import expect, one_of, real_number, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import unremarked
from selfinformed.structure.clustering import cluster, grouping_of
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.detections import default_top_k
from selfinformed.structure.groupings import Method
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import Capacity, HeadPlan, plan
from selfinformed.training.features import FeatureStore, score_batches
from selfinformed.training.fitting import fit, guess_output
from selfinformed.training.joining import Join, classifier_for
from selfinformed.training.moments import HeadInput
from selfinformed.training.recipe import Recipe
from selfinformed.training.stepping import History

_SAMPLE = 4_000  # hold-out examples from which is known how often each head would be run
_MARGIN = 0.98  # of a budget of executed multiply-adds: other examples choose a little differently


_GROUPINGS = ("dense", "both", *get_args(Kind), *(name for name in get_args(Method) if name != "spectral"))
# What each attribute of a choice may be: the bounds of a number, or some values; those in _OPTIONAL also None.
_WHOLE = {"n_groups": 1, "detections": 1, "depth": 0, "top_groups": 1, "kernel": 1, "shared": 0}
_NUMBERS: dict[str, dict[str, Any]] = {
    "cover_share": {"least": 0, "most": 1}, "dense_share": {"least": 0, "below": 1}, "share": {"above": 0, "most": 1}, "rate": {"above": 0},
    "residual": {"least": 0, "most": 1},
}  # fmt: skip
_VALUES = {"grouping": _GROUPINGS, "capacity": get_args(Capacity), "copy": (True, False), "linear": (True, False), "head_input": get_args(HeadInput)}
_OPTIONAL = ("detections", "cover_share", "top_groups", "attach", "head_input")


@dataclass(frozen=True)
class Choice:
    """One point of a search space: what a structure is made of, apart from its widths, which the budget gives.

    Attributes:
        grouping: `dense` (one head over all labels), a kind of counts for spectral clustering (`confusions`, `codetections`), `both` (heads
            for either), or another method of `cluster`.
        n_groups: how many groups; of `both`, of each.
        detections: K of the counts, None for the default.
        cover_share: see `cluster`; None for a partition.
        dense_share: share of the budget, 0 to 1, for one more head over all labels.
        depth: ReLU layers per head; 0: heads are output units alone, on one ReLU layer that all share (see `plan`).
        capacity: how widths divide the budget among groups; `examples`: by the hold-out examples of their labels.
        top_groups: heads that each example runs; None for all.
        share: of the examples, 0 to 1, the most uncertain: only they run heads.
        attach: the attach point that heads read; None for all side by side.
        kernel: height and width of heads' convolution over a map.
        copy: whether each head begins with a copy of the trunk from the attach point on.
        shared: units of a layer before all heads; 0 for none.
        linear: whether that layer is linear (low-rank heads).
        rate: factor of all learning rates: wide layers want lower ones.
        residual: share of the base's logits that heads see in training; see `Recipe`. Always 1 where only some examples run heads.
        head_input: what becomes of the features that heads read, `whitened`, `standardised` or `raw`; None: as `fit` is told.
    """

    grouping: str = "confusions"
    n_groups: int = 6
    detections: int | None = None
    cover_share: float | None = None
    dense_share: float = 0.0
    depth: int = 1
    capacity: Capacity = "uniform"
    top_groups: int | None = None
    share: float = 1.0
    attach: str | None = None
    kernel: int = 1
    copy: bool = False
    shared: int = 0
    linear: bool = True
    rate: float = 1.0
    residual: float = 1.0
    head_input: HeadInput | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name in _OPTIONAL:
                continue
            if name in _WHOLE:
                object.__setattr__(self, name, whole_number(name, value, least=_WHOLE[name]))
            elif name in _NUMBERS:
                object.__setattr__(self, name, real_number(name, value, **_NUMBERS[name]))
            elif name in _VALUES:
                one_of(name, value, _VALUES[name])
            else:
                expect(value, str, name, "a module's name")
        if self.grouping == "dense":  # one structure should have one name
            for name in ("n_groups", "detections", "cover_share", "dense_share", "capacity", "top_groups"):
                object.__setattr__(self, name, 1 if name == "n_groups" else next(f.default for f in fields(self) if f.name == name))
        elif self.top_groups is not None and self.top_groups >= self.n_groups * (2 if self.grouping == "both" else 1):
            object.__setattr__(self, "top_groups", None)
        if self.copy:
            object.__setattr__(self, "kernel", 1)
        if self.copy or self.kernel != 1:  # nothing is shared before a copy or a map's convolution
            object.__setattr__(self, "shared", 0)
            object.__setattr__(self, "depth", max(1, self.depth))
        if not self.depth and (self.grouping == "dense" or self.top_groups is None):  # run on every example that is a dense head
            object.__setattr__(self, "depth", 1)
        if not self.depth:
            object.__setattr__(self, "shared", 0)
            object.__setattr__(self, "capacity", "uniform")
        if not self.shared:
            object.__setattr__(self, "linear", True)
        if self.share < 1:
            object.__setattr__(self, "residual", 1.0)

    @property
    def is_dense(self) -> bool:
        """Whether it is a dense head run on every example: the control to beat."""
        return self.grouping == "dense" and self.share == 1

    def __str__(self) -> str:
        parts = ["one dense head" if self.grouping == "dense" else f"{self.n_groups} groups from {self.grouping}"]
        if self.detections is not None:
            parts.append(f"top {self.detections} detections")
        if self.cover_share is not None:
            parts.append(f"overlapping from a share of {self.cover_share:.4g}")
        if self.dense_share:
            parts.append(f"{self.dense_share:.4g} of the budget dense")
        if self.depth != 1:
            parts.append(f"{self.depth} layers" if self.depth else "output units on one shared ReLU layer")
        if self.capacity != "uniform":
            parts.append(f"widths by {self.capacity}")
        if self.shared:
            parts.append(f"behind {self.shared} shared {'linear' if self.linear else 'ReLU'} units")
        if self.copy:
            parts.append(f"each on a copy of the trunk from {self.attach or 'the attach point'} on")
        elif self.attach is not None:
            parts.append(f"read from {self.attach}")
        if self.kernel != 1:
            parts.append(f"{self.kernel} x {self.kernel} feature maps")
        if self.top_groups is not None:
            parts.append(f"{self.top_groups} run per example")
        if self.share < 1:
            parts.append(f"on the least certain {self.share:.4g} of the examples")
        if self.rate != 1:
            parts.append(f"learning rates x{self.rate:g}")
        if self.residual != 1:
            parts.append(seen_of(self.residual))
        if self.head_input is not None:
            parts.append(f"on {self.head_input} input")
        return ", ".join(parts)


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
            if (head_input := content.get("head_input")) not in (None, *get_args(HeadInput)):
                raise ValueError(f"head_input {head_input}")
            return cls(
                HeadPlan.from_dict(content["plan"], where), None if top_groups is None else int(top_groups), float(content["share"]),
                str(content["description"]), float(content["rate"]), residual, head_input,
            )
        except (KeyError, TypeError, ValueError) as error:
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


def seen_of(residual: float) -> str:
    """In words."""
    return f"trained seeing {residual:g} of the base's scores" if residual else "trained without the base's scores"


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


class Builder:
    """Turns choices into structures at one budget; counts and groups are made once.

    Args:
        net: the wrapped network.
        holdout: cached features of hold-out examples: their scores give the counts and say how often each head would be run.
        budget: extra multiply-adds as a share of the base's, executed on average.
        counts: counts already measured, by kind.
        seed: of clustering.
        train: targets of the training examples, whose frequencies say which heads run where residual is below 1 (default: the hold-out ones).
    """

    def __init__(
        self, net: WrappedClassifier, holdout: FeatureStore, budget: float, counts: Mapping[Kind, ConfusionCounts] | None = None, seed: int = 0,
        train: Targets | None = None,
    ) -> None:  # fmt: skip
        self.train = holdout.targets if train is None else train
        self.net, self.holdout, self.budget, self.seed = net, holdout, budget, seed
        self._counts: dict[tuple[Kind, int | None], ConfusionCounts] = {(kind, None): found for kind, found in (counts or {}).items()}
        self._groups: dict[tuple[str, int, int | None, float | None], LabelGroups] = {}
        self._scores: torch.Tensor | None = None
        self._copied: dict[int, bool] = {}

    def settled(self, choice: Choice) -> Choice:
        """The same structure by the one name that it has for this network, or the nearest one that the network can have: no convolution where the
        attach point is no map, no layer shared before one, no copy where the trunk cannot be copied, no map read beside other attach points.
        """
        points, attach = [point.module for point in self.net.attach_points], choice.attach
        if len(points) == 1:
            attach = None
        elif attach is None and any(shape.map for shape in self.net.shapes):
            attach = points[-1]
        elif attach not in points:
            return replace(choice, kernel=1, copy=False)
        place = 0 if attach is None else points.index(attach)
        at, copied = self.net.shapes[place].map, choice.copy and self._can_copy(place)
        if copied or at is None:
            return replace(choice, attach=attach, kernel=1, copy=copied)
        return replace(choice, attach=attach, kernel=min(choice.kernel, *at[1:]), copy=False, shared=0, depth=max(1, choice.depth))

    def _can_copy(self, place: int) -> bool:
        if place not in self._copied:
            try:
                self._copied[place] = trunk_end(self.net, place) is not None
            except SelfInformedError:
                self._copied[place] = False
        return self._copied[place]

    def structure(self, choice: Choice, budget: float | None = None) -> Structure:
        """The structure with the largest widths within the budget (or another one).

        Raises:
            SelfInformedError: the labels do not make so many groups, or the budget does not reach for one unit in each head.
        """
        budget = self.budget if budget is None else budget
        if choice.top_groups is not None or choice.share < 1:
            budget *= _MARGIN
        if choice.grouping == "dense":
            heads = self._plan(choice, LabelGroups.everything(self.net.n_labels), budget, [choice.share])
            return Structure(heads, None, choice.share, str(choice), choice.rate, choice.residual, choice.head_input)
        groups = self.groups(choice)
        dense = choice.dense_share
        heads = self._plan(choice, groups, budget * (1 - dense), self._usage(groups, choice))
        if dense:
            beside = replace(choice, depth=max(1, choice.depth))
            if choice.copy:  # the dense head has none: it reads the last attach point
                beside = replace(beside, copy=False, attach=self.net.attach_points[-1].module)
            # A layer that both share was paid for by the specialists.
            shared = heads.shared_multiply_adds * choice.share / self.net.cost.multiply_adds if choice.shared else 0.0
            heads += self._plan(beside, LabelGroups.everything(self.net.n_labels), budget * dense + shared, [choice.share])
        top_groups = None if choice.top_groups is None else choice.top_groups + (dense > 0)
        return Structure(heads, top_groups, choice.share, str(choice), choice.rate, choice.residual, choice.head_input)

    def groups(self, choice: Choice) -> LabelGroups:
        """The groups of a choice."""
        if choice.grouping == "both":
            one, other = (self._clustered(kind, choice) for kind in ("confusions", "codetections"))
            return one + other
        return self._clustered(choice.grouping, choice)

    def counts(self, kind: Kind, top_k: int | None = None) -> ConfusionCounts:
        """Counts over the hold-out examples, from their cached features."""
        if (kind, top_k) not in self._counts:
            counts = ConfusionCounts(self.net.n_labels, default_top_k(self.net.n_labels) if top_k is None else top_k, kind)
            for scores, targets, name in score_batches(self.net, self.holdout):
                counts.update(scores, targets, name)
            self._counts[kind, top_k] = counts
        return self._counts[kind, top_k]

    def _clustered(self, grouping: str, choice: Choice) -> LabelGroups:
        key = grouping, choice.n_groups, choice.detections, choice.cover_share
        if key not in self._groups:
            kind, method = grouping_of(grouping)
            counts = self.counts(kind, choice.detections)
            with unremarked():
                found = cluster(counts, choice.n_groups, self.seed, self.net.labels, choice.cover_share, method)
            if (confused := self.net.n_labels - len(found.ungrouped)) < choice.n_groups:
                raise SelfInformedError(f"n_groups: only {confused:,} labels are confused with another; give at most as many groups, not {choice.n_groups:,}")
            self._groups[key] = found
        return self._groups[key]

    def _plan(self, choice: Choice, groups: LabelGroups, budget: float, usage: list[float]) -> HeadPlan:
        kind: Kind = "codetections" if choice.grouping == "codetections" else "confusions"
        return plan(
            self.net, groups, budget=budget, depth=choice.depth, capacity=choice.capacity, usage=usage, shared_usage=choice.share,
            attach=choice.attach, kernel=choice.kernel, copy=choice.copy, shared=choice.shared, linear=choice.linear and choice.shared > 0,
            counts=self.counts(kind) if choice.capacity == "confusions" else None,
            examples=self.holdout.targets.positives() if choice.capacity == "examples" else None,
        )

    def _usage(self, groups: LabelGroups, choice: Choice) -> list[float]:
        """Share of the hold-out examples that would run each head, by the base's own scores."""
        if choice.top_groups is None:
            return [choice.share] * len(groups)
        scores = self._sample()
        output: Output = self.net.output or guess_output(self.holdout.targets)
        probe = Dispatch(plan(self.net, groups, hidden=(1,), attach=choice.attach), choice.top_groups, output, choice.share)
        if choice.residual != 1:  # as training will choose
            probe.shift = Join.to(self.net.classifier, choice.residual, self.train, output).shift.to(scores)
        rows = probe.unsure(scores)
        chosen = probe.choose(scores if rows is None else scores[rows])
        return (torch.bincount(chosen.flatten(), minlength=len(groups)) / len(scores)).tolist()

    def _sample(self) -> torch.Tensor:
        if self._scores is None:
            n = len(self.holdout)
            number = max(1, min(n, _SAMPLE, 100_000_000 // self.net.n_labels))
            rows = torch.from_numpy(np.sort(np.random.default_rng(0).choice(n, number, replace=False)))
            with torch.no_grad():
                self._scores = self.net.classifier(self.holdout.batch(rows)[1].to(self.net.classifier.weight)).cpu()
        return self._scores

