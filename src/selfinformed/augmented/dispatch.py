"""Conditional evaluation: each example runs only the heads its scores point to, or none where the network is sure of it."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch._compile import _disable_dynamo

from selfinformed.augmented import choosing
from selfinformed.augmented.choosing import IntArray
from selfinformed.augmented.heads import Heads
from selfinformed.network.calls import is_traced
from selfinformed.network.wrap import Output
from selfinformed.runtime.arguments import real_number, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan

_Where = tuple[IntArray, IntArray, IntArray, IntArray]  # what `choosing.add_at` goes by
_CACHED = 250_000  # numbers that fit a cache: more are better copied for one head at a time


def uncertainty(logits: torch.Tensor, output: Output) -> torch.Tensor:
    """How many labels of each example a network expects to get wrong, [B], from its logits [B, C].

    One minus the largest probability for softmax outputs; for logistic ones the sum over labels of the smaller of p and 1 - p.
    """
    if output == "softmax":
        return 1 - (logits.amax(1) - logits.logsumexp(1)).exp()
    return torch.sigmoid(-logits.abs()).sum(1)


def running(share: float, n: int) -> int:
    """How many of n examples a share of them is: at least one."""
    return max(1, round(share * n))


class Divided(Protocol):
    """How processes that train together divide a batch."""

    def whole(self, values: torch.Tensor) -> torch.Tensor:
        """Of this process's part [b] and the others', what the whole batch has [B], in all."""

    def own(self, numbers: torch.Tensor) -> torch.Tensor:
        """Of the numbers of examples in the batch, those of this process's part, as numbers in it."""


def _uncompiled(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A method that `torch.compile` leaves alone. torch's own decorator imports what compiles: seconds, where nothing is compiled."""
    left_alone = _disable_dynamo(method)

    @functools.wraps(method)
    def call(*args: Any) -> torch.Tensor:
        compiling = torch.compiler.is_compiling() or "torch._dynamo" in sys.modules
        return left_alone(*args) if compiling else method(*args)

    return call


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
        chance: a seed: the `share` of each batch is drawn at random, whatever the scores; the control of choosing the most uncertain. A training's
            checkpoint holds how far the draws are.

    Attributes:
        examples: how many were seen since `reset`.
        helped: how many of them ran heads.
        multiply_adds: executed on average for each of them, the base's included.
        shift: [C], added to the logits before groups are chosen; None for none. Training sets it where it will change the classifier (see `Join`).
        drawing: the generator of `chance`.
        divided: set while a batch is seen in parts, of which a `share` is one of all of them.
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
        top_groups = whole_number("top_groups", top_groups, least=0)
        share = None if share is None else real_number("share", share, above=0, most=1)
        above = None if above is None else real_number("above", above, most=math.inf)
        chance = None if chance is None else seed_of(chance, "chance")
        if share is not None and above is not None:
            raise SelfInformedError(f"share: expected either a share or `above`; got {share:g} and {above:g}")
        if chance is not None and share is None:
            raise SelfInformedError("chance: expected a share of the examples beside it, which is drawn at random; give share=")
        if output is None and (share is not None or above is not None):
            raise SelfInformedError("share: how unsure a network is depends on its outputs; wrap it with output='softmax' or output='logistic'")
        self.plan, self.top_groups = plan, min(top_groups, len(plan.groups))
        self.output, self.share, self.above, self.chance = output, None if share == 1 else share, above, chance
        groups = plan.groups
        self._members = [torch.from_numpy(members) for members in groups.members]
        self._costs, self._shared_cost = plan.head_multiply_adds, plan.shared_multiply_adds
        self._always = torch.tensor([size == groups.n_labels for size in groups.sizes], device="cpu")
        # The group of each column of scores: of each label, or for a cover of each of its places in the groups.
        cover = sum(groups.sizes) != groups.n_labels - len(groups.ungrouped)
        labels, starts = np.concatenate([np.empty(0, np.int64), *groups.members]), np.cumsum([0, *groups.sizes], dtype=np.int64)
        self._labels = torch.from_numpy(labels) if cover else None
        group_of = np.repeat(np.arange(len(groups)), groups.sizes)
        if not cover:
            of_places, group_of = group_of, np.full(groups.n_labels, len(groups))
            group_of[labels] = of_places
        self._group_of = torch.from_numpy(group_of)
        self._arrays = labels, starts, self._always.numpy()
        _compiled()
        self.drawing = None if self.chance is None else torch.Generator()
        self.shift: torch.Tensor | None = None
        self.divided: Divided | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets what was executed so far, and draws by `chance` from the start again."""
        self.examples, self.helped, self._executed = 0, 0, 0.0
        if self.drawing is not None and self.chance is not None:
            self.drawing.manual_seed(self.chance)

    def told(self) -> list[Any]:
        """What tells it from another dispatch of the same heads."""
        return [self.top_groups, self.share, self.above, *([] if self.chance is None else [self.chance])]

    @property
    def multiply_adds(self) -> float:
        """Executed per example, the base's with them, on average over the examples so far."""
        return self.plan.base_multiply_adds + self._executed / max(1, self.examples)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] to the chosen groups [B, top_groups], the best first; ties go to the lower group."""
        scores = logits.detach() if self.shift is None else logits.detach() + self.shift
        if _suits_kernels(scores) and self.top_groups:
            chosen = choosing.best_groups(scores.contiguous().numpy(), *self._arrays, self.top_groups)
            return torch.from_numpy(chosen)
        if self._labels is not None:
            scores = scores.index_select(1, self._labels.to(scores.device))
        n = scores.shape[0]  # not len, which would tie an exported program to this batch
        best = scores.new_full((n, len(self.plan.groups) + 1), -torch.inf)  # the last is for labels in no group
        best = best.scatter_reduce_(1, self._group_of.to(scores.device).expand(n, -1), scores, "amax")[:, :-1]
        best = best.masked_fill(self._always.to(best.device), torch.inf)
        if is_traced():  # ONNX knows one sort, which is stable
            return best.sort(dim=1, descending=True).indices[:, : self.top_groups]
        return best.sort(dim=1, descending=True, stable=True).indices[:, : self.top_groups]

    def unsure(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Numbers of the examples that run heads, rising; None for all of them."""
        if self.output is None or (self.share is None and self.above is None):
            return None
        unsure = uncertainty(logits.detach(), self.output) if self.drawing is None else logits.detach()[:, 0]  # of which only the number counts
        if self.above is not None:
            return torch.nonzero(unsure > self.above).flatten()
        assert self.share is not None
        unsure = unsure if self.divided is None else self.divided.whole(unsure)
        if self.drawing is not None:
            unsure = torch.rand(len(unsure), generator=self.drawing, device="cpu").to(logits.device)
        run = unsure.argsort(descending=True, stable=True)[: running(self.share, len(unsure))].sort().values
        return run if self.divided is None else self.divided.own(run)

    def __call__(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the chosen heads add to the logits: attached [B, D], logits [B, C] -> [B, C]"""
        if is_traced() or (self.share is None and _is_fixed(logits)):
            return self._masked(heads, attached, logits)
        return self._counted(heads, attached, logits)

    @_uncompiled
    def _counted(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The same for the examples that run heads, each head on those that chose it."""
        self.examples += len(logits)
        if not self.top_groups:
            return torch.zeros_like(logits)
        rows = self.unsure(logits)
        if not len(logits):  # of a batch that others see the rest of
            return torch.zeros_like(logits)
        if rows is None:
            return self._chosen(heads, attached, logits)
        if not len(rows):
            return torch.zeros_like(logits)
        added = self._chosen(heads, attached.index_select(0, rows), logits.index_select(0, rows))
        return torch.zeros_like(logits).index_copy(0, rows, added)

    def _masked(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The same without a step that depends on the data: all heads run, and what was not chosen is left out."""
        if self.share is not None:
            raise SelfInformedError("export: with conditional(share=...) which heads run depends on the rest of the batch; leave that context, or give above=")
        runs = torch.zeros(logits.shape[0], len(self.plan.groups), dtype=logits.dtype, device=logits.device)
        runs = torch.scatter(runs, 1, self.choose(logits), 1.0)
        if self.output is not None and self.above is not None:
            runs = runs * (uncertainty(logits, self.output) > self.above)[:, None].to(runs)
        return heads(attached, runs)  # type: ignore[no-any-return]

    def _chosen(self, heads: Heads, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        n = len(logits)
        self.helped += n
        self._executed += n * self._shared_cost
        if self.top_groups == len(self.plan.groups):
            self._executed += n * sum(self._costs)
            return heads(attached)  # type: ignore[no-any-return]
        chosen, where = self.choose(logits), None
        if _suits_kernels(logits):
            number, order = choosing.by_group(chosen.numpy(), len(self._costs))
            where, counts, examples = (number, order, *self._arrays[:2]), number.tolist(), torch.from_numpy(order)
        else:
            flat = chosen.flatten().cpu()
            counts, examples = torch.bincount(flat, minlength=len(self._costs)).tolist(), flat.argsort(stable=True) // self.top_groups
        self._executed += sum(cost * count for cost, count in zip(self._costs, counts, strict=True))
        ran = [group for group, count in enumerate(counts) if count]
        sizes = [counts[group] for group in ran]
        rows = torch.split(examples.to(logits.device), sizes)
        given = heads.some(self._inputs(heads, attached, dict(zip(ran, rows, strict=True))))
        values = torch.cat([given[group].flatten() for group in ran]).to(logits.dtype)  # another under autocast
        columns = [self._members[group] for group in ran]
        if where is not None:
            return _Placed.apply(values, logits, where, rows, columns)  # type: ignore[no-any-return, no-untyped-call]
        places = _places(torch.split(examples, sizes), columns, logits.shape[1]).to(logits.device)  # one copy, not one for each head
        return torch.zeros_like(logits).flatten().index_put((places,), values, accumulate=True).view_as(logits)

    def _inputs(self, heads: Heads, attached: torch.Tensor, rows: dict[int, torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
        """Each head that some examples chose, and what it reads, on those examples."""
        for number, reader in enumerate(heads.readers):
            mine = [group for group in heads.heads_of(number) if group in rows]
            if not mine:
                continue
            read, sizes = reader.inputs(attached), [len(rows[group]) for group in mine]
            if read.ndim == 2 and len(mine) > 1:
                read = read if read.stride(1) == 1 else read.contiguous()
                if torch.is_grad_enabled() or sum(sizes) * read.shape[1] <= _CACHED:  # taken for all at once, which has one gradient
                    taken = read.index_select(0, torch.cat([rows[group] for group in mine]))
                    yield from zip(mine, torch.split(taken, sizes), strict=True)
                    continue
            for group in mine:
                yield group, read if len(rows[group]) == len(read) else read.index_select(0, rows[group])


def _is_fixed(x: torch.Tensor) -> bool:
    """Whether the steps taken now may not depend on the values in x: they become a program, are taken for all of a `vmap` at once, or there are none."""
    return is_traced() or x.is_meta or torch._C._are_functorch_transforms_active()


def _suits_kernels(x: torch.Tensor) -> bool:
    if torch.compiler.is_compiling() or _is_fixed(x):  # which give tensors without memory
        return False
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@functools.cache
def _compiled() -> None:
    """Has the loops compiled, once in a process, before anything is timed or waits for an answer: some seconds the first time, else half of one."""
    logits, groups = np.zeros((1, 1), np.float32), (np.zeros(1, np.int64), np.array([0, 1]))
    counts, examples = choosing.by_group(choosing.best_groups(logits, *groups, np.zeros(1, np.bool_), 1), 1)
    choosing.add_at(logits, counts, examples, *groups, logits[0])
    choosing.taken_at(logits, counts, examples, *groups, logits[0])


def _places(rows: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], n_labels: int) -> torch.Tensor:
    """Where in flat logits [B * C] each group's rows and columns are."""
    return torch.cat([(of[:, None] * n_labels + labels).flatten() for of, labels in zip(rows, columns, strict=True)])


class _Placed(torch.autograd.Function):
    """Sums what heads give, flat, in the places of the logits: one operation, since the gradient of one for each head would be as large as the logits."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, logits: torch.Tensor, where: _Where, *places: Sequence[torch.Tensor]) -> torch.Tensor:
        ctx.where, ctx.places = where, places
        placed = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        choosing.add_at(placed.numpy(), *where, values.numpy())
        return placed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        where: _Where = ctx.where
        rows, columns = ctx.places
        if gradient.requires_grad or not _suits_kernels(gradient):  # a second derivative is asked for
            return gradient.flatten()[_places(rows, columns, gradient.shape[1])], None, None, None, None
        values = gradient.new_empty(sum(len(of) * len(labels) for of, labels in zip(rows, columns, strict=True)))
        choosing.taken_at(gradient.contiguous().numpy(), *where, values.numpy())
        return values, None, None, None, None
