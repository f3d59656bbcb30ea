"""Evaluation, controls, comparison, report."""

from selfinformed.evidence.comparing import compare
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.conditional import conditional_curve
from selfinformed.evidence.evaluation import Evaluation, evaluate, recall_on_subset
from selfinformed.evidence.reporting import Findings, report
from selfinformed.structure.average_precision import mean_average_precision

__all__ = ["Comparison", "Evaluation", "Findings", "compare", "conditional_curve", "evaluate", "mean_average_precision", "recall_on_subset", "report"]
