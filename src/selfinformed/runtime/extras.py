"""Packages that only some uses need."""

from __future__ import annotations

import importlib
from typing import Any

from selfinformed.runtime.errors import SelfInformedError


def extra(package: str, what: str = "model", name: str | None = None) -> Any:
    """Imports an optional package, or says how to install it; `what` names in the error what needs it, `name` is the extra's if not the package's."""
    name = name or package
    try:
        module = importlib.import_module(package)
        if package == "torchvision":
            importlib.import_module("torchvision.models")
    except ImportError:
        raise SelfInformedError(f"{what}: {package} is not installed; run: pip install 'selfinformed[{name}]'") from None
    except RuntimeError as error:  # a torchvision that was built for another torch
        reason = str(error).splitlines()[0]
        raise SelfInformedError(
            f"{what}: the installed {package} does not work with this torch ({reason}); run: pip install --upgrade 'selfinformed[{name}]'"
        ) from None
    return module
