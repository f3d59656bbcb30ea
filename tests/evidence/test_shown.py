"""What pages show of a comparison."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.numbers import Number
from selfinformed.evidence.shown import shown_arms


def made(values: dict[str, list[float]]) -> Comparison:
    figures = ("mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds", "extra_computation", "parameters", "seconds")
    rows = [{"arm": arm, "seed": seed, **dict.fromkeys(figures, value)} for arm, column in values.items() for seed, value in enumerate(column)]
    return Comparison(rows, {arm: np.array(column) for arm, column in values.items()}, 50)


@pytest.mark.parametrize("run", ["", "a run"])
def test_every_number_is_in_the_file_where_it_says(run: str) -> None:
    comparison = made({"base": [0.5, 0.5], "confusions": [0.6, 0.64], "dense": [0.61, 0.62]})
    content: Any = comparison.to_dict()
    shown = shown_arms(comparison, run)
    assert list(shown) == ["base", "confusions", "dense"]
    for arm, figures in shown.items():
        numbers = [value for value in figures.values() if isinstance(value, Number) and value.value is not None]
        assert len(numbers) == {"base": 10, "confusions": 10, "dense": 11}[arm]
        for number in numbers:
            file, _, pointer = number.source.partition("#/")
            assert file == f"{run}/comparison.json".lstrip("/")
            assert number.value == reduce(lambda of, part: of[int(part) if part.isdecimal() else part], pointer.split("/"), content)
    assert str(shown["dense"]["minus"]) == "+0.50"
    assert shown["dense"]["minus_tone"] == ""
    assert shown["confusions"]["minus"] == shown["base"]["over"] == ""


def test_what_there_is_none_of_is_empty() -> None:
    alone = shown_arms(made({"dense": [0.5]}))["dense"]
    assert (alone["over"], alone["over_tone"], alone["minus"], alone["minus_interval"], alone["interval"]) == ("", "", "", "", "")
    assert str(alone["over_low"]) == "–"
