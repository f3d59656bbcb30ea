"""Widths with which a structure takes the time allowed."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import Problem
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training import latency_budgets as module
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice


def ratio_of(ratio: float) -> tuple[np.ndarray, np.ndarray, float]:
    return np.ones(1), ratio * np.ones(1), ratio


@pytest.mark.parametrize("choice", [Choice("dense"), Choice("dense", share=0.25), Choice("confusions", 6, top_groups=1, share=0.5)], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 40])
def test_latency_is_that_of_the_heads_that_run(problem: Problem, monkeypatch, choice: Choice, batch: int) -> None:
    def seconds(one, other, inputs, repeats=20, warm=5):
        """Four times the multiply-adds that heads execute."""
        other(inputs)
        aug = other.__self__
        executed = aug.dispatch.multiply_adds if aug.dispatch is not None else aug.plan.multiply_adds
        return ratio_of(1 + 4 * (executed / problem.net.cost.multiply_adds - 1))

    monkeypatch.setattr(module, "paired_seconds", seconds)
    builder = Builder(problem.net, problem.store("holdout"), 0.4)
    batches = [problem.holdout.read(range(start, start + batch)) for start in (0, 40)]
    heads = builder.structure(choice, module.within_latency(builder, choice, batches).budget).plan
    per_example = heads.multiply_adds - heads.base_multiply_adds if choice.top_groups is None else max(heads.head_multiply_adds)
    assert 0.075 < choice.share * per_example / heads.base_multiply_adds <= 0.1


TIMES = {
    "little": lambda e: 0.3 * e, "as much": lambda e: e, "more": lambda e: 4 * e, "square": lambda e: 4 * e * e, "at first": lambda e: 0.3 + e / 4,
    "root": lambda e: e**0.5,
}  # fmt: skip


@pytest.mark.parametrize("kind", TIMES)
def test_widths_go_up_and_down_until_they_take_nearly_the_time_allowed(problem: Problem, monkeypatch, kind: str) -> None:
    def seconds(one, other, inputs, repeats=20, warm=5):
        return ratio_of(1 + TIMES[kind](other.__self__.plan.extra_computation - 1))

    monkeypatch.setattr(module, "paired_seconds", seconds)
    builder = Builder(problem.net, problem.store("holdout"), 0.4)
    fit = module.within_latency(builder, Choice("dense"), [problem.net.example_inputs])
    taken = TIMES[kind](builder.structure(Choice("dense"), fit.budget).plan.extra_computation - 1)
    assert fit.extra_time == pytest.approx(taken)
    assert 0.3 <= taken <= 0.4


def test_widths_end_where_time_or_memory_say_nothing(problem: Problem, monkeypatch) -> None:
    builder = Builder(problem.net, problem.store("holdout"), 0.4)
    monkeypatch.setattr(module, "_extra_time", lambda net, structure, batches: 0.0)
    assert module.within_latency(builder, Choice("dense"), []).budget == pytest.approx(1.6)

    def short(net, structure, batches):
        if structure.plan.extra_computation > 1.5:
            raise SelfInformedError("plan: its heads take more bytes than are free")
        return 0.1

    monkeypatch.setattr(module, "_extra_time", short)
    assert module.within_latency(builder, Choice("dense"), []) == module.Fit(0.4, 0.1)
    monkeypatch.setattr(module, "_extra_time", lambda net, structure, batches: 0.5)
    never = module.within_latency(builder, Choice("dense"), [])
    assert never.budget is None
    assert "takes +50.0% at its smallest, more than 40.0%" in never.reason
