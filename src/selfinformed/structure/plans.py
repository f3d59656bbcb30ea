"""Heads before anything is trained: groups, widths, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from selfinformed.network.trunk import TrunkEnd, trunk_end
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import expect, one_of, real_number, real_numbers, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.runtime.reading import naming, reason_of, shown
from selfinformed.runtime.tabular import Table
from selfinformed.structure.counts import ConfusionCounts, check_counts
from selfinformed.structure.groups import LabelGroups, check_groups

Capacity = Literal["uniform", "labels", "examples", "confusions"]
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
    attach: str | None = None,
    kernel: int = 1,
    copy: bool = False,
    shared: int = 0,
    linear: bool = False,
    usage: float | Sequence[float] = 1.0,
    shared_usage: float = 1.0,
) -> HeadPlan:
    """Turns groups into heads.

    Args:
        net: the wrapped network.
        groups: one head is planned for each.
        hidden: widths of every head's ReLU layers, e.g. (512, 512) as in the paper; instead of a budget. () with `shared`: see `depth`; with
            `copy`: the output units read the copy itself.
        budget: extra multiply-adds as a share of the base's; the largest widths within it are taken.
        depth: ReLU layers per head when widths come from a budget. 0: the heads' output units read one ReLU layer that all share, and the budget
            sets its width. Run on every example they are a dense head; where each example runs few, most of what that costs is saved.
        capacity: how widths divide a budget: `uniform` (the paper's: the same for every group), or in proportion to each group's
            number of `labels`, its `examples`, or the mass of its `confusions` (counts off the diagonal inside the group).
        counts: needed for `capacity="confusions"`.
        examples: training examples per label [C], needed for `capacity="examples"`.
        dense_share: part of the budget, 0 to 1, spent on one more head over all labels.
        attach: module name of the one of the network's attach points that these heads read (default: all of them side by side, or the last where
            one of them is a map). Plans for several attach points add up:
            `plan(net, groups, attach="layer3", ...) + plan(net, everything, attach="layer4", ...)`.
        kernel: height and width of the heads' convolution, at an attach point wrapped with `reduce="map"`: the first of a head's widths is
            then its number of feature maps, which are averaged over positions.
        copy: whether each head begins with a copy of the trunk from the attach point on, initialised with the trained weights and trained for
            the head's group. The attach point must be wrapped whole, with `reduce="map"` (or `flatten`).
        shared: units of one more layer between the attach point and all these heads.
        linear: whether that layer is linear (a low-rank first layer of the heads) instead of a ReLU layer.
        usage: share of the examples, 0 to 1, that run each head, or all of them: the budget then binds what is executed on average, and heads
            that few examples run may be larger. For `AugmentedClassifier.conditional`.
        shared_usage: share of the examples, 0 to 1, that run any head, and so the shared layer.

    Raises:
        SelfInformedError: the budget does not reach for one unit per head, what a capacity needs is missing, or the trunk cannot be copied from
            the attach point on.
    """
    check_wrapped(net)
    check_groups(groups, net.n_labels)
    depth, shared, kernel = whole_number("depth", depth, least=0), whole_number("shared", shared, least=0), whole_number("kernel", kernel)
    shared_usage = real_number("shared_usage", shared_usage, least=0, most=1)
    base, parameters, source = net.cost.multiply_adds, net.cost.parameters, _source(net, attach, kernel, copy, shared, linear)
    several = isinstance(usage, Iterable)
    used = np.array(real_numbers("usage", usage, least=0, most=1) if several else [real_number("usage", usage, least=0, most=1)] * len(groups))

    def made(groups: LabelGroups, widths: Sequence[tuple[int, ...]]) -> HeadPlan:  # of the source as it then is
        return HeadPlan(groups, tuple(widths), net.feature_size, base, parameters, (source,) * len(groups))

    if hidden is not None:
        expect(hidden, Sequence, "hidden", "the widths of a head's layers", "give e.g. (64,)")
        widths = tuple(whole_number("hidden", width) for width in hidden)
        of_budgets = {
            "depth": depth != 1, "capacity": capacity != "uniform", "dense_share": dense_share != 0,
            "usage": (used != 1).any(), "shared_usage": shared_usage != 1,
        }  # fmt: skip
        if given := [option for option, is_given in of_budgets.items() if is_given]:
            raise SelfInformedError(f"plan: {given[0]} is of widths that a budget sets, and hidden={widths} gives them; leave one of the two out")
        return made(groups, [widths] * len(groups))
    budget, dense_share = real_number("budget", budget, above=0), real_number("dense_share", dense_share, least=0, below=1)
    if not depth and (shared or copy or dense_share or not len(groups)):
        raise SelfInformedError("plan: with depth=0 the budget sets the width of the shared layer of heads; give neither shared= nor dense_share= nor copy=")
    if len(used) != len(groups) or (dense_share and used.min(initial=1) < 1):
        raise SelfInformedError(f"usage: expected {len(groups)} shares from 0 to 1, or one for all, and all 1 with a dense_share; got {usage}")
    if len(groups) and not used.any():
        raise SelfInformedError("usage: no head is ever run, so no budget binds their widths; give a share above 0")
    if not depth:
        each = (source.stop - source.start) * shared_usage + float(used @ np.array(groups.sizes))
        if budget * base < each:
            raise SelfInformedError(f"budget: {budget * base:.0f} multiply-adds do not reach for one shared unit ({each:.0f}); raise the budget")
        source = replace(source, shared=int(budget * base / each))
        return made(groups, [()] * len(groups))
    allowed = budget * base - source.shared_multiply_adds * min(shared_usage, float(used.sum()))
    if allowed < 0:
        raise SelfInformedError(f"budget: {budget * base:.0f} multiply-adds do not reach for a layer of {shared} shared units; raise it, or lower shared=")
    shares = _shares(groups, capacity, counts, examples)
    specialists = made(groups, _solve(groups.sizes, shares, source, depth, allowed * (1 - dense_share), used))
    if not dense_share:
        return specialists
    everything = LabelGroups.everything(net.n_labels)
    return specialists + made(everything, _solve(everything.sizes, np.ones(1), source, depth, allowed - sum(specialists.head_multiply_adds), np.ones(1)))


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


def _source(net: WrappedClassifier, attach: str | None, kernel: int, copy: bool, shared: int, linear: bool) -> Source:
    starts = list(itertools.accumulate((shape.size for shape in net.shapes), initial=0))
    names = [point.module for point in net.attach_points]
    if attach is not None and names.count(attach) != 1:
        raise SelfInformedError(f"attach: {attach!r} names {names.count(attach)} of the network's attach points; they are {', '.join(names)}")
    if copy and (kernel != 1 or shared or (attach is None and len(names) > 1)):
        raise SelfInformedError(f"copy: a copy reads one attach point, without kernel= and shared=; choose attach= among {', '.join(names)}")
    if attach is None and len(names) > 1 and not any(shape.map for shape in net.shapes):
        return Source(0, net.feature_size, None, 1, shared, linear)
    place = len(names) - 1 if attach is None else names.index(attach)
    if kernel != 1 and net.shapes[place].map is None:
        raise SelfInformedError(f"kernel: heads convolve only over a map; wrap the network with AttachPoint({names[place]!r}, reduce='map')")
    if copy:
        return Source(starts[place], starts[place + 1], copy=trunk_end(net, place))
    return Source(starts[place], starts[place + 1], net.shapes[place].map, kernel, shared, linear)


def _shares(groups: LabelGroups, capacity: Capacity, counts: ConfusionCounts | None, examples: npt.ArrayLike | None) -> npt.NDArray[np.float64]:
    one_of("capacity", capacity, get_args(Capacity))
    if capacity == "labels":
        mass = np.array(groups.sizes, dtype=float)
    elif capacity == "examples":
        if examples is None:
            raise SelfInformedError("capacity: 'examples' needs examples=, the number of training examples of each label")
        if np.shape(examples) != (groups.n_labels,):
            raise SelfInformedError(f"examples: expected {groups.n_labels} numbers, one per label; got shape {list(np.shape(examples))}")
        numbers = np.asarray(examples, dtype=float)
        if len(wrong := numbers[~(np.isfinite(numbers) & (numbers >= 0))]):
            raise SelfInformedError(f"examples: expected finite numbers of training examples, at least 0; got {wrong[0]}")
        mass = np.array([numbers[m].sum() for m in groups.members])
    elif capacity == "confusions":
        if counts is None:
            raise SelfInformedError("capacity: 'confusions' needs counts=, the confusion counts the groups came from")
        check_counts(counts)
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


def _solve(
    sizes: list[int], shares: npt.NDArray[np.float64], source: Source, depth: int, allowed: float, usage: npt.NDArray[np.float64]
) -> list[tuple[int, ...]]:
    """The largest widths, at least 1 and otherwise in proportion to the shares, that cost no more than allowed where each head is run as often
    as its usage says.
    """

    def widths(scale: float) -> list[tuple[int, ...]]:
        return [(max(1, int(scale * share)),) * depth for share in shares]

    def spent(scale: float) -> float:
        return sum(float(u) * head_cost(source, w, n) for w, n, u in zip(widths(scale), sizes, usage, strict=True))

    if not sizes:
        return []  # no heads: nothing would ever spend the budget
    if source.copy is not None and spent(0) > allowed:
        raise SelfInformedError(
            f"budget: {allowed:,.0f} multiply-adds do not reach for copies of {' and '.join(source.copy.modules)}: one costs {source.copy.multiply_adds:,} for "
            f"each example that runs it, and {len(sizes)} with one unit, run on {usage.mean():.2g} of the examples, {spent(0):,.0f} on average; raise the "
            "budget, let fewer examples run them (usage=; share and top_groups of a search), or attach later"
        )
    if spent(0) > allowed:
        raise SelfInformedError(
            f"budget: {allowed:.0f} multiply-adds do not reach for {len(sizes)} heads of one unit ({spent(0):.0f}); raise the budget or lower n_groups"
        )
    low, high = 0.0, 1.0
    if not (shares * usage).any():  # heads that are run stay at one unit
        return widths(low)
    while spent(high) <= allowed:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
    return widths(low)
