"""Several runs on one page."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hostile import HOSTILE
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.reporting import Findings
from selfinformed.evidence.runs import RunFindings, report_runs
from selfinformed.runtime.errors import SelfInformedError


def other(comparison: Comparison) -> Comparison:
    """The same run, better by a tenth on one label and in all."""
    changed = {arm: values.copy() for arm, values in comparison.per_label.items()}
    changed["confusions"][3] += 0.125
    rows = [row | {"mean_average_precision": row["mean_average_precision"] + 0.1 * (row["arm"] == "confusions")} for row in comparison.rows]
    return replace(comparison, rows=rows, per_label=changed)


@pytest.fixture
def runs(findings: Findings, tmp_path: Path) -> list[RunFindings]:
    both = []
    for name, comparison in ((HOSTILE[1].replace("/", "-"), findings.comparison), ("twelve", other(findings.comparison))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "report.html").touch()
        both.append(RunFindings(folder, findings.labels.names, comparison, findings.headroom, 6, {"n_groups": len(both), "seed": 0, "output": str(folder)}))
    return both


def test_every_number_is_the_runs(runs: list[RunFindings], tmp_path: Path) -> None:
    page = report_runs(runs, tmp_path / "runs.html").read_text("utf-8")
    found = re.findall(r'<data value="([^"]*)" data-from="([^"]*?)/(comparison|probe)\.json#([^"]*)">', page)
    assert {html.unescape(title) for _, title, _, _ in found} == {run.folder.name for run in runs}
    for value, title, file, pointer in found:
        run = next(run for run in runs if run.folder.name == html.unescape(title))
        expected = run.headroom if file == "probe" else run.comparison.to_dict()
        for key in pointer.split("/")[1:]:
            expected = expected[int(key)] if isinstance(expected, list | tuple) else expected[key]
        assert float(value) == expected


def test_it_says_what_differs_and_runs_no_script(runs: list[RunFindings], tmp_path: Path) -> None:
    page = report_runs(runs, tmp_path / "runs.html").read_text("utf-8")
    options = page[page.index("Options that differ") :]
    assert "n_groups" in options
    assert "seed" not in options
    assert f"<bdi title=\"{html.escape(HOSTILE[3])}\">" in page[page.index("Labels whose change differs most") :]
    assert "<script" not in page
    assert "<img" not in page
    assert 'href="./twelve/report.html"' in page


def test_runs_of_other_labels_are_not_held_against_each_other_label_by_label(runs: list[RunFindings], tmp_path: Path) -> None:
    others = [runs[0], replace(runs[1], names=[f"other {name}" for name in runs[1].names])]
    assert "Labels whose change" not in report_runs(others, tmp_path / "runs.html").read_text("utf-8")
    without = replace(runs[1], comparison=replace(runs[1].comparison, rows=[r for r in runs[1].comparison.rows if r["arm"] != "base"]), config={}, groups=None)
    assert "Every arm" in report_runs([runs[0], replace(without, headroom={})], tmp_path / "runs.html").read_text("utf-8")


def test_a_run_of_one_seed_has_no_interval_and_a_gain_is_green_where_the_verdict_says_so(runs: list[RunFindings], tmp_path: Path) -> None:
    one = replace(runs[1].comparison, rows=[row for row in runs[1].comparison.rows if row["seed"] == 0])
    unsure = replace(runs[0].comparison, per_label={"base": np.zeros(36), "confusions": np.linspace(-1, 1.1, 36)})
    page = report_runs([replace(runs[0], comparison=unsure), replace(runs[1], comparison=one)], tmp_path / "runs.html").read_text("utf-8")
    gained = page[page.index("gained (points)") : page.index("forecast by the probe")]
    assert "– to –" not in page
    assert "<small>one seed</small>" in gained
    assert re.findall(r'<span class="(\w*)">', gained) == ["", ""]


def test_one_run_is_refused(runs: list[RunFindings], tmp_path: Path) -> None:
    with pytest.raises(SelfInformedError, match="at least two runs"):
        report_runs(runs[:1], tmp_path / "runs.html")
