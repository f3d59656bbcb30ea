"""Turns groups and a budget into a plan: which widths heads get, and where they read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from selfinformed.network.trunk import trunk_end
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import expect, one_of, real_number, real_numbers, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts, check_counts
from selfinformed.structure.groups import LabelGroups, check_groups
from selfinformed.structure.plans import HeadPlan, Source, head_cost

Capacity = Literal["uniform", "labels", "examples", "confusions"]


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
        mass = mass_within(counts, groups)
    else:
        mass = np.ones(len(groups))
    return mass / mass.mean() if mass.sum() > 0 else np.ones(len(groups))


def mass_within(counts: ConfusionCounts, groups: LabelGroups) -> npt.NDArray[np.float64]:
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
