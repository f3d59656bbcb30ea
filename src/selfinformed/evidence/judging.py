"""Base and augmented network on the same test data, as evaluation.json and the report hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Examples
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.mistakes import mistakes
from selfinformed.structure.groups import LabelGroups
from selfinformed.training.features import FeatureStore

_PAIRS = 15
_KEPT = 3  # most confident mistakes of each label


def judge(
    aug: AugmentedClassifier,
    test: Examples | FeatureStore,
    top_k: int = 50,
    *,
    base_test: Examples | FeatureStore | None = None,
    groups: LabelGroups | None = None,
    mapping: Mapping[str, str] | str | Path | None = None,
    training_positives: Sequence[int] = (),
) -> dict[str, Any]:
    """The augmented network's figures (`Evaluation.to_dict`), those of its base under `base`, and how both err.

    Args:
        aug: the augmented network; within `conditional` it is judged so.
        test: examples, or cached features of the base.
        top_k: K of mAP@K.
        base_test: the same examples for the base (default: `test`): features still serve it where the whole network was tuned.
        groups, mapping: see `evaluate`.
        training_positives: training examples annotated with each label, for the report.

    Returns:
        a dictionary that JSON can hold; docs/file-formats.md names its fields.
    """
    base_test = test if base_test is None else base_test
    base = evaluate(aug.net, base_test, top_k, groups=groups, mapping=mapping)
    augmented = evaluate(aug, test, top_k, groups=groups, mapping=mapping)
    (before, was), (after, now) = mistakes(aug.net, base_test), mistakes(aug, test)
    names, were, left, kept = aug.net.labels.names, before.pairs(), after.pairs(), after.most_confident(_KEPT)
    both = were + left  # by either network: the pairs of one network alone would be those that it was unlucky with, and any other would look better
    examples = test if isinstance(test, Examples) else test.examples
    return {
        **augmented.to_dict(), "calibration": now.to_dict(), "base": {**base.to_dict(), "calibration": was.to_dict()},
        "mistakes": [
            {"taken": names[taken], "annotated": names[annotated], "base": were[taken, annotated], "augmented": left[taken, annotated]}
            for (taken, annotated), _ in sorted(both.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
        ],
        "n_mistakes": {"base": were.total(), "augmented": left.total()},
        "confident_mistakes": {
            "example": kept.example.tolist(), "name": [examples.name(row) if examples else f"example {row}" for row in kept.example.tolist()],
            "taken": kept.taken.tolist(), "annotated": kept.annotated.tolist(), "confidence": kept.confidence.tolist(),
        },
        "training_positives": list(training_positives),
    }  # fmt: skip
