"""Where soft targets come from: the base itself, or a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.inputs import bytes_of
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.features import FeatureStore, scores_from_features

Teacher = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
_SAMPLE = 4_096


@dataclass(frozen=True, eq=False)
class TeacherNetwork:
    """Another network for the same labels, as a teacher: its logits, from its cached features of the training examples.

    Attributes:
        net: the network.
        features: `FeatureStore.build(net, train)`, of the examples that are taught, in their order and views.
        order: int64 [C], which of its outputs stands for each label; None where they stand in the labels' own order.
    """

    net: WrappedClassifier
    features: FeatureStore
    order: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.features.check(self.net, "teacher", "that teaches")

    @torch.no_grad()
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits [b, C] of example numbers [b]."""
        logits = scores_from_features(self.net, *self.features.batch(rows))
        return logits if self.order is None else logits[:, self.order.to(logits.device)]

    def right(self) -> float:
        """The share of the training examples, or of 4,096 of them, whose best label by the teacher is among the annotated."""
        rows = torch.linspace(0, len(self.features) - 1, min(_SAMPLE, len(self.features)), device="cpu").long()
        found = np.concatenate([self(some).argmax(1).cpu().numpy() for some in rows.split(512)])  # type: ignore[no-untyped-call]
        examples, annotated = self.features.targets.take(rows.numpy()).pairs()
        return len(np.unique(examples[annotated == found[examples]])) / len(rows)

    def __repr__(self) -> str:
        return f"TeacherNetwork({self.features.digest()}, {None if self.order is None else self.order.tolist()})"


def check_teacher(teacher: Any) -> None:
    """Stops where it is none; a network is a function of inputs, not of example numbers."""
    if isinstance(teacher, AugmentedClassifier) or not (teacher is None or isinstance(teacher, torch.Tensor) or callable(teacher)):
        raise SelfInformedError(
            "teacher: expected logits [examples, labels] as a tensor, or a function of example numbers that gives them, "
            f"got {type(teacher).__name__}; give torch.from_numpy(logits), or of a network TeacherNetwork(net, FeatureStore.build(net, train))"
        )


def told(teacher: Teacher | None) -> str | bool:
    """What tells a teacher from others: text, or for a function only that there is one."""
    if isinstance(teacher, torch.Tensor):
        return f"{teacher.dtype} {list(teacher.shape)} {hashlib.sha256(bytes_of(teacher)).hexdigest()}"
    return repr(teacher) if isinstance(teacher, TeacherNetwork) else teacher is not None


def keyed(training: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `fit` as the key of what they trained."""
    by = told(training.get("teacher"))
    return {**training, "teacher": by} if isinstance(by, str) else dict(training)


def of_rows(teacher: Teacher, rows: torch.Tensor) -> Teacher:
    """The teacher of some of its examples, [n], which are then numbered from 0."""
    return lambda some: teacher[rows[some]] if isinstance(teacher, torch.Tensor) else teacher(rows[some])


def teacher_of(
    teacher: Teacher | None, aug: AugmentedClassifier, order: torch.Tensor | None, store: FeatureStore
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What gives a teacher's logits [b, C] for example numbers [b] and their classifier inputs [b, P], with the labels in `order`.

    Args:
        teacher: logits [n, C], a function of example numbers [b] that gives logits [b, C], or None: the base, whose logits cost no more
            than its classifier on features that are at hand.
        aug: the network that learns.
        order: the order in which its logits stand; None for the labels' own.
        store: the n training examples.

    Raises:
        SelfInformedError: the teacher is of other examples, as far as that can be told.
    """
    classifier = aug.net.classifier
    if teacher is None:
        weight, bias = classifier.weight.detach(), classifier.bias
        bias = None if bias is None else bias.detach()
        if order is not None:
            weight, bias = weight[order.to(weight.device)], None if bias is None else bias[order.to(weight.device)]
        return lambda rows, penultimate: torch.nn.functional.linear(penultimate.to(weight), weight, bias)
    n = len(store)
    if isinstance(teacher, torch.Tensor) and teacher.shape != (n, aug.n_labels):
        raise SelfInformedError(f"teacher: expected logits [{n}, {aug.n_labels}], one row per training example, got {list(teacher.shape)}")
    if isinstance(teacher, TeacherNetwork) and not (teacher.features.n_views == store.n_views and teacher.features.targets.is_same(store.targets)):
        raise SelfInformedError(
            f"teacher: its features are of {len(teacher.features)} examples, or views, that are not the {n} training examples or have other labels; cache "
            "them again with the same data"
        )

    @torch.no_grad()
    def taught(rows: torch.Tensor, penultimate: torch.Tensor) -> torch.Tensor:
        logits = (teacher[rows] if isinstance(teacher, torch.Tensor) else teacher(rows)).to(penultimate)
        if logits.shape != (len(rows), aug.n_labels) or not logits.isfinite().all():
            raise SelfInformedError(
                f"teacher: expected finite logits [{len(rows)}, {aug.n_labels}] for that many example numbers, got {list(logits.shape)}"
                + (" with some that are not finite" if logits.shape == (len(rows), aug.n_labels) else "")
            )
        return logits if order is None else logits[:, order]

    return taught
