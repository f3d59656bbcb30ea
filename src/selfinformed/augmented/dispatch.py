"""Conditional evaluation: each example runs only the heads its scores point to, or none where the network is sure of it."""

from __future__ import annotations

import numpy as np
import torch

from selfinformed.augmented.heads import Heads
from selfinformed.network.wrap import Output
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan


def uncertainty(logits: torch.Tensor, output: Output) -> torch.Tensor:
    """How many labels of each example a network expects to get wrong, [B], from its logits [B, C].

    One minus the largest probability for softmax outputs; for logistic ones the sum over labels of the smaller of p and 1 - p.
    """
    if output == "softmax":
        return 1 - (logits.amax(1) - logits.logsumexp(1)).exp()
    return torch.sigmoid(-logits.abs()).sum(1)


class Dispatch:
    """Chooses heads for each example and runs each head once, on the examples that chose it.

    A group's score is the best logit that the augmented network's own classifier gives one of its labels, so choosing costs no
    multiply-adds. A head over all labels always comes first. Examples that the classifier is sure of may run no head at all.

    Args:
        plan: the heads.
        top_groups: how many of them an example runs.
        output: what the logits are for; needed for `share` and `above`.
        share: above 0, up to 1: of each batch only this share of the examples, the most uncertain, run heads (for training).
        above: only examples with more `uncertainty` than this run heads (for evaluation: examples do not depend on their batch).
        chance: a seed: the `share` of each batch is drawn at random, whatever the scores; the control of choosing the most uncertain. A
            training that goes on from a checkpoint draws from the start again.

    Attributes:
        examples: how many were seen since `reset`.
        helped: how many of them ran heads.
        multiply_adds: executed on average for each of them, the base's included.
        shift: [C], added to the logits before groups are chosen; None for none. Training sets it where it will change the classifier (see `Join`).
    """

    def __init__(
        self,
        plan: HeadPlan,
        top_groups: int,
        output: Output | None = None,
        share: float | None = None,
        above: float | None = None,
        chance: int | None = None,
    ) -> None:
        if top_groups < 0 or isinstance(top_groups, bool):
            raise SelfInformedError(f"top_groups: expected a number of heads from 0 to {len(plan.groups)}, got {top_groups!r}")
        if share is not None and (not 0 < share <= 1 or above is not None):
            raise SelfInformedError(f"share: expected more than 0, at most 1, and not with `above`; got {share!r}")
        if chance is not None and share is None:
            raise SelfInformedError("chance: expected a share of the examples beside it, which is drawn at random; give share=")
        if output is None and (share is not None or above is not None):
            raise SelfInformedError("share: how unsure a network is depends on its outputs; wrap it with output='softmax' or output='logistic'")
        self.plan, self.top_groups = plan, min(top_groups, len(plan.groups))
        self.output, self.share, self.above, self.chance = output, None if share == 1 else share, above, chance
        groups = plan.groups
        self._costs = torch.tensor(plan.head_multiply_adds, dtype=torch.float64)
        self._always = torch.tensor([size == groups.n_labels for size in groups.sizes])
        self._members = [torch.from_numpy(members) for members in groups.members]
        # The group of each column of scores: of each label, or for a cover of each of its places in the groups.
        cover = sum(groups.sizes) != groups.n_labels - len(groups.ungrouped)
        self._labels = torch.cat(self._members) if cover else None
        self._group_of = torch.full((groups.n_labels,), len(groups))
        for number, members in enumerate(self._members):
            self._group_of[members] = number
        if cover:
            self._group_of = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups.sizes))
        self._layers = _disjoint(plan)
        self.shift: torch.Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets what was executed so far, and draws by `chance` from the start again."""
        self.examples, self.helped, self._executed = 0, 0, 0.0
        self._drawn = None if self.chance is None else torch.Generator().manual_seed(self.chance)

    @property
    def multiply_adds(self) -> float:
        return self.plan.base_multiply_adds + self._executed / max(1, self.examples)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] to the chosen groups [B, top_groups], the best first; ties go to the lower group."""
        scores = logits.detach() if self.shift is None else logits.detach() + self.shift
        if self._labels is not None:
            scores = scores.index_select(1, self._labels.to(scores.device))
        n = scores.shape[0]  # not len, which would tie an exported program to this batch
        best = scores.new_full((n, len(self.plan.groups) + 1), -torch.inf)  # the last is for labels in no group
        best = best.scatter_reduce_(1, self._group_of.to(scores.device).expand(n, -1), scores, "amax")[:, :-1]
        best = best.masked_fill(self._always.to(best.device), torch.inf)
        if torch.compiler.is_exporting():  # ONNX knows one sort, which is stable
            return best.sort(dim=1, descending=True).indices[:, : self.top_groups]
        return best.sort(dim=1, descending=True, stable=True).indices[:, : self.top_groups]

    def unsure(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Numbers of the examples that run heads, rising; None for all of them."""
        if self.output is None or (self.share is None and self.above is None):
            return None
        unsure = uncertainty(logits.detach(), self.output) if self._drawn is None else torch.rand(len(logits), generator=self._drawn).to(logits.device)
        if self.above is not None:
            return torch.nonzero(unsure > self.above).flatten()
        assert self.share is not None
        return unsure.argsort(descending=True, stable=True)[: max(1, round(self.share * len(unsure)))].sort().values

    def __call__(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the chosen heads add to the logits: attached [B, D], logits [B, C] -> [B, C]"""
        if torch.compiler.is_exporting():
            return self._masked(heads, attached, logits)
        self.examples += len(logits)
        if not self.top_groups:
            return torch.zeros_like(logits)
        rows = self.unsure(logits)
        if rows is None:
            return self._chosen(heads, attached, logits)
        if not len(rows):
            return torch.zeros_like(logits)
        added = self._chosen(heads, attached.index_select(0, rows), logits.index_select(0, rows))
        return torch.zeros_like(logits).index_copy(0, rows, added)

    def _masked(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The same without a step that depends on the data: all heads run, and what was not chosen is left out."""
        runs = torch.zeros(logits.shape[0], len(self.plan.groups) + 1, dtype=logits.dtype, device=logits.device)  # the last is of output units that are padding
        runs = torch.scatter(runs, 1, self.choose(logits), 1.0)
        if self.output is not None and self.above is not None:
            runs = runs * (uncertainty(logits, self.output) > self.above)[:, None].to(runs)
        return heads(attached, runs)  # type: ignore[no-any-return]

    def _chosen(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        n, n_labels = logits.shape
        self.helped += n
        self._executed += n * self.plan.shared_multiply_adds
        if self.top_groups == len(self.plan.groups):
            self._executed += n * float(self._costs.sum())
            return heads(attached)  # type: ignore[no-any-return]
        chosen = self.choose(logits).cpu()
        self._executed += float(self._costs[chosen].sum())
        by_group = chosen.flatten().argsort(stable=True)
        sizes = torch.bincount(chosen.flatten(), minlength=len(self._members)).tolist()
        examples = torch.split(by_group // self.top_groups, sizes)
        inputs, pieces = [reader.inputs(attached) for reader in heads.readers], heads.pieces()
        added = torch.zeros(n * n_labels, dtype=logits.dtype, device=logits.device)
        for layer in self._layers:  # groups that share no label: no place is written twice
            places, values = [], []
            for group in layer:
                rows = examples[group].to(logits.device)
                if len(rows):
                    read = inputs[heads.reader_of[group]]
                    values.append(heads.head(group, read if len(rows) == n else read.index_select(0, rows), pieces).flatten())
                    places.append((rows[:, None] * n_labels + self._members[group].to(rows.device)).flatten())
            if places:
                at = torch.cat(places)
                value = torch.cat(values)
                added = added.index_put((at,), value if layer is self._layers[0] else added[at] + value)
        return added.view(n, n_labels)


def _disjoint(plan: HeadPlan) -> list[list[int]]:
    """The groups in as few sets as a greedy choice finds, so that no two groups of a set share a label: one set for a partition."""
    layers: list[list[int]] = []
    taken: list[np.ndarray] = []
    for group, members in enumerate(plan.groups.members):
        free = next((i for i, labels in enumerate(taken) if not labels[members].any()), len(layers))
        if free == len(layers):
            layers.append([])
            taken.append(np.zeros(plan.groups.n_labels, dtype=bool))
        layers[free].append(group)
        taken[free][members] = True
    return layers
