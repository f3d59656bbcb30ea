"""How much memory there is to take, and whether work will fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfinformed.runtime.errors import SelfInformedError

_SYSTEM, _GROUP, _OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/statm")


def free_memory() -> int:
    """Bytes that can be taken without swapping: what the system has available, within the limit of this process's container."""
    return int(max(0, min(_of_system(), _of_container())))


def require_memory(needed: float, what: str, instead: str) -> None:
    """Stops before work that the kernel would end.

    Args:
        needed: bytes, estimated.
        what: the work, for the error.
        instead: what to do where it does not fit.

    Raises:
        SelfInformedError: there is less.
    """
    if needed > (free := free_memory()):
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


def _of_container() -> float:
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(lines["inactive_file"])  # cached files give way
    except (OSError, KeyError, ValueError):  # no container, or one without a limit ("max")
        return float("inf")
