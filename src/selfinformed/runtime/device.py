"""Which device to compute on, and which of several processes this is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from selfinformed.runtime.errors import SelfInformedError

if TYPE_CHECKING:
    import torch


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes the accelerator if torch has one, else the CPU; otherwise the device named."""
    import torch

    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SelfInformedError(f"device: {device!r} cannot be used here ({str(error).splitlines()[0]}); try device='auto'") from None
    return chosen


def rank() -> int:
    """This process's number under torchrun, 0 without it.

    Raises:
        SelfInformedError: RANK is no number of one of WORLD_SIZE processes.
    """
    text, world = os.environ.get("RANK", "0"), world_size()
    if not (text.isdecimal() and int(text) < world):
        raise SelfInformedError(f"RANK is {text!r}: expected a number from 0 to {world - 1}, of WORLD_SIZE processes; start with torchrun, or unset RANK")
    return int(text)


def world_size() -> int:
    """How many processes torchrun started, 1 without it.

    Raises:
        SelfInformedError: WORLD_SIZE is no such number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise SelfInformedError(f"WORLD_SIZE is {text!r}: expected how many processes there are; start them with torchrun, or unset WORLD_SIZE")
    return max(int(text), 1)
