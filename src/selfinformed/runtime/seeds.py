"""Random numbers from a seed, drawn by one at a time, that leave those of the caller as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from selfinformed.runtime.device import is_of_accelerator

_LOCK = threading.RLock()  # threads share PyTorch's generators


@contextmanager
def seeded(seed: int, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Within this context PyTorch draws from a seed, on the CPU and on those devices; after it goes on as if nothing had been drawn. Other threads that
    come here wait for its end."""
    with _LOCK, ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(int(seed))
        for device in filter(is_of_accelerator, {*devices}):
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(int(seed))
        yield
