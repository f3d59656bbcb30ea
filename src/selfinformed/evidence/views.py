"""Test-time views: a second look at the examples that the network is least sure of."""

from __future__ import annotations

import torch

from selfinformed.augmented.dispatch import uncertainty
from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.evidence.evaluation import Evaluation
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.features import FeatureStore, metrics_of, score_batches
from selfinformed.training.fitting import guess_output


def evaluate_with_views(aug: AugmentedClassifier, test: FeatureStore, views: FeatureStore, share: float, top_k: int = 50) -> Evaluation:
    """Judges a network that runs a second time, on another view, for the most uncertain share of the test examples.

    Of those, the mean of both views' logits counts. For softmax outputs that is the mean of their log-probabilities up to one number for
    each example, kept so that a label's examples are ranked by what they are ranked by everywhere else.

    Args:
        aug: what is judged.
        test: features of the test examples.
        views: features of another view of the same examples, in the same order.
        share: of the examples, 0 to 1; the average cost is 1 + share times the network's. Ties go to the earlier example.
        top_k: K of mAP@K.

    Raises:
        SelfInformedError: `views` is not of as many examples with the same targets.
    """
    check_views(test, views)
    output = aug.output or guess_output(test.targets)
    unsure = torch.cat([uncertainty(scores, output) for scores, _, _ in score_batches(aug, test)])
    again = torch.zeros(len(test), dtype=torch.bool, device="cpu")
    again[unsure.argsort(descending=True, stable=True)[: int(share * len(test))]] = True
    metrics, start = metrics_of(aug, top_k), 0
    for (scores, targets, name), (others, _, _) in zip(score_batches(aug, test, "evaluating"), score_batches(aug, views), strict=True):
        seen = again[start : start + len(scores), None]
        metrics.update(torch.where(seen, (scores + others) / 2, scores), targets, name)
        start += len(scores)
    cost = aug.plan.multiply_adds * (1 + int(again.sum()) / len(test))
    return Evaluation(metrics.compute(), int(cost), aug.net.cost.multiply_adds, aug.plan.parameters, aug.net.labels, aug.plan.groups)


def check_views(test: FeatureStore, views: FeatureStore) -> None:
    """Raises where the views are not of the test examples, as far as their targets tell."""
    if not test.targets.is_same(views.targets):
        raise SelfInformedError(
            f"views: expected another view of the {len(test)} test examples in the same order, with the same targets; got {len(views)} examples "
            "that differ from them"
        )
