"""Warnings that point at the code that called the library."""

from __future__ import annotations

import sys
import warnings


def remark(message: str) -> None:
    """A `UserWarning` at the nearest caller outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "selfinformed":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
