"""Figures show what they are given, whatever that is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from conftest import Problem
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.figures import (
    _spread,
    block_sums,
    calibration_figure,
    confusion_figure,
    cost_figure,
    eigenvalue_figure,
    first_groups,
    group_gain_figure,
    recall_figure,
    save_figure,
)
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups


@pytest.mark.parametrize("most", [1, 5, 35, 36, 1000])
def test_no_count_is_lost_in_cells(counts: ConfusionCounts, most: int) -> None:
    order = np.random.default_rng(0).permutation(36)
    cells = block_sums(counts.to_scipy(), order, most).toarray()
    assert cells.shape == (min(most, 36),) * 2
    assert cells.sum() == counts.to_scipy().sum()
    if most >= 36:
        np.testing.assert_array_equal(cells, counts.to_scipy().toarray()[np.ix_(order, order)])


def test_a_label_of_a_cover_stands_with_its_first_group(counts: ConfusionCounts) -> None:
    cover = LabelGroups(36, (np.arange(10), np.arange(5, 20), np.arange(36)), ("a", "b", "c"))
    assert [len(m) for m in first_groups(cover)] == [10, 10, 16]
    assert confusion_figure(counts, cover).axes


@pytest.mark.parametrize("groups", [LabelGroups(36, ()), LabelGroups.everything(36)])
def test_any_groups_can_be_drawn(counts: ConfusionCounts, groups: LabelGroups, tmp_path) -> None:
    comparison = Comparison([], {}, 50)
    for number, figure in enumerate((confusion_figure(counts, groups), group_gain_figure(comparison, groups), eigenvalue_figure(groups))):
        save_figure(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            image.verify()


def test_counts_of_nothing_can_be_drawn(tmp_path) -> None:
    save_figure(confusion_figure(ConfusionCounts(4, 2), LabelGroups(4, ())), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["<script>", "$x^", "😀 émoji 漢字", "long " * 60, '"quoted"', "a_b\\c{"])
def test_any_label_name_can_be_drawn_without_a_word(problem: Problem, tmp_path, name: str) -> None:
    groups = LabelGroups(36, (np.arange(36),), (name,))
    comparison = Comparison([], {"base": np.zeros(36), "confusions": np.full(36, np.nan)}, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(group_gain_figure(comparison, groups), tmp_path / "groups.png")


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [float("nan"), 0.2], [0.1, 0.9]])
def test_any_figures_can_be_drawn_over_cost(values: list[float], tmp_path) -> None:
    rows = [
        {"arm": arm, "seed": seed, "mean_average_precision": value, "mean_average_precision_per_example": value, "top1": 0, "top5": 0,
         "multiply_adds": 1, "extra_computation": 1.0, "parameters": 1, "seconds": 0.0}
        for arm in ("base", "confusions") for seed, value in enumerate(values)
    ]  # fmt: skip
    save_figure(cost_figure(Comparison(rows, {}, 50)), tmp_path / "cost.png")


def test_recall_curves_hold_their_points() -> None:
    axes = recall_figure({"base": {2: 0.5, 1: 0.25}, "augmented": {1: 0.5}}).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [25, 50]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "augmented"]


def test_forecasts_stand_against_gains() -> None:
    rows = [
        {"benchmark": "kanji", "base": "budget", "forecast": 0.2, "interval": [0.18, 0.23], "gain": 0.21},
        {"benchmark": "kanji", "base": "converged", "forecast": 0.0, "interval": [0.0, 0.0], "gain": -0.001},
        {"benchmark": "cjk", "base": "budget", "forecast": 0.1, "interval": [0.09, 0.12], "gain": 0.08},
    ]
    axes = calibration_figure(rows).axes[0]
    identity = axes.lines[0]
    assert np.array_equal(identity.get_xdata(), identity.get_ydata())
    band = axes.collections[0].get_paths()[0].vertices
    assert np.abs(band[:, 1] - band[:, 0]).max() == pytest.approx(0.5)
    points = [container.lines[0] for container in axes.containers]
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [pytest.approx(xy) for xy in [(20, 21), (0, -0.1), (10, 8)]]
    assert points[0].get_color() == points[2].get_color() != points[1].get_color()
    assert [text.get_text() for text in axes.texts] == ["kanji, budget", "kanji, converged", "cjk, budget"]
    assert axes.get_xlim()[0] < -0.1
    assert axes.get_xlim()[1] > 23
    assert calibration_figure([]).axes


def test_heights_are_spread_apart_in_order() -> None:
    spread = _spread([1.0, 1.0, 1.01, 2.0])
    assert spread == sorted(spread)
    assert min(np.diff(spread)) > 0.05
    assert _spread([]) == []
