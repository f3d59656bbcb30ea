"""Heads before anything is trained: groups, widths, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups

Capacity = Literal["uniform", "labels", "examples", "confusions"]
FORMAT = "selfinformed.plan/1"


@dataclass(frozen=True, eq=False)
class HeadPlan:
    """Heads to add, one per group, and their cost.

    Attributes:
        groups: the labels of each head.
        hidden: for each head the widths of its ReLU layers; a head reads D features and ends in its group's output units.
        feature_size: D, the width of the attach point.
        base_multiply_adds: of the network without heads, per example.
        base_parameters: of the network without heads.
    """

    groups: LabelGroups
    hidden: tuple[tuple[int, ...], ...]
    feature_size: int
    base_multiply_adds: int
    base_parameters: int

    def __post_init__(self) -> None:
        if len(self.hidden) != len(self.groups):
            raise SelfInformedError(f"plan: widths for {len(self.hidden)} heads, but {len(self.groups)} groups")
        if any(not widths or min(widths) < 1 for widths in self.hidden):
            raise SelfInformedError("plan: each head needs at least one ReLU layer, each at least 1 wide")
        for name in ("feature_size", "base_multiply_adds"):
            if getattr(self, name) < 1:
                raise SelfInformedError(f"plan: {name}: expected at least 1, got {getattr(self, name)}")

    @property
    def head_multiply_adds(self) -> list[int]:
        """Per example, of each head."""
        return [
            stack_cost(self.feature_size, widths, size) for widths, size in zip(self.hidden, self.groups.sizes, strict=True)
        ]

    @property
    def multiply_adds(self) -> int:
        """Per example, of the augmented network."""
        return self.base_multiply_adds + sum(self.head_multiply_adds)

    @property
    def parameters(self) -> int:
        """Of the augmented network: weights and hidden biases (the output units' biases are the classifier's)."""
        return self.base_parameters + sum(self.head_multiply_adds) + sum(map(sum, self.hidden))

    @property
    def extra_computation(self) -> float:
        """Augmented over base multiply-adds, as in the paper's Table 2."""
        return self.multiply_adds / self.base_multiply_adds

    def with_groups(self, groups: LabelGroups) -> HeadPlan:
        """The same widths for other groups of the same sizes, as the random control needs."""
        if groups.sizes != self.groups.sizes:
            raise SelfInformedError(f"plan: groups of sizes {groups.sizes}, expected {self.groups.sizes}")
        return HeadPlan(groups, self.hidden, self.feature_size, self.base_multiply_adds, self.base_parameters)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "groups": self.groups.to_dict(), "hidden": [list(w) for w in self.hidden],
            "feature_size": self.feature_size, "base_multiply_adds": self.base_multiply_adds,
            "base_parameters": self.base_parameters, "head_multiply_adds": self.head_multiply_adds,
            "multiply_adds": self.multiply_adds, "parameters": self.parameters, "extra_computation": self.extra_computation,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Any, where: str = "plan") -> HeadPlan:
        try:
            if content["format"] != FORMAT:
                raise SelfInformedError(f"{where}: expected {FORMAT}, found {content['format']!r}")
            return cls(
                LabelGroups.from_dict(content["groups"], where),
                tuple(tuple(map(int, widths)) for widths in content["hidden"]),
                *(int(content[key]) for key in ("feature_size", "base_multiply_adds", "base_parameters")),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SelfInformedError(f"{where}: not a valid plan file ({error!r}); delete it to have it made again") from None

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> HeadPlan:
        """Reads what `save` wrote."""
        return cls.from_dict(read_json(path, "plan"), str(path))


def plan(
    net: WrappedClassifier,
    groups: LabelGroups,
    *,
    hidden: Sequence[int] | None = None,
    budget: float = 0.03,
    depth: int = 1,
    capacity: Capacity = "uniform",
    counts: ConfusionCounts | None = None,
    examples: npt.ArrayLike | None = None,
    dense_share: float = 0.0,
) -> HeadPlan:
    """Turns groups into heads.

    Args:
        net: the wrapped network.
        groups: one head is planned for each.
        hidden: widths of every head's ReLU layers, e.g. (512, 512) as in the paper; instead of a budget.
        budget: extra multiply-adds as a share of the base's; the largest widths within it are taken.
        depth: ReLU layers per head when widths come from a budget.
        capacity: how widths divide a budget: `uniform` (the paper's: the same for every group), or in proportion to each group's
            number of `labels`, its `examples`, or the mass of its `confusions` (counts off the diagonal inside the group).
        counts: needed for `capacity="confusions"`.
        examples: training examples per label [C], needed for `capacity="examples"`.
        dense_share: part of the budget, 0 to 1, spent on one more head over all labels.

    Raises:
        SelfInformedError: the budget does not reach for one unit per head, or what a capacity needs is missing.
    """
    if groups.n_labels != net.n_labels:
        raise SelfInformedError(f"groups: made for {groups.n_labels} labels, the network has {net.n_labels}")
    base, parameters, size = net.cost.multiply_adds, net.cost.parameters, net.feature_size
    if hidden is not None:
        return HeadPlan(groups, (tuple(hidden),) * len(groups), size, base, parameters)
    if not 0 < budget < math.inf or not 0 <= dense_share < 1 or depth < 1:
        raise SelfInformedError(f"plan: expected budget > 0, 0 <= dense_share < 1, depth >= 1; got {budget}, {dense_share}, {depth}")
    shares = _shares(groups, capacity, counts, examples)
    widths = _solve(groups.sizes, shares, size, depth, budget * (1 - dense_share) * base)
    if dense_share:
        everything = LabelGroups.everything(net.n_labels)
        left = budget * base - sum(stack_cost(size, (w,) * depth, n) for w, n in zip(widths, groups.sizes, strict=True))
        widths += _solve(everything.sizes, np.ones(1), size, depth, left)
        groups = LabelGroups(
            groups.n_labels, groups.members + everything.members, groups.names + everything.names, groups.method, groups.eigenvalues
        )
    return HeadPlan(groups, tuple((w,) * depth for w in widths), size, base, parameters)


def stack_cost(feature_size: int, widths: Sequence[int], outputs: int) -> int:
    """Multiply-adds of a stack of fully connected layers from D features through `widths` to its outputs."""
    sizes = [feature_size, *widths, outputs]
    return sum(a * b for a, b in itertools.pairwise(sizes))


def _shares(groups: LabelGroups, capacity: Capacity, counts: ConfusionCounts | None, examples: npt.ArrayLike | None) -> npt.NDArray[np.float64]:
    if capacity not in get_args(Capacity):
        raise SelfInformedError(f"capacity: expected one of {', '.join(get_args(Capacity))}; got {capacity!r}")
    if capacity == "labels":
        mass = np.array(groups.sizes, dtype=float)
    elif capacity == "examples":
        if examples is None:
            raise SelfInformedError("capacity: 'examples' needs examples=, the number of training examples of each label")
        if np.shape(examples) != (groups.n_labels,):
            raise SelfInformedError(f"examples: expected {groups.n_labels} numbers, one per label; got shape {list(np.shape(examples))}")
        mass = np.array([np.asarray(examples)[m].sum() for m in groups.members], dtype=float)
    elif capacity == "confusions":
        if counts is None:
            raise SelfInformedError("capacity: 'confusions' needs counts=, the confusion counts the groups came from")
        if counts.n_labels != groups.n_labels:
            raise SelfInformedError(f"counts: made for {counts.n_labels} labels, the groups for {groups.n_labels}")
        mass = confusion_mass(counts, groups)
    else:
        mass = np.ones(len(groups))
    return mass / mass.mean() if mass.sum() > 0 else np.ones(len(groups))


def confusion_mass(counts: ConfusionCounts, groups: LabelGroups) -> npt.NDArray[np.float64]:
    """For each group, the counts between two different labels of it."""
    matrix = counts.to_scipy()
    return np.array([matrix[m][:, m].sum() - matrix.diagonal()[m].sum() for m in groups.members], dtype=float)


def _solve(sizes: list[int], shares: npt.NDArray[np.float64], feature_size: int, depth: int, allowed: float) -> list[int]:
    """The largest widths, at least 1 and otherwise in proportion to the shares, that cost no more than allowed."""

    def widths(scale: float) -> list[int]:
        return [max(1, int(scale * share)) for share in shares]

    def spent(scale: float) -> int:
        return sum(stack_cost(feature_size, (w,) * depth, n) for w, n in zip(widths(scale), sizes, strict=True))

    if not sizes:
        return []  # no heads: nothing would ever spend the budget
    if spent(0) > allowed:
        raise SelfInformedError(
            f"budget: {allowed:.0f} multiply-adds do not reach for {len(sizes)} heads of one unit ({spent(0)}); raise the budget or lower n_groups"
        )
    low, high = 0.0, 1.0
    while spent(high) <= allowed:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
    return widths(low)
