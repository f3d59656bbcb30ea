"""What stands in the place of the base's classifier: the new classifier and the heads, handed what was read at the attach points."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from selfinformed.augmented.dispatch import Dispatch
from selfinformed.augmented.heads import Heads
from selfinformed.network.averaged import AveragedClassifier, plain
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan

NewClassifier = Literal["keep", "reinitialise"]
"""The new classifier begins with the trained one's weights, or with random ones (the paper's choice)."""
Joined = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits [B, C] of the classifier's and of what the heads add


class _Handed(threading.local):
    """Of the forward pass of each thread: what was read at each attach point, and the logits of an average's other parts."""

    def __init__(self, n_points: int) -> None:
        self.attached: list[torch.Tensor | None] = [None] * n_points
        self.others: list[torch.Tensor] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _Handed, (len(self.attached),)  # a copy has seen no pass


class _Overrides(threading.local):
    """How the network runs within the contexts that each thread has entered: as its base, or by a dispatch of theirs."""

    def __init__(self) -> None:
        self.disabled = False
        self.dispatch: Dispatch | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Overrides, ()  # a copy is in no context


class ClassifierSlot(nn.Module):
    """Stands where the base's classifier stood, or the last of several whose average is the logits."""

    def __init__(self, net: WrappedClassifier, plan: HeadPlan, classifier: str | nn.Linear | AveragedClassifier, heads: Heads | None) -> None:
        super().__init__()
        self.original = plain(net.classifier).requires_grad_(False)
        self.classifier = plain(net.classifier) if isinstance(classifier, str) else classifier
        if classifier == "reinitialise":
            self.classifier.cpu().reset_parameters()  # new weights are drawn on the CPU: a seed's are the same on every device
            self.classifier.to(net.classifier.weight.device)
        if heads is None and len(plan.groups):
            with torch.device("cpu"):
                heads = Heads(plan, zero_outputs=classifier != "reinitialise", trunk=net.model)
        self.heads = heads if heads is None else heads.to(net.classifier.weight)
        self.standing: Dispatch | None = None  # outside of contexts
        self.overrides = _Overrides()
        self.handed = _Handed(len(net.attach_points))

    @property
    def disabled(self) -> bool:
        """Whether the network is its base, to this thread."""
        return self.overrides.disabled

    @property
    def dispatch(self) -> Dispatch | None:
        """What chooses heads, to this thread."""
        return self.standing if self.overrides.dispatch is None else self.overrides.dispatch

    def forget(self, *_: Any) -> None:
        """A pass begins, or has ended; one that failed may have left something."""
        self.handed.attached = [None] * len(self.handed.attached)
        self.handed.others = []

    def forward(self, penultimate: torch.Tensor) -> torch.Tensor:
        attached, others = self.handed.attached, self.handed.others
        self.handed.others = []
        classifier = self.original if self.disabled else self.classifier
        if not isinstance(classifier, AveragedClassifier):
            penultimate = penultimate.to(classifier.weight.device)  # a network may be spread over devices
            return classifier(penultimate) if self.disabled else self.combine(_side_by_side(attached, penultimate), penultimate)
        logits: torch.Tensor = classifier.parts[-1](penultimate)
        if self.disabled:
            return logits
        n = len(classifier.parts)
        return logits + n * self.added(_side_by_side(attached, logits), (sum(others) + logits) / n)  # the model divides by n

    def combine(self, attached: torch.Tensor, penultimate: torch.Tensor, join: Joined = torch.add) -> torch.Tensor:
        if self.disabled:
            return self.original(penultimate)  # type: ignore[no-any-return]
        logits: torch.Tensor = self.classifier(penultimate)
        return join(logits, self.added(attached, logits)) if self.heads is not None else logits

    def added(self, attached: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the heads add to the logits [B, C]."""
        if self.heads is None:
            return torch.zeros_like(logits)
        return self.heads(attached) if self.dispatch is None else self.dispatch(self.heads, attached, logits)


class AveragedWith(nn.Module):
    """Stands where another classifier of an average stood."""

    def __init__(self, slot: ClassifierSlot, number: int) -> None:
        super().__init__()
        self.number = number
        self.__dict__["slot"] = slot  # no child: its parameters are the slot's

    def forward(self, penultimate: torch.Tensor) -> torch.Tensor:
        slot = self.__dict__["slot"]
        logits: torch.Tensor = (slot.original if slot.disabled else slot.classifier).parts[self.number](penultimate)
        slot.handed.others.append(logits)
        return logits


class Keep:
    """A hook on an attach point that hands its tensor to the slot; copied along with the network."""

    def __init__(self, slot: ClassifierSlot, attach: AttachPoint, number: int) -> None:
        self.slot, self.attach, self.number = slot, attach, number

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        self.slot.handed.attached[self.number] = self.attach.read(args[0] if self.attach.side == "input" else output)


def _side_by_side(parts: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
    kept = [part.to(like) for part in parts if part is not None]
    if len(kept) < len(parts):
        raise SelfInformedError(
            "attach: the classifier was called before what heads read was computed, or that was left out, as by stochastic depth; where parts are checkpointed "
            "attach point and classifier belong in the same part, or in none"
        )
    return kept[0] if len(kept) == 1 else torch.cat(kept, 1)
