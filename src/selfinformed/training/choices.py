"""What a structure is made of: the points of a search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from selfinformed.runtime.arguments import expect, one_of, real_number, whole_number
from selfinformed.structure.counts import Kind
from selfinformed.structure.groupings import Method
from selfinformed.structure.planning import Capacity
from selfinformed.training.moments import HeadInput

_GROUPINGS = ("dense", "both", *get_args(Kind), *(name for name in get_args(Method) if name != "spectral"))
# What each attribute of a choice may be: the bounds of a number, or some values; those in _OPTIONAL also None.
_WHOLE = {"n_groups": 1, "detections": 1, "depth": 0, "top_groups": 1, "kernel": 1, "shared": 0}
_NUMBERS: dict[str, dict[str, Any]] = {
    "cover_share": {"least": 0, "most": 1}, "dense_share": {"least": 0, "below": 1}, "share": {"above": 0, "most": 1}, "rate": {"above": 0},
    "residual": {"least": 0, "most": 1},
}  # fmt: skip
_VALUES = {"grouping": _GROUPINGS, "capacity": get_args(Capacity), "copy": (True, False), "linear": (True, False), "head_input": get_args(HeadInput)}
_OPTIONAL = ("detections", "cover_share", "top_groups", "attach", "head_input")


@dataclass(frozen=True)
class Choice:
    """One point of a search space: what a structure is made of, apart from its widths, which the budget gives.

    Attributes:
        grouping: `dense` (one head over all labels), a kind of counts for spectral clustering (`confusions`, `codetections`), `both` (heads
            for either), or another method of `cluster`.
        n_groups: how many groups; of `both`, of each.
        detections: K of the counts, None for the default.
        cover_share: see `cluster`; None for a partition.
        dense_share: share of the budget, 0 to 1, for one more head over all labels.
        depth: ReLU layers per head; 0: heads are output units alone, on one ReLU layer that all share (see `plan`).
        capacity: how widths divide the budget among groups; `examples`: by the hold-out examples of their labels.
        top_groups: heads that each example runs; None for all.
        share: of the examples, 0 to 1, the most uncertain: only they run heads.
        attach: the attach point that heads read; None for all side by side.
        kernel: height and width of heads' convolution over a map.
        copy: whether each head begins with a copy of the trunk from the attach point on.
        shared: units of a layer before all heads; 0 for none.
        linear: whether that layer is linear (low-rank heads).
        rate: factor of all learning rates: wide layers want lower ones.
        residual: share of the base's logits that heads see in training; see `Recipe`. Always 1 where only some examples run heads.
        head_input: what becomes of the features that heads read, `whitened`, `standardised` or `raw`; None: as `fit` is told.
    """

    grouping: str = "confusions"
    n_groups: int = 6
    detections: int | None = None
    cover_share: float | None = None
    dense_share: float = 0.0
    depth: int = 1
    capacity: Capacity = "uniform"
    top_groups: int | None = None
    share: float = 1.0
    attach: str | None = None
    kernel: int = 1
    copy: bool = False
    shared: int = 0
    linear: bool = True
    rate: float = 1.0
    residual: float = 1.0
    head_input: HeadInput | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name in _OPTIONAL:
                continue
            if name in _WHOLE:
                object.__setattr__(self, name, whole_number(name, value, least=_WHOLE[name]))
            elif name in _NUMBERS:
                object.__setattr__(self, name, real_number(name, value, **_NUMBERS[name]))
            elif name in _VALUES:
                one_of(name, value, _VALUES[name])
            else:
                expect(value, str, name, "a module's name")
        if self.grouping == "dense":  # one structure should have one name
            for name in ("n_groups", "detections", "cover_share", "dense_share", "capacity", "top_groups"):
                object.__setattr__(self, name, 1 if name == "n_groups" else getattr(Choice, name))
        elif self.top_groups is not None and self.top_groups >= self.n_groups * (2 if self.grouping == "both" else 1):
            object.__setattr__(self, "top_groups", None)
        if self.copy:
            object.__setattr__(self, "kernel", 1)
        if self.copy or self.kernel != 1:  # nothing is shared before a copy or a map's convolution
            object.__setattr__(self, "shared", 0)
            object.__setattr__(self, "depth", max(1, self.depth))
        if not self.depth and (self.grouping == "dense" or self.top_groups is None):  # run on every example that is a dense head
            object.__setattr__(self, "depth", 1)
        if not self.depth:
            object.__setattr__(self, "shared", 0)
            object.__setattr__(self, "capacity", "uniform")
        if not self.shared:
            object.__setattr__(self, "linear", True)
        if self.share < 1:
            object.__setattr__(self, "residual", 1.0)

    @property
    def is_dense(self) -> bool:
        """Whether it is a dense head run on every example: the control to beat."""
        return self.grouping == "dense" and self.share == 1

    def __str__(self) -> str:
        parts = ["one dense head" if self.grouping == "dense" else f"{self.n_groups} groups from {self.grouping}"]
        if self.detections is not None:
            parts.append(f"top {self.detections} detections")
        if self.cover_share is not None:
            parts.append(f"overlapping from a share of {self.cover_share:.4g}")
        if self.dense_share:
            parts.append(f"{self.dense_share:.4g} of the budget dense")
        if self.depth != 1:
            parts.append(f"{self.depth} layers" if self.depth else "output units on one shared ReLU layer")
        if self.capacity != "uniform":
            parts.append(f"widths by {self.capacity}")
        if self.shared:
            parts.append(f"behind {self.shared} shared {'linear' if self.linear else 'ReLU'} units")
        if self.copy:
            parts.append(f"each on a copy of the trunk from {self.attach or 'the attach point'} on")
        elif self.attach is not None:
            parts.append(f"read from {self.attach}")
        if self.kernel != 1:
            parts.append(f"{self.kernel} x {self.kernel} feature maps")
        if self.top_groups is not None:
            parts.append(f"{self.top_groups} run per example")
        if self.share < 1:
            parts.append(f"on the least certain {self.share:.4g} of the examples")
        if self.rate != 1:
            parts.append(f"learning rates x{self.rate:g}")
        if self.residual != 1:
            parts.append(seen_of(self.residual))
        if self.head_input is not None:
            parts.append(f"on {self.head_input} input")
        return ", ".join(parts)


def seen_of(residual: float) -> str:
    """In words."""
    return f"trained seeing {residual:g} of the base's scores" if residual else "trained without the base's scores"
