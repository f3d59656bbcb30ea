"""The report stands alone, escapes what it shows, and says what the JSON says."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from conftest import refused
from hostile import HOSTILE
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.figures import inline_svg
from selfinformed.evidence.numbers import SEEN, points, tone
from selfinformed.evidence.reporting import Findings, reading, report
from selfinformed.runtime.files import write_json
from selfinformed.structure.groups import LabelGroups

NOTHING_ELSE: dict[str, Any] = {
    "headroom": {}, "evaluation": {}, "stability": {}, "search": {}, "latency": {}, "conditional": (), "history": (), "images": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def page(findings: Findings, tmp_path_factory) -> str:
    return report(findings, tmp_path_factory.mktemp("report")).read_text("utf-8")


def data_of(page: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    return content


def test_the_page_needs_no_other_file(page: str) -> None:
    sources: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            sources.extend(value or "" for name, value in attributes if name in ("src", "href"))

    Reader().feed(page)
    assert any(source.startswith("data:image/png") for source in sources)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?://|<iframe|@import|url\((?!#)", page)


def test_only_the_pages_own_script_may_run(page: str) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert len(re.findall(r"<script", page)) == 2


def test_names_are_escaped(page: str, findings: Findings) -> None:
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert data_of(page)["labels"]["name"] == list(findings.labels.names)
    for name in HOSTILE[:3]:
        assert html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page


@pytest.mark.parametrize(("structure", "said"), [
    ("searched", "It is the run's network"), ("planned", "has the plan's heads"), (None, ""),
])  # fmt: skip
def test_whose_figures_are_shown_beside_a_search(findings: Findings, tmp_path, structure, said) -> None:
    search = {"verdict": "Of 2 structures, one.", "trials": []}
    config = {"seed": 3} | ({"structure": structure} if structure else {})
    judged = findings.evaluation | {"multiply_adds": 123_456_789, "parameters": 1100}
    judged["base"] = judged["base"] | {"multiply_adds": 100_000_000, "parameters": 100}
    page = report(replace(findings, search=search, config=config, evaluation=judged), tmp_path).read_text("utf-8")
    assert ("123,456,789" in page) == (structure == "searched")  # what was judged, not what was planned
    assert html.unescape(page).count("of which calibration, mistakes and milliseconds") == (1 if structure else 0)
    assert said in html.unescape(page)


def artefacts(findings: Findings, folder: Path) -> dict[str, Any]:
    """What the run folder's files hold."""
    files = {
        "comparison.json": findings.comparison.to_dict(), "evaluation.json": findings.evaluation, "probe.json": findings.headroom,
        "plan.json": findings.plan.to_dict(), "latency.json": findings.latency, "stability.json": findings.stability,
    }  # fmt: skip
    for name, content in files.items():
        write_json(folder / name, content)
    return {name: json.loads((folder / name).read_text()) for name in files}


def test_every_number_is_the_jsons(page: str, findings: Findings, tmp_path) -> None:
    files = artefacts(findings, tmp_path)
    found = re.findall(r'<data value="([^"]*)" data-from="([^"#]*)#([^"]*)">([^<]*)</data>', page)
    assert {file for _, file, _, _ in found} == files.keys()
    for value, file, pointer, shown in found:
        expected = files[file]
        for key in pointer.split("/")[1:]:
            expected = expected[int(key) if isinstance(expected, list) else key]
        assert float(value) == expected
        written = float(shown.strip("×").replace(",", ""))
        assert any(written == pytest.approx(scale * expected, abs=0.5 * 10 ** -len(shown.strip("×").partition(".")[2]) + 1e-9) for scale in (1, 100))


def test_every_arm_has_its_row_with_all_its_figures(page: str, findings: Findings) -> None:
    rows = re.findall(r"<tr[^>]*>(<th scope=\"row\">.*?)</tr>", page[page.index('id="table-arms"') :], re.S)[:4]
    for i, (row, expected) in enumerate(zip(rows, findings.comparison.summary(), strict=True)):
        assert re.search(r'<th scope="row">(\w+)', row)[1] == expected["arm"]
        columns = ["mean_average_precision", "mean_average_precision_per_example", "top1", "top5", "multiply_adds", "extra_computation", "seconds"]
        columns += [] if expected["arm"] == "base" else ["interval/0", "interval/1", "over_base/mean"]
        columns += ["method_over_it/mean", "method_over_it/low", "method_over_it/high"] if expected["method_over_it"] else []
        assert all(f"comparison.json#/summary/{i}/{column}" in row for column in columns)


def test_the_explorers_columns_are_the_jsons(page: str, findings: Findings, tmp_path) -> None:
    files, labels = artefacts(findings, tmp_path), data_of(page)["labels"]
    assert labels["before"] == files["comparison.json"]["per_label"]["base"]
    assert labels["after"] == files["comparison.json"]["per_label"]["confusions"]
    assert labels["test"] == [row["positives"] for row in files["evaluation.json"]["labels"]]
    assert labels["training"] == files["evaluation.json"]["training_positives"]
    assert labels["group"] == findings.groups.assignment.tolist()
    assert data_of(page)["mistakes"]["confidence"] == [0.96875]


def test_figures_are_written(findings: Findings, tmp_path) -> None:
    report(findings, tmp_path / "new" / "folder")
    names = ("cost", "confusions", "groups", "eigenvalues", "recall", "calibration", "learning", "conditional", "search")
    assert {p.name for p in (tmp_path / "new" / "folder" / "figures").iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_groups_without_eigenvalues_show_none(findings: Findings, tmp_path) -> None:
    page = report(replace(findings, groups=replace(findings.groups, eigenvalues=())), tmp_path).read_text("utf-8")
    assert "Leading eigenvalues" not in page
    assert not (tmp_path / "figures" / "eigenvalues.png").exists()


def test_label_names_in_figures_stay_as_they_are() -> None:
    figure = Figure()
    figure.subplots().set_title('#1d2433 id="q" url(#x)')
    svg = inline_svg(figure, "some")
    assert "#1d2433 id=&quot;q&quot; url(#x)" in svg or '#1d2433 id="q" url(#x)' in svg


def without(comparison: Comparison, *arms: str) -> Comparison:
    rows = [row for row in comparison.rows if row["arm"] not in arms]
    return Comparison(rows, {a: v for a, v in comparison.per_label.items() if a not in arms}, comparison.top_k, comparison.about)


@pytest.mark.parametrize("arms", [["confusions"], ["base"], ["confusions", "base"], ["random", "dense"]])
def test_any_arms_make_a_report(findings: Findings, tmp_path, arms: list[str]) -> None:
    path = report(replace(findings, comparison=without(findings.comparison, *arms), **NOTHING_ELSE), tmp_path)
    page = path.read_text("utf-8")
    assert "Every arm" in page
    compared = not {"base", "confusions"} & set(arms)
    assert [part in page for part in ('id="changes"', "labels better", 'id="scatter"', 'href="#changes"', "groups-figure_1")] == [compared] * 5
    assert (tmp_path / "figures" / "groups.png").exists() == compared
    assert ("minus it</th>" in page, "over base</th>" in page) == ("confusions" not in arms, "base" not in arms)


def test_extremes_of_many_groups_are_called_so(findings: Findings, tmp_path) -> None:
    groups = LabelGroups(36, tuple(np.array([i]) for i in range(36)))
    page = report(replace(findings, groups=groups, **NOTHING_ELSE), tmp_path).read_text("utf-8")
    assert "Of the 36 groups, the 15 that gain least and the 15 that gain most." in page


def test_nothing_is_less_than_zero_that_is_shown_as_zero() -> None:
    assert [str(points(change)) for change in (-0.00004, 0.0, -0.0, 0.00004, -0.00006)] == ["+0.00"] * 4 + ["-0.01"]
    assert [tone(change, change, SEEN) for change in (-0.00004, 0.00004, -0.00006, 0.00006)] == ["", "", "bad", "good"]


def test_one_seed_has_no_interval_and_says_so(findings: Findings, tmp_path) -> None:
    rows = [row for row in findings.comparison.rows if row["seed"] == 0]
    page = report(replace(findings, comparison=replace(findings.comparison, rows=rows)), tmp_path).read_text("utf-8")
    assert "– to –" not in page
    assert "points, of one seed" in page


def test_a_gain_is_green_where_the_verdict_calls_it_one(findings: Findings, tmp_path) -> None:
    noise = np.linspace(-1, 1, 36)
    rows = [row | {"mean_average_precision": 0.5 + 0.01 * (row["arm"] == "confusions")} for row in findings.comparison.rows]
    for spread, said in ((0.0, "good"), (1.0, "")):  # over seeds it is one, over labels only without a spread
        per_label = findings.comparison.per_label | {"base": np.full(36, 0.5), "confusions": 0.51 + spread * noise / 2}
        table = replace(findings.comparison, rows=rows, per_label=per_label)
        page = report(replace(findings, comparison=table), tmp_path).read_text("utf-8")
        [tone] = re.findall(r'<dt>gained</dt><dd class="(\w*)"', page)
        assert tone == said == table.tone("confusions", "base")
        source = next(i for i, row in enumerate(table.summary()) if row["arm"] == "confusions")
        for cell in ("/summary/0/method_over_it/mean", f"/summary/{source}/over_base/mean"):
            assert re.findall(rf'class="(\w*)"><data value="[^"]*" data-from="comparison.json#{cell}"', page[page.index("table-arms") :]) == [said]
        assert ("do not surely change" in page) == (said == "")


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


def test_an_error_of_the_program_is_not_laid_to_artefacts_that_are_as_they_were_written(tmp_path: Path) -> None:
    for name in ("evaluation", "probe"):
        write_json(tmp_path / f"{name}.json", {"a": 1})
    with refused(f"artefacts in {tmp_path} do not fit together .*'missing'.*delete those that come from elsewhere"), reading(tmp_path):
        raise KeyError("missing")
    (tmp_path / "probe.json").write_text('{"a": 1}')
    (tmp_path / "plan.json").write_text("[}")
    with refused("plan.json or .*probe.json, without a checksum, .*'missing'.*delete it") as told, reading(tmp_path):
        raise KeyError("missing")
    assert "evaluation.json" not in str(told.value)
