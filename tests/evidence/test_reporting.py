"""The report stands alone, escapes what it shows, and says what the JSON says."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from conftest import Problem
from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.comparison import Comparison, compare
from selfinformed.evidence.reporting import Findings, report
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.training.headroom import probe

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "'single' & \"double\"", "😀 مرحبا 漢字", "x" * 300, "{{ 7 * 7 }}", "$\\frac{1}{0}$"]


@pytest.fixture(scope="module")
def findings(problem: Problem, counts: ConfusionCounts) -> Findings:
    names = LabelSpace([*HOSTILE, *(f"label {i}" for i in range(len(HOSTILE), 36))])
    table = compare(
        problem.net, problem.plan(), problem.store("train"), problem.store("test"), holdout=problem.store("holdout"), seeds=2, epochs=1,
        arms=["base", "confusions", "random", "dense"],
    )  # fmt: skip
    headroom = probe(problem.net, problem.store("train"), problem.store("holdout"), groups=problem.groups.renamed(names), width=16, epochs=1)
    mistakes = [{"taken": HOSTILE[0], "annotated": HOSTILE[1], "base": 12, "augmented": 3}]
    return Findings(
        HOSTILE[0], names, counts, problem.groups.renamed(names), problem.plan(), table, headroom.to_dict(), mistakes,
        {"base": {1: 0.3, 2: 0.5}, "augmented": {1: 0.4, 2: 0.6}}, {0: b"png", 5: b"png"}, {"model": HOSTILE[0], "top_k": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(findings: Findings, tmp_path_factory) -> str:
    return report(findings, tmp_path_factory.mktemp("report")).read_text("utf-8")


def test_the_page_needs_no_other_file(page: str) -> None:
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources if "onerror" not in source and source != "x")
    assert not re.search(r"https?://|<script|<link|<iframe|@import|url\(", page)


def test_names_are_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    text = html.unescape(page)
    assert all(name in text for name in HOSTILE)
    for name in HOSTILE[:3]:
        assert html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page


def cells(page: str) -> list[list[str]]:
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    return [[re.sub(r"<small>|<[^>]*>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", row, re.S)] for row in table.split("</tr>")[:-1]]


def test_every_number_of_the_table_is_the_jsons(page: str, findings: Findings, tmp_path) -> None:
    findings.comparison.save(tmp_path / "comparison.json")
    summary = json.loads((tmp_path / "comparison.json").read_text())["summary"]
    rows = cells(page)
    assert len(rows) == len(summary) == 4
    for row, expected in zip(rows, summary, strict=True):
        assert row[0][0] == expected["arm"]
        assert row[1] == [f"{100 * expected['mean_average_precision']:.2f}"]
        assert row[2] == [f"{100 * expected['interval'][0]:.2f}", "to", f"{100 * expected['interval'][1]:.2f}"]
        assert row[3] == ([] if expected["arm"] == "base" else [f"{100 * expected['over_base']['mean']:+.2f}"])
        method = expected["method_over_it"]
        assert row[4] == ([f"{100 * method['mean']:+.2f}", f"{100 * method['low']:+.2f}", "to", f"{100 * method['high']:+.2f}"] if method else [])
        assert row[5:8] == [[f"{100 * expected[key]:.2f}"] for key in ("mean_average_precision_per_example", "top1", "top5")]
        assert row[8:] == [[f"{expected['multiply_adds']:,.0f}"], [f"{expected['extra_computation']:.3f}×"], [f"{expected['seconds']:.1f}"]]


def test_figures_are_written(findings: Findings, tmp_path) -> None:
    report(findings, tmp_path / "new" / "folder")
    names = ("cost", "confusions", "groups", "eigenvalues", "recall")
    assert {p.name for p in (tmp_path / "new" / "folder" / "figures").iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def without(comparison: Comparison, *arms: str) -> Comparison:
    rows = [row for row in comparison.rows if row["arm"] not in arms]
    return Comparison(rows, {a: v for a, v in comparison.per_label.items() if a not in arms}, comparison.top_k, comparison.about)


@pytest.mark.parametrize("arms", [["confusions"], ["base"], ["confusions", "base"], ["random", "dense"]])
def test_any_arms_make_a_report(findings: Findings, tmp_path, arms: list[str]) -> None:
    path = report(replace(findings, comparison=without(findings.comparison, *arms), headroom={}, mistakes=(), recall={}, images={}), tmp_path)
    assert "Every arm" in path.read_text("utf-8")


def test_gains_that_are_not_known_are_dashes(findings: Findings, tmp_path) -> None:
    unknown = {arm: np.full(36, np.nan) for arm in findings.comparison.per_label}
    rows = [row | {"mean_average_precision": None, "top1": float("nan")} for row in findings.comparison.rows]
    headroom = json.loads(json.dumps(findings.headroom))
    headroom["groups"][0] |= {"gain": None, "share": None}
    headroom["mean_average_precision"]["base"] = None
    table = Comparison(rows, unknown, 50, findings.comparison.about)
    text = report(replace(findings, comparison=table, headroom=headroom), tmp_path).read_text("utf-8")
    assert "nan<" not in text
    assert "–" in text
