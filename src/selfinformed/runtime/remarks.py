"""Warnings that point at the code that called the library."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_as_ever = warnings.formatwarning


class Remark(UserWarning):
    """What the library has to say of its input."""


def remark(message: str) -> None:
    """A warning at the nearest caller outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "selfinformed":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, Remark, stacklevel=level)


@contextmanager
def unremarked() -> Iterator[None]:
    """Leaves out what would be said of inputs that the library made itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        yield


def on_one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Formats a remark for the command line, where no place in the code is wanted; other warnings as ever."""
    return f"selfinformed: {message}\n" if issubclass(category, Remark) else _as_ever(message, category, filename, lineno, line)
