"""Which device to compute on, and which of several processes this is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import first_line

if TYPE_CHECKING:
    import torch


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes the accelerator if torch has one, else the CPU; otherwise the device named.

    Of several accelerators each process of torchrun takes its own, and makes it the current one, unless the name says which.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return _own(accelerator) if accelerator else torch.device("cpu")
    try:
        chosen = torch.device(device)
        if accelerator and chosen == torch.device(accelerator.type):
            chosen = _own(chosen)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SelfInformedError(f"device: {device!r} cannot be used here ({first_line(error)}); try device='auto'") from None
    return chosen


def _own(accelerator: torch.device) -> torch.device:
    import torch

    local = os.environ.get("LOCAL_RANK")
    if local is None:
        return accelerator
    if not local.isdecimal():
        raise SelfInformedError(f"LOCAL_RANK is {local!r}: expected this process's number on its host; start with torchrun, or unset LOCAL_RANK")
    own = torch.device(accelerator.type, int(local) % max(1, torch.accelerator.device_count()))  # a launcher may show each process just its own
    torch.accelerator.set_device_index(own)
    return own


def wait_for(computed: object) -> None:
    """Returns when a tensor's device has computed it: one that is not the CPU is given its work, and the program goes on."""
    import torch

    if isinstance(computed, torch.Tensor) and is_of_accelerator(computed.device):
        torch.accelerator.synchronize(computed.device)


def is_of_accelerator(device: torch.device) -> bool:
    """Whether it is one of those that `torch.accelerator` speaks of."""
    import torch

    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and device.type == accelerator.type


@contextmanager
def full_precision() -> Iterator[None]:
    """Within this context products of float32 are computed in float32, where a CUDA device would round factors to TF32's 11 bits (convolutions: by default)."""
    import torch

    backends: Any = torch.backends
    parts = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


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
