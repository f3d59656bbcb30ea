"""Controls that are no heads on label groups: experts under a learned gate, and a low-rank adapter on the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from selfinformed.augmented.heads import Heads
from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.augmented.readers import InputTransform, Reader
from selfinformed.augmented.slot import NewClassifier
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.seeds import seeded
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, Source, head_cost


@dataclass(frozen=True, eq=False)
class ControlPlan(HeadPlan):
    """What a control adds in place of heads, per example: no groups, but a cost.

    Attributes:
        added_multiply_adds: beyond the base's.
        added_parameters: beyond the base's.
    """

    added_multiply_adds: int = 0
    added_parameters: int = 0

    @property
    def multiply_adds(self) -> int:
        return self.base_multiply_adds + self.added_multiply_adds

    @property
    def parameters(self) -> int:
        return self.base_parameters + self.added_parameters


def gated(net: WrappedClassifier, like: HeadPlan, *, classifier: NewClassifier = "keep", seed: int = 0) -> AugmentedClassifier:
    """As many experts as `like` has heads, mixed by a gate that is learned with them (Jacobs et al., 1991), at no more multiply-adds.

    logits(x) = classifier + E sum_e g_e(x) E_e(x), with g the softmax of a gate linear in what the experts read; the number of experts E,
    which the output weights could take in, lets them train as fast as heads. Each expert is a ReLU stack as deep as the deepest head, with
    outputs to all labels; no label groups are given to it. Until it is trained it equals the base, as heads do.

    Raises:
        SelfInformedError: the budget does not reach for the gate and one unit for each expert, or the heads read several attach points of
            which one is a map.
    """
    widths, source = gated_widths(net, like), _source(net, like)
    with seeded(seed):
        with torch.device("cpu"):  # as in the slot
            module = GatedExperts(source, widths, net.n_labels, zero_outputs=classifier == "keep")
        plan = _plan(net, _gated_cost(source, widths, net.n_labels), sum(p.numel() for p in module.parameters()))
        return AugmentedClassifier(net, plan, classifier, cast("Heads", module))  # it has what training and evaluation ask of heads


def gated_widths(net: WrappedClassifier, like: HeadPlan) -> list[tuple[int, ...]]:
    """The layers of each of `gated`'s experts; raises as it does."""
    source, experts, depth = _source(net, like), len(like.groups), max(map(len, like.hidden), default=1)
    allowed = like.multiply_adds - like.base_multiply_adds
    if not experts or _gated_cost(source, _widths(experts, experts, depth), net.n_labels) > allowed:
        raise SelfInformedError(f"gated: {allowed:,} multiply-adds do not reach for a gate and {experts} experts of one unit; raise the budget")
    low, high = experts, 2 * experts  # hidden units of all experts together
    while _gated_cost(source, _widths(high, experts, depth), net.n_labels) <= allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _gated_cost(source, _widths(middle, experts, depth), net.n_labels) <= allowed else (low, middle)
    return _widths(low, experts, depth)


def adapted(net: WrappedClassifier, like: HeadPlan, *, seed: int = 0) -> AugmentedClassifier:
    """A low-rank adapter on the classifier (LoRA, Hu et al., 2022): W + B A with W frozen, A, B and the bias trained.

    It reads the classifier's input, not the attach point. Its rank r is the largest whose r (P + C) multiply-adds are no more than those
    `like` adds, at most min(P, C). B A could be merged into W, so that what it learns need cost nothing; and since the sum is a linear layer
    again, all it could learn is within reach of the retrained classifier.

    Raises:
        SelfInformedError: the budget does not reach for rank 1.
    """
    parts, rank = _parts(net), adapter_rank(net, like)
    with seeded(seed):
        adapters = [LowRankLinear(part, rank) for part in parts]
        classifier = adapters[0] if len(parts) == 1 else AveragedClassifier(adapters)
        added = rank * _for_one_rank(parts)
        return AugmentedClassifier(net, _plan(net, added, added), classifier)


def adapter_rank(net: WrappedClassifier, like: HeadPlan) -> int:
    """The rank of what `adapted` gives; raises as it does."""
    parts, allowed = _parts(net), like.multiply_adds - like.base_multiply_adds
    rank = min(allowed // _for_one_rank(parts), *(min(part.in_features, part.out_features) for part in parts))
    if rank < 1:
        raise SelfInformedError(f"adapter: {allowed:,} multiply-adds do not reach for rank 1, which takes {_for_one_rank(parts):,}; raise the budget")
    return rank


def _parts(net: WrappedClassifier) -> list[nn.Linear]:
    return list(net.classifier.parts) if isinstance(net.classifier, AveragedClassifier) else [net.classifier]


def _for_one_rank(parts: list[nn.Linear]) -> int:
    return sum(part.in_features + part.out_features for part in parts)


class GatedExperts(nn.Module):
    """Experts under a softmax gate: features [B, D] to what they add to the logits [B, C].

    Since an expert's outputs are linear in its last hidden units, these are scaled by the gate instead: one product gives all first layers,
    one all outputs, and mixing costs one multiplication for each last hidden unit.

    Args:
        source: what experts and gate read; of a map the gate reads the mean over positions.
        hidden: for each expert the widths of its ReLU layers.
        n_labels: C.
        zero_outputs: start with output weights of zero.
    """

    expert_of: torch.Tensor

    def __init__(self, source: Source, hidden: Sequence[tuple[int, ...]], n_labels: int, zero_outputs: bool = True) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        self.reader = Reader(source, [widths[0] for widths in hidden])
        self.gate = Reader(_gate_source(source), [len(hidden)])
        self.deeper = cast(
            "list[list[nn.Linear]]",
            nn.ModuleList(nn.ModuleList(nn.Linear(w[depth - 1], w[depth]) for w in hidden) for depth in range(1, len(hidden[0]))),
        )
        last = torch.tensor([widths[-1] for widths in hidden])
        self.register_buffer("expert_of", torch.repeat_interleave(torch.arange(len(hidden)), last), persistent=False)
        self.outputs = nn.Linear(int(last.sum()), n_labels, bias=False)
        self.trained = False
        self._initialise(zero_outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, C)"""
        hidden = self.reader(features)  # (B, sum w)
        for depth, layers in enumerate(self.deeper):
            parts = torch.split(hidden, [widths[depth] for widths in self.hidden], 1)
            hidden = torch.cat([layer(part).relu() for layer, part in zip(layers, parts, strict=True)], 1)
        gates = len(self.hidden) * self.gates(features)  # an even gate then leaves each expert as a head is, which trains at a head's pace
        return self.outputs(hidden * gates.index_select(1, self.expert_of))  # type: ignore[no-any-return]

    def gates(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, E), each row a distribution over the experts"""
        read, layer = self.gate.inputs(features), self.gate.layer
        assert layer is not None
        read = read.mean((2, 3)) if read.ndim > 2 else read
        return nn.functional.linear(read, layer.weight.flatten(1), layer.bias).softmax(1)

    def unfold(self, transform: InputTransform) -> None:
        """As `Heads.unfold`: once trained, the same function of the transformed features; before that, the same weights."""
        for reader in (self.reader, self.gate):
            reader.unfold(transform, sum(reader.widths) if self.trained else 0)

    def fold(self, transform: InputTransform) -> None:
        """As `Heads.fold`: the same function of the raw features, at no cost."""
        self.reader.fold(transform)
        self.gate.fold(transform)
        self.trained = True

    @torch.no_grad()
    def _initialise(self, zero_outputs: bool) -> None:
        """As heads are: He et al. (2015) for ReLU layers, biases zero. The gate starts nearly even."""
        layers = [layer for reader in (self.reader, self.gate) for layer in (reader.shared, reader.layer) if layer is not None]
        for layer in (*layers, *(layer for stage in self.deeper for layer in stage)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.gate.layer is not None
        self.gate.layer.weight *= 0.1
        nn.init.zeros_(self.outputs.weight) if zero_outputs else nn.init.normal_(self.outputs.weight, std=0.01)


class LowRankLinear(nn.Linear):
    """A linear layer whose weight stays as it is, beside a product of two narrow ones that starts at zero; both and the bias are trained."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="cpu", dtype=layer.weight.dtype)
        del self.weight
        self.register_buffer("weight", layer.weight.detach().clone())
        down = torch.empty(rank, layer.in_features, dtype=self.weight.dtype, device="cpu")
        self.down = nn.Parameter(nn.init.kaiming_uniform_(down, a=5**0.5).to(self.weight))
        self.up = nn.Parameter(self.weight.new_zeros(layer.out_features, rank))
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone())

    def forward(self, penultimate: torch.Tensor) -> torch.Tensor:
        """(B, P) -> (B, C)"""
        low = nn.functional.linear(penultimate, self.down)  # (B, r)
        return super().forward(penultimate) + nn.functional.linear(low, self.up)

    def merged(self) -> torch.Tensor:
        """W + B A [C, P]: the weight of the plain layer that computes the same."""
        return self.weight + self.up @ self.down


def _plan(net: WrappedClassifier, multiply_adds: int, parameters: int) -> ControlPlan:
    nothing = LabelGroups(net.n_labels, ())
    return ControlPlan(nothing, (), net.feature_size, net.cost.multiply_adds, net.cost.parameters, (), multiply_adds, parameters)


def _source(net: WrappedClassifier, like: HeadPlan) -> Source:
    """What the heads read, or where they do not all read the same, all features."""
    if any(source.copy for source in like.sources):
        raise SelfInformedError("gated: the heads begin with copies of the trunk's end, which experts do not; give heads that read features")
    if len(set(like.sources)) == 1:
        return like.sources[0]
    if any(shape.map for shape in net.shapes):
        raise SelfInformedError("gated: the heads read several attach points, one of them a map; give heads that all read one")
    return Source(0, net.feature_size)


def _gate_source(source: Source) -> Source:
    return Source(source.start, source.stop, source.map)


def _widths(units: int, experts: int, depth: int) -> list[tuple[int, ...]]:
    """So many units over the experts, as evenly as whole numbers allow; every layer of an expert as wide as its first."""
    return [((units // experts) + (e < units % experts),) * depth for e in range(experts)]


def _gated_cost(source: Source, hidden: Sequence[tuple[int, ...]], n_labels: int) -> int:
    """Experts, gate, and a multiplication by the gate for each last hidden unit."""
    experts = sum(head_cost(source, widths, n_labels) + widths[-1] for widths in hidden)
    return experts + source.shared_multiply_adds + len(hidden) * _gate_source(source).size
