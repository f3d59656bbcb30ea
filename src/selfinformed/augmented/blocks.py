"""A block-diagonal linear layer in a few batched matrix products, whatever the number of blocks and however unequal they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

_TILES = (64, 128, 256, 512)
_COPY = 32  # outputs of a tile that cost as much as handing it a copy of its inputs
_PRODUCT = 200_000  # multiply-adds that cost as much as one more product
_MOST_PRODUCTS = 6

_LARGE = 225_000  # weights of a block that take longer to read in 32 bits than a product takes to start

_INT8_BATCH = 8  # beyond it a product no longer waits for memory, and float32 is as fast or faster

IntArray = npt.NDArray[np.int64]
Piece = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Bucket:
    """Blocks evaluated in one product: each as tiles of `tile` outputs, its inputs padded to `width`."""

    blocks: tuple[int, ...]
    width: int
    tile: int


class BlockLinear(nn.Module):
    """Block i maps a_i inputs to b_i outputs: x [B, columns] to [B, P], where P counts padding; `places` says where the outputs are.

    Blocks of similar width share one batched product over tiles of equal size, so that the number of operators does not grow with
    the number of blocks. Padding has weights of zero, reads zeros and is read by nothing: its gradient is zero, and it stays zero.

    Args:
        blocks: (a_i, b_i) of each block.
        inputs: for each block the column at which its a_i inputs begin in x.
        columns: the number of columns of x.
        bias: whether outputs have a bias.
    """

    def __init__(self, blocks: Sequence[tuple[int, int]], inputs: Sequence[int], columns: int, bias: bool) -> None:
        super().__init__()
        self.blocks, self.inputs, self.columns = list(blocks), list(inputs), columns
        self.buckets = _buckets(self.blocks)
        self._int8: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self._gathers: list[str | None] = []
        self._copies: list[str | None] = []
        self._tiles: dict[int, tuple[int, slice]] = {}
        self.places: list[IntArray] = [np.empty(0, np.int64)] * len(self.blocks)
        self.outputs = 0
        for number, bucket in enumerate(self.buckets):
            owners: list[int] = []
            gathered = np.full((len(bucket.blocks), bucket.width), columns)  # the column after the last holds zeros
            for place, block in enumerate(bucket.blocks):
                width, outputs = self.blocks[block]
                tiles = -(-outputs // bucket.tile)
                self._tiles[block] = number, slice(len(owners), len(owners) + tiles)
                self.places[block] = self.outputs + len(owners) * bucket.tile + np.arange(outputs)
                gathered[place, :width] = self.inputs[block] + np.arange(width)
                owners += [place] * tiles
            self.outputs += len(owners) * bucket.tile
            self.weights.append(nn.Parameter(torch.zeros(len(owners), bucket.width, bucket.tile)))
            if bias:
                self.biases.append(nn.Parameter(torch.zeros(len(owners), 1, bucket.tile)))
            as_it_is = np.array_equal(gathered.ravel(), np.arange(columns))
            self._gathers.append(None if as_it_is else self._constant(f"gather_{number}", gathered.ravel()))
            copied = owners != list(range(len(bucket.blocks)))
            self._copies.append(self._constant(f"copy_{number}", np.array(owners)) if copied else None)
        self._reads_padding = any(self.blocks[b][0] < bucket.width for bucket in self.buckets for b in bucket.blocks)

    def _constant(self, name: str, values: IntArray) -> str:
        self.register_buffer(name, torch.from_numpy(values.astype(np.int64)), persistent=False)
        return name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, columns) -> (B, P)"""
        if self._int8 is not None and suits_int8(x):
            return self._in_int8(x, self._int8)
        padded = nn.functional.pad(x, (0, 1)) if self._reads_padding else x
        parts = []
        for number, bucket in enumerate(self.buckets):
            gather, copy = self._gathers[number], self._copies[number]
            read = x if gather is None else padded.index_select(1, getattr(self, gather))  # (B, H * a)
            read = torch.unflatten(read, 1, (len(bucket.blocks), bucket.width)).transpose(0, 1)  # (H, B, a)
            if copy is not None:
                read = read.index_select(0, getattr(self, copy))  # (tiles, B, a)
            weight = self.weights[number]
            out = torch.baddbmm(self.biases[number], read, weight) if len(self.biases) else torch.bmm(read, weight)
            parts.append(out.transpose(0, 1).flatten(1))  # (tiles, B, tile) -> (B, tiles * tile)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def quantize(self, on: bool) -> None:
        """Keeps the weights in 8 bits too, for small batches, where blocks are so large that reading them takes longer than starting a product each."""
        large = sum(a * b for a, b in self.blocks) > _LARGE * len(self.blocks)
        self._int8 = [in_int8(self.weight_of(block)) for block in range(len(self.blocks))] if on and large else None

    def _in_int8(self, x: torch.Tensor, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        out, narrow = x.new_zeros(len(x), self.outputs), x.bfloat16()
        for number, (weight, scale) in enumerate(weights):
            (a, b), start, first = self.blocks[number], self.inputs[number], int(self.places[number][0])
            out[:, first : first + b] = int8_product(narrow[:, start : start + a], weight, scale)
        return out + torch.cat([bias.flatten() for bias in self.biases]) if len(self.biases) else out

    def pieces(self) -> list[Piece]:
        """Weight [tiles, a padded, tile] and bias [tiles, 1, tile] of each block. Split all at once: each slice of a weight would
        have a gradient of the whole weight's size.
        """
        found: list[Piece] = [(torch.empty(0), None)] * len(self.blocks)
        for number, bucket in enumerate(self.buckets):
            sizes = [self._tiles[block][1].stop - self._tiles[block][1].start for block in bucket.blocks]
            weights = self.weights[number].split(sizes)
            biases = self.biases[number].split(sizes) if len(self.biases) else [None] * len(sizes)
            for block, weight, bias in zip(bucket.blocks, weights, biases, strict=True):
                found[block] = weight, bias
        return found

    def block(self, number: int, x: torch.Tensor, piece: Piece) -> torch.Tensor:
        """Block `number` alone: (m, a) -> (m, b); `piece` is its part of `pieces`."""
        width, outputs = self.blocks[number]
        bucket, tiles = self._tiles[number]
        if self._int8 is not None and suits_int8(x):
            product = int8_product(x.bfloat16(), *self._int8[number]).to(x)
            return product + self.biases[bucket][tiles].flatten()[:outputs] if len(self.biases) else product
        weight, bias = piece
        if tiles.stop - tiles.start == 1:
            out = x @ weight[0, :width, :outputs]
            return out if bias is None else out + bias[0, :, :outputs]
        out = torch.matmul(x, weight[:, :width])  # (tiles, m, tile)
        if bias is not None:
            out = out + bias
        return out.transpose(0, 1).flatten(1)[:, :outputs]

    def weight_of(self, number: int) -> torch.Tensor:
        """A copy of block `number`'s weight [b, a]."""
        width, outputs = self.blocks[number]
        bucket, tiles = self._tiles[number]
        return self.weights[bucket].detach()[tiles, :width].transpose(1, 2).flatten(0, 1)[:outputs].clone()  # type: ignore[no-any-return]

    def bias_of(self, number: int) -> torch.Tensor:
        """A copy of block `number`'s bias [b]."""
        bucket, tiles = self._tiles[number]
        return self.biases[bucket].detach()[tiles].flatten()[: self.blocks[number][1]].clone()  # type: ignore[no-any-return]

    @torch.no_grad()
    def set_block(self, number: int, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Copies weight [b, a] and bias [b] into block `number`."""
        width, outputs = self.blocks[number]
        bucket, tiles = self._tiles[number]
        n, tile = tiles.stop - tiles.start, self.buckets[bucket].tile
        rows = nn.functional.pad(weight.to(self.weights[bucket]), (0, 0, 0, n * tile - outputs))
        self.weights[bucket][tiles, :width] = rows.unflatten(0, (n, tile)).transpose(1, 2)  # type: ignore[no-untyped-call]
        if bias is not None:
            self.biases[bucket][tiles] = nn.functional.pad(bias.to(self.biases[bucket]), (0, n * tile - outputs)).view(n, 1, tile)


def in_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [b, a] rounded to 1/127 of each row's largest: int8 [b, a padded to a multiple of 64] and scale bfloat16 [b].

    PyTorch's product reads whole vectors and, where a row ends between two, past the end of the last row.
    """
    scale = weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    scale = scale.bfloat16()  # first, so that rounding it is no error of its own
    rounded = (weight.detach() / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return nn.functional.pad(rounded, (0, -weight.shape[1] % 64)).contiguous(), scale.flatten()


def suits_int8(x: torch.Tensor) -> bool:
    """Whether a product of x [B, a] gains from weights in 8 bits: a small batch, and no gradient asked for."""
    return len(x) <= _INT8_BATCH and not torch.is_grad_enabled()


def int8_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [B, a] in bfloat16 times what `in_int8` gave: bfloat16 [B, b]"""
    padding = weight.shape[1] - x.shape[1]
    return torch._weight_int8pack_mm(nn.functional.pad(x, (0, padding)) if padding else x.contiguous(), weight, scale)


def _buckets(blocks: Sequence[tuple[int, int]]) -> list[_Bucket]:
    """Splits the blocks, sorted by width, into the few buckets that cost least: dynamic programming over cuts between widths."""
    order = sorted(range(len(blocks)), key=lambda i: -blocks[i][0])
    widths, outputs = (np.array([blocks[i][side] for i in order], dtype=np.int64) for side in (0, 1))
    cuts = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(blocks)]
    if len(cuts) > 66:  # near enough, for a hundred different widths
        cuts = sorted({cuts[i] for i in np.linspace(0, len(cuts) - 1, 66).astype(int)})
    price: dict[tuple[int, int], tuple[float, int]] = {}
    for i, start in enumerate(cuts):
        for stop in cuts[i + 1 :]:
            price[start, stop] = _price(int(widths[start]), outputs[start:stop])
    best: dict[int, list[tuple[float, list[int]]]] = {0: [(0.0, [])]}  # cut -> by number of buckets: cost, the cuts taken
    for i, stop in enumerate(cuts[1:], 1):
        found: dict[int, tuple[float, list[int]]] = {}
        for start in cuts[:i]:
            for cost, taken in best[start]:
                new = cost + price[start, stop][0], [*taken, stop]
                if len(new[1]) <= _MOST_PRODUCTS and (len(new[1]) not in found or new[0] < found[len(new[1])][0]):
                    found[len(new[1])] = new
        best[stop] = list(found.values())
    taken = min(best[len(blocks)])[1]
    return [
        _Bucket(tuple(sorted(order[start:stop])), int(widths[start]), price[start, stop][1])
        for start, stop in zip([0, *taken[:-1]], taken, strict=True)
    ]


def _price(width: int, outputs: IntArray) -> tuple[float, int]:
    """What the cheapest tile size costs for blocks of up to `width` inputs, in multiply-adds, and that size."""
    largest = int(outputs.max())
    prices = [(float(width) * len(outputs) * largest, largest)]  # one tile per block: nothing is copied
    prices += [(float(width) * int((-(-outputs // tile)).sum()) * (tile + _COPY), tile) for tile in _TILES if tile < largest]
    cost, tile = min(prices)
    return cost + _PRODUCT, tile
