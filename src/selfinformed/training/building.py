"""What a choice becomes at a budget: groups from counts, a plan, a structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from selfinformed.augmented.dispatch import Dispatch
from selfinformed.data.targets import Targets
from selfinformed.network.trunk import trunk_end
from selfinformed.network.wrap import Output, WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import unremarked
from selfinformed.structure.clustering import cluster, grouping_of
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.detections import default_top_k
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, score_batches
from selfinformed.training.fitting import guess_output
from selfinformed.training.joining import Join
from selfinformed.training.structures import Structure

_SAMPLE = 4_000  # hold-out examples from which is known how often each head would be run
_MARGIN = 0.98  # of a budget of executed multiply-adds: other examples choose a little differently


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
            probe.shift = Join.to(self.net.classifier, choice.residual, self.train, output).folded_shift.to(scores)
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
