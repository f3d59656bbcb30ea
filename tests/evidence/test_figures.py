"""Figures show what they are given, whatever that is."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.cells import cell_len

from conftest import Problem
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.figures import (
    ACCENT,
    CONTROL,
    INK,
    QUIET,
    RUNS,
    _spread,
    block_sums,
    calibration_figure,
    conditional_figure,
    confusion_figure,
    cost_figure,
    eigenvalue_figure,
    first_groups,
    group_gain_figure,
    inline_svg,
    learning_figure,
    recall_figure,
    reliability_figure,
    runs_figure,
    save_figure,
    sweep_figure,
)
from selfinformed.evidence.reporting import Findings
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


@pytest.mark.parametrize("most", [1, 3, 7, 100, 10_000])
def test_a_colour_scale_has_whole_numbers_and_no_formulas(most: int, tmp_path) -> None:
    counts = ConfusionCounts(3, 1)
    counts.update_detections(np.zeros((most, 1), int), np.zeros(most, int))
    counts.update_detections([[1]], [2])
    save_figure(confusion_figure(counts, LabelGroups.everything(3)), tmp_path / "counts.png")
    text = svg_text(tmp_path / "counts.svg")
    assert re.search(r"\b1\b", text)
    assert "$" not in text


def svg_text(path: Path) -> str:
    return "".join(ElementTree.parse(path).getroot().itertext())


@pytest.mark.parametrize("name", ["<script>", "$x^", "$x^2$ in $", "$\\nothing$", "😀 émoji 漢字", "مرحبا שלום", "long " * 60, '"quoted"', "a_b\\c{", "\t\x01"])
def test_any_label_name_can_be_drawn_without_a_word(problem: Problem, tmp_path, name: str, caplog) -> None:
    groups = LabelGroups(36, (np.arange(36),), (name,))
    comparison = Comparison([], {"base": np.zeros(36), "confusions": np.full(36, np.nan)}, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(group_gain_figure(comparison, groups), tmp_path / "groups.png")
    assert not caplog.records
    drawn = svg_text(tmp_path / "groups.svg")
    if len(name) < 48 and name.isprintable():
        assert name in drawn  # as text, and no formula


def every_figure(counts: ConfusionCounts, groups: LabelGroups) -> dict[str, Figure]:
    rows = [
        {"arm": arm, "seed": seed, "mean_average_precision": 0.5 + 0.01 * seed, "extra_computation": 1.03, **dict.fromkeys(
            ("mean_average_precision_per_example", "top1", "top5", "multiply_adds", "parameters", "seconds"), 1)}
        for arm in ("base", "confusions", "random") for seed in range(2)
    ]  # fmt: skip
    table = Comparison(rows, {arm: np.linspace(0, 1, 36) for arm in ("base", "confusions", "random")}, 50)
    forecast = {"benchmark": "kanji", "base": "budget", "forecast": 0.2, "interval": [0.18, 0.23], "gain": 0.21}
    swept = {"n_groups": 2, "eigenvalues": [1.0, 0.5, 0.1], "within_share": 0.8, "sizes": [30, 6]}
    spent = [{"top_groups": n, "extra_computation": 1 + 0.01 * n, "mean_average_precision": 0.5} for n in range(3)]
    return {
        "cost": cost_figure(table), "groups": group_gain_figure(table, groups), "confusions": confusion_figure(counts, groups),
        "eigenvalues": eigenvalue_figure(replace(groups, eigenvalues=(1.0, 0.5))), "sweep": sweep_figure([swept]),
        "recall": recall_figure({"base": {1: 0.5, 2: 0.6}}), "conditional": conditional_figure(spent, 0.4), "calibration": calibration_figure([forecast]),
    }  # fmt: skip


def test_every_figure_is_a_column_wide_and_the_same_bytes_each_time(problem: Problem, counts: ConfusionCounts, tmp_path) -> None:
    for once in ("first", "second"):
        for name, figure in every_figure(counts, problem.groups).items():
            save_figure(figure, tmp_path / once / f"{name}.png")
            assert figure.get_size_inches()[0] == 3.5
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
        if path.suffix == ".svg":
            assert "$" not in svg_text(path)
            assert "<dc:date>" not in path.read_text("utf-8")
    assert len(list((tmp_path / "first").iterdir())) == 2 * 8


def test_no_text_is_drawn_in_a_colour_that_a_dark_page_cannot_change(counts: ConfusionCounts, findings: Findings) -> None:
    rows = {"base": [{"n": 3, "confidence": 0.5, "accuracy": 0.4}], "augmented": [{"n": 3, "confidence": 0.6, "accuracy": 0.5}]}
    for name, figure in (every_figure(counts, findings.groups) | {"reliability": reliability_figure(rows)}).items():
        texts = re.findall(r"<text[^>]*>", inline_svg(figure, name))
        assert texts
        assert [text for text in texts if "fill: var(--" not in text] == [], name


def test_means_that_are_close_have_ticks_that_say_so() -> None:
    rows = [
        {"arm": arm, "seed": 0, "mean_average_precision": value, "extra_computation": 1.03, **dict.fromkeys(
            ("mean_average_precision_per_example", "top1", "top5", "multiply_adds", "parameters", "seconds"), 1)}
        for arm, value in (("base", 0.9997), ("confusions", 1.0))
    ]  # fmt: skip
    figure = cost_figure(Comparison(rows, {}, 50))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert {text.get_text() for text in axes.texts} == {"base 99.97", "confusions 100.00"}


# How the cones of a protanope, a deuteranope and a tritanope see linear RGB (Machado, Oliveira, Fernandes 2009, severity 1).
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_are_told_apart_under_every_colour_blindness(blindness: str) -> None:
    def lab(colour: str) -> np.ndarray:
        srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(BLINDNESS[blindness] @ linear, 0, 1)
        x, y, z = np.cbrt(np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8726]]) @ seen)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for one, other in combinations((INK, QUIET, ACCENT, CONTROL), 2):
        assert np.linalg.norm(lab(one) - lab(other)) > 20, (one, other)


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
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [pytest.approx(xy) for xy in [(0, -0.1), (10, 8), (20, 21)]]
    assert points[1].get_color() == points[2].get_color() != points[0].get_color()
    assert {text.get_text() for text in axes.texts} == {"kanji, budget", "kanji, converged", "cjk, budget"}
    assert axes.get_xlim()[0] < -0.1
    assert axes.get_xlim()[1] > 23
    assert calibration_figure([]).axes


def arms_of(**scores: float) -> Comparison:
    """Arms of equal cost, two seeds each."""
    rows = [
        {"arm": arm, "seed": seed, "mean_average_precision": value + 0.002 * seed, "extra_computation": 1.0 if arm == "base" else 1.03, **dict.fromkeys(
            ("mean_average_precision_per_example", "top1", "top5", "multiply_adds", "parameters", "seconds"), 1)}
        for arm, value in scores.items() for seed in range(2)
    ]  # fmt: skip
    return Comparison(rows, {}, 50)


def test_arms_of_equal_cost_can_be_told_apart_within_the_axes() -> None:
    figure = cost_figure(arms_of(base=0.9, confusions=0.992, random=0.993, dense=0.9931, hinton=0.994, gated=0.996))
    [axes] = figure.axes
    low, high = axes.get_ylim()
    assert 0 <= low < high <= 100
    points = {text.get_text().split()[0]: (text.xy, text.xyann) for text in axes.texts}
    assert len({x for (x, _), _ in points.values()}) == 6
    heights = sorted(height for _, (_, height) in points.values())
    assert low <= heights[0] <= heights[-1] <= high
    assert min(np.diff(heights)) >= 0.064 * (high - low)
    assert max(axes.lines, key=lambda line: line.get_zorder()).get_color() == ACCENT
    assert "dense 99.41" in {text.get_text() for text in axes.texts}


def test_what_is_written_is_dark_on_white_paper(counts: ConfusionCounts, findings: Findings) -> None:
    rows = [{"step": i, "loss": 1 / (i + 1), "holdout_mean_average_precision": 0.1 * i} for i in range(4)]
    for name, figure in (every_figure(counts, findings.groups) | {"learning": learning_figure(rows)}).items():
        written = [text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label)]
        assert {text.get_color() for text in written} == {INK}, name


def test_lines_between_hundreds_of_groups_leave_the_cells_to_be_seen(counts: ConfusionCounts) -> None:
    many = ConfusionCounts(900, 2)
    many.update_detections([[0, 1]], [0])
    [axes, _] = confusion_figure(many, LabelGroups(900, tuple(np.arange(900).reshape(300, 3)))).axes
    assert len(axes.lines) == 2 * 50
    assert 20 <= len(axes.get_yticks()) <= 25
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["1", "13"]
    [axes, _] = confusion_figure(counts, LabelGroups(36, tuple(np.arange(36).reshape(6, 6)))).axes
    assert len(axes.lines) == 2 * 5
    assert len(axes.get_yticks()) == 6


def test_names_of_any_width_leave_the_axes_as_they_are(findings: Findings) -> None:
    widths = set()
    for name in ("short", "漢字" * 60, "W" * 200):
        figure = group_gain_figure(findings.comparison, LabelGroups(36, (np.arange(36),), (name,)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.draw_without_rendering()
        [axes] = figure.axes
        widths.add(round(axes.get_position().width, 3))
        assert cell_len(axes.texts[0].get_text()) <= 44
    assert len(widths) == 1


def test_series_are_told_apart_without_colour(findings: Findings) -> None:
    [axes] = group_gain_figure(findings.comparison, findings.groups).axes
    assert len({bars[0].get_hatch() for bars in axes.containers}) == len(axes.containers) == 2
    rows = [{"n": 3, "confidence": 0.5, "accuracy": 0.4}, {"n": 3, "confidence": 0.9, "accuracy": 0.8}]
    [axes] = reliability_figure({"base": rows, "augmented": rows}).axes
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 3
    runs = runs_figure({f"run {i}": findings.comparison for i in range(6)})
    assert len({line.get_marker() for line in runs.axes[0].lines}) == 6
    assert all(colour in inline_svg(runs, "runs", RUNS) for colour in RUNS)


def test_a_figure_that_is_not_seen_says_its_figures(counts: ConfusionCounts, findings: Findings) -> None:
    drawn = {name: inline_svg(figure, name) for name, figure in every_figure(counts, findings.groups).items()}
    said = {name: re.search(r'^<svg role="img" aria-label="([^"]*)"', svg)[1] for name, svg in drawn.items()}
    assert said["cost"] == "mAP@50 of each arm for its extra multiply-adds: base 50.50 for 3.0%, confusions 50.50 for 3.0%, random 50.50 for 3.0%"
    assert said["recall"] == "recall by k: base from 50.00 to 60.00 (least 50.00, most 60.00)"
    assert said["eigenvalues"].startswith("2 leading eigenvalues from 1.00 to 0.50")
    assert said["sweep"] == "sweep figure"
    named = runs_figure({'"><script>': findings.comparison})
    assert 'aria-label="mAP of each run&#x27;s base and method: &quot;&gt;&lt;script&gt; from ' in inline_svg(named, "runs")


def test_eigenvalues_have_whole_numbers() -> None:
    figure = eigenvalue_figure(LabelGroups(4, (np.arange(4),), eigenvalues=(1.0, 0.5, 0.2)))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert axes.get_legend().get_texts()[0].get_text() == "1 group"


def test_heights_are_spread_apart_in_order() -> None:
    spread = _spread([1.0, 1.0, 1.01, 2.0], 1.0)
    assert spread == sorted(spread)
    assert min(np.diff(spread)) > 0.05
    assert _spread([], 1.0) == []
    assert _spread([0.99, 1.0, 1.0], 1.0, 1.0) == pytest.approx([0.87, 0.935, 1.0])


def test_of_many_groups_the_extremes_are_drawn(findings: Findings) -> None:
    groups = LabelGroups(36, tuple(np.array([i]) for i in range(36)))
    gains = 100 * (findings.comparison.per_label["confusions"] - findings.comparison.per_label["base"])
    axes = group_gain_figure(findings.comparison, groups).axes[0]
    shown = [int(text.get_text()) - 1 for text in axes.get_yticklabels()]
    order = np.argsort(gains, kind="stable")
    assert shown == sorted([*order[:15].tolist(), *order[-15:].tolist()])
    assert [bar.get_width() for bar in axes.containers[0]] == pytest.approx(gains[shown])
