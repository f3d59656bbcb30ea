"""Make a trained classifier better where it mixes its labels up.

Implements "Self-Informed Neural Network Structure Learning" (Warde-Farley, Rabinovich, Anguelov, 2014).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfinformed.augmented import AugmentedClassifier, augment, export_onnx, load
    from selfinformed.data import LabelSpace, open_dataset
    from selfinformed.evidence import Findings, compare, evaluate, mean_average_precision, report
    from selfinformed.network import WrappedClassifier, cost, wrap
    from selfinformed.runtime import SelfInformedError
    from selfinformed.structure import ConfusionCounts, HeadPlan, LabelGroups, cluster, measure, plan
    from selfinformed.training import FeatureStore, fit, probe, search

__version__ = "0.1.0"

_ROOMS = {
    "runtime": ["SelfInformedError"],
    "data": ["LabelSpace", "open_dataset"],
    "network": ["wrap", "WrappedClassifier", "cost"],
    "structure": ["measure", "ConfusionCounts", "cluster", "LabelGroups", "plan", "HeadPlan"],
    "augmented": ["augment", "AugmentedClassifier", "load", "export_onnx"],
    "training": ["FeatureStore", "probe", "fit", "search"],
    "evidence": ["evaluate", "compare", "report", "Findings", "mean_average_precision"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AugmentedClassifier", "ConfusionCounts", "FeatureStore", "Findings", "HeadPlan", "LabelGroups", "LabelSpace", "SelfInformedError",
    "WrappedClassifier", "augment", "cluster", "compare", "cost", "evaluate", "export_onnx", "fit", "load",
    "mean_average_precision", "measure", "open_dataset", "plan", "probe", "report", "search", "wrap",
]  # fmt: skip


if not TYPE_CHECKING:  # to whom any name would be there

    def __getattr__(name: str) -> Any:
        """Imports a public name, or a room, when it is first used, so that `import selfinformed` does not wait for torch."""
        if name in _ROOMS:
            return importlib.import_module(f"selfinformed.{name}")
        if name not in _ROOM_OF:
            raise AttributeError(f"module 'selfinformed' has no attribute {name!r}")
        return getattr(importlib.import_module(f"selfinformed.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
