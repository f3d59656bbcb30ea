"""The device named is the device chosen, or the reason is given."""

from __future__ import annotations

import sys

import pytest
import torch

from selfinformed.cli import main
from selfinformed.runtime.device import choose_device, rank, world_size
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


@pytest.mark.parametrize(("variables", "number"), [({}, (0, 1)), ({"WORLD_SIZE": "3", "RANK": "2"}, (2, 3)), ({"WORLD_SIZE": "0"}, (0, 1))])
def test_a_process_knows_its_number(monkeypatch, variables: dict[str, str], number: tuple[int, int]):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (rank(), world_size()) == number


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "x"}, {"RANK": "-1"}, {"RANK": ""}, {"RANK": "2", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}])
def test_a_number_that_none_of_the_processes_can_have_is_refused(monkeypatch, capsys, variables: dict[str, str]):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SelfInformedError, match=f"^{next(iter(variables))} is '.*': expected .*, or unset"):
        rank()
    monkeypatch.setattr(sys, "argv", ["selfinformed", "--help"])
    with pytest.raises(SystemExit, match="^2$"):
        main()
    assert capsys.readouterr().err.count("\n") == 1
