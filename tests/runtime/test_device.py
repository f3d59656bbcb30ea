"""The device named is the device chosen, or the reason is given."""

from __future__ import annotations

import sys

import pytest
import torch

from selfinformed.cli import main
from selfinformed.network.timing import paired_seconds
from selfinformed.runtime.device import choose_device, full_precision, rank, wait_for, world_size
from selfinformed.runtime.errors import SelfInformedError


def test_auto_is_a_device_that_works():
    assert torch.ones(2, device=choose_device()).sum() == 2
    if not torch.accelerator.is_available():
        assert choose_device("auto") == torch.device("cpu")


def test_auto_takes_the_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert choose_device() == torch.device("meta")


@pytest.mark.parametrize(("local", "there", "number"), [("3", 4, 3), ("3", 2, 1), ("5", 1, 0)])  # a launcher may show each process one device
@pytest.mark.parametrize("named", ["auto", "meta"])
def test_each_process_of_a_host_takes_a_device_of_its_own(monkeypatch, local: str, there: int, number: int, named: str):
    current = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: there)
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert choose_device(named) == torch.device("meta", number)
    assert current == [torch.device("meta", number)]
    assert (choose_device("cpu"), choose_device("meta:5")) == (torch.device("cpu"), torch.device("meta:5"))
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(SelfInformedError, match=r"^LOCAL_RANK is 'first': expected"):
        choose_device(named)


def test_what_is_timed_is_waited_for_on_its_own_device(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for computed in (None, torch.zeros(1), torch.zeros(1, device="meta")):
        wait_for(computed)
    paired_seconds(lambda _: torch.zeros(1, device="meta"), torch.zeros, 3, repeats=1, warm=0)
    assert waited == [torch.device("meta")] * 2


def test_precision_is_full_within_and_as_it_was_after(recwarn):
    legacy = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    parts = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [part.fp32_precision for part in parts]
    with full_precision():
        assert [part.fp32_precision for part in parts] == ["ieee"] * 3
    assert [part.fp32_precision for part in parts] == before
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == legacy
    assert not recwarn.list


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
