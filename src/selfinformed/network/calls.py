"""Calling any network alike: one tensor or keyword arguments in, logits [B, C] out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from selfinformed.data.examples import Inputs
from selfinformed.runtime.errors import SelfInformedError


class Classifies(Protocol):
    """What gives logits for labels: a wrapped network, or an augmented one."""

    @property
    def n_labels(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def logits(self, inputs: Inputs) -> torch.Tensor: ...


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Calls a model with a tensor, or with a dictionary of tensors as keyword arguments, on the model's own device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(inputs, dict):
        return model(**{name: tensor.to(device) for name, tensor in inputs.items()})
    return model(inputs.to(device))


def logits_of(output: Any) -> torch.Tensor:
    """The logits in whatever a model returns: a tensor [B, C], `.logits`, `["logits"]`, or the first of a tuple."""
    if not isinstance(output, torch.Tensor):
        if hasattr(output, "logits"):
            output = output.logits
        elif isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif isinstance(output, tuple | list) and output:
            output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = f"a tensor of shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise SelfInformedError(f"model: expected logits [batch, labels] (a tensor, or an output with `logits`), got {shape}")
    return output


def batch_size_of(inputs: Inputs) -> int:
    return len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is restored after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
