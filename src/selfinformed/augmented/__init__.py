"""The augmented network, its files and exports."""

from selfinformed.augmented.exported import export_onnx, export_program
from selfinformed.augmented.heads import Heads
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.saved import load

__all__ = ["AugmentedClassifier", "Heads", "augment", "export_onnx", "export_program", "load"]
