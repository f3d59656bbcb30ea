"""Examples and label sets."""

from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.data.targets import Targets, as_targets

__all__ = ["Examples", "LabelSpace", "Targets", "as_targets", "open_dataset"]
