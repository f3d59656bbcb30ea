"""How much memory there is to take, and whether work will fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from selfinformed.runtime.errors import SelfInformedError

if TYPE_CHECKING:
    import torch

_SYSTEM, _GROUPS, _GROUP, _OWN = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"), Path("/proc/self/statm")
_NAMES = {"": ("memory.max", "memory.current", "inactive_file"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}


def free_memory() -> int:
    """Bytes that can be taken without swapping: what the system has available, within the limits of this process's container, or of the job it belongs to."""
    return int(max(0, min([_of_system(), *_of_groups()])))


def free_on(device: torch.device) -> int:
    """Bytes that tensors on a device can take: of a CUDA device those that are free there, or that torch holds and no tensor takes; else the system's."""
    if device.type != "cuda":
        return free_memory()
    from torch import cuda

    return cuda.mem_get_info(device)[0] + cuda.memory_reserved(device) - cuda.memory_allocated(device)


def require_memory(needed: float, what: str, instead: str, device: torch.device | None = None) -> None:
    """Stops before work that the kernel would end.

    Args:
        needed: bytes, estimated.
        what: the work, for the error.
        instead: what to do where it does not fit.
        device: whose memory it takes (default: the system's).

    Raises:
        SelfInformedError: there is less.
    """
    if needed > (free := free_memory() if device is None else free_on(device)):
        raise SelfInformedError(f"{what} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {instead}")


@contextmanager
def limited_memory() -> Iterator[None]:
    """Within this context the process gets no more than what is free, so that a library that asks for more fails, instead of being ended. On Linux only."""
    try:
        import resource

        taken = int(_OWN.read_text().split()[5]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    if not _within:  # generators that read may end in any order: the first sets the limit, the last lifts it
        _before[:] = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (min(n for n in (taken + free_memory(), *_before) if n != resource.RLIM_INFINITY), _before[1]))
    token = object()
    _within.add(token)
    try:
        yield
    finally:
        _within.remove(token)
        if not _within:
            resource.setrlimit(resource.RLIMIT_DATA, (_before[0], _before[1]))


_within: set[object] = set()
_before: list[int] = []


def _of_system() -> int:
    try:
        lines = dict(line.split(":", 1) for line in _SYSTEM.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux: half of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_groups() -> Iterator[int]:
    """Of each control group that this process is in, of version 2 and 1, from its own up to the root, which in a container is all that can be seen."""
    try:
        lines = [line.split(":", 2) for line in _GROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    for controllers, path in {("", "/"), *((controllers, path) for _, controllers, path in lines)}:
        for controller in _NAMES.keys() & set(controllers.split(",")):
            own = (_GROUP / controller / path.lstrip("/")).absolute()
            root = (_GROUP / controller).absolute()
            for group in (own, *own.parents):
                if group.is_relative_to(root):
                    yield from _of_group(group, *_NAMES[controller])


def _of_group(group: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):  # it is not there, or without a limit ("max")
        lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield int((group / limit).read_text()) - int((group / used).read_text()) + int(lines[cached])  # cached files give way
