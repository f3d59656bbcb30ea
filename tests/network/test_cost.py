"""Multiply-adds equal those counted by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfinformed.network.cost import cost

TOKENS, WIDTH = 5, 8
SEQUENCE = torch.randn(2, TOKENS, WIDTH)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(1, 4))
def test_linear_layers(widths, batch):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    found = cost(model, torch.randn(batch, widths[0]))
    assert found.multiply_adds == sum(a * b for a, b in itertools.pairwise(widths))  # of one example
    assert found.parameters == sum(a * b + b for a, b in itertools.pairwise(widths))
    assert found.uncounted == ()


@settings(max_examples=25)
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


def test_a_view_of_a_parameter_may_be_a_layers_input():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.norm, self.out = nn.Parameter(torch.ones(1, 1, WIDTH)), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(self.token.expand(len(x), -1, -1))[:, 0] + x.mean(1))

    assert cost(Tokens(), SEQUENCE).multiply_adds == 3 * WIDTH


class OnRealNumbers(nn.Module):
    """Looks at its numbers, which the meta device has none of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.abs().sum().item() >= 0
        out = self.inner(x)
        return out[0] if isinstance(out, tuple) else out


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_counted(fused):
    projections, attention = 4 * TOKENS * WIDTH * WIDTH, 2 * TOKENS * TOKENS * WIDTH
    found = cost(Attention(fused), SEQUENCE)
    assert found.multiply_adds == projections + attention
    assert found.uncounted == ()


def test_attention_is_counted_where_the_meta_device_cannot_follow():
    assert cost(OnRealNumbers(Attention(False)), SEQUENCE).multiply_adds == 4 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH

    def shared(x):  # four queries of 8, two keys of 8 and two values of 6
        assert x.sum().item() != 0
        return F.scaled_dot_product_attention(x.new_ones(1, 4, 5, 8), x.new_ones(1, 2, 7, 8), x.new_ones(1, 2, 7, 6), enable_gqa=True)

    assert cost(Calls(shared), SEQUENCE).multiply_adds == 4 * 5 * 7 * (8 + 6)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta"])
def test_transformers_called_with_an_attention_mask(family):
    import transformers

    length, width, inner, layers, labels = 9, 12, 20, 2, 3
    sizes = (
        {"dim": width, "hidden_dim": inner, "n_layers": layers, "n_heads": 2}
        if family == "DistilBert"
        else {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 2}
    )
    config = getattr(transformers, f"{family}Config")(vocab_size=50, max_position_embeddings=20, num_labels=labels, **sizes)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    ids, mask = torch.randint(5, 50, (2, length)), torch.ones(2, length, dtype=torch.long)
    mask[:, 6:] = 0
    found = cost(model, {"input_ids": ids, "attention_mask": mask})
    layer = 4 * length * width**2 + 2 * length**2 * width + 2 * length * width * inner
    assert (found.multiply_adds, found.uncounted) == (layers * layer + width * width + width * labels, ())


VECTOR, MATRIX = torch.randn(WIDTH), torch.randn(WIDTH, WIDTH)
BILINEAR = nn.Bilinear(WIDTH, WIDTH, 3)
QUANTISED = torch.ao.nn.quantized.dynamic.Linear(WIDTH, 3), torch.ao.nn.quantized.dynamic.Linear(WIDTH, 3, dtype=torch.float16)
EIGHT_BITS = torch.ones(64, 32, dtype=torch.int8)
FOUR_BITS = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.ones(64, 64, dtype=torch.int32), 1)


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        (lambda x: BILINEAR(x, x), TOKENS * 3 * WIDTH * (WIDTH + 1)),
        (lambda x: x[0] @ VECTOR, TOKENS * WIDTH),
        (lambda x: torch.addmv(VECTOR, MATRIX, x[0, 0]), WIDTH * WIDTH),
        (lambda x: x[0, 0].clone().addmv_(MATRIX, VECTOR), WIDTH * WIDTH),
        (lambda x: x[0].clone().addmm_(x[0], MATRIX), TOKENS * WIDTH * WIDTH),
        (lambda x: x.clone().baddbmm_(x, MATRIX[None]), TOKENS * WIDTH * WIDTH),
        (lambda x: torch.addbmm(x[0], x, MATRIX[None]), TOKENS * WIDTH * WIDTH),
        (lambda x: torch._addmm_activation(VECTOR, x[0], MATRIX), TOKENS * WIDTH * WIDTH),
        (lambda x: torch.dot(x[0, 0], VECTOR), WIDTH),
        (lambda x: torch.vdot(x[0, 0], VECTOR), WIDTH),
        (lambda x: torch.addr(MATRIX, x[0, 0], VECTOR), WIDTH * WIDTH),
        (lambda x: torch.outer(x[0, 0], VECTOR), 0),  # one number by one number
        (lambda x: (x * VECTOR).sum(-1), 0),
        (lambda x: torch.cdist(x, MATRIX), TOKENS * WIDTH * WIDTH),
        (lambda x: torch.cdist(x.repeat(1, 6, 1), MATRIX.repeat(5, 1)), 6 * TOKENS * 5 * WIDTH * WIDTH),  # takes another way
        (lambda x: torch.cdist(x, MATRIX, p=1.0), TOKENS * WIDTH * WIDTH),
        (lambda x: torch.pdist(x[0]), TOKENS * (TOKENS - 1) // 2 * WIDTH),
        (lambda x: QUANTISED[0](x), TOKENS * WIDTH * 3),
        (lambda x: QUANTISED[1](x), TOKENS * WIDTH * 3),
        (lambda x: torch._weight_int8pack_mm(x.new_ones(2, 32).bfloat16(), EIGHT_BITS, x.new_ones(64).bfloat16()), 2 * 32 * 64),
        (lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.new_ones(2, 64), FOUR_BITS, 32, x.new_ones(2, 64, 2)), 2 * 64 * 64),
        (lambda x: torch._int_mm(x.new_ones(32, 16, dtype=torch.int8), EIGHT_BITS[:16, :24]), 32 * 16 * 24),
        (torch.inference_mode()(lambda x: F.linear(x, MATRIX)), TOKENS * WIDTH * WIDTH),
    ],
)  # fmt: skip
def test_operators_that_pytorchs_counter_leaves_out(function, by_hand):
    found = cost(Calls(function), SEQUENCE)
    assert (found.multiply_adds, found.uncounted) == (by_hand, ())


@pytest.mark.parametrize(
    ("inner", "operator"),
    [
        (Attention(True), "_native_multi_head_attention"),
        (nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), "_transformer_encoder_layer_fwd"),
        (nn.LSTM(WIDTH, 4, batch_first=True), "mkldnn_rnn_layer|lstm"),
        (Calls(lambda x: torch.sparse.mm(torch.eye(TOKENS).to_sparse(), x[0])), "_sparse_addmm"),
        (Calls(lambda x: torch.conv_tbc(x, torch.ones(2, WIDTH, 3), torch.zeros(3))), "conv_tbc"),
        (Calls(torch.fft.fft), "_fft_r2c"),
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


def test_what_makes_a_weight_is_no_cost_of_an_example():
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(12, 9)), nn.ReLU(), nn.utils.parametrizations.orthogonal(nn.Linear(9, 5)))
    found = cost(model.eval(), torch.randn(3, 12), {"classifier": ["2"]})
    assert (found.multiply_adds, found.by_part["classifier"]) == (12 * 9 + 9 * 5, 9 * 5)
