"""Where soft targets come from: the base itself, or a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.runtime.errors import SelfInformedError

Teacher = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


def teacher_of(
    teacher: Teacher | None, aug: AugmentedClassifier, order: torch.Tensor | None, n: int
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What gives a teacher's logits [b, C] for example numbers [b] and their classifier inputs [b, P], with the labels in `order`.

    Args:
        teacher: logits [n, C], a function of example numbers [b] that gives logits [b, C], or None: the base, whose logits cost no more
            than its classifier on features that are at hand.
        aug: the network that learns.
        order: the order in which its logits stand; None for the labels' own.
        n: how many examples there are.
    """
    classifier = aug.net.classifier
    if teacher is None:
        weight, bias = classifier.weight.detach(), classifier.bias
        bias = None if bias is None else bias.detach()
        if order is not None:
            weight, bias = weight[order.to(weight.device)], None if bias is None else bias[order.to(weight.device)]
        return lambda rows, penultimate: torch.nn.functional.linear(penultimate.to(weight), weight, bias)
    if isinstance(teacher, torch.Tensor) and teacher.shape != (n, aug.n_labels):
        raise SelfInformedError(f"teacher: expected logits [{n}, {aug.n_labels}], one row per training example, got {list(teacher.shape)}")

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
