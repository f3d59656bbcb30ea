"""The heads: stacks of ReLU layers read from the attach point, each wired only to its group's output units."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from selfinformed.structure.plans import HeadPlan


class Heads(nn.Module):
    """All heads of a plan as one module: features [B, D] to what they add to the logits [B, C].

    The first layers are one matrix product. The input can be transformed linearly (standardised or whitened) while training;
    `fold` then moves the transform into the first layer, where it costs nothing.

    Args:
        plan: what to build.
        zero_outputs: start with output weights of zero, so that the augmented network equals the base.
    """

    order: torch.Tensor
    shift: torch.Tensor | None
    transform: torch.Tensor | None

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
        self.register_buffer("shift", None, persistent=False)
        self.register_buffer("transform", None, persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, C)"""
        if self.shift is not None and self.transform is not None:
            features = (features - self.shift) @ self.transform
        hidden = self.first(features).relu().split(self.widths, dim=1)  # (B, D) @ (D, sum w) -> K of (B, w)
        added = [output(stack(h)) for h, stack, output in zip(hidden, self.hidden, self.outputs, strict=True)]
        padded = torch.cat([*added, features.new_zeros(features.shape[0], 1)], dim=1)  # (B, sum n + 1)
        total = padded[:, self.order[0]]
        for places in self.order[1:]:  # a cover: the second and further heads of each label
            total = total + padded[:, places]
        return total

    def set_input(self, shift: torch.Tensor, transform: torch.Tensor) -> None:
        """From now on the first layer reads (features - shift) @ transform; shift [D], transform [D, D].

        New heads keep their weights, so that they start in the transformed space; heads already trained keep their function.
        """
        self.fold()
        if self.trained:
            with torch.no_grad():
                weight = self.first.weight.double()
                self.first.bias.copy_(self.first.bias.double() + weight @ shift.double())
                self.first.weight.copy_(weight @ torch.linalg.pinv(transform.double()).T)
        self.shift, self.transform = shift.to(self.first.weight), transform.to(self.first.weight)

    def fold(self) -> None:
        """Moves the input transform into the first layer: the same function of the raw features at no cost."""
        if self.shift is None or self.transform is None:
            return
        with torch.no_grad():
            weight = self.first.weight.double() @ self.transform.double().T
            self.first.bias.copy_(self.first.bias.double() - weight @ self.shift.double())
            self.first.weight.copy_(weight)
        self.shift = self.transform = None
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
