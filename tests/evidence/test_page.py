"""The report in a browser: what it shows, and what a reader does with it by mouse and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing import Opened
from hostile import HOSTILE
from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.reporting import Findings, report
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

MOST_BYTES, MOST_TIMES = 15_000_000, 10


@pytest.fixture(scope="module")
def hostile(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(findings, tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def large(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(many_labels(findings, 17_000), tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def odd(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that are hard to find or to see, groups that overlap and leave labels out, counts of co-detections, small changes."""
    like = many_labels(findings, 600, examples=300)
    names = LabelSpace([*(f"cat {i}" for i in range(45)), "cat", "\u2003", "مرحبا", *like.labels.names[48:]])
    groups = LabelGroups(600, (np.arange(300), np.arange(290, 310), np.arange(250, 400)), ("first", "second", "third"))
    counts = ConfusionCounts(600, 2, "codetections")
    counts.update_detections([[0, 1], [0, 1], [46, 47], [1, 46]], [0, 1, 46, 2])
    per_label = {"base": np.full(600, 0.5), "confusions": 0.5 + np.linspace(-0.05, 0.04, 600)}
    rows = {"example": [7], "name": ["picture"], "taken": [46], "annotated": [1], "confidence": [0.96875]}
    evaluation = like.evaluation | {"confident_mistakes": rows, "mistakes": [{"taken": "\u2003", "annotated": "cat 1", "base": 12, "augmented": 3}]}
    comparison = Comparison(like.comparison.rows, per_label, 50, like.comparison.about)
    plan = HeadPlan(groups, ((512, 512),) * 3, 9_216, 1_520_000_000, 160_000_000)
    changed = replace(like, labels=names, groups=groups, counts=counts, plan=plan, comparison=comparison, evaluation=evaluation)
    return report(changed, tmp_path_factory.mktemp("odd"))


def many_labels(like: Findings, n: int, n_groups: int = 13, examples: int = 20_000) -> Findings:
    """A run over n labels: planted groups, every label with counts, average precision and confident mistakes."""
    rng = np.random.default_rng(0)
    names = LabelSpace(f"label {i} of many" for i in range(n))
    groups = LabelGroups(n, tuple(np.array_split(rng.permutation(n), n_groups))).renamed(names)
    truth, of = rng.integers(0, n, examples), groups.assignment
    mates = np.stack([groups.members[group][rng.choice(len(groups.members[group]), 39, replace=False)] for group in of[truth]])
    detected = np.concatenate([mates, np.zeros((examples, 1), np.int64)], axis=1)
    for row, label in enumerate(truth):
        if label not in detected[row]:
            detected[row, 0] = label
        detected[row, -1] = next(i for i in range(n) if i not in detected[row, :-1])
    counts = ConfusionCounts(n, 40)
    counts.update_detections(detected, truth)
    before = rng.uniform(0, 1, n)
    per_label = {"base": before, "confusions": np.clip(before + rng.normal(0.03, 0.1, n), 0, 1)}
    rows = [row for row in like.comparison.rows if row["arm"] in per_label]
    plan = HeadPlan(groups, ((512, 512),) * n_groups, 9_216, 1_520_000_000, 160_000_000)
    taken, annotated = rng.integers(0, n, 3 * n), rng.integers(0, n, 3 * n)
    evaluation = {
        "labels": [{"label": name, "positives": int(k), "average_precision": 0.5} for name, k in zip(names.names, rng.integers(1, 60, n), strict=True)],
        "training_positives": (10 ** rng.uniform(0, 4, n)).astype(int).tolist(),
        "confident_mistakes": {
            "example": rng.integers(0, examples, 3 * n), "name": [f"folder/example-{i}.jpg" for i in rng.integers(0, examples, 3 * n)],
            "taken": taken, "annotated": annotated, "confidence": np.sort(rng.uniform(0, 1, 3 * n).astype(np.float32))[::-1],
        },
    }  # fmt: skip
    return replace(
        like, title="17,000 labels", labels=names, counts=counts, groups=groups, plan=plan, comparison=Comparison(rows, per_label, 50, like.comparison.about),
        evaluation=evaluation, headroom={}, images={}, conditional=(),
    )  # fmt: skip


def test_hostile_names_are_only_text(hostile: Path, opened: Callable[..., Opened]) -> None:
    tab = opened(hostile)
    page = tab.page
    for i, name in enumerate(HOSTILE):
        page.evaluate(f"open({i})") if i % 2 else page.fill("#search", name[:40])
        if not i % 2:
            page.press("#search", "Enter")
        assert page.locator("#label-page h3 bdi").text_content() == name
    assert page.title() == HOSTILE[0]
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate("document.querySelectorAll('img[onerror]').length") == 0
    assert tab.troubles == []


def test_a_label_is_found_by_keyboard(hostile: Path, opened: Callable[..., Opened]) -> None:
    tab = opened(hostile)
    page = tab.page
    page.focus("#search")
    page.keyboard.type("LABEL 1")
    assert page.get_attribute("#search", "aria-expanded") == "true"
    shown = page.locator("#found [data-label] bdi").all_inner_texts()
    assert shown[0] == "label 10"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.get_attribute("#search", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    assert page.locator(f"#{active}").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.text_content("#label-page h3 bdi") == shown[1]
    assert page.evaluate("document.activeElement.closest('#label-page') !== null")
    assert page.evaluate("location.hash") == "#label-11"
    page.go_back()
    page.focus("#search")
    page.keyboard.press("Control+A")
    page.keyboard.type("no such label")
    assert "no label of that name" in tab.text("#found")
    page.keyboard.press("Escape")
    assert page.is_hidden("#found")
    assert tab.troubles == []


def test_an_exact_name_is_found_first(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd).page
    page.fill("#search", " CAT")
    assert page.locator("#found [data-label] bdi").all_inner_texts()[:3] == ["cat", "cat 0", "cat 1"]


def test_a_slow_click_chooses_and_leaving_closes_at_once(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    page.fill("#search", "label 1")
    page.hover("#found [data-label='11']")
    page.mouse.down()
    page.wait_for_timeout(400)
    page.mouse.up()
    assert page.text_content("#label-page h3 bdi") == "label 11"
    assert page.is_hidden("#found")
    page.fill("#search", "label 2")
    page.focus("#theme")
    assert page.is_hidden("#found")


def test_composing_and_escaping_choose_nothing(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    page.fill("#search", "label 1")
    page.locator("#search").dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    assert page.is_visible("#found")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    assert page.is_hidden("#label-page")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#found-0", "aria-selected") == "true"
    page.keyboard.press("Enter")
    assert page.text_content("#label-page h3 bdi") == "label 10"


def test_going_back_closes_a_labels_page(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    page.evaluate("open(11)")
    page.evaluate("open(12)")
    page.go_back()
    page.wait_for_function("document.querySelector('#label-page h3').textContent === 'label 11'")
    page.go_back()
    page.wait_for_selector("#label-page", state="hidden")


def test_a_labels_page_shows_what_the_json_says(hostile: Path, findings: Findings, opened: Callable[..., Opened]) -> None:
    tab = opened(hostile, "#label-1")
    before, after = (100 * findings.comparison.per_label[arm][1] for arm in ("base", "confusions"))
    shown = tab.text("#label-page")
    assert f"{before:.2f}" in shown
    assert f"{after:.2f}" in shown
    assert f"{after - before:+.2f}" in shown
    assert "96.9" in shown  # the confident mistake of this label
    dense = findings.counts.to_scipy().toarray()
    both = dense[1] + dense[:, 1]
    both[1] = 0
    first = int(both.argmax())
    row = tab.page.locator("#label-page table").first.locator("tbody tr").first
    assert row.locator("td").all_text_contents() == [findings.labels.names[first], str(dense[first, 1]), str(dense[1, first])]
    row.locator("button").click()
    assert tab.page.text_content("#label-page h3 bdi") == findings.labels.names[first]


def test_both_tables_of_mistakes_say_what_was_taken_for_what(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd, "#label-1").page
    pairs, mistakes = page.get_by_role("region", name="mistaken pairs"), page.locator("#label-page table").last
    assert mistakes.locator("th").all_inner_texts()[1:3] == pairs.locator("th").all_inner_texts()[:2] == ["took", "for"]
    assert mistakes.locator("td").all_inner_texts()[1:3] == pairs.locator("td").all_inner_texts()[:2] == ["cat 1", "(blank)"]


def test_a_name_of_white_space_can_be_seen_and_clicked(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd).page
    blank = page.get_by_role("region", name="mistaken pairs").locator("td button").nth(1)
    assert blank.inner_text() == "(blank)"
    assert blank.locator("bdi").get_attribute("title") == "\u2003"
    blank.click()
    assert page.inner_text("#label-page h3") == "(blank)"


def test_co_detections_are_told_once(odd: Path, opened: Callable[..., Opened]) -> None:
    table = opened(odd, "#label-1").page.locator("#label-page table").first
    assert table.locator("th").all_inner_texts() == ["label", "detected together"]
    assert table.locator("td").all_inner_texts() == ["cat 0", "2", "(blank)", "1"]


def test_a_label_is_in_all_its_groups(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd, "#label-295").page
    assert page.locator("#label-page [data-group]").all_inner_texts() == ["1: first", "2: second", "3: third"]
    for group, size in (("0", 300), ("1", 20), ("2", 150), ("-1", 200)):
        page.select_option("#of-group", group)
        assert page.inner_text("#how-many") == f"{min(size, 25)} of {size} labels shown"
    assert page.locator("#of-group option").all_inner_texts() == ["all groups", "1: first", "2: second", "3: third", "no group"]
    assert page.locator("#all-labels tbody td:nth-child(2)").first.inner_text() == "no group"
    page.select_option("#of-group", "1")
    assert page.locator("#all-labels tbody td:nth-child(2)").first.inner_text() == "1: first; 2: second; 3: third"


def test_a_line_parts_the_labels_in_no_group_from_the_last(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd).page
    page.mouse.move(0, 0)
    pixel = "e => [...e.getContext('2d').getImageData(Math.round((400 / 600) * e.width), 3, 1, 1).data]"
    assert page.locator("#matrix").evaluate(pixel) == [168, 72, 15, 255]


def test_tables_sort(hostile: Path, findings: Findings, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    column = page.locator("#table-arms thead th", has_text="mAP@50").locator("button")
    column.click()
    values = [float(text) for text in page.locator("#table-arms tbody td:nth-child(2)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    column.click()
    assert page.get_attribute("#table-arms thead th:nth-child(2)", "aria-sort") == "ascending"
    for _ in range(2):
        page.locator("#table-arms thead th", has_text="over base").locator("button").click()
        assert page.locator("#table-arms tbody tr").last.locator("th, td").nth(3).inner_text() == ""  # the base has no such number
    page.locator("#all-labels thead th", has_text="AP after").locator("button").click()
    shown = page.locator("#all-labels tbody td:nth-child(6)").all_inner_texts()
    expected = np.sort(findings.comparison.per_label["confusions"])[::-1][:25]
    assert shown == [f"{100 * value:.2f}" for value in expected]
    page.fill("#filter", "label 2")
    assert "10 of 10 labels" in page.inner_text("#how-many")
    page.select_option("#of-group", "4")
    assert set(page.locator("#all-labels tbody td:nth-child(2)").all_inner_texts()) == {page.locator("#of-group option:checked").inner_text()}


def test_the_matrix_zooms_and_tells_counts(hostile: Path, findings: Findings, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    dense, members = findings.counts.to_scipy().toarray(), findings.groups.members
    order = np.concatenate(members)
    page.focus("#matrix")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("#readout").evaluate("e => [e.dataset.row, e.dataset.column, e.dataset.value]") == ["1", "2", str(dense[order[1], order[2]])]
    page.keyboard.press("+")
    closer = float(page.get_attribute("#matrix", "data-cells"))
    assert closer < 36
    page.click("#whole")
    assert float(page.get_attribute("#matrix", "data-cells")) == 36
    page.click("#closer")
    assert float(page.get_attribute("#matrix", "data-cells")) == 18
    page.mouse.move(0, 0)
    colours = "e => { const d = e.getContext('2d').getImageData(0, 0, e.width, e.height).data; return new Set(new Uint32Array(d.buffer)).size; }"
    assert page.locator("#matrix").evaluate(colours) > 3
    page.locator("#groups .group").nth(2).get_by_role("button", name="see its matrix").click()
    page.wait_for_selector("#matrix[data-shown='3']")
    assert page.evaluate("document.activeElement.id") == "matrix"
    page.keyboard.press("ArrowDown")
    assert page.locator("#readout").evaluate("e => Number(e.dataset.value)") == dense[members[2][1], members[2][0]]


def test_lines_between_many_groups_leave_the_cells_to_be_seen(hostile: Path, opened: Callable[..., Opened]) -> None:
    lines = """() => {
        let lines = 0;
        CanvasRenderingContext2D.prototype.stroke = () => lines++;
        D.matrices[0].edges = Array.from({ length: 360 }, (_, i) => i / 10);
        draw();
        return lines;
    }"""
    assert 40 <= opened(hostile).page.evaluate(lines) <= 50


def test_colours_of_the_matrix_are_told(hostile: Path, findings: Findings, opened: Callable[..., Opened]) -> None:
    assert opened(hostile).page.inner_text("#key").split() == ["1", str(findings.counts.to_scipy().max()), "times"]


def test_the_browsers_own_keys_are_left_to_it(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    taken = """([where, key, held]) => {
        const event = new KeyboardEvent("keydown", { key, [held]: true, bubbles: true, cancelable: true });
        return !document.querySelector(where).dispatchEvent(event);
    }"""
    assert page.evaluate(taken, ["#matrix", "+", ""])
    for key, held in (("+", "ctrlKey"), ("0", "metaKey"), ("ArrowLeft", "altKey")):
        assert not page.evaluate(taken, ["#matrix", key, held])
    assert not page.evaluate(taken, ["body", "/", ""])  # a letter alone would be taken from those who speak to their browser


def test_the_wheel_is_left_to_the_page_where_nothing_zooms(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    turned = "(e, by) => !e.dispatchEvent(new WheelEvent('wheel', { deltaY: by, cancelable: true }))"
    page.focus("#matrix")
    assert not page.locator("#matrix").evaluate(turned, 1)
    closer = [page.locator("#matrix").evaluate(turned, -1) for _ in range(20)]
    assert closer == sorted(closer, reverse=True)
    assert (closer[0], closer[-1]) == (True, False)
    assert page.locator("#matrix").evaluate(turned, 1)


def test_the_matrix_by_touch(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile, has_touch=True).page
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto', canvas.scrollIntoView({ block: 'center' })")
    box = page.locator("#matrix").bounding_box()
    x, y = box["x"] + 2.5 / 36 * box["width"], box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def swipe() -> bool:
        """Whether the page moved."""
        before = page.evaluate("scrollY")
        for i, kind in enumerate(["touchStart", *["touchMove"] * 5, "touchEnd"]):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if kind == "touchEnd" else [{"x": x, "y": y - 20 * i}]})
        page.wait_for_timeout(200)
        moved = page.evaluate("scrollY") != before
        page.evaluate("canvas.scrollIntoView({ block: 'center' })")
        return moved

    page.touchscreen.tap(x, y)
    assert page.locator("#readout").evaluate("e => [e.dataset.row, e.dataset.column]") == ["18", "2"]
    assert swipe()
    assert page.evaluate("dragged") is None
    page.evaluate("zoomed(0.5)")
    page.wait_for_timeout(500)  # until touches are handled in the new way
    at = page.evaluate("view.y")
    assert not swipe()
    assert page.evaluate("view.y") > at
    assert page.locator("#readout").evaluate("e => e.dataset.row") == "18"  # where the tap was


def test_changes_are_told_to_the_point(odd: Path, opened: Callable[..., Opened]) -> None:
    page = opened(odd).page
    drawn = """() => {
        const said = [];
        CanvasRenderingContext2D.prototype.fillText = (text) => said.push(text);
        scattered();
        return said;
    }"""
    said = page.evaluate(drawn)
    assert said[:5] == ["-4", "-2", "0", "2", "4"]
    assert set(said[5:-2]) <= {"0", *(f"{digit * 10**power:,}" for digit in (1, 2, 5) for power in range(5))}
    assert len(said[5:-2]) >= 2
    assert said[-2:] == ["change, points", "training examples of the label"]
    assert page.evaluate("[-0.00004, 0.00004, -0.00006].map((change) => [signed(change), tone(change)])") == [["+0.00", ""], ["+0.00", ""], ["-0.01", "bad"]]
    page.locator("#scatter").scroll_into_view_if_needed()
    x, y, _ = page.evaluate("points = points.filter((point) => point[2] === 47), points[0]")
    box = page.locator("#scatter").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    assert page.inner_text("#pointed bdi") == "مرحبا"
    assert page.locator("#pointed").evaluate("e => e.lastChild.data").startswith(": -4.29 points, ")


def test_the_theme_switches_and_stays_readable(hostile: Path, opened: Callable[..., Opened]) -> None:
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 31)")):
        page = opened(hostile, color_scheme=scheme).page
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == paper
        page.click("#theme")
        assert page.evaluate(background) != paper
        assert page.inner_text("#theme") == f"{scheme} theme"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white(hostile: Path, opened: Callable[..., Opened], scheme: str) -> None:
    page = opened(hostile, color_scheme=scheme).page
    for _ in range(2):
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("dark()") is False
        page.emulate_media(media="screen")
        page.click("#theme")


@pytest.mark.parametrize("state", ["as opened", "dark, a label open, searching"])
def test_no_serious_accessibility_finding(hostile: Path, opened: Callable[..., Opened], state: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(hostile, bypass_csp=True).page
    if state != "as opened":
        page.click("#theme")
        page.evaluate("open(8)")
        page.fill("#search", "label")
    found = axe.run(page).response["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []


def contrast(one: str, other: str) -> float:
    """Of two colours rgb(...), as WCAG 2 has it."""
    both = np.array([[int(part) / 255 for part in colour.strip("rgb()").split(",")] for colour in (one, other)])
    low, high = sorted(np.where(both <= 0.04045, both / 12.92, ((both + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_and_placeholders_are_seen(hostile: Path, opened: Callable[..., Opened], scheme: str) -> None:
    page = opened(hostile, color_scheme=scheme).page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for control in ("#search", "#which", "#theme", "#matrix"):
        assert contrast(page.locator(control).evaluate("e => getComputedStyle(e).borderTopColor"), paper) >= 3
    assert contrast(page.evaluate("getComputedStyle(find('search'), '::placeholder').color"), paper) >= 4.5


def test_colours_that_are_forced_hold_in_figures_too(hostile: Path, opened: Callable[..., Opened]) -> None:
    for scheme in ("light", "dark"):
        page = opened(hostile, forced_colors="active", color_scheme=scheme).page
        assert page.evaluate("[style('--ink'), style('--paper')]") == ["CanvasText", "Canvas"]
        assert page.is_hidden("#theme")


def test_without_a_script_what_needs_one_is_not_there(hostile: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{hostile}")
    assert [page.is_visible(part) for part in ("#search", "#theme", "#matrix", "#scatter", "#more", "#filter", "#all-labels", "[data-group]")] == [False] * 8
    assert page.locator("noscript p").is_visible()
    context.close()


def test_nothing_hides_under_the_bar(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    kept = "parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop)"
    for width in (640, 700, 768, 801, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".bar").evaluate(f"e => getComputedStyle(e).position === 'static' || e.offsetHeight <= {kept}"), width


def test_names_that_are_cut_are_told_whole_and_short_ones_can_be_hit(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    assert page.evaluate("[...document.querySelectorAll('td bdi, th bdi, .names bdi')].filter((e) => !e.title).length") == 0
    assert page.evaluate("Math.min(...[...document.querySelectorAll('.names .link')].filter((e) => e.clientWidth).map((e) => e.clientWidth))") >= 24
    heads = page.get_by_role("region", name="latency").locator("th").all_inner_texts()
    assert len(set(heads)) == len(heads) == 6


def test_the_column_that_a_table_is_for_is_in_sight(odd: Path, hostile: Path, opened: Callable[..., Opened]) -> None:
    for path in (odd, hostile):
        page = opened(path).page
        cut = "[...document.querySelectorAll('#changes .scroll, #confusions .scroll, [aria-label=latency]')].map((e) => e.scrollWidth - e.clientWidth)"
        assert max(page.evaluate(cut)) <= 2


def test_it_fits_a_phone_and_prints(hostile: Path, opened: Callable[..., Opened]) -> None:
    page = opened(hostile).page
    page.set_viewport_size({"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.evaluate("open(4)")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without margins of 1 cm
    page.emulate_media(media="print")
    ends = "[...document.querySelectorAll('.scroll table')].map((table) => table.getBoundingClientRect().right - innerWidth)"
    assert max(page.evaluate(ends)) <= 0
    assert page.is_hidden("#search")
    assert page.is_visible("#matrix")
    assert page.is_hidden("text=Drag to move")
    assert page.locator("th button").first.evaluate("e => getComputedStyle(e, '::after').content") == "none"
    closed = "(event) => (dispatchEvent(new Event(event)), document.querySelectorAll('details:not([open])').length)"
    assert page.evaluate(closed, "beforeprint") == 0
    assert page.evaluate(closed, "afterprint") > 0
    assert page.is_visible("#how-many")  # that the table shows some labels only
    assert len(page.pdf()) > 10_000


def test_of_very_many_labels_the_page_holds_the_frequent_ones(
    findings: Findings, tmp_path: Path, opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfinformed.evidence.explorer.MOST_LABELS", 12)
    tab = opened(report(findings, tmp_path))
    page = tab.page
    assert "12 of 12 labels shown, the most frequent of 36" in tab.text("#how-many")
    ids = json.loads(page.text_content("#data"))["ids"]
    page.locator("#all-labels tbody button").first.click()
    name = page.locator("#all-labels tbody button").first.inner_text()
    assert page.text_content("#label-page h3 bdi") == name
    assert page.evaluate("location.hash") == f"#label-{findings.labels.names.index(name)}"
    page.evaluate(f"open({next(i for i in range(36) if i not in ids)})")
    assert page.text_content("#label-page h3 bdi") == name
    page.focus("#matrix")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert tab.troubles == []


def test_seventeen_thousand_labels_open_fast_and_are_found(large: Path, hostile: Path, opened: Callable[..., Opened]) -> None:
    assert large.stat().st_size < MOST_BYTES
    small = min(opened(hostile).seconds for _ in range(3))
    tab = min((opened(large) for _ in range(3)), key=lambda tab: tab.seconds)
    assert tab.seconds < MOST_TIMES * small  # 36 labels
    page = tab.page
    page.fill("#search", "label 16999 of")
    page.press("#search", "Enter")
    assert page.text_content("#label-page h3 bdi") == "label 16999 of many"
    content = json.loads(page.text_content("#data"))
    assert content["matrices"][0]["cells"] <= 1000
    assert all(part["cells"] <= 1000 for part in content["matrices"])
    page.select_option("#which", "13")
    page.wait_for_selector("#matrix[data-shown='13']")
    page.click("#closer")
    assert tab.troubles == []
