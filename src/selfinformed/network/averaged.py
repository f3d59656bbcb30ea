"""Several classifiers whose average is the logits, as distilled networks have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn


def plain(layer: nn.Linear | AveragedClassifier) -> nn.Linear | AveragedClassifier:
    """A classifier with a copy of the weights and biases that another has now, whatever made them: a parametrization, a norm, a mask."""
    if isinstance(layer, AveragedClassifier):
        return AveragedClassifier([cast("nn.Linear", plain(part)) for part in layer.parts])
    size, like = (layer.in_features, layer.out_features, layer.bias is not None), {"device": layer.weight.device, "dtype": layer.weight.dtype}
    copied = cast("nn.Linear", nn.utils.skip_init(nn.Linear, *size, **like))  # type: ignore[no-untyped-call]  # and no random number is drawn
    with torch.no_grad():
        copied.weight.copy_(layer.weight)
        if layer.bias is not None:
            copied.bias.copy_(layer.bias)
    return copied


class AveragedClassifier(nn.Module):
    """Linear classifiers p_i, each with its own input, and logits (p_1(x_1) + p_2(x_2) + ...) / n, seen as one classifier of all inputs.

    Args:
        parts: the linear layers, each with C outputs.
    """

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.parts = cast("list[nn.Linear]", nn.ModuleList(parts))

    def forward(self, penultimate: torch.Tensor) -> torch.Tensor:
        """The inputs of all parts side by side [B, P_1 + P_2 + ...] to logits [B, C]"""
        # Copied, since columns of a wider tensor may be multiplied in another order than the parts' own inputs were.
        inputs = [x.contiguous() for x in torch.split(penultimate, [part.in_features for part in self.parts], 1)]
        total: torch.Tensor = self.parts[0](inputs[0])
        for part, x in zip(self.parts[1:], inputs[1:], strict=True):
            total = total + part(x)
        return total / len(self.parts)

    @property
    def in_features(self) -> int:
        """P_1 + P_2 + ..."""
        return sum(part.in_features for part in self.parts)

    @property
    def out_features(self) -> int:
        """C."""
        return int(self.parts[0].out_features)

    @property
    def weight(self) -> torch.Tensor:
        """[C, P_1 + P_2 + ...], of the average."""
        return torch.cat([part.weight for part in self.parts], 1) / len(self.parts)

    @property
    def bias(self) -> torch.Tensor | None:
        """[C], of the average; None where no part has one."""
        biases = [part.bias for part in self.parts if part.bias is not None]
        return sum(biases[1:], biases[0]) / len(self.parts) if biases else None

    def reset_parameters(self) -> None:
        """New random weights in all parts."""
        for part in self.parts:
            part.reset_parameters()
