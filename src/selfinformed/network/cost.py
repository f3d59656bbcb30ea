"""Multiply-adds and parameters of a network, by part."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from selfinformed.data.inputs import Inputs, InputsLike, take_inputs
from selfinformed.network.calls import call, evaluating
from selfinformed.runtime.arguments import expect

Shape = Sequence[int]


@dataclass(frozen=True)
class Cost:
    """What one example costs.

    Attributes:
        multiply_adds: one multiply with its add, counted once.
        parameters: numbers in the network's parameters.
        by_part: multiply-adds of the named parts; what is in none of them is `trunk`.
        parameters_by_part: parameters likewise.
        uncounted: operators that were executed and have multiply-adds, but no formula that is known here.
    """

    multiply_adds: int
    parameters: int
    by_part: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    parameters_by_part: Mapping[str, int] = field(default_factory=dict)


def cost(model: nn.Module, example_inputs: InputsLike, parts: Mapping[str, Sequence[str]] | None = None) -> Cost:
    """Counts the multiply-adds of one example with `torch.utils.flop_counter.FlopCounterMode` (which counts 2 for each).

    Counted are products of matrices and vectors, convolutions, attention, bilinear layers, distances between all pairs (one for each term) and linear layers
    in 8 or 4 bits; not what is done element by element: biases, activations, normalisation, pooling, `(x * w).sum(-1)`, outer products (but `addr`); nor
    what a parametrization (`torch.nn.utils.parametrize`) does to make a weight, which is done once for a batch, however many examples it has.
    A copy of the model, which shares its weights, is run on its own device; where operators are then left out, once more on the meta device if it can be:
    there PyTorch takes recurrent layers and fused transformer layers apart.

    Args:
        model: any module.
        example_inputs: a batch; the first example is counted.
        parts: names of parts, each with the dotted names of its modules.
    """
    expect(model, nn.Module, "cost", "a torch.nn.Module", "of what wrap gave take net.cost")
    inputs = take_inputs(example_inputs, slice(0, 1))
    root, names = type(model).__name__, [name for names in (parts or {}).values() for name in names]
    flops: Mapping[str, Mapping[Any, int]] = {}
    uncounted: tuple[str, ...] = ()
    with suppress(Exception):  # it cannot be copied, or its copy does not run
        flops, uncounted = _count(_copy_of(model, lambda tensor: tensor.detach()), inputs)  # the counter trips over views of what wants a gradient
    if not flops or not all(f"{root}.{name}" in flops for name in names):  # or runs modules of the model, by a forward that was put there
        flops, uncounted = _count(model, inputs)
    if uncounted:
        moved = {k: v.to("meta") for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to("meta")
        with suppress(Exception):  # a model may do anything the meta device cannot follow
            flops, uncounted = _count(_copy_of(model, lambda tensor: tensor.detach().to("meta")), moved)
    making = {key: _total(flops, key) for key in flops if _PARAMETRIZATION.search(key)}
    total = _total(flops, "Global") - sum(making.values())

    def of(name: str) -> int:
        return _total(flops, f"{root}.{name}") - sum(n for key, n in making.items() if key.startswith(f"{root}.{name}."))

    by_part = {part: sum(map(of, names)) for part, names in (parts or {}).items()}
    by_part = {"trunk": total - sum(by_part.values()), **by_part}
    numbers = {part: sum(p.numel() for name in names for p in model.get_submodule(name).parameters()) for part, names in (parts or {}).items()}
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(total, parameters, by_part, uncounted, {"trunk": parameters - sum(numbers.values()), **numbers})


def _copy_of(model: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy with its weights changed; what a model keeps of a call stays in the copy."""
    return copy.deepcopy(model, {id(tensor): change(tensor) for tensor in (*model.parameters(), *model.buffers())})


def _count(model: nn.Module, inputs: Inputs) -> tuple[Mapping[str, Mapping[Any, int]], tuple[str, ...]]:
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    seen = _Uncounted(counter.flop_registry)
    with evaluating(model), seen, counter, _without_dynamo(counter.mode, seen):  # the counter takes operators apart, then both see the parts
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
    """Collects the operators that by their names have multiply-adds, and that the counter has no formula for."""

    def __init__(self, counted: Container[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = counted
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func.overloadpacket
        if operator not in self.counted and _HAS_MULTIPLY_ADDS.search(operator.__name__) and not _HAS_NONE.search(operator.__name__):
            self.names.add(str(operator))
        return func(*args, **(kwargs or {}))


_PARAMETRIZATION = re.compile(r"\.parametrizations\.\w+$")
_HAS_MULTIPLY_ADDS = re.compile(r"mm(_|$)|gem[mv]|matmul|linear|conv|attention|rnn|lstm|gru|encoder_layer|_fft_")
_HAS_NONE = re.compile(r"^upsample|convert|reorder|flatten_weight|quantize_weight|(pre|un|_)pack(_|$)|_thnn_fused")  # these only prepare, or interpolate


def _formulas() -> dict[Any, Callable[..., int]]:
    """What `FlopCounterMode` leaves out, of the operators that this PyTorch has: 2 for each multiply-add, from the shapes of arguments and output."""
    found: dict[Any, Callable[..., int]] = {}
    for formula, names in _FORMULAS.items():
        for space, _, name in (operator.partition(".") for operator in names.split()):
            if hasattr(getattr(torch.ops, space), name):
                found[getattr(getattr(torch.ops, space), name)] = formula
    return found


def _of_rows(x: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Every number of the output is a sum over the last dimension of the first argument."""
    return 2 * prod(out_shape) * x[-1]


def _of_rows_added(_: Shape, x: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
    """The same of the second; the first is added."""
    return 2 * prod(out_shape) * x[-1]


def _of_batches_added(_: Shape, one: Shape, other: Shape, *__: Any, **___: Any) -> int:
    """(b, n, k) @ (b, k, m), summed over b"""
    return 2 * prod(one) * other[-1]


def _of_outer_added(*_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape)


def _of_bilinear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """As `nn.Bilinear` calls `_trilinear`: x (B, i) with weight (o, i, j) is (B, o, j), whose product with y (B, j) is summed."""
    outputs, size, other = weight
    return 2 * x[0] * outputs * other * (size + 1)


def _of_attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """query (B, h, q, d) with keys (B, h, k, d), then with values (B, h, k, e); several heads of a query may share keys"""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_FORMULAS: dict[Callable[..., int], str] = {
    _of_rows: """
        aten.mv aten.dot aten.vdot aten._cdist_forward aten._euclidean_dist aten._pdist_forward
        aten._int_mm aten._weight_int8pack_mm aten._weight_int4pack_mm aten._weight_int4pack_mm_for_cpu aten._dyn_quant_matmul_4bit
        aten._mixed_dtypes_linear aten._scaled_mm_v2 aten.mkldnn_linear mkldnn._linear_pointwise onednn.qlinear_pointwise
        quantized.linear quantized.linear_relu quantized.linear_dynamic quantized.linear_relu_dynamic quantized.linear_dynamic_fp16
        quantized.linear_relu_dynamic_fp16 quantized.matmul
    """,
    _of_rows_added: "aten.addmv aten.addmv_ aten.addmm_ aten.baddbmm_ aten._addmm_activation",
    _of_batches_added: "aten.addbmm aten.addbmm_",
    _of_outer_added: "aten.addr aten.addr_",
    _of_bilinear: "aten._trilinear",
    _of_attention: "aten._scaled_dot_product_flash_attention_for_cpu",
}
