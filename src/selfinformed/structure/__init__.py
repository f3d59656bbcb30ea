"""Detections, counts, spectral clustering, groups, plans."""

from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import measure
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan

__all__ = ["ConfusionCounts", "HeadPlan", "LabelGroups", "cluster", "measure", "plan"]
