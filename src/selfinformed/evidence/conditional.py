"""What running only the heads that the scores point to costs and gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Examples
from selfinformed.evidence.evaluation import evaluate
from selfinformed.runtime.arguments import expect, whole_number
from selfinformed.training.features import FeatureStore


def conditional_curve(
    aug: AugmentedClassifier, test: Examples | FeatureStore, top_groups: Sequence[int] | None = None, top_k: int = 50
) -> list[dict[str, Any]]:
    """mAP against executed multiply-adds: one evaluation for each number of heads that an example may run.

    Args:
        aug: the augmented network, trained either way.
        test: examples not used for anything else, or their cached features.
        top_groups: numbers of heads (default: none, 1, 2, 4, ... and all).
        top_k: K of mAP@K.

    Returns:
        rows {top_groups, mean_average_precision, mean_average_precision_per_example, top1, top5, multiply_adds (executed on average),
        extra_computation, parameters}, fewest heads first.
    """
    expect(aug, AugmentedClassifier, "aug", "what augment gave")
    n = len(aug.plan.groups)
    if top_groups is None:
        top_groups = [0, n, *(2**i for i in range(n.bit_length()))]
    numbers = sorted({min(whole_number("top_groups", k, least=0), n) for k in top_groups})
    rows = []
    for number in numbers:
        with aug.conditional(number, above=aug.above):
            rows.append({"top_groups": number, **evaluate(aug, test, top_k).figures()})
    return rows
