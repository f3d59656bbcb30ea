"""Packages that only some uses need."""

from __future__ import annotations

import importlib
from typing import Any

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import reason_of


def extra(package: str, what: str = "model", name: str | None = None) -> Any:
    """Imports an optional package, or says how to install it; `what` names in the error what needs it, `name` is the extra's if not the package's."""
    root = package.partition(".")[0]
    name = name or root
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{package}.".startswith(f"{error.name}."):
            raise SelfInformedError(f"{what}: {root} is not installed; run: pip install 'selfinformed[{name}]'") from None
        reason = reason_of(error)
    except (ImportError, RuntimeError) as error:  # libraries that are missing, or a torchvision that was built for another torch
        reason = reason_of(error)
    raise SelfInformedError(f"{what}: the installed {root} does not work here ({reason}); run: pip install --upgrade 'selfinformed[{name}]'")
