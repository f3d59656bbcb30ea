"""A recipe refuses what cannot be, and says what could."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.recipe import Recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1}, "label_smoothing: expected a number of at least 0 and below 1; got 1"),
        ({"label_smoothing": float("nan")}, "label_smoothing"),
        ({"weight_decay": -1}, "weight_decay: expected a number of at least 0; got -1"),
        ({"epsilon": 0}, "epsilon: expected a number above 0; got 0"),
        ({"logit_adjustment": float("inf")}, "logit_adjustment: expected a number of at least 0"),
        ({"class_weights": 1.0}, "class_weights: expected a number of at least 0 and below 1"),
        ({"balanced_sampling": 1.1}, "balanced_sampling: expected a number of at least 0 and at most 1"),
        ({"soft_targets": "half"}, "soft_targets: expected a number of at least 0 and at most 1; got 'half'"),
        ({"temperature": 0}, "temperature: expected a number above 0"),
        ({"ema": 1.0}, "ema: expected a number of at least 0 and below 1"),
        ({"tail_average": 2}, "tail_average: expected a number of at least 0 and at most 1"),
        ({"patience": 1.5}, "patience: expected a whole number of at least 0"),
        ({"patience": True}, "patience: expected a whole number"),
        ({"schedule": "step"}, "schedule: expected one of one_cycle, cosine, constant; got 'step'"),
        ({"watch": "top1"}, "watch: expected one of mean_average_precision, loss"),
        ({"ema": 0.9, "tail_average": 0.5}, "leave one of them at 0"),
        ({"label_smooting": 0.1}, "unknown option 'label_smooting'; did you mean 'label_smoothing'"),
        ({"zzz": 0.1}, "unknown option 'zzz'; expected some of residual, "),
    ],
)
def test_what_cannot_be_is_refused(options, message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        Recipe.of(options)


def test_options_by_name_make_the_recipe() -> None:
    assert Recipe.of({"ema": 0.9}) == Recipe(ema=0.9)
    assert Recipe.of(None) == Recipe.of({}) == Recipe()
    assert Recipe.of(Recipe(patience=2)) == Recipe(patience=2)


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    for option in fields(Recipe):
        assert f"`{option.name}`" in text
        assert f"{option.name}" in (Recipe.__doc__ or "")
