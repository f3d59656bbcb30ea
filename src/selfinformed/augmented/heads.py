"""The heads: stacks of ReLU layers read from the attach point, each wired only to its group's output units."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from selfinformed.structure.plans import HeadPlan


class Heads(nn.Module):
    """All heads of a plan as one module: features [B, D] to what they add to the logits [B, C].

    The first layers are one matrix product. `fit` trains them on linearly transformed features (standardised or whitened);
    `fold` then moves the transform into the first layer, where it costs nothing.

    Args:
        plan: what to build.
        zero_outputs: start with output weights of zero, so that the augmented network equals the base.
    """

    order: torch.Tensor

    def __init__(self, plan: HeadPlan, zero_outputs: bool = True) -> None:
        super().__init__()
        self.trained = False
        self.widths = [widths[0] for widths in plan.hidden]
        self.first = nn.Linear(plan.feature_size, sum(self.widths))
        self.hidden = nn.ModuleList(
            nn.Sequential(*(m for a, b in itertools.pairwise(w) for m in (nn.Linear(a, b), nn.ReLU()))) for w in plan.hidden
        )
        self.outputs = nn.ModuleList(
            nn.Linear(w[-1], n, bias=False) for w, n in zip(plan.hidden, plan.groups.sizes, strict=True)
        )
        for layer in [self.first, *(m for m in self.hidden.modules() if isinstance(m, nn.Linear))]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        for weight in self.outputs.parameters():
            nn.init.zeros_(weight) if zero_outputs else nn.init.normal_(weight, std=0.01)
        # Column order[p] holds the p-th label's contribution in the concatenated outputs; the last column is zero, for labels in no head.
        self.register_buffer("order", _places(plan), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, C)"""
        padded = nn.functional.pad(self.by_group(features), (0, 1))  # (B, sum n + 1)
        total = padded[:, self.order[0]]
        for places in self.order[1:]:  # a cover: the second and further heads of each label
            total = total + padded[:, places]
        return total

    def by_group(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, sum n): the heads' outputs side by side, before they are put in the order of the labels"""
        hidden = self.first(features).relu().split(self.widths, dim=1)  # (B, D) @ (D, sum w) -> K of (B, w)
        return torch.cat([output(stack(h)) for h, stack, output in zip(hidden, self.hidden, self.outputs, strict=True)], dim=1)

    def unfold(self, shift: torch.Tensor, transform: torch.Tensor) -> None:
        """Turns heads of the raw features into heads of (features - shift) @ transform; shift [D], transform [D, D].

        Heads already trained keep their function; new ones keep their weights, so that they start in the transformed space.
        """
        if self.trained:
            with torch.no_grad():
                weight = self.first.weight.double()
                self.first.bias.copy_(self.first.bias.double() + weight @ shift.to(weight))
                self.first.weight.copy_(weight @ torch.linalg.pinv(transform.to(weight)).T)

    def fold(self, shift: torch.Tensor, transform: torch.Tensor) -> None:
        """Turns heads of (features - shift) @ transform into heads of the raw features: the same function, at no cost."""
        with torch.no_grad():
            weight = self.first.weight.double() @ transform.to(self.first.weight).double().T
            self.first.bias.copy_(self.first.bias.double() - weight @ shift.to(weight))
            self.first.weight.copy_(weight)
        self.trained = True


def _places(plan: HeadPlan) -> torch.Tensor:
    """int64 [R, C]: where each label's first to R-th contributions stand in the concatenated outputs."""
    zero = sum(plan.groups.sizes)
    places: list[list[int]] = [[] for _ in range(plan.groups.n_labels)]
    position = 0
    for members in plan.groups.members:
        for label in members.tolist():
            places[label].append(position)
            position += 1
    deepest = max(1, *(len(p) for p in places))
    return torch.tensor([p + [zero] * (deepest - len(p)) for p in places], dtype=torch.int64).T.contiguous()
