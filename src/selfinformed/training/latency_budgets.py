"""Budgets of measured time: with how many multiply-adds a structure takes the time allowed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from selfinformed.augmented.network import augment
from selfinformed.data.inputs import InputsLike
from selfinformed.network.calls import batch_size_of
from selfinformed.network.timing import paired_seconds
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.device import wait_for
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.structures import Structure

_TRIES = 7  # measurements of a structure's time
_MOST = 4  # times as many multiply-adds as the time allowed, both as shares, at most


def heads_of(choice: Choice) -> str:
    """The choice without how its heads are trained, which changes nothing of the time they take."""
    return str(replace(choice, rate=1.0, residual=1.0, head_input=None))


@dataclass(frozen=True)
class Fit:
    """With how many multiply-adds, as a share of the base's, a structure takes the time allowed, and what it takes; or why it does not fit."""

    budget: float | None = None
    extra_time: float | None = None
    reason: str = ""


def within_latency(builder: Builder, choice: Choice, batches: Sequence[InputsLike]) -> Fit:
    """The multiply-adds with which a structure's measured time is within the builder's budget, and near it."""
    allowed, budget, over, found = builder.budget, builder.budget, inf, Fit()
    for _ in range(_TRIES):
        try:
            extra = _extra_time(builder.net, builder.structure(choice, budget), batches)
        except SelfInformedError as error:  # too few multiply-adds for its heads, or more weights than there is memory for
            return found if found.budget else Fit(reason=str(error))
        if extra > allowed:
            over, least = min(over, budget), extra
        elif budget > (found.budget or 0.0):
            found = Fit(budget, extra)
        near = 0.8 * allowed <= extra <= allowed or (found.budget or 0.0) > 0.9 * over or budget >= _MOST * allowed
        if near:
            break
        budget *= min(max(0.2, 0.9 * allowed / max(extra, 1e-9)), 3.0)
        if found.budget and not found.budget < budget < over:
            budget = (found.budget + over) / 2
        budget = min(budget, _MOST * allowed)
    return found if found.budget else Fit(reason=f"latency: {choice} takes {least:+.1%} at its smallest, more than {allowed:.1%}")


def _extra_time(net: WrappedClassifier, structure: Structure, batches: Sequence[InputsLike]) -> float:
    """Measured time over the base's, minus 1, of such batches, of whose examples a share runs heads."""
    aug = augment(net, structure.plan)
    aug.output = aug.output or "softmax"
    start = time.perf_counter()
    wait_for(net.logits(batches[0]))
    repeats = round(min(200.0, max(5.0, 4 / (time.perf_counter() - start))))  # four seconds of each network
    batches = batches[: 10 if structure.is_conditional else 1]  # which heads run depends on the examples

    def extra(**run: Any) -> float:
        with aug.conditional(structure.top_groups, **run) if structure.is_conditional else nullcontext():
            pairs = [
                paired_seconds(net.logits, aug.logits, inputs, -(-repeats // len(batches)), warm=1 if number else 5)
                for number, inputs in enumerate(batches)
            ]
        return float(np.median(np.concatenate([other / one for one, other, _ in pairs]))) - 1

    some = min(1.0, structure.share * batch_size_of(batches[0]))  # of the batches: the rest have no example that runs heads
    return some * extra(share=structure.share) + ((1 - some) * extra(above=inf) if some < 1 else 0.0)
