"""A trained classifier seen as trunk, stack and classifier; what it costs."""

from selfinformed.network.cost import Cost, cost
from selfinformed.network.points import AttachPoint, Features, FeatureShape
from selfinformed.network.wrap import WrappedClassifier, wrap

__all__ = ["AttachPoint", "Cost", "FeatureShape", "Features", "WrappedClassifier", "cost", "wrap"]
