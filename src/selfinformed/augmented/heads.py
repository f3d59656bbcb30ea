"""The heads: stacks of ReLU layers read from the attach points, each wired only to its group's output units."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from selfinformed.augmented.blocks import BlockLinear, Piece
from selfinformed.augmented.readers import InputTransform, Reader
from selfinformed.network.trunk import CopiedEnd
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan

_QUANTIZING = threading.Lock()


@dataclass(frozen=True)
class Pieces:
    """The weights of each head alone: its units of the first layer, its blocks of deeper layers, and of the output units."""

    first: dict[int, tuple[torch.Tensor, torch.Tensor]]
    layers: list[list[Piece]]
    outputs: list[Piece]


class Heads(nn.Module):
    """All heads of a plan as one module: features [B, D] to what they add to the logits [B, C].

    First layers that read the same source are one matrix product, deeper layers and output units of heads of one shape too (see `BlockLinear`), and
    one gather restores the order of the labels. Nothing is padded: the multiply-adds executed are the plan's.
    `fit` trains the heads on linearly transformed features (standardised or whitened); `fold` then moves the transform into the
    first layers, where it costs nothing.

    Args:
        plan: what to build.
        zero_outputs: start with output weights of zero, so that the augmented network equals the base.
        trunk: the network whose trunk's end heads copy, where the plan says so.
    """

    order: torch.Tensor
    group_of: torch.Tensor

    def __init__(self, plan: HeadPlan, zero_outputs: bool = True, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan
        n = len(plan.groups)
        # Heads with one source share a reader; a copy of the trunk's end is a head's own.
        read = [(source, head if source.copy else None) for head, source in enumerate(plan.sources)]
        distinct = list(dict.fromkeys(read))
        self._quantized = 0  # contexts within which the layers run in 8 bits
        self.reader_of = [distinct.index(r) for r in read]
        # The pool: columns of hidden units, those of each layer of all heads side by side; a head's next layer begins reading at `at`.
        at, self.rows = [0] * n, [slice(0)] * n
        self.readers: list[Reader] = []
        width = 0
        for number, (source, _) in enumerate(distinct):
            first = 0
            for head in self.heads_of(number):
                size = plan.hidden[head][0] if plan.hidden[head] else 0  # none of its own: it reads the shared layer from its first unit
                at[head], self.rows[head] = width + first, slice(first, first + size)
                first += size
            copy = None
            if source.copy is not None:
                assert trunk is not None
                copy = CopiedEnd(trunk, source.copy)
            self.readers.append(Reader(source, [plan.hidden[head][0] for head in self.heads_of(number) if plan.hidden[head]], copy))
            width += self.readers[-1].columns
        self.readers = cast("list[Reader]", nn.ModuleList(self.readers))
        self.layers = cast("list[BlockLinear]", nn.ModuleList())
        self.deep: list[list[int]] = []
        stage, ends = 0, [(0, a) for a in at]  # of each head: the layer that ends it, and where in that layer's columns
        widths = [width]
        while deep := [head for head in range(n) if len(plan.hidden[head]) > stage + 1]:
            blocks = [(plan.hidden[head][stage], plan.hidden[head][stage + 1]) for head in deep]
            layer = BlockLinear(blocks, [ends[head][1] for head in deep], widths[-1], bias=True)
            stage += 1
            for block, head in enumerate(deep):
                ends[head] = stage, layer.firsts[block]
            self.layers.append(layer)
            self.deep.append(deep)
            widths.append(layer.outputs)
        self.ending = sorted({end for end, _ in ends})
        begins = dict(zip(self.ending, itertools.accumulate((widths[end] for end in self.ending), initial=0), strict=False))
        blocks = [(plan.hidden[head][-1] if plan.hidden[head] else plan.sources[head].size, size) for head, size in enumerate(plan.groups.sizes)]
        self.outputs = BlockLinear(blocks, [begins[end] + a for end, a in ends], sum(widths[end] for end in self.ending), bias=False)
        self._initialise(zero_outputs)
        self.trained = 0
        # order[r, c] is where the r-th contribution to label c stands in the output units; the column after the last is zero.
        self.register_buffer("order", _order(plan), persistent=False)
        self.has_zero = bool((self.order == self.outputs.outputs).any())
        self.register_buffer("group_of", torch.repeat_interleave(torch.arange(n), torch.tensor(plan.groups.sizes)), persistent=False)

    @property
    def trained(self) -> int:
        """How many of the first heads are functions of the raw features: all of them where the output units have changed since this was last said, by
        training in a loop of one's own or by loading weights."""
        return self._trained if self._mark() == self._marked else len(self.plan.groups)

    @trained.setter
    def trained(self, number: int) -> None:
        self._trained, self._marked = number, self._mark()

    @torch.no_grad()
    def _mark(self) -> int:
        """A sum over the bits of the output units, the same on every device."""
        return sum(int(p.float().contiguous().view(torch.int32).sum(dtype=torch.int64)) for p in self.outputs.parameters() if not p.is_meta)

    def heads_of(self, reader: int) -> list[int]:
        """The heads that a reader serves."""
        return [head for head, r in enumerate(self.reader_of) if r == reader]

    def forward(self, features: torch.Tensor, factors: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D) -> (B, C); `factors` (B, number of heads) multiply what each head gives"""
        units = self.by_group(features)
        if factors is not None:
            units = units * factors.index_select(1, self.group_of)
        if self.has_zero:
            units = nn.functional.pad(units, (0, 1))
        total = units.index_select(1, self.order[0])
        for number in range(1, len(self.order)):  # a cover: the second and further heads of each label
            total = total + units.index_select(1, self.order[number])
        return total

    def by_group(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, sum n): the heads' outputs side by side, before they are put in the order of the labels"""
        hidden = [reader(features) for reader in self.readers]
        stages: list[torch.Tensor] = [hidden[0] if len(hidden) == 1 else torch.cat(hidden, 1)]  # (B, sum w)
        for layer in self.layers:
            stages.append(layer(stages[-1]).relu())
        read = [stages[end] for end in self.ending]
        return self.outputs(read[0] if len(read) == 1 else torch.cat(read, 1))  # type: ignore[no-any-return]

    def pieces(self) -> Pieces:
        """Every head's own weights."""
        first = {head: piece for r, reader in enumerate(self.readers) for head, piece in zip(self.heads_of(r), reader.pieces(), strict=bool(reader.widths))}
        return Pieces(first, [layer.pieces() for layer in self.layers], self.outputs.pieces())

    def some(self, inputs: Iterable[tuple[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
        """Some heads, each on examples of its own and one after the other: from what its reader's `inputs` gives, (m, size), each to (m, n)"""
        pieces, readers, outputs = self.pieces(), list(self.readers), self.outputs
        layers, given = list(zip(self.layers, self.deep, pieces.layers, strict=True)), {}
        for head, x in inputs:
            reader = readers[self.reader_of[head]]
            hidden = reader.copied(x)
            if head in pieces.first:
                hidden = reader.rows(hidden, self.rows[head], *pieces.first[head])
            for layer, deep, of in layers:
                if head in deep:
                    place = deep.index(head)
                    hidden = layer.block(place, hidden, of[place]).relu()
            given[head] = outputs.block(head, hidden, pieces.outputs[head])
        return given

    def quantize(self, on: bool) -> None:
        """See `AugmentedClassifier.quantized_heads`; off when it was turned off as often as on."""
        layers: list[Reader | BlockLinear] = [*self.readers, *self.layers, self.outputs]
        with _QUANTIZING:
            self._quantized += 1 if on else -1
            if on or not self._quantized:
                for layer in layers:
                    layer.quantize(on)

    def unfold(self, transform: InputTransform) -> None:
        """Turns heads of the raw features into heads of the transformed ones.

        Heads already trained keep their function; new ones keep their weights, so that they start in the transformed space.
        """
        trained = self.trained
        for number, reader in enumerate(self.readers):
            units = [self.plan.hidden[head][0] if self.plan.hidden[head] else 1 for head in self.heads_of(number) if head < trained]
            reader.unfold(transform, sum(units))

    def fold(self, transform: InputTransform) -> None:
        """Turns heads of the transformed features into heads of the raw ones: the same function, at no cost."""
        for reader in self.readers:
            reader.fold(transform)
        self.trained = len(self.plan.groups)

    def to_weights(self) -> dict[str, torch.Tensor]:
        """The heads' weights by name: what is saved. `hidden.k.i` and `outputs.k` are head k's own layers."""
        weights = {name: parameter.detach() for name, parameter in self._first_layers().items()}
        for depth, (layer, deep) in enumerate(zip(self.layers, self.deep, strict=True)):
            for block, head in enumerate(deep):
                weights[f"hidden.{head}.{2 * depth}.weight"] = layer.weight_of(block)
                weights[f"hidden.{head}.{2 * depth}.bias"] = layer.bias_of(block)
        return weights | {f"outputs.{head}.weight": self.outputs.weight_of(head) for head in range(len(self.plan.groups))}

    def set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes what `to_weights` gave.

        Raises:
            SelfInformedError: names or shapes differ from this plan's.
        """
        own = self.to_weights()
        wrong = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
        if wrong:
            raise SelfInformedError(f"heads: the weights are of another plan; the first that does not fit is {wrong[0]!r}")
        with torch.no_grad():
            for name, parameter in self._first_layers().items():
                parameter.copy_(weights[name])
        for depth, (layer, deep) in enumerate(zip(self.layers, self.deep, strict=True)):
            for block, head in enumerate(deep):
                layer.set_block(block, weights[f"hidden.{head}.{2 * depth}.weight"], weights[f"hidden.{head}.{2 * depth}.bias"])
        for head in range(len(self.plan.groups)):
            self.outputs.set_block(head, weights[f"outputs.{head}.weight"])

    def _first_layers(self) -> dict[str, nn.Parameter]:
        """The readers' parameters by the names they are saved under: numbered where there are several readers."""
        named: dict[str, nn.Parameter] = {}
        for r, reader in enumerate(self.readers):
            place = f"first.{r}" if len(self.readers) > 1 else "first"
            if reader.layer is not None:
                named |= {f"{place}.{name}": parameter for name, parameter in reader.layer.named_parameters()}
            if reader.shared is not None:
                named |= {f"shared.{r}.{name}": parameter for name, parameter in reader.shared.named_parameters()}
            if reader.copy is not None:
                named |= {f"copy.{r}.{name}": parameter for name, parameter in reader.copy.named_parameters()}
        return named

    @torch.no_grad()
    def take(self, other: Heads) -> None:
        """Copies the heads of another plan, with which this one begins."""
        own, given = self.pieces().first, other.pieces().first
        for head in range(len(other.plan.groups)):
            mine, theirs = self.readers[self.reader_of[head]], other.readers[other.reader_of[head]]
            for to, of in zip(own.get(head, ()), given.get(head, ()), strict=True):
                to.copy_(of)
            if mine.shared is not None:
                assert theirs.shared is not None
                mine.shared.load_state_dict(theirs.shared.state_dict())
            if mine.copy is not None and theirs.copy is not None:
                mine.copy.load_state_dict(theirs.copy.state_dict())
            for layer, its_layer, deep, its in zip(self.layers, other.layers, self.deep, other.deep, strict=False):
                if head in its:
                    block = its.index(head)
                    layer.set_block(deep.index(head), its_layer.weight_of(block), its_layer.bias_of(block))
            self.outputs.set_block(head, other.outputs.weight_of(head))
        self.trained = other.trained

    @torch.no_grad()
    def _initialise(self, zero_outputs: bool) -> None:
        """He et al. (2015) for ReLU layers, biases zero."""
        weights = self.to_weights()
        for name, tensor in weights.items():
            if name.startswith("copy."):
                continue  # of the trained trunk
            if name.startswith("outputs."):
                nn.init.zeros_(tensor) if zero_outputs else nn.init.normal_(tensor, std=0.01)
            elif name.endswith("weight"):
                nn.init.kaiming_normal_(tensor, nonlinearity="relu")
            else:
                nn.init.zeros_(tensor)
        self.set_weights(weights)


def _order(plan: HeadPlan) -> torch.Tensor:
    """int64 [R, C]: where each label's first to R-th contributions stand in the output units; the column after the last where it has fewer."""
    contributions: list[list[int]] = [[] for _ in range(plan.groups.n_labels)]
    members = np.concatenate(plan.groups.members)
    zero = len(members)
    for place, label in enumerate(members.tolist()):
        contributions[label].append(place)
    deepest = max(1, *(len(p) for p in contributions))
    return torch.tensor([p + [zero] * (deepest - len(p)) for p in contributions], dtype=torch.int64).T.contiguous()
