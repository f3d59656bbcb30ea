"""Multiply-adds equal those counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfinformed.network.cost import cost

TOKENS, WIDTH = 5, 8
SEQUENCE = torch.randn(2, TOKENS, WIDTH)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(1, 4))
def test_linear_layers(widths, batch):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    found = cost(model, torch.randn(batch, widths[0]))
    assert found.multiply_adds == sum(a * b for a, b in itertools.pairwise(widths))  # of one example
    assert found.parameters == sum(a * b + b for a, b in itertools.pairwise(widths))
    assert found.uncounted == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.sampled_from([4, 8]), st.integers(1, 3), st.integers(1, 2), st.sampled_from([1, 2]), st.integers(5, 9))
def test_convolutions(inputs, outputs, kernel, stride, groups, side):
    model = nn.Sequential(nn.Conv2d(inputs * groups, outputs, kernel, stride, groups=groups), nn.BatchNorm2d(outputs), nn.Flatten())
    out = (side - kernel) // stride + 1
    assert cost(model, torch.randn(2, inputs * groups, side, side)).multiply_adds == out * out * outputs * inputs * kernel * kernel


def test_parts_sum_to_the_total():
    model = nn.ModuleDict({"trunk": nn.Conv2d(1, 2, 3), "a": nn.Linear(32, 7), "b": nn.Linear(7, 6), "last": nn.Linear(6, 4)})
    model.forward = lambda x: model["last"](model["b"](model["a"](model["trunk"](x).flatten(1))))
    found = cost(model, torch.randn(3, 1, 6, 6), {"stack": ("a", "b"), "classifier": ("last",)})
    assert found.by_part == {"trunk": 16 * 2 * 9, "stack": 32 * 7 + 7 * 6, "classifier": 6 * 4}
    assert sum(found.by_part.values()) == found.multiply_adds


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True) if fused else nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Identity() if fused else nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.mix, nn.MultiheadAttention):
            return self.mix(x, x, x, need_weights=False)[0]
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.mix(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OnRealNumbers(nn.Module):
    """Looks at its numbers, which the meta device has none of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.abs().sum().item() >= 0
        out = self.inner(x)
        return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_counted(fused):
    projections, attention = 4 * TOKENS * WIDTH * WIDTH, 2 * TOKENS * TOKENS * WIDTH
    found = cost(Attention(fused), SEQUENCE)
    assert found.multiply_adds == projections + attention
    assert found.uncounted == ()


@pytest.mark.parametrize(
    ("inner", "operator"),
    [
        (Attention(True), "_native_multi_head_attention"),
        (Attention(False), "_scaled_dot_product_flash_attention_for_cpu"),
        (nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), "_transformer_encoder_layer_fwd"),
        (nn.LSTM(WIDTH, 4, batch_first=True), "mkldnn_rnn_layer|lstm"),
    ],
)
def test_what_is_not_counted_is_said(inner, operator):
    found = cost(OnRealNumbers(inner), SEQUENCE)
    assert all(part.startswith("aten.") for part in found.uncounted)
    assert any(name in part for part in found.uncounted for name in operator.split("|"))


def test_an_lstm_is_counted_or_said_to_be_left_out():
    found = cost(nn.LSTM(WIDTH, 4, batch_first=True), SEQUENCE)
    assert found.uncounted or found.multiply_adds == TOKENS * 4 * (WIDTH * 4 + 4 * 4)


def test_keyword_inputs():
    model = nn.Bilinear(3, 4, 2)
    inputs = {"input1": torch.randn(2, 3), "input2": torch.randn(2, 4)}
    assert cost(model, inputs) == cost(model, {name: tensor[:1] for name, tensor in inputs.items()})


def test_a_model_that_knows_its_device_is_counted_there():
    model = OnRealNumbers(nn.Linear(8, 3))
    assert cost(model, torch.randn(2, 8), {"inner": ("inner",)}).by_part == {"trunk": 0, "inner": 24}


class Remembers(nn.Module):
    """Keeps a table made in its first call, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(4, 3), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.arange(4.0, device=x.device)
        return self.linear(x * self.table)


def test_the_model_is_not_changed():
    model = Remembers().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 4)
    assert cost(model, x).multiply_adds == 12
    assert model.training
    assert model.table is None
    assert model(x).device == torch.device("cpu")
    assert all(torch.equal(state[name], tensor) and tensor.device.type == "cpu" for name, tensor in model.state_dict().items())


def test_shared_weights_are_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = cost(model, torch.randn(1, 4))
    assert (found.multiply_adds, found.parameters) == (32, 16 + 4 + 4)


def test_parameters_by_part():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    counted = cost(model, torch.randn(2, 4), {"classifier": ("2",)})
    assert counted.parameters_by_part == {"trunk": 25, "classifier": 18}
    assert counted.by_part == {"trunk": 20, "classifier": 15}
