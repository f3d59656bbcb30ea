"""Loops compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiles a function at its first call, to run without Python's lock; what was compiled is kept on disk, where numba has a folder to write to."""
    try:
        return cast("F", njit(nogil=True, cache=True)(function))
    except RuntimeError:  # it has none, neither beside the source nor in a home
        return cast("F", njit(nogil=True)(function))
