"""A block-diagonal layer against the loop that says what it means."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from selfinformed.augmented.blocks import BlockLinear

SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=9)


def filled(blocks: list[tuple[int, int]], inputs: list[int], columns: int, bias: bool = True) -> BlockLinear:
    made = BlockLinear(blocks, inputs, columns, bias).double()
    generator = torch.Generator().manual_seed(0)
    for number, (a, b) in enumerate(blocks):
        weight = torch.randn(b, a, generator=generator, dtype=torch.float64)
        made.set_block(number, weight, torch.randn(b, generator=generator, dtype=torch.float64) if bias else None)
    return made


def looped(made: BlockLinear, x: torch.Tensor) -> torch.Tensor:
    parts = []
    for number, ((a, _), start) in enumerate(zip(made.blocks, made.inputs, strict=True)):
        out = x[:, start : start + a] @ made.weight_of(number).T
        parts.append(out if made.bias is None else out + made.bias_of(number))
    return torch.cat(parts, 1)


def agrees(made: BlockLinear, columns: int) -> None:
    x = torch.randn(3, columns, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        got = made(x)
    assert counter.get_total_flops() == 2 * 3 * sum(a * b for a, b in made.blocks)
    expected = looped(made, x)
    torch.testing.assert_close(got, expected)
    for one, other in zip(torch.autograd.grad(got.square().sum(), x), torch.autograd.grad(expected.square().sum(), x), strict=True):
        torch.testing.assert_close(one, other)
    for number, ((a, b), start, piece) in enumerate(zip(made.blocks, made.inputs, made.pieces(), strict=True)):
        alone = made.block(number, x[:, start : start + a], piece)
        torch.testing.assert_close(alone, got[:, made.firsts[number] : made.firsts[number] + b])


@given(SHAPES, st.booleans(), st.randoms(use_true_random=False))
def test_blocks_that_divide_the_columns_in_any_order(shapes, bias, random):
    order = random.sample(range(len(shapes)), len(shapes))
    starts, at = [0] * len(shapes), 0
    for block in order:
        starts[block] = at
        at += shapes[block][0]
    agrees(filled(shapes, starts, at, bias), at)


@given(SHAPES, st.data())
def test_blocks_that_read_any_columns(shapes, data):
    columns = max(a for a, _ in shapes) + data.draw(st.integers(0, 4))
    starts = [data.draw(st.integers(0, columns - a)) for a, _ in shapes]
    agrees(filled(shapes, starts, columns), columns)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_blocks_of_one_shape_are_one_product(n, a, b, more):
    blocks = [(a, b)] * n + [(a + 1, b)] * more
    made = BlockLinear(blocks, list(itertools.accumulate([0] + [a] * n + [a + 1] * (more - 1))), n * a + more * (a + 1), bias=False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        made(torch.randn(2, n * a + more * (a + 1)))
    assert sum(event.count for event in seen.key_averages() if event.key in ("aten::bmm", "aten::linear")) == 2
    agrees(filled(made.blocks, made.inputs, n * a + more * (a + 1)), n * a + more * (a + 1))


@pytest.mark.parametrize("sizes", [(5, 1, 7), (4, 4)])
def test_blocks_that_read_the_same_are_one_product(sizes):
    made = filled([(6, size) for size in sizes], [2] * len(sizes), 9)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        made(torch.randn(2, 9, dtype=torch.float64))
    assert sum(event.count for event in seen.key_averages() if event.key in ("aten::bmm", "aten::linear")) == 1
    agrees(made, 9)
