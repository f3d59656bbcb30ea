"""A block-diagonal linear layer that computes its blocks and nothing beside them, however many and unequal they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from selfinformed.network.calls import is_traced

_LARGE = 225_000  # weights of a block that take longer to read in 32 bits than a product takes to start

_INT8_BATCH = 8  # beyond it a product no longer waits for memory, and float32 is as fast or faster

Piece = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Product:
    """`n` neighbouring blocks of `inputs` x `outputs` in one batched product; they read n * inputs columns from `start` on."""

    n: int
    inputs: int
    outputs: int
    start: int

    @property
    def columns(self) -> int:
        return self.n * self.inputs


class BlockLinear(nn.Module):
    """Block i maps a_i inputs to b_i outputs: x [B, columns] to [B, sum b], the outputs of the blocks side by side.

    Neighbouring blocks that read the same columns are one product, and so are those of one shape that read columns side by side; every other block
    is a product of its own. Nothing is padded: what is executed are sum a_i b_i multiply-adds an example.

    Args:
        blocks: (a_i, b_i) of each block.
        inputs: for each block the column at which its a_i inputs begin in x.
        columns: the number of columns of x.
        bias: whether outputs have a bias.
    """

    def __init__(self, blocks: Sequence[tuple[int, int]], inputs: Sequence[int], columns: int, bias: bool) -> None:
        super().__init__()
        self.blocks, self.inputs = list(blocks), list(inputs)
        self.outputs = sum(b for _, b in blocks)
        self.weight = nn.Parameter(torch.zeros(sum(a * b for a, b in blocks)))  # [b, a] of each block, one after the other
        self.bias = nn.Parameter(torch.zeros(self.outputs)) if bias else None
        self._sizes = [a * b for a, b in blocks]
        self.firsts = list(itertools.accumulate((b for _, b in blocks), initial=0))
        self._products = _products(self.blocks, self.inputs)
        # Columns are handed out all at once, where products read columns of their own: each slice would have a gradient of the size of x.
        self._in_order = sorted(range(len(self._products)), key=lambda number: self._products[number].start)
        ends = list(itertools.accumulate((self._products[number].columns for number in self._in_order), initial=0))
        self._divided = ends == [*(self._products[number].start for number in self._in_order), columns]
        self._int8: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, columns) -> (B, sum b)"""
        int8 = self._int8  # which another thread may take away
        if int8 is not None and suits_int8(x):
            return self._in_int8(x, int8)
        weights = self.weight.split([product.columns * product.outputs for product in self._products])  # type: ignore[no-untyped-call]
        parts = []
        for product, read, weight in zip(self._products, self._read(x), weights, strict=True):
            a, b = product.inputs, product.outputs
            if product.n == 1:
                parts.append(F.linear(read, weight.view(b, a)))
            else:
                read = read.unflatten(1, (product.n, a)).transpose(0, 1)  # type: ignore[no-untyped-call]
                out = torch.bmm(read, weight.view(product.n, b, a).transpose(1, 2))
                parts.append(out.transpose(0, 1).flatten(1))  # (n, B, b) -> (B, n * b)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out if self.bias is None else out + self.bias

    def _read(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The columns that each product reads."""
        if not self._divided:
            return [x[:, product.start : product.start + product.columns] for product in self._products]
        parts = x.split([self._products[number].columns for number in self._in_order], 1)  # type: ignore[no-untyped-call]
        read = [x] * len(parts)
        for number, part in zip(self._in_order, parts, strict=True):
            read[number] = part
        return read

    def quantize(self, on: bool) -> None:
        """Keeps the weights in 8 bits too, for small batches, where blocks are so large that reading them takes longer than starting a product each."""
        large = sum(self._sizes) > _LARGE * len(self.blocks)
        self._int8 = [in_int8(self.weight_of(block)) for block in range(len(self.blocks))] if on and large else None

    def _in_int8(self, x: torch.Tensor, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        narrow = x.bfloat16()
        columns = [narrow[:, start : start + a] for (a, _), start in zip(self.blocks, self.inputs, strict=True)]
        out = torch.cat([int8_product(read, *weight) for read, weight in zip(columns, weights, strict=True)], 1).to(x)
        return out if self.bias is None else out + self.bias

    def pieces(self) -> list[Piece]:
        """Weight [b, a] and bias [b] of each block. Split all at once: each slice of the weight would have a gradient of the whole weight's size."""
        weights = self.weight.split(self._sizes)  # type: ignore[no-untyped-call]
        biases = [None] * len(weights) if self.bias is None else self.bias.split([b for _, b in self.blocks])  # type: ignore[no-untyped-call]
        return [(weight.view(b, a), bias) for (a, b), weight, bias in zip(self.blocks, weights, biases, strict=True)]

    def block(self, number: int, x: torch.Tensor, piece: Piece) -> torch.Tensor:
        """Block `number` alone: (m, a) -> (m, b); `piece` is its part of `pieces`."""
        (weight, bias), int8 = piece, self._int8
        if int8 is not None and suits_int8(x):
            product = int8_product(x.bfloat16(), *int8[number]).to(x)
            return product if bias is None else product + bias
        return F.linear(x, weight, bias)

    def weight_of(self, number: int) -> torch.Tensor:
        """A copy of block `number`'s weight [b, a]."""
        return self.pieces()[number][0].detach().clone()

    def bias_of(self, number: int) -> torch.Tensor:
        """A copy of block `number`'s bias [b]."""
        assert self.bias is not None
        return self.bias.detach()[self.firsts[number] : self.firsts[number + 1]].clone()

    @torch.no_grad()
    def set_block(self, number: int, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Copies weight [b, a] and bias [b] into block `number`."""
        own, own_bias = self.pieces()[number]
        own.copy_(weight)
        if bias is not None and own_bias is not None:
            own_bias.copy_(bias)


def _products(blocks: Sequence[tuple[int, int]], inputs: Sequence[int]) -> list[_Product]:
    """What is computed together: neighbours that read the same columns, then neighbours of one shape that read columns side by side."""
    merged: list[_Product] = []
    for (a, b), start in zip(blocks, inputs, strict=True):
        last = merged[-1] if merged else None
        if last is not None and (last.start, last.inputs) == (start, a):
            merged[-1] = _Product(1, a, last.outputs + b, start)
        else:
            merged.append(_Product(1, a, b, start))
    products: list[_Product] = []
    for product in merged:
        last = products[-1] if products else None
        if last is not None and (last.inputs, last.outputs, last.start + last.columns) == (product.inputs, product.outputs, product.start):
            products[-1] = _Product(last.n + 1, last.inputs, last.outputs, last.start)
        else:
            products.append(product)
    return products


def in_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [b, a] rounded to 1/127 of each row's largest: int8 [b, a padded to a multiple of 64] and scale bfloat16 [b].

    PyTorch's product reads whole vectors and, where a row ends between two, past the end of the last row.
    """
    scale = weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    scale = scale.bfloat16()  # first, so that rounding it is no error of its own
    rounded = (weight.detach() / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return nn.functional.pad(rounded, (0, -weight.shape[1] % 64)).contiguous(), scale.flatten()


def suits_int8(x: torch.Tensor) -> bool:
    """Whether a product of x [B, a] gains from weights in 8 bits: a small batch, no gradient asked for, and no program made, which has any batch."""
    return not is_traced() and len(x) <= _INT8_BATCH and not torch.is_grad_enabled()


def int8_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [B, a] in bfloat16 times what `in_int8` gave: bfloat16 [B, b]"""
    padding = weight.shape[1] - x.shape[1]
    return torch._weight_int8pack_mm(nn.functional.pad(x, (0, padding)) if padding else x.contiguous(), weight, scale)
