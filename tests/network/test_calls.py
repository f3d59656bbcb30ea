"""Any network is called alike, and left as it was."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from selfinformed.network.calls import batch_size_of, call, evaluating, logits_of, record, told_of
from selfinformed.network.trunk import _gives
from selfinformed.runtime.errors import SelfInformedError

LOGITS = torch.zeros(2, 3)


class Product(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor | int = 2) -> torch.Tensor:
        return a * b


def test_a_tensor_or_keywords():
    a = torch.ones(2, 3)
    assert torch.equal(call(Product(), a), 2 * a)
    assert torch.equal(call(Product(), {"b": 3 * a, "a": a}), 3 * a)


class Large(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def __deepcopy__(self, memo: object) -> None:
        self.forward(LOGITS)


def test_memory_that_is_short_is_no_fault_of_the_inputs():
    with pytest.raises(torch.OutOfMemoryError), told_of(LOGITS, LOGITS):
        Large()(LOGITS)
    with pytest.raises(torch.OutOfMemoryError):
        record(Large(), LOGITS)
    with pytest.raises(torch.OutOfMemoryError):
        _gives(Large(), LOGITS, LOGITS)


def test_inputs_go_to_the_models_device():
    assert call(nn.Linear(3, 2, device="meta"), torch.ones(2, 3)).device == torch.device("meta")


@pytest.mark.parametrize("output", [LOGITS, SimpleNamespace(logits=LOGITS), {"loss": 1, "logits": LOGITS}, OrderedDict(logits=LOGITS), (LOGITS, 1), [LOGITS]])
def test_logits_are_found(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (torch.zeros(2, 3, 4), r"shape \[2, 3, 4\]"), (torch.zeros(2), r"shape \[2\]"), ({"scores": LOGITS}, "dict"),
        ((), "tuple"), (None, "NoneType"), ((1, LOGITS), "int"),
    ],
)  # fmt: skip
def test_other_outputs_are_refused(output, got):
    with pytest.raises(SelfInformedError, match=rf"expected logits \[batch, labels\] .* got .*{got}"):
        logits_of(output)


def test_batch_size():
    assert batch_size_of(LOGITS) == 2
    assert batch_size_of({"ids": LOGITS}) == 2


def test_evaluating_restores_every_modules_mode():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="^$"), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise ValueError
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_a_network_in_training_mode_evaluates_in_several_threads():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    first, last = evaluating(model), evaluating(model)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(first.__enter__).result()
        other.submit(last.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert not any(module.training for module in model.modules())
        other.submit(last.__exit__, None, None, None).result()
    assert all(module.training for module in model.modules())
