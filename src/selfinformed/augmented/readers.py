"""The heads' first layers: all that read one source in one matrix product, or one convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from selfinformed.augmented.blocks import in_int8, int8_product, suits_int8
from selfinformed.network.points import FeatureShape
from selfinformed.network.trunk import CopiedEnd
from selfinformed.structure.plans import Source


@dataclass(frozen=True)
class InputTransform:
    """A linear transform of the features, attach point by attach point: (features - shift) @ matrix; of a map, channel by channel.

    Attributes:
        shapes: of the attach points.
        shifts: [D_i] of each, [channels] of a map; empty where the features stay as they are, since copies of the trunk read them.
        matrices: [D_i, D_i] of each, [channels, channels] of a map; likewise.
        copied: of what these copies give: shift [size] and matrix [size, size] by source.
    """

    shapes: tuple[FeatureShape, ...]
    shifts: tuple[torch.Tensor, ...]
    matrices: tuple[torch.Tensor, ...]
    copied: Mapping[Source, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, attached: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, D)"""
        parts = []
        for part, shape, shift, matrix in zip(torch.split(attached, [s.size for s in self.shapes], 1), self.shapes, self.shifts, self.matrices, strict=True):
            if not len(matrix):
                parts.append(part)
            elif shape.map is None:
                parts.append((part - shift) @ matrix)
            else:
                channels = part.unflatten(1, (shape.map[0], -1)) - shift[:, None]  # type: ignore[no-untyped-call]
                parts.append(torch.einsum("ncp,ce->nep", channels, matrix).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def over(self, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """The shift and the matrix of what a source gives heads to read; block-diagonal where it spans several attach points."""
        if source.copy is not None:
            return self.copied[source]
        start, shifts, matrices = 0, [], []
        for shape, shift, matrix in zip(self.shapes, self.shifts, self.matrices, strict=True):
            if source.start <= start and start + shape.size <= source.stop:
                size = shape.map[0] if shape.map else shape.size
                shifts.append(shift.double() if len(matrix) else torch.zeros(size, dtype=torch.float64, device="cpu"))
                matrices.append(matrix.double() if len(matrix) else torch.eye(size, dtype=torch.float64, device="cpu"))
            start += shape.size
        return torch.cat(shifts), torch.block_diag(*matrices)  # type: ignore[no-untyped-call]


class Reader(nn.Module):
    """First layers of the heads that read one source, side by side: features [B, D] to hidden units [B, sum w] after their ReLU.

    Args:
        source: what they read.
        widths: of each head's first layer; empty where the heads' output units read the shared layer or the copy itself.
        copy: the copy of the trunk's end that the source says; then there is one head.
    """

    def __init__(self, source: Source, widths: Sequence[int], copy: CopiedEnd | None = None) -> None:
        super().__init__()
        self.source, self.widths, self.copy = source, list(widths), copy
        self._transform: tuple[torch.Tensor, torch.Tensor] | None = None  # of what the copy gives, while it is trained
        self._left_out: torch.Tensor | None = None  # weights on what a transform gives nothing of, while the others are trained
        self.shared = nn.Linear(source.stop - source.start, source.shared) if source.shared else None
        self._int8: tuple[torch.Tensor, torch.Tensor] | None = None
        self.layer: nn.Linear | nn.Conv2d | None = None
        if widths:
            self.layer = nn.Linear(source.size, sum(widths)) if source.map is None else nn.Conv2d(source.map[0], sum(widths), source.kernel)

    @property
    def columns(self) -> int:
        """Hidden units that it gives."""
        return sum(self.widths) or self.source.size

    def inputs(self, features: torch.Tensor) -> torch.Tensor:
        """What the first layers read: (B, D) -> (B, size), or a map (B, channels, height, width); what a copy reads (B, *shape)"""
        whole = self.source.start == 0 and self.source.stop == features.shape[1]
        x = features if whole else features[:, self.source.start : self.source.stop]
        if self.source.map is not None:
            return x.unflatten(1, self.source.map)  # type: ignore[no-any-return, no-untyped-call]
        if self.source.copy is not None:
            return x.unflatten(1, self.source.copy.shape)  # type: ignore[no-any-return, no-untyped-call]
        if self.shared is None:
            return x
        return self.shared(x) if self.source.linear else _product(x, self.shared.weight, self.shared.bias)

    def copied(self, x: torch.Tensor) -> torch.Tensor:
        """What the head's layers read, from `inputs`: the same, or what its copy makes of it (B, size)"""
        if self.copy is None:
            return x
        x = self.copy(x)
        return x if self._transform is None else (x - self._transform[0]) @ self._transform[1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, sum w)"""
        x = self.copied(self.inputs(features))
        if self.layer is None:
            return x
        assert self.layer.bias is not None
        return self.rows(x, slice(None), self.layer.weight, self.layer.bias)

    def pieces(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight and bias of each head's own units, split all at once (see `BlockLinear.pieces`)."""
        if self.layer is None:
            return []
        assert self.layer.bias is not None
        return list(zip(torch.split(self.layer.weight, self.widths), torch.split(self.layer.bias, self.widths), strict=True))

    def rows(self, x: torch.Tensor, rows: slice, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Some of the hidden units, with their weight and bias, from what `copied` gives."""
        if self.source.map is not None:
            return nn.functional.conv2d(x, weight, bias).relu().mean((2, 3))
        int8 = self._int8  # which another thread may take away
        if int8 is not None and suits_int8(x):
            packed, scale = (part[rows] for part in int8)
            return (int8_product(x.bfloat16(), packed, scale).to(bias) + bias).relu()
        return _product(x, weight, bias)

    def quantize(self, on: bool) -> None:
        """Keeps the first layers' weights in 8 bits too, with a scale for each unit; products of small batches then read a quarter of the bytes."""
        weight = None if self.layer is None else self.layer.weight.detach()
        if not on or weight is None or weight.ndim > 2:  # a feature map's kernel is small, and read many times
            self._int8 = None
            return
        self._int8 = in_int8(weight)

    def unfold(self, transform: InputTransform, units: int) -> None:
        """The first so many units from the raw features to the transformed ones: the same function."""
        if self.copy is not None:
            if self.layer is None:  # output units have no bias to take a shift in
                return
            shift, matrix = transform.over(self.source)
            self._transform = shift.to(self.layer.weight), matrix.to(self.layer.weight)
        if units:
            self._change(transform, True, slice(units if self.shared is None else None))

    def fold(self, transform: InputTransform) -> None:
        """From the transformed features to the raw ones: the same function."""
        self._transform = None
        if self.copy is not None and self.layer is None:
            return
        self._change(transform, False, slice(None))

    @torch.no_grad()
    def _change(self, transform: InputTransform, inverse: bool, rows: slice) -> None:
        layer = self.layer if self.shared is None else self.shared
        assert layer is not None
        assert layer.bias is not None
        shift, matrix = transform.over(self.source)
        weight, bias = layer.weight[rows].cpu().double(), layer.bias[rows].cpu().double()  # some devices know no float64
        shift, matrix = shift.to(weight), matrix.to(weight)
        flat = weight.flatten(2) if weight.ndim > 2 else weight[:, :, None]  # (w, D or channels, kernel places)
        changed = torch.einsum("wdk,de->wek" if inverse else "wek,de->wdk", flat, torch.linalg.pinv(matrix).T if inverse else matrix)
        if inverse:  # a feature may be constant in these examples and was not in others
            self._left_out = flat - torch.einsum("wek,de->wdk", changed, matrix)
        elif self._left_out is not None:
            changed[: len(self._left_out)] += self._left_out
            self._left_out = None
        moved = torch.einsum("wdk,d->w", flat if inverse else changed, shift)
        layer.bias[rows] = (bias + moved if inverse else bias - moved).to(layer.bias)
        layer.weight[rows] = changed.reshape(weight.shape).to(layer.weight)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """relu(x @ weight.T + bias); but for the smallest batches as its transpose: on a CPU up to 1.6 times as fast for 8 to 32 examples."""
    if not torch.compiler.is_compiling() and len(x) < 4:
        return nn.functional.linear(x, weight, bias).relu()
    return torch.addmm(bias[:, None], weight, x.t()).relu().t()  # (w, D) @ (D, B) -> (w, B)
