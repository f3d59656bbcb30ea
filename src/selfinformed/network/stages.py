"""Earlier points of a network at which heads might attach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from selfinformed.network.calls import batch_size_of, call, evaluating
from selfinformed.network.finding import CHANNELS_FIRST, is_layer
from selfinformed.network.points import AttachPoint, Reduce
from selfinformed.network.wrap import WrappedClassifier, wrap

_EARLY = 0.95  # share of the trunk's multiply-adds, beyond which a point is the trunk's output under another name


def candidate_attach_points(net: WrappedClassifier, n: int = 3) -> tuple[AttachPoint, ...]:
    """Up to n points before the network's first attach point, in the order of execution, spread evenly over the trunk's multiply-adds.

    Such a point is the output of a module that is called once and gives a map [B, channels, height, width] (or [B, height, width, channels]),
    [B, channels, length] or tokens [B, tokens, D], all reduced by their mean, or [B, D]. Nearest to each of n shares of the multiply-adds the
    outermost such module is taken (a stage or a block rather than a layer in it); of a network with fewer stages than that, further ones from its end.
    """
    found = [point for point in _points(net) if 0 < point.share < _EARLY]
    outermost = {point.share: point for point in sorted(found, key=lambda p: (-p.depth, p.time))}  # the last written is the least deep, then the latest
    left, chosen = list(outermost.values()), []
    for share in (i / (n + 1) for i in range(n, 0, -1)):
        near = [point for point in left if abs(point.share - share) <= 0.5 / (n + 1)]
        if near:
            chosen.append(min(near, key=lambda p: (p.depth, abs(p.share - share))))
            left.remove(chosen[-1])
    chosen += sorted(left, key=lambda p: (p.depth, -p.time))[: n - len(chosen)]
    return tuple(point.attach for point in sorted(chosen, key=lambda p: p.time))


def with_earlier_points(net: WrappedClassifier, n: int = 3) -> WrappedClassifier:
    """The same network wrapped with up to n earlier attach points before its own. Features have to be cached for it anew."""
    attach = [*candidate_attach_points(net, n), *net.attach_points]
    return wrap(net.model, net.example_inputs, labels=net.labels, classifier=net.classifier_names, attach=attach, output=net.output)


@dataclass(frozen=True)
class _Point:
    attach: AttachPoint
    share: float
    depth: int
    time: int


def _points(net: WrappedClassifier) -> list[_Point]:
    """Every point before the network's own, with the share of the trunk's multiply-adds (of convolutions and linear layers) that lie before it."""
    batch, first, spent, calls, over = batch_size_of(net.example_inputs), net.attach, 0.0, dict[str, int](), False
    layer: nn.Module | None = None  # the last that was called
    found: list[tuple[AttachPoint, float, int]] = []
    hooks = []
    for name, module in net.model.named_modules():

        def before(_: nn.Module, __: Any, name: str = name) -> None:
            nonlocal over
            over = over or (name == first.module and first.side == "input")

        def after(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
            nonlocal over, spent, layer
            calls[name] = calls.get(name, 0) + 1
            over, layer = over or name == first.module, module if is_layer(module) else layer
            if over or not isinstance(output, torch.Tensor) or not output.is_floating_point():
                return
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                spent += output.numel() * module.weight[0].numel()
            reduce = _reduction(module, output.shape, isinstance(layer, CHANNELS_FIRST))
            if reduce is not None and output.shape[0] == batch:
                found.append((AttachPoint(name, "output", reduce), spent, name.count(".")))

        if name:
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with evaluating(net.model):
            call(net.model, net.example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [_Point(attach, cost / max(spent, 1), depth, time) for time, (attach, cost, depth) in enumerate(found) if calls[attach.module] == 1]


def _reduction(module: nn.Module, shape: torch.Size, channels_first: bool) -> Reduce | None:
    """How a module's output becomes a vector whose size does not depend on the input's; None where that is not known. `channels_first` says whether the
    last layer in it gives [B, channels, length].

    The axis of features is the one that is as long as some parameter of the module: the others may be positions.
    """
    if isinstance(module, nn.Dropout | nn.Softmax | nn.Identity):  # no point of its own, or attention weights
        return None
    widths = {len(p) for p in module.parameters() if p.ndim}
    if len(shape) == 2:
        return "flatten"
    if len(shape) == 3 and channels_first:
        return "channels_first_mean" if shape[1] in widths else None
    if len(shape) == 3 and shape[2] in widths:
        return "mean"
    if len(shape) == 4 and (shape[1] in widths or not widths):
        return "mean"
    return "channels_last_mean" if len(shape) == 4 and shape[3] in widths else None
