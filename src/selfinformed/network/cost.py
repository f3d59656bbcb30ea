"""Multiply-adds and parameters of a network, by part."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from selfinformed.data.examples import Inputs, take_inputs
from selfinformed.network.calls import call, evaluating


@dataclass(frozen=True)
class Cost:
    """What one example costs.

    Attributes:
        multiply_adds: one multiply with its add, counted once.
        parameters: numbers in the network's parameters.
        by_part: multiply-adds of the named parts; what is in none of them is `trunk`.
        parameters_by_part: parameters likewise.
        uncounted: operators that were executed and have multiply-adds, but that PyTorch's counter does not know.
    """

    multiply_adds: int
    parameters: int
    by_part: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    parameters_by_part: Mapping[str, int] = field(default_factory=dict)


def cost(model: nn.Module, example_inputs: Inputs, parts: Mapping[str, Sequence[str]] | None = None) -> Cost:
    """Counts the multiply-adds of one example with `torch.utils.flop_counter.FlopCounterMode` (which counts 2 for each).

    A copy of the model, which shares its weights, is run on its own device; where operators are then left out, once more on the meta device if it can be:
    there scaled-dot-product attention is counted.

    Args:
        model: any module.
        example_inputs: a batch; the first example is counted.
        parts: names of parts, each with the dotted names of its modules.
    """
    inputs = take_inputs(example_inputs, slice(0, 1))
    root, names = type(model).__name__, [name for names in (parts or {}).values() for name in names]
    flops: Mapping[str, Mapping[Any, int]] = {}
    uncounted: tuple[str, ...] = ()
    with suppress(Exception):  # it cannot be copied, or its copy does not run
        flops, uncounted = _count(_copy_of(model, lambda tensor: tensor), inputs)
    if not flops or not all(f"{root}.{name}" in flops for name in names):  # or runs modules of the model, by a forward that was put there
        flops, uncounted = _count(model, inputs)
    if uncounted:
        moved = {k: v.to("meta") for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to("meta")
        with suppress(Exception):  # a model may do anything the meta device cannot follow
            flops, uncounted = _count(_copy_of(model, lambda tensor: tensor.detach().to("meta")), moved)
    total = _total(flops, "Global")
    by_part = {
        part: sum(_total(flops, f"{root}.{name}") for name in names) for part, names in (parts or {}).items()
    }  # fmt: skip
    by_part = {"trunk": total - sum(by_part.values()), **by_part}
    numbers = {part: sum(p.numel() for name in names for p in model.get_submodule(name).parameters()) for part, names in (parts or {}).items()}
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(total, parameters, by_part, uncounted, {"trunk": parameters - sum(numbers.values()), **numbers})


def _copy_of(model: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy with its weights changed; what a model keeps of a call stays in the copy."""
    return copy.deepcopy(model, {id(tensor): change(tensor) for tensor in (*model.parameters(), *model.buffers())})


def _count(model: nn.Module, inputs: Inputs) -> tuple[Mapping[str, Mapping[Any, int]], tuple[str, ...]]:
    counter, seen = FlopCounterMode(display=False), _Uncounted()
    with evaluating(model), counter, seen, _without_dynamo(counter.mode, seen):
        call(model, inputs)
    return counter.get_flop_counts(), tuple(sorted(seen.names))


@contextmanager
def _without_dynamo(*modes: Any) -> Iterator[None]:
    """Each mode asks torch.compile to leave it alone, for which torch imports what compiles: over a second, and nothing is compiled here. Within this
    context it is called as if that had been answered."""
    functions = [] if "torch._dynamo" in sys.modules else [inspect.unwrap(type(mode).__torch_dispatch__) for mode in modes]
    for function in functions:
        vars(function)["__dynamo_disable"] = function
    try:
        yield
    finally:
        for function in functions:
            vars(function).pop("__dynamo_disable", None)


def _total(flops: Mapping[str, Mapping[Any, int]], key: str) -> int:
    return sum(flops.get(key, {}).values()) // 2


class _Uncounted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operators whose multiply-adds `FlopCounterMode` leaves out."""

    _KNOWN = (
        "_scaled_dot_product_flash_attention_for_cpu", "_sparse_mm", "sparse_mm", "mkldnn_rnn_layer", "lstm", "gru", "rnn_tanh", "_cudnn_rnn",
        "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self._KNOWN:
            self.names.add(f"aten.{name}")
        return func(*args, **(kwargs or {}))
