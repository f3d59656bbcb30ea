"""The device named is the device chosen, or the reason is given."""

from __future__ import annotations

import pytest
import torch

from selfinformed.runtime.device import choose_device
from selfinformed.runtime.errors import SelfInformedError


def test_auto_is_a_device_that_works():
    assert torch.ones(2, device=choose_device()).sum() == 2
    if not torch.accelerator.is_available():
        assert choose_device("auto") == torch.device("cpu")


def test_auto_takes_the_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert choose_device() == torch.device("meta")


def test_a_named_device_is_taken():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["nonsense", "", "cpu:x", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_cannot_be_used_is_named(device):
    with pytest.raises(SelfInformedError, match=rf"device: '{device}' cannot be used here .*device='auto'"):
        choose_device(device)
