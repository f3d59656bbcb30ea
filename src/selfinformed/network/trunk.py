"""The end of a trunk: the modules from an attach point on, found, proved and copied."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import nn

from selfinformed.network.calls import Call, evaluating, record
from selfinformed.network.cost import cost
from selfinformed.network.points import AttachPoint, Reduce
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError

_TOLERANCE = 1e-4  # of the largest feature: a tensor that lies otherwise in memory may be rounded otherwise


@dataclass(frozen=True)
class TrunkEnd:
    """Modules that, one after another, turn an attach point's tensor into the trunk's output.

    Attributes:
        modules: their dotted names.
        shape: of that tensor, for one example.
        reduce: how the last one's output becomes the trunk's output; see `AttachPoint`.
        size: features of the trunk's output.
        multiply_adds: per example.
        parameters: of the modules.
    """

    modules: tuple[str, ...]
    shape: tuple[int, ...]
    reduce: Reduce
    size: int
    multiply_adds: int
    parameters: int


class CopiedEnd(nn.Module):
    """A copy of a trunk's end with weights of its own: (B, *shape) -> (B, size). Always in eval mode: its BatchNorm keeps the trunk's statistics."""

    def __init__(self, model: nn.Module, end: TrunkEnd) -> None:
        super().__init__()
        self.layers = nn.Sequential(*copy.deepcopy([model.get_submodule(name) for name in end.modules])).requires_grad_(True)
        for module in self.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010  (what it reads is not its own)
        self.end, self.last = end, AttachPoint(end.modules[-1], "output", end.reduce)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last.read(self.layers(x))

    def train(self, mode: bool = True) -> CopiedEnd:
        """Stays in eval mode."""
        return super().train(False)


def trunk_end(net: WrappedClassifier, place: int) -> TrunkEnd:
    """What lies between one of the network's attach points (its number) and the trunk's output.

    Raises:
        SelfInformedError: the attach point was not wrapped whole, or from there to the trunk's output the network does more than to call modules,
            each on nothing but the one before.
    """
    point, start = net.attach_points[place], sum(shape.size for shape in net.shapes[:place])
    if point.reduce not in ("map", "flatten"):
        raise SelfInformedError(f"copy: a copy reads the whole of {point}; wrap the network with reduce='map' there, or 'flatten' for tokens")
    calls = record(net.model, net.example_inputs)[1]
    first, last = (next(call for call in calls if call.name == name) for name in (point.module, (*net.stack_names, *net.classifier_names)[0]))
    shape = tuple((first.input if point.side == "input" else first.output).shape[1:])
    attached = net.features(net.example_inputs).attached[:, start : start + net.shapes[place].size].unflatten(1, shape)  # type: ignore[no-untyped-call]
    chain = _chain(calls, first, last, point.side == "input")
    ends = [TrunkEnd(names, shape, reduce, last.given.shape[1], 0, 0) for names in _prefixes(chain) for reduce in get_args(Reduce) if reduce != "map"]
    end = next((end for end in ends if _gives(CopiedEnd(net.model, end), attached, last.given)), None)
    if end is None:
        raise SelfInformedError(
            f"copy: from {point} the modules {', '.join(call.name for call in chain) or '(none)'} lead on, but do not alone give the trunk's output, what "
            f"{last.name!r} reads; attach at the output of a block after which the network only calls one module after another"
        )
    counted = cost(CopiedEnd(net.model, end), attached)
    return replace(end, multiply_adds=counted.multiply_adds, parameters=counted.parameters)


def _chain(calls: list[Call], first: Call, last: Call, with_first: bool) -> list[Call]:
    """Calls that each read, alone, just what the one before gave: the outermost, up to the last."""
    calls = calls[: calls.index(last)]
    if first not in calls:  # it is past the trunk's output
        return []
    chain = [first]
    while True:
        later = [call for call in calls[calls.index(chain[-1]) + 1 :] if call.input is chain[-1].output]
        around = [call for call in later if f"{later[0].name}.".startswith(f"{call.name}.")]
        if not around or not around[-1].alone or not isinstance(around[-1].output, torch.Tensor):
            break
        chain.append(around[-1])
    return chain if with_first and first.alone else chain[1:]


def _prefixes(chain: list[Call]) -> list[tuple[str, ...]]:
    """Names of all calls, of all but the last, and so on."""
    names = [call.name for call in chain]
    return [tuple(names[:n]) for n in range(len(names), 0, -1)]


def _gives(made: CopiedEnd, attached: torch.Tensor, expected: torch.Tensor) -> bool:
    try:
        with evaluating(made):
            got = made(attached)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return got.shape == expected.shape and bool((got - expected).abs().max() <= _TOLERANCE * expected.abs().max())
