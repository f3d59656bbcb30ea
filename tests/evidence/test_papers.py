"""Tables survive whatever labels are called: what is written can be read back, and nothing in a name is taken for more than text."""

from __future__ import annotations

import csv
import html
import io
import re
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.arms import ARMS
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.papers import comparison_table, group_table, to_csv, to_latex, to_markdown, trial_table, write_tables
from selfinformed.runtime.tabular import Column, Table
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

HOSTILE = [
    "=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1", "  =1", "'=1", "＝1", "a|b", "\\|", "<script>alert(1)</script>", "a & b",
    "\\input{x}", "$x^2_3$", "100%", "#1", "{", "}", "~", "[x]", "*x*", "--", "`code`", "漢字 مرحبا 😀", "\x1b[31mred", "two\nlines", "\x00", "\u2028",
    "x" * 300,
]  # fmt: skip
names = st.text(min_size=1, max_size=20) | st.sampled_from(HOSTILE)


def comparison(values: dict[str, list[float]] | None = None) -> Comparison:
    values = values or {"base": [0.4, 0.4], "confusions": [0.5123456789, 0.5131], "random": [0.45, 0.451], "dense": [0.6, 0.602]}
    rows = [
        {
            "arm": arm, "seed": seed, "mean_average_precision": value, "mean_average_precision_per_example": value, "top1": value, "top5": value,
            "multiply_adds": 1000, "extra_computation": 1.0 if arm == "base" else 1.03, "parameters": 10, "seconds": 1.25, "head_seconds": 1.0,
        }
        for arm, column in values.items() for seed, value in enumerate(column)
    ]  # fmt: skip
    return Comparison(rows, {arm: np.array([np.mean(column)] * 4) for arm, column in values.items()}, 50)


def of_names(written: list[str]) -> Table:
    return Table("names", [{"number": i, "name": name} for i, name in enumerate(written)], (
        Column("name", lambda row: row["name"], words=True), Column("number", lambda row: str(row["number"])),
    ))  # fmt: skip


def as_seen(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name)


@given(st.lists(names, min_size=1, max_size=5))
@example(HOSTILE)
def test_csv_gives_back_every_name_and_no_formula(written: list[str]) -> None:
    head, *rows = csv.reader(io.StringIO(to_csv(of_names(written)), newline=""))
    assert head == ["number", "name"]
    assert [row[0] for row in rows] == [str(i) for i in range(len(written))]
    for (_, cell), name in zip(rows, written, strict=True):
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
        assert cell.removeprefix("'") == name


def markdown_cells(line: str) -> list[str]:
    """A row's cells, read as a Markdown table is."""
    cells = re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())
    assert cells[0] == cells[-1] == ""
    return [html.unescape(re.sub(r"\\(.)", r"\1", cell[1:-1])) for cell in cells[1:-1]]


@given(st.lists(names, min_size=1, max_size=5))
@example(HOSTILE)
def test_markdown_gives_back_every_name_and_no_markup(written: list[str]) -> None:
    text = to_markdown(of_names(written))
    head, rule, *rows = text.split("\n")[:-1]
    assert markdown_cells(head) == ["name", "number"]
    assert rule == "| --- | ---: |"
    assert not re.search(r"[<>]", text)
    assert [markdown_cells(row) for row in rows] == [[as_seen(name), str(i)] for i, name in enumerate(written)]


COMMANDS = {
    "textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">", "textbar": "|", "textasciigrave": "`",
}  # fmt: skip


def from_latex(cell: str) -> str:
    """What LaTeX sets: only commands this table may use, and no character that is still special."""
    cell = re.sub(r"\\(text\w+)\{\}", lambda found: f"<{ord(COMMANDS[found[1]])}>", cell)
    cell = re.sub(r"\\([{}$&#_%])", lambda found: f"<{ord(found[1])}>", cell)
    cell = re.sub(r"\{([][*]?)\}", lambda found: f"<{ord(found[1])}>" if found[1] else "", cell)
    assert not re.search(r"[\\{}$&#_%^~|`*]|\[|\]", cell), cell
    return re.sub(r"<(\d+)>", lambda found: chr(int(found[1])), cell)


@given(st.lists(names, min_size=1, max_size=5))
@example(HOSTILE)
def test_latex_gives_back_every_name_and_no_command(written: list[str]) -> None:
    text = to_latex(of_names(written))
    lines = text.split("\n")[:-1]
    assert re.fullmatch(r"\\begin\{tabular\}\{(l|p\{0\.5\\linewidth\})r\}", lines[0])
    assert [lines[1], lines[3], lines[-2], lines[-1]] == ["\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}"]
    assert len(lines) == len(written) + 6
    for i, (line, name) in enumerate(zip(lines[4:-2], written, strict=True)):
        cell, number = line.removesuffix(" \\\\").rsplit(" & ", 1)
        assert number == str(i)
        assert "--" not in cell
        assert from_latex(cell) == as_seen(name)
        assert not line.startswith(("[", "*"))


def test_csv_is_not_rounded_and_what_is_not_known_is_empty() -> None:
    table = comparison()
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(to_csv(comparison_table(table))))}
    assert list(rows) == ["base", "confusions", "random", "dense"]
    assert float(rows["confusions"]["mean_average_precision"]) == table.values("confusions").mean()
    assert float(rows["random"]["method_over_it_low"]) == table.difference("confusions", "random")["low"]
    assert rows["confusions"]["method_over_it"] == ""
    one = comparison_table(comparison({"base": [0.4], "confusions": [0.5]}))
    assert "inf" not in to_csv(one) + to_markdown(one) + to_latex(one)
    assert "+10.00" in to_markdown(one)


def test_the_comparison_is_the_papers_table_2_with_every_arm() -> None:
    table = comparison_table(comparison({arm: [0.4 + 0.01 * i, 0.401 + 0.01 * i] for i, arm in enumerate(ARMS)}))
    assert [column.title for column in table.columns] == [
        "arm", "mAP@50", "95% interval", "over base", "searched minus it", "per example", "top-1", "top-5", "multiply-adds", "extra", "seconds",
    ]  # fmt: skip
    rows = table.cells()
    assert [row[0] for row in rows] == list(ARMS)
    assert rows[1][:4] == ["classifier", "41.05", "40.41 to 41.69", "+1.00"]
    searched = ARMS.index("searched")
    assert rows[0][4].startswith(f"+{searched}.00 (")
    assert rows[searched][4] == ""
    assert "$+$1.00" in to_latex(table)
    assert "1.030$\\times$" in to_latex(table)


def test_differences_that_are_sure_have_a_tone() -> None:
    found = comparison()
    found.per_label = {}
    table = comparison_table(found)
    assert {row["arm"]: table.columns[4].tone(row) for row in table.rows} == {"base": "good", "confusions": "", "random": "good", "dense": "bad"}
    found.per_label = {"base": np.zeros(4), "confusions": np.array([0.9, -0.8, 0.5, -0.4])}
    assert [table.columns[column].tone(row) for column, row in ((4, table.rows[0]), (3, table.rows[1]))] == ["", ""]  # other labels might lose
    one = comparison_table(comparison({"base": [0.4], "confusions": [0.5], "dense": [0.9]}))
    assert not any(column.tone(row) for column, row in product(one.columns, one.rows))


def test_groups_are_the_papers_table_1() -> None:
    groups, labels = LabelGroups(4, ([2, 0], [3]), ("c; a", "d")), LabelSpace(list("abcd"))
    plan = HeadPlan(groups, ((8, 4), (3,)), 10, 1000, 100)
    table = group_table(groups, labels, plan, comparison())
    gain = 100 * (np.mean([0.5123456789, 0.5131]) - 0.4)
    assert table.cells() == [["1", "2", "c; a", "8-4", f"+{gain:.2f}"], ["2", "1", "d", "3", f"+{gain:.2f}"]]
    assert group_table(groups, labels).cells() == [["1", "2", "c; a"], ["2", "1", "d"]]
    assert group_table(LabelGroups(4, ()), labels, plan, comparison()).cells() == []


def test_widths_of_planned_heads_stand_beside_no_gain_of_a_searched_network(tmp_path) -> None:
    groups, labels = LabelGroups(4, ([2, 0], [3])), LabelSpace(list("abcd"))
    plan, found = HeadPlan(groups, ((8, 4), (3,)), 10, 1000, 100), comparison()
    rows = [{**row, "arm": "searched"} if row["arm"] == found.method else row for row in found.rows]
    searched = Comparison(rows, {"searched" if arm == found.method else arm: values for arm, values in found.per_label.items()}, found.top_k, found.about)
    for compared, there in ((found, True), (searched, False)):
        write_tables(tmp_path, compared, groups, labels, plan)
        assert ("8-4" in (tmp_path / "groups.csv").read_text()) == there


@pytest.mark.parametrize("written", [to_csv, to_markdown, to_latex])
def test_a_table_without_rows_has_its_head(written) -> None:
    assert "arm" in written(comparison_table(Comparison([], {}, 50)))
    assert written(group_table(LabelGroups(4, ()), LabelSpace(list("abcd")))).count("group") == 1


def test_every_table_is_written_three_ways(tmp_path) -> None:
    groups, labels = LabelGroups(4, ([2, 0], [3])), LabelSpace(["=1", "b|", "$c$", "d"])
    trials = [{"structure": "a dense head", "choice": {}, "round": 1, "epochs": 0.5, "mean_average_precision": 0.25, "extra_computation": 1.03, "seconds": 2.0}]
    plan = HeadPlan(groups, ((8,), (3,)), 10, 1000, 100)
    write_tables(tmp_path, comparison(), groups, labels, plan)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in ("comparison", "groups") for kind in ("csv", "md", "tex")}
    write_tables(tmp_path, comparison(), groups, labels, plan, trials)
    assert (tmp_path / "search.md").read_text().splitlines()[-1] == "| a dense head | 0.50 | 25.00 | 1.030x | 2 |"
    assert trial_table(trials).rows[0].keys() == {"structure", "round", "epochs", "mean_average_precision", "extra_computation", "seconds"}
    assert "\\$c\\$; =1" in (tmp_path / "groups.tex").read_text()


def test_the_line_for_grep_has_the_same_words_always() -> None:
    assert comparison().line.startswith("selfinformed: mAP@50 base 40.00 method 51.27 gain +11.27 (+10.")
    assert comparison().line.endswith(") cost 1.030x beats random loses dense")
    assert comparison({"base": [0.4], "confusions": [0.5]}).line == (
        "selfinformed: mAP@50 base 40.00 method 50.00 gain +10.00 (- to -) cost 1.030x beats - loses -"
    )
    assert comparison({"dense": [0.4]}).line == "selfinformed: mAP@50 base - method - gain - (- to -) cost - beats - loses -"
