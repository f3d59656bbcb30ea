"""What a search chooses from: the values of each attribute of a structure, and which structures are tried."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.choices import Choice
from selfinformed.training.moments import HeadInput
from selfinformed.training.recipe import RESIDUALS


@dataclass(frozen=True)
class Space:
    """The values a search chooses from; see `Choice`. Up to a third of the candidates are dense heads, of its depths, shared layers, rates,
    residuals and inputs."""

    grouping: Sequence[str] = ("confusions", "codetections", "both", "balanced", "hinton", "greedy", "dense")
    n_groups: Sequence[int] = (3, 6, 12, 24, 48)
    detections: Sequence[int | None] = (None, 5, 20)
    cover_share: Sequence[float | None] = (None, 0.2)
    dense_share: Sequence[float] = (0.0, 0.25, 0.5, 0.75)
    depth: Sequence[int] = (1, 0, 2)
    capacity: Sequence[Any] = ("uniform", "labels", "confusions")
    top_groups: Sequence[int | None] = (None, 1, 2, 4, 8)
    share: Sequence[float] = (1.0, 0.5, 0.25)
    attach: Sequence[str | None] = (None,)
    kernel: Sequence[int] = (1,)
    copy: Sequence[bool] = (False,)
    shared: Sequence[int] = (0, 64, 128)
    linear: Sequence[bool] = (True, False)
    rate: Sequence[float] = (1.0, 0.5, 0.25)
    residual: Sequence[float] = RESIDUALS
    head_input: Sequence[HeadInput | None] = (None,)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise SelfInformedError(f"search: the space needs a list of values for {name}, at least one; got {values!r}")
            for value in values:
                Choice(**{name: value})

    @classmethod
    def of(cls, net: WrappedClassifier) -> Space:
        """The default space for a network: each of its attach points, feature maps over those that are maps, copies of the trunk from there on (then
        also for the least certain tenth of the examples alone).
        """
        points = [point.module for point in net.attach_points]
        attach = (None, *points) if len(points) > 1 else (None,)
        if not any(shape.map for shape in net.shapes):
            return cls(attach=attach)
        return cls(attach=attach, kernel=(1, 3), copy=(False, True), share=(*cls.share, 0.1))

    @property
    def middle_rate(self) -> float:
        """What most structures want."""
        return self.rate[(len(self.rate) - 1) // 2]

    def dense(self) -> list[Choice]:
        """Every dense head of the space that is run on all examples and reads features as they are."""
        names = ("depth", "attach", "kernel", "shared", "linear", "rate", "residual", "head_input")
        parts = itertools.product(*(getattr(self, name) for name in names))
        return list(dict.fromkeys(Choice("dense", **dict(zip(names, values, strict=True))) for values in parts))

    def anchors(self) -> list[Choice]:
        """The paper's structure and its nearest relatives, of which a third of the candidates is taken."""
        numbers = sorted({self.n_groups[0], self.n_groups[len(self.n_groups) // 2], self.n_groups[-1]})
        rate = self.middle_rate
        found = [Choice(self.grouping[0], n, rate=r, residual=q) for n in numbers for r in (self.rate[0], rate) for q in self.residual]
        for n, top in itertools.product(numbers, [top for top in self.top_groups if top is not None and top < numbers[-1]]):
            depths = sorted({min(self.depth), 1})
            found += [Choice(self.grouping[0], n, depth=depth, top_groups=top, rate=rate, residual=q) for depth in depths for q in self.residual]
        few = next((top for top in self.top_groups if top is not None), None)
        for attach, n, share in itertools.product(self.attach, numbers[:2], sorted(self.share)[:2]):  # a draw would rarely hit on these
            found += [Choice(self.grouping[0], n, top_groups=few, share=share, attach=attach, copy=True, rate=rate) for copied in self.copy if copied]
            found += [Choice(self.grouping[0], n, top_groups=few, attach=attach, kernel=kernel, rate=rate) for kernel in self.kernel if kernel != 1]
        return list(dict.fromkeys(replace(choice, head_input=self.head_input[0]) for choice in found))

    def draw(self, rng: np.random.Generator) -> Choice:
        """One choice at random; each attribute has its first value half of the time, so that most draws differ from the paper in few ways."""
        drawn: dict[str, Any] = {}
        for name, values in vars(self).items():
            free = name in ("grouping", "n_groups", "top_groups", "rate", "residual")
            drawn[name] = values[rng.integers(len(values))] if free or rng.random() < 0.5 else values[0]
        return Choice(**drawn)

    def candidates(self, number: int, seed: int, settled: Callable[[Choice], Choice] = lambda choice: choice) -> list[Choice]:
        """So many different choices, fewer where the space holds fewer: up to a third dense heads, up to a third anchors, the rest at random.

        Among them always, for each residual at the middle rate, the plainest dense head, and output units alone of as many groups as there may be, run
        where the scores point; and a copy and a map where the space has them. `settled` gives each the one name it has for a network; see `Builder.settled`.
        """
        rng = np.random.default_rng(seed)
        found: dict[Choice, None] = {}
        dense, anchors = (list(map(settled, choices)) for choices in (self.dense(), self.anchors()))
        pointed = Choice(
            self.grouping[0], self.n_groups[-1], depth=min(self.depth), top_groups=max(filter(None, self.top_groups), default=None),
            head_input=self.head_input[0],
        )  # fmt: skip
        first, second = ([settled(replace(c, rate=self.middle_rate, residual=q)) for q in self.residual] for c in (self.dense()[0], pointed))
        rare = [choice for choice in anchors if choice.copy][:1] + [choice for choice in anchors if choice.kernel != 1][:1]
        for always, others in (([dense[0], *first], dense), ([anchors[0], *second, *rare], anchors)):
            found |= dict.fromkeys(_some(always, others, max(1, number // 3), rng))
        only_dense = {*self.grouping} == {"dense"}
        for _ in range(50 * number):
            if len(found) >= number:
                break
            drawn = settled(self.draw(rng))
            if only_dense or not drawn.is_dense:
                found.setdefault(drawn)
        return list(found)


def _some(always: Sequence[Choice], others: Sequence[Choice], number: int, rng: np.random.Generator) -> list[Choice]:
    """So many different choices, fewer where there are not as many: those first, then some of the others at random, in their order."""
    given, sure = list(dict.fromkeys([*always, *others])), min(number, len({*always}))
    return given[:sure] + [given[i] for i in sorted(rng.permutation(len(given) - sure)[: number - sure] + sure)]
