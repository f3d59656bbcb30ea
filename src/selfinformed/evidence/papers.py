"""Tables of results for papers and spreadsheets: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.files import plain, write_text
from selfinformed.runtime.tabular import Column, Row, Table, one_line, percent
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

if TYPE_CHECKING:
    from selfinformed.evidence.comparison import Comparison

_EXAMPLES = 10  # labels that stand for their group
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")  # what a spreadsheet may take for more than text


def write_tables(
    folder: str | Path, comparison: Comparison, groups: LabelGroups, labels: LabelSpace, plan: HeadPlan, trials: Sequence[Row] = ()
) -> None:
    """Writes comparison, groups and, where there are `trials` of a search, search as .csv, .md and .tex into a folder."""
    tables = {"comparison": comparison_table(comparison), "groups": group_table(groups, labels, None if comparison.method == "searched" else plan, comparison)}
    if trials:
        tables["search"] = trial_table(trials)
    for name, table in tables.items():
        for suffix, written in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            write_text(Path(folder) / f"{name}.{suffix}", written(table))


_FLATTENED = ("interval", "over_base", "method_over_it", "figures")


def comparison_table(comparison: Comparison) -> Table:
    """The paper's Table 2 with every arm. Rows hold means over seeds, and the ends of 95% intervals as KEY_low and KEY_high."""
    rows = []
    for row in comparison.summary():
        flat = {key: value for key, value in row.items() if key not in _FLATTENED}
        own = {key: row[key] for key in ("interval", "over_base", "method_over_it")}
        for column, figures in (("mean_average_precision", own), *row["figures"].items()):
            flat |= dict(zip((f"{column}_low", f"{column}_high"), figures["interval"], strict=True))
            for key in ("over_base", "method_over_it"):
                name, found = key if figures is own else f"{column}_{key}", figures[key] or {}
                flat |= {name: found.get("mean"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}
        rows.append(plain(flat))

    def interval(row: Row, key: str, sign: str = "") -> str:
        low, high = (row[f"{key}_{end}"] for end in ("low", "high"))
        return "" if low is None else f"{percent(low, sign)} to {percent(high, sign)}"

    def gained(row: Row) -> str:
        spread = interval(row, "method_over_it", "+")
        return "" if row["method_over_it"] is None else percent(row["method_over_it"], "+") + (f" ({spread})" if spread else "")

    columns = (
        Column("arm", lambda row: row["arm"], words=True),
        Column(f"mAP@{comparison.top_k}", lambda row: percent(row["mean_average_precision"])),
        Column("95% interval", lambda row: "" if row["arm"] == "base" else interval(row, "mean_average_precision")),
        Column("over base", lambda row: "" if row["over_base"] is None or row["arm"] == "base" else percent(row["over_base"], "+"),
               tone=lambda row: "" if row["over_base"] is None else comparison.tone(row["arm"], "base")),
        Column(f"{comparison.method} minus it", gained,
               tone=lambda row: "" if row["method_over_it"] is None else comparison.tone(comparison.method, row["arm"])),
        Column("per example", lambda row: percent(row["mean_average_precision_per_example"])),
        Column("top-1", lambda row: percent(row["top1"])),
        Column("top-5", lambda row: percent(row["top5"])),
        Column("multiply-adds", lambda row: f"{row['multiply_adds']:,.0f}"),
        Column("extra", lambda row: f"{row['extra_computation']:.3f}x"),
        Column("seconds", lambda row: f"{row['seconds']:.0f}"),
    )
    return Table("every arm: mAP in percent, mean over seeds; differences paired by seed", rows, columns)


def group_table(groups: LabelGroups, labels: LabelSpace, plan: HeadPlan | None = None, comparison: Comparison | None = None) -> Table:
    """The paper's Table 1: each group's size and some of its labels; with a plan its head's widths, with a comparison the gain over the base in
    mean average precision of its labels."""
    rows, gains = [], None
    if comparison is not None and {comparison.method, "base"} <= comparison.per_label.keys():
        gains = comparison.per_label[comparison.method] - comparison.per_label["base"]
    for i, members in enumerate(groups.members):
        row: dict[str, Any] = {"group": i + 1, "labels": len(members), "most confused": "; ".join(labels.names[m] for m in members[:_EXAMPLES])}
        if plan is not None:
            row["widths"] = "-".join(map(str, plan.hidden[i])) if i < len(plan.hidden) else ""
        if gains is not None:
            row["gain"] = plain(nan_mean(gains[members]))
        rows.append(row)
    columns = [
        Column("group", lambda row: str(row["group"])), Column("labels", lambda row: f"{row['labels']:,}"),
        Column("most confused", lambda row: row["most confused"], words=True),
    ]  # fmt: skip
    if plan is not None:
        columns.append(Column("head widths", lambda row: row["widths"]))
    if gains is not None:
        columns.append(Column("gain", lambda row: percent(row["gain"], "+")))
    return Table("groups of labels, in each the most confused first", rows, tuple(columns))


def trial_table(trials: Sequence[Row]) -> Table:
    """What a search tried; `trials` are rows of `SearchResult.trials`, judged on hold-out data."""
    keys = ("structure", "round", "epochs", "mean_average_precision", "extra_computation", "seconds")
    columns = (
        Column("structure", lambda row: row["structure"], words=True),
        Column("passes", lambda row: f"{row['epochs']:.2f}"),
        Column("hold-out mAP", lambda row: percent(row["mean_average_precision"])),
        Column("executed", lambda row: f"{row['extra_computation']:.3f}x"),
        Column("seconds", lambda row: f"{row['seconds']:.0f}"),
    )
    return Table("structures tried, the last round first", [plain({key: trial.get(key) for key in keys}) for trial in trials], columns)


def to_csv(table: Table) -> str:
    """The rows themselves, not rounded; what is not known is empty.

    Text that a spreadsheet could take for a formula, that is, text that begins with = + - @ (also full-width), a tab or a line break, and text
    that begins with an apostrophe, has an apostrophe put before it: take one off when reading such a cell.
    """
    file = io.StringIO()
    keys = list(table.rows[0]) if table.rows else [column.title for column in table.columns]
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_guarded(row[key]) for key in keys] for row in table.rows)
    return file.getvalue()


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table. Characters that Markdown or HTML would read are escaped."""
    head = [_markdown(column.title) for column in table.columns]
    lines = [head, ["---" if column.words else "---:" for column in table.columns], *([_markdown(cell) for cell in row] for row in table.cells())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(table: Table) -> str:
    """A `tabular` with the rules of booktabs (`\\usepackage{booktabs}`). Labels in other scripts want XeLaTeX or LuaLaTeX with a typeface that has them."""

    def figures(text: str) -> str:
        signed = re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", _latex(text))
        return re.sub(r"(?<=\d)x$", r"$\\times$", signed)

    cells = [[_latex(cell) if column.words else figures(cell) for cell, column in zip(row, table.columns, strict=True)] for row in table.cells()]
    long = [column.words and any(len(cell) > 40 for cell in shown) for column, shown in zip(table.columns, zip(*table.cells(), strict=True), strict=False)]
    long += [False] * (len(table.columns) - len(long))
    shape = "".join("p{0.5\\linewidth}" if wide else "l" if column.words else "r" for wide, column in zip(long, table.columns, strict=True))
    lines = [[_latex(column.title) for column in table.columns], *cells]
    head, *body = [" & ".join(line) + " \\\\\n" for line in lines]
    return f"\\begin{{tabular}}{{{shape}}}\n\\toprule\n{head}\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n"


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%", "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}",
    "*": "{*}",  # which, like [, would be an option of the line break before it
}  # fmt: skip


def _latex(text: str) -> str:
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(c, c) for c in one_line(text)))  # no dashes made of hyphens
