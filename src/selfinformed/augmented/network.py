"""The augmented network: the base, a classifier of its own, and heads in parallel with the stack."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from selfinformed.augmented.heads import Heads
from selfinformed.data.examples import Inputs
from selfinformed.network.calls import call, evaluating, logits_of
from selfinformed.network.wrap import AttachPoint, Output, WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.plans import HeadPlan


class AugmentedClassifier(nn.Module):
    """A base network with heads. Made by `augment`; `forward` gives logits [B, C].

    Attributes:
        base: a copy of the model, in whose classifier's place the new classifier and the heads stand.
        net: the wrapped original, which is never changed.
        plan: what the heads are.
    """

    def __init__(self, net: WrappedClassifier, plan: HeadPlan, classifier: Literal["keep", "reinitialise"] = "keep") -> None:
        super().__init__()
        if plan.feature_size != net.feature_size or plan.groups.n_labels != net.n_labels:
            raise SelfInformedError(
                f"plan: made for {plan.feature_size} features and {plan.groups.n_labels} labels; "
                f"the network has {net.feature_size} and {net.n_labels}"
            )
        self.net, self.plan = net, plan
        self.output: Output | None = net.output
        self.base = copy.deepcopy(net.model).requires_grad_(False)
        slot = _ClassifierSlot(net.classifier, plan, reinitialise=classifier == "reinitialise")
        parent, _, child = net.classifier_name.rpartition(".")
        setattr(self.base.get_submodule(parent), child, slot)
        self._slot_name = net.classifier_name
        self.base_was_tuned = False  # set by a second stage that trains the whole network
        reader = self.base.get_submodule(net.attach.module)
        keep = _Keep(slot, net.attach)
        reader.register_forward_pre_hook(keep) if net.attach.side == "input" else reader.register_forward_hook(keep)
        self.eval()

    @property
    def _slot(self) -> _ClassifierSlot:
        slot = self.base.get_submodule(self._slot_name)
        assert isinstance(slot, _ClassifierSlot)
        return slot

    @property
    def heads(self) -> Heads | None:
        """The heads, or None where the plan has none (only the classifier is retrained)."""
        return self._slot.heads

    @property
    def classifier(self) -> nn.Linear:
        """The augmented network's own classifier."""
        return self._slot.classifier

    @property
    def n_labels(self) -> int:
        """C."""
        return self.net.n_labels

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Inputs as the base takes them (keyword arguments as a dictionary) to logits [B, C]."""
        return logits_of(call(self.base, inputs))

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """Logits [B, C] in eval mode, without gradients."""
        with evaluating(self):
            return self(inputs)  # type: ignore[no-any-return]

    def from_features(self, attached: torch.Tensor, penultimate: torch.Tensor) -> torch.Tensor:
        """The same logits [B, C] from cached features: attached [B, D] and the classifier's input [B, P]."""
        return self._slot.combine(attached, penultimate)

    def by_group(self, attached: torch.Tensor, penultimate: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """The logits [B, C] of `from_features` with the labels in `group_order`: column p is label order[p].

        Permuting the classifier's rows costs much less than permuting the columns of a batch of logits, forward and backward.
        """
        logits = torch.nn.functional.linear(penultimate, self.classifier.weight[order], self.classifier.bias[order])
        if self.heads is None:
            return logits
        added = self.heads.by_group(attached)
        return logits + torch.nn.functional.pad(added, (0, self.n_labels - added.shape[1]))

    @property
    def group_order(self) -> torch.Tensor | None:
        """int64 [C]: all labels, group by group, then those in no group. None for a cover, and where it is the labels' own order."""
        groups = self.plan.groups
        order = torch.from_numpy(np.concatenate([*groups.members, groups.ungrouped]))
        is_cover = len(order) != self.n_labels
        return None if is_cover or self.classifier.bias is None or bool((order.diff() == 1).all()) else order

    def new_parameters(self) -> list[nn.Parameter]:
        """What `fit` trains: the heads and the classifier."""
        return [*self.classifier.parameters(), *(self.heads.parameters() if self.heads else ())]

    def all_parameters(self) -> list[nn.Parameter]:
        """What training the whole network trains: everything but the base's original classifier, kept for `heads_disabled`."""
        kept = {id(p) for p in self._slot.original.parameters()}
        return [p for p in self.parameters() if id(p) not in kept]

    @contextmanager
    def heads_disabled(self) -> Iterator[AugmentedClassifier]:
        """Within this context the network is the base: its own classifier, no heads."""
        slot = self._slot
        before, slot.disabled = slot.disabled, True  # it may already be disabled around this context
        try:
            yield self
        finally:
            slot.disabled = before

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes heads.safetensors (new weights and classifier) and config.json (plan, versions, the base's fingerprint)."""
        from selfinformed.augmented.saved import save

        save(self, folder)


def augment(net: WrappedClassifier, plan: HeadPlan, *, classifier: Literal["keep", "reinitialise"] = "keep", seed: int = 0) -> AugmentedClassifier:
    """Builds the augmented network; the model itself is left alone.

    With `classifier="keep"` and before training it equals the base bit for bit, since the heads' output weights start at zero.

    Args:
        net: the wrapped network.
        plan: groups and widths.
        classifier: `keep` starts from the trained classifier's weights, `reinitialise` from random ones (the paper's choice).
        seed: of the new weights.
    """
    if classifier not in ("keep", "reinitialise"):
        raise SelfInformedError(f"classifier: expected 'keep' or 'reinitialise', got {classifier!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AugmentedClassifier(net, plan, classifier)


class _ClassifierSlot(nn.Module):
    """Stands where the base's classifier stood."""

    def __init__(self, original: nn.Linear, plan: HeadPlan, reinitialise: bool) -> None:
        super().__init__()
        self.original = copy.deepcopy(original).requires_grad_(False)
        self.classifier = copy.deepcopy(original).requires_grad_(True)
        if reinitialise:
            self.classifier.reset_parameters()
        self.heads = Heads(plan, zero_outputs=not reinitialise).to(original.weight) if len(plan.groups) else None
        self.disabled = False
        self._attached: torch.Tensor | None = None

    def forward(self, penultimate: torch.Tensor) -> torch.Tensor:
        attached, self._attached = self._attached, None
        if self.disabled:
            return self.original(penultimate)  # type: ignore[no-any-return]
        assert attached is not None
        return self.combine(attached, penultimate)

    def combine(self, attached: torch.Tensor, penultimate: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(penultimate)
        return logits if self.heads is None else logits + self.heads(attached)


class _Keep:
    """A hook on the attach point that hands its tensor to the slot; copied along with the network."""

    def __init__(self, slot: _ClassifierSlot, attach: AttachPoint) -> None:
        self.slot, self.attach = slot, attach

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        self.slot._attached = self.attach.read(args[0] if self.attach.side == "input" else output)
