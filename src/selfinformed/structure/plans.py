"""Heads before anything is trained: groups, widths, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfinformed.network.trunk import TrunkEnd
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.runtime.reading import naming, reason_of, shown
from selfinformed.runtime.tabular import Table
from selfinformed.structure.groups import LabelGroups

FORMAT = "selfinformed.plan/1"


@dataclass(frozen=True)
class Source:
    """What a head reads: columns `start` to `stop` of the attached features (all attach points side by side).

    Attributes:
        start, stop: the columns.
        map: where they are a map (channels, height, width), the head's first layer is a convolution without padding, ReLU, and the mean
            over positions: feature maps of the group's own.
        kernel: height and width of that convolution.
        shared: units of a layer in between that all heads with this source share; 0 for none.
        linear: whether that layer is linear, which makes the heads' first layers low-rank, or has a ReLU.
        copy: what of the trunk each head has a copy of, which turns the columns into the copied trunk's output: the head's layers read that.
    """

    start: int
    stop: int
    map: tuple[int, int, int] | None = None
    kernel: int = 1
    shared: int = 0
    linear: bool = False
    copy: TrunkEnd | None = None

    def __post_init__(self) -> None:
        wrong = not 0 <= self.start < self.stop or self.shared < 0 or (self.map is not None and math.prod(self.map) != self.stop - self.start)
        if self.copy is not None:
            wrong = wrong or self.shared > 0 or self.map is not None or math.prod(self.copy.shape) != self.stop - self.start
        if wrong or (self.map is not None and (self.shared or not 1 <= self.kernel <= min(self.map[1:]))):
            raise SelfInformedError(
                f"plan: {self} is no source; expected 0 <= start < stop, a map of just those columns, and with it a kernel no larger and no shared layer; "
                "or a copy that reads just those columns, and neither"
            )

    @property
    def size(self) -> int:
        """Inputs of each unit of a head's first layer."""
        whole = self.copy.size if self.copy is not None else self.stop - self.start
        return self.shared or (whole if self.map is None else self.map[0] * self.kernel**2)

    @property
    def positions(self) -> int:
        """How often each unit of a head's first layer is computed for one example: 1, or the positions of its feature map."""
        return 1 if self.map is None else (self.map[1] - self.kernel + 1) * (self.map[2] - self.kernel + 1)

    @property
    def shared_multiply_adds(self) -> int:
        """Of the shared layer, once for all heads that read it."""
        return (self.stop - self.start) * self.shared


@dataclass(frozen=True, eq=False)
class HeadPlan:
    """Heads to add, one per group, and their cost. Two plans for one network add up to a plan with the heads of both.

    Attributes:
        groups: the labels of each head.
        hidden: for each head the widths of its ReLU layers; a head reads D features and ends in its group's output units. None, where these
            units read a shared ReLU layer themselves, or the head's copy of the trunk's end.
        feature_size: D, the width of the attach points together.
        base_multiply_adds: of the network without heads, per example.
        base_parameters: of the network without heads.
        sources: for each head what it reads (default: all D features).
    """

    groups: LabelGroups
    hidden: tuple[tuple[int, ...], ...]
    feature_size: int
    base_multiply_adds: int
    base_parameters: int
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        for name in ("feature_size", "base_multiply_adds"):
            if getattr(self, name) < 1:
                raise SelfInformedError(f"plan: {name}: expected at least 1, got {getattr(self, name)}")
        if not self.sources:
            object.__setattr__(self, "sources", (Source(0, self.feature_size),) * len(self.groups))
        if len(self.sources) != len(self.groups) or any(source.stop > self.feature_size for source in self.sources):
            raise SelfInformedError(f"plan: expected {len(self.groups)} sources within {self.feature_size} features, got {list(self.sources)}")
        if len(self.hidden) != len(self.groups):
            raise SelfInformedError(f"plan: widths for {len(self.hidden)} heads, but {len(self.groups)} groups")
        for source, widths in zip(self.sources, self.hidden, strict=True):
            bare = not widths and source.copy is None and (not source.shared or source.linear)
            if bare or any(width < 1 for width in widths):
                raise SelfInformedError("plan: each head needs at least one ReLU layer, its own or a shared one, each at least 1 wide")
            if source.copy is None and any(bool(widths) != bool(other) for at, other in zip(self.sources, self.hidden, strict=True) if at == source):
                raise SelfInformedError("plan: heads behind one shared layer must all have layers of their own, or none of them")

    @property
    def head_multiply_adds(self) -> list[int]:
        """Per example, of each head; a layer that heads share is not in them."""
        return [head_cost(*head) for head in zip(self.sources, self.hidden, self.groups.sizes, strict=True)]

    @property
    def shared_multiply_adds(self) -> int:
        """Per example, of the first layers that heads share."""
        return sum(source.shared_multiply_adds for source in set(self.sources))

    @property
    def multiply_adds(self) -> int:
        """Per example, of the augmented network."""
        return self.base_multiply_adds + sum(self.head_multiply_adds) + self.shared_multiply_adds

    @property
    def parameters(self) -> int:
        """Of the augmented network: weights and hidden biases (the output units' biases are the classifier's)."""
        shared = sum(source.shared_multiply_adds + source.shared for source in set(self.sources))
        return self.base_parameters + sum(self.head_parameters) + shared

    @property
    def head_parameters(self) -> list[int]:
        """Of each head: weights and hidden biases."""
        return [
            stack_cost(source.size, widths, size) + sum(widths) + (source.copy.parameters if source.copy else 0)
            for source, widths, size in zip(self.sources, self.hidden, self.groups.sizes, strict=True)
        ]

    @property
    def extra_computation(self) -> float:
        """Augmented over base multiply-adds, as in the paper's Table 2."""
        return self.multiply_adds / self.base_multiply_adds

    def by_head(self) -> list[dict[str, Any]]:
        """A row {head, group, labels, widths, multiply_adds, parameters} for each head."""
        columns = zip(self.groups.names, self.groups.sizes, self.hidden, self.head_multiply_adds, self.head_parameters, strict=True)
        return [
            {"head": i + 1, "group": name, "labels": size, "widths": "-".join(map(str, widths)), "multiply_adds": cost, "parameters": parameters}
            for i, (name, size, widths, cost, parameters) in enumerate(columns)
        ]

    def _repr_html_(self) -> str:
        title = f"{len(self.groups)} heads, {self.multiply_adds:,} multiply-adds with the network ({self.extra_computation:.3f}x)"
        return Table.of(title, self.by_head(), ("group",)).to_html()

    def with_groups(self, groups: LabelGroups) -> HeadPlan:
        """The same widths for other groups of the same sizes, as the random control needs."""
        if groups.sizes != self.groups.sizes:
            raise SelfInformedError(f"plan: groups of sizes {groups.sizes}, expected {self.groups.sizes}")
        return replace(self, groups=groups)

    def __add__(self, other: HeadPlan) -> HeadPlan:
        """The heads of both plans, which must be of one network."""
        if not isinstance(other, HeadPlan):
            return NotImplemented
        for name in ("feature_size", "base_multiply_adds", "base_parameters"):
            if getattr(self, name) != getattr(other, name):
                raise SelfInformedError(f"plan: the plans are of two networks: {name} is {getattr(self, name)} and {getattr(other, name)}")
        return replace(self, groups=self.groups + other.groups, hidden=self.hidden + other.hidden, sources=self.sources + other.sources)

    def to_dict(self) -> dict[str, Any]:
        """As plan.json holds it, the costs with it: plain lists, numbers and texts."""
        return {
            "format": FORMAT, "groups": self.groups.to_dict(), "hidden": [list(w) for w in self.hidden],
            "feature_size": self.feature_size, "base_multiply_adds": self.base_multiply_adds,
            "base_parameters": self.base_parameters, "sources": [asdict(source) for source in self.sources],
            "head_multiply_adds": self.head_multiply_adds, "head_parameters": self.head_parameters,
            "shared_multiply_adds": self.shared_multiply_adds, "multiply_adds": self.multiply_adds, "parameters": self.parameters,
            "extra_computation": self.extra_computation,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Any, where: str = "plan") -> HeadPlan:
        """Reads what `to_dict` gave; `where` is named in errors."""
        try:
            if content["format"] != FORMAT:
                raise SelfInformedError(f"{where}: expected {FORMAT}, found {shown(content['format'])}")
            with naming(where):
                return cls(
                    LabelGroups.from_dict(content["groups"], where),
                    tuple(tuple(_number(width) for width in widths) for widths in content["hidden"]),
                    _number(content["feature_size"]), _number(content["base_multiply_adds"]), _number(content["base_parameters"]),
                    tuple(_read_source(source) for source in content.get("sources", ())),
                )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise SelfInformedError(f"{where}: not a valid plan file ({reason_of(error)}); delete it to have it made again") from None

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> HeadPlan:
        """Reads what `save` wrote."""
        return cls.from_dict(read_json(path, "plan"), str(path))


def head_cost(source: Source, widths: Sequence[int], outputs: int) -> int:
    """Multiply-adds of one head, without a layer it shares with others."""
    positions = (source.positions - 1) * source.size * widths[0] if widths else 0
    return stack_cost(source.size, widths, outputs) + positions + (source.copy.multiply_adds if source.copy else 0)


def stack_cost(feature_size: int, widths: Sequence[int], outputs: int) -> int:
    """Multiply-adds of a stack of fully connected layers from D features through `widths` to its outputs."""
    sizes = [feature_size, *widths, outputs]
    return sum(a * b for a, b in itertools.pairwise(sizes))


def _read_source(content: dict[str, Any]) -> Source:
    """What `asdict` gave, after JSON has made lists of tuples."""

    def read(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    copied = content.get("copy")
    source = Source(**read({**content, "copy": copied and TrunkEnd(**read(copied))}))
    for number in (source.start, source.stop, source.kernel, source.shared, *(source.map or ())):
        _number(number)
    return source


def _number(value: Any) -> int:
    """A whole number from 0 to 2^53 of a file; `ValueError` for what is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2**53:
        raise ValueError(f"expected a whole number from 0 to 2^53, found {shown(value)}")
    return value
