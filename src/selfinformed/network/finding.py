"""Finds classifier, stack and attach points among the calls of a forward pass, and proves each on the recorded tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from selfinformed.network.calls import Call, evaluating
from selfinformed.network.families import classifiers_of
from selfinformed.network.points import AttachPoint, FeatureShape
from selfinformed.runtime.arguments import expect, near
from selfinformed.runtime.errors import SelfInformedError

CHANNELS_FIRST = (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d)  # give [batch, channels, length]
_STACK_MODULES = (
    nn.Linear, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.ELU,
    nn.Dropout, nn.Identity, nn.BatchNorm1d, nn.LayerNorm,
)  # fmt: skip


def find_classifiers(model: nn.Module, calls: list[Call], logits: torch.Tensor, names: Sequence[str] | None) -> list[Call]:
    """The call of the classifier, or of each of those whose average is the logits, in the order of the calls; proved bit for bit."""
    linear = [c for c in calls if isinstance(c.module, nn.Linear)]
    last = f"its last linear layers are: {', '.join(c.name for c in linear[-5:]) or 'none'}"
    if names is None:
        matching = [c for c in linear if _same(c.output, logits)]
        names = (matching[-1].name,) if matching else classifiers_of(model)
        if not matching and len(names) < 2:
            raise SelfInformedError(_not_found(linear, calls, logits, last))
    found: list[Call] = []
    for name in names:
        _check_name("classifier", name, model)
        if name not in dict(model.named_modules()):
            raise SelfInformedError(f"classifier: the model has no module {name!r}; {last}")
        mine = [c for c in calls if c.name == name]
        if not mine or not isinstance(mine[0].module, nn.Linear):
            kind = type(model.get_submodule(name)).__name__
            raise SelfInformedError(f"classifier: {name!r} is {'never called' if not mine else f'a {kind}'}; expected an nn.Linear that gives the logits")
        if len(mine) > 1:
            raise SelfInformedError(f"classifier: {name!r} is called {len(mine)} times in one forward pass; expected once")
        found.append(mine[0])
    found.sort(key=calls.index)
    outputs = [_as_linear(c, model) for c in found]
    recomposed = outputs[0] if len(outputs) == 1 else sum(outputs[1:], outputs[0]) / len(outputs)
    if not _same(recomposed, logits):
        difference = float((recomposed - logits).abs().max()) if recomposed.shape == logits.shape else float("inf")
        what = f"the output of {names[0]!r}" if len(names) == 1 else f"the average of {' and '.join(map(repr, names))}"
        raise SelfInformedError(
            f"classifier: {what} is not the model's logits (they differ by up to {difference:.3g}); "
            "expected a model whose last layer gives the logits, with nothing after it"
        )
    return found


@torch.no_grad()
def _as_linear(found: Call, model: nn.Module) -> torch.Tensor:
    """What a classifier's weight and bias give for its input; proved to be all that it does."""
    layer = cast("nn.Linear", found.module)
    # the tensor itself unless it was changed since: a copy lies otherwise in memory, for which a product may round otherwise
    read = found.input if _same(found.input, found.given) else found.given
    if not isinstance(read, torch.Tensor):
        raise SelfInformedError(f"classifier: {found.name!r} is not given its input by place; call it so in the model's forward: self.{found.name}(x)")
    if read.dtype != layer.weight.dtype:
        if hasattr(model, "_original_forward"):  # of accelerate, and so of transformers' Trainer
            hint = "accelerate put autocast into its forward: give accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
        elif torch.is_autocast_enabled(read.device.type):
            hint = "call wrap outside of autocast"
        else:
            hint = "take autocast out of the model's forward and put it around the call, or cast before the layer"
        raise SelfInformedError(f"classifier: {found.name!r} has weights of {layer.weight.dtype} and is given {read.dtype}; {hint}")
    read = read.to(layer.weight.device)
    output = nn.functional.linear(read, layer.weight, layer.bias)
    with evaluating(layer):
        if not _same(layer(read), output):
            raise SelfInformedError(
                f"classifier: {found.name!r} does not give what its weight and bias alone do: it is a {type(layer).__name__} with a forward of its own, or has "
                "a hook; heads add to the output of a plain linear layer: merge what it does into its weight, or do it before the layer"
            )
    return output


def _not_found(linear: list[Call], calls: list[Call], logits: torch.Tensor, last: str) -> str:
    sized = [c for c in linear if isinstance(c.output, torch.Tensor) and c.output.shape == logits.shape]
    for one, other in itertools.combinations(sized, 2):
        if _same((one.output + other.output) / 2, logits):
            names = f"{one.name!r}, {other.name!r}"
            return f"classifier: two classifiers found, {names}, whose average is the logits; if that is meant, name both: classifier=[{names}]"
    wide = [c for c in calls if isinstance(c.module, nn.Conv2d) and c.module.out_channels == logits.shape[1]]
    hint = f" It may be the convolution {wide[-1].name!r}: replace that by pooling and an nn.Linear of the same weights." if wide else ""
    return (
        f"classifier: none found; no nn.Linear gives the model's logits {list(logits.shape)} as its output. A model that ends in a "
        f"softmax has to be stripped of that first.{hint} To choose, give classifier=NAME; {last}"
    )


def find_stack(calls: list[Call], classifier: Call) -> list[Call]:
    """The fully connected layers right before the classifier, each link proved on the recorded tensors."""
    leaves = [c for c in calls if c is classifier or not any(c.module.children())]  # a parametrised linear layer has children,
    leaves = [c for c in leaves if ".parametrizations." not in c.name]  # which are called before its own call ends
    chain: list[Call] = []
    following = classifier
    for previous in reversed(leaves[: leaves.index(classifier)]):
        pointwise = type(previous.module).__module__.startswith("torch.nn.modules") and isinstance(previous.module, _STACK_MODULES)
        if not pointwise or not isinstance(previous.given, torch.Tensor) or previous.given.ndim != 2:
            break
        with evaluating(previous.module):  # a model given in training mode would drop units and move its statistics
            output = previous.module(previous.given.clone())
        if not any(_same(activated, following.given) for activated in (output, output.relu(), output.tanh(), nn.functional.gelu(output))):
            break
        chain.insert(0, previous)
        following = previous
    while chain and not isinstance(chain[0].module, nn.Linear):
        chain.pop(0)
    return chain


def shape_at(model: nn.Module, calls: list[Call], attach: AttachPoint, classifiers: list[Call]) -> FeatureShape:
    """What heads read at an attach point, which has to be called once and before the classifier."""
    _check_name("attach", attach.module, model)
    names = dict(model.named_modules())
    if attach.module not in names:
        raise SelfInformedError(f"attach: the model has no module {attach.module!r}; {near(attach.module, names, 'see model.named_modules()', 3)}")
    times = [c for c in calls if c.name == attach.module]
    if len(times) != 1:
        hint = "it is in the model, but its forward pass does not use it" if not times else "choose a module around it, or one of those inside it"
        raise SelfInformedError(f"attach: {attach.module!r} is called {len(times)} times in one forward pass; expected exactly once ({hint})")
    tensor = times[0].given if attach.side == "input" else times[0].output
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
        raise SelfInformedError(f"attach: the {attach.side} of {attach.module!r} is {type(tensor).__name__}; expected a tensor [batch, ...]")
    last = classifiers[-1]
    if calls.index(times[0]) >= calls.index(last) and not (times[0] is last and attach.side == "input"):
        raise SelfInformedError(f"attach: {attach} comes after the classifier {last.name!r}; heads add to its logits, so choose a point before it")
    inside = [c.module for c in calls if c.name.startswith(f"{attach.module}.") and is_layer(c.module)] if attach.side == "output" else []
    if attach.reduce == "mean" and tensor.ndim == 3 and isinstance(inside[-1] if inside else times[0].module, CHANNELS_FIRST):
        raise SelfInformedError(f"attach: {attach} has the shape [batch, channels, length]; give reduce='channels_first_mean' to average over the length")
    if attach.reduce == "map":
        if tensor.ndim != 4:
            raise SelfInformedError(f"attach: {attach} has the shape {list(tensor.shape)}; reduce='map' needs [batch, channels, height, width]")
        return FeatureShape(math.prod(tensor.shape[1:]), (tensor.shape[1], tensor.shape[2], tensor.shape[3]))
    return FeatureShape(attach.read(tensor).shape[1])


def is_layer(module: nn.Module) -> bool:
    """Whether it has parameters, and no modules in it."""
    return not any(module.children()) and next(module.parameters(), None) is not None


def _check_name(what: str, given: Any, model: nn.Module) -> None:
    """That this is a name, and not the module itself."""
    hint = "see model.named_modules()"
    if isinstance(given, nn.Module):
        own = next((name for name, module in model.named_modules() if module is given), None)
        hint = "this one is none of the model's" if own is None else f"give {own!r}"
    expect(given, str, what, "a module's name", hint)


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.is_nested or other.is_nested:
        return False
    return one.shape == other.shape and torch.equal(one, other.to(one.device))
