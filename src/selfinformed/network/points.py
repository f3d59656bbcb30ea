"""Where heads read, and what is read there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from selfinformed.runtime.arguments import one_of

Reduce = Literal["flatten", "mean", "channels_first_mean", "channels_last_mean", "first", "map"]


@dataclass(frozen=True)
class AttachPoint:
    """A tensor that heads read.

    Attributes:
        module: a module's dotted name.
        side: whether it is that module's input or output.
        reduce: how a tensor with more than two dimensions becomes [B, D]:
            - `flatten`: everything side by side; its size must not change from batch to batch.
            - `mean`: over the positions of a map [B, channels, height, width], or over the tokens of a sequence [B, tokens, D].
            - `channels_first_mean`: over all but the first two dimensions, for sequences [B, channels, length] too.
            - `channels_last_mean`: over all but the first and last dimension, for maps [B, ..., channels].
            - `first`: the first token of a sequence [B, tokens, D].
            - `map`: flattened, but remembered as a map [B, channels, height, width] on which heads may convolve.
    """

    module: str
    side: Literal["input", "output"] = "output"
    reduce: Reduce = "flatten"

    def __post_init__(self) -> None:
        one_of("side", self.side, ("input", "output"))
        one_of("reduce", self.reduce, get_args(Reduce))

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, D), in memory of its own: what follows in the network may write to the tensor."""
        if tensor.ndim == 3 and self.reduce == "mean":
            return tensor.mean(1)
        if tensor.ndim > 2 and self.reduce in ("mean", "channels_first_mean"):
            return tensor.flatten(2).mean(2)
        if tensor.ndim > 2 and self.reduce == "channels_last_mean":
            return tensor.flatten(1, -2).mean(1)
        return (tensor[:, 0] if tensor.ndim > 2 and self.reduce == "first" else tensor).flatten(1).clone()

    def __str__(self) -> str:
        return f"the {self.side} of {self.module!r}"


@dataclass(frozen=True)
class FeatureShape:
    """What heads read from one attach point: `size` columns; `map` is (channels, height, width) where its `reduce` is `map`."""

    size: int
    map: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Features:
    """What a network computes for a batch: `attached` [B, D] (all attach points side by side), the classifier's input
    `penultimate` [B, P], `logits` [B, C]."""

    attached: torch.Tensor
    penultimate: torch.Tensor
    logits: torch.Tensor
