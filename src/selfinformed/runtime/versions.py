"""What a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Versions of selfinformed, Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in ("selfinformed", "torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str | int]:
    """The machine a figure was measured on."""
    import os

    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count() or 0}
