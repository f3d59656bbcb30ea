"""Several runs side by side, in one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.figures import RUNS, inline_svg, runs_figure
from selfinformed.evidence.numbers import SEEN, Number, points, tone
from selfinformed.evidence.page import rendered
from selfinformed.evidence.shown import shown_arms
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import write_text

_CHANGES = 12


@dataclass(frozen=True, eq=False)
class RunFindings:
    """One run's part of such a page.

    Attributes:
        folder: of the run; its name is how the page calls it.
        names: of the labels; empty where they are not known.
        comparison: its comparison.json.
        headroom, groups: its probe.json and how many groups it has, where known.
        config: the resolved configuration.
    """

    folder: Path
    names: Sequence[str]
    comparison: Comparison
    headroom: Mapping[str, Any] = field(default_factory=dict)
    groups: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def report_runs(runs: Sequence[RunFindings], path: str | Path) -> Path:
    """Writes a page that holds the runs against each other: verdicts, figures, every arm, options that differ and, where the labels are the same, those
    whose change differs most.

    Raises:
        SelfInformedError: fewer than two runs.
    """
    if len(runs) < 2:
        raise SelfInformedError(f"report: expected at least two runs to hold against each other, got {len(runs)}")
    path = Path(path)
    titles = _titles([run.folder for run in runs])
    figure = inline_svg(runs_figure({title: run.comparison for title, run in zip(titles, runs, strict=True)}), "runs", RUNS)
    shown = [shown_arms(run.comparison, title) for run, title in zip(runs, titles, strict=True)]
    columns = [_column(run, title, arms, path.parent) for run, title, arms in zip(runs, titles, shown, strict=True)]
    arms = {arm: [of.get(arm) for of in shown] for arm in dict.fromkeys(arm for of in shown for arm in of)}
    options = {name: [str(run.config.get(name, "")) for run in runs] for name in dict.fromkeys(name for run in runs for name in run.config)}
    differing = {name: values for name, values in options.items() if len(set(values)) > 1 and name != "output"}
    write_text(path, rendered("runs.html.j2", "", titles=titles, columns=columns, arms=arms, options=differing, labels=_labels(runs, titles), figure=figure))
    return path


def _titles(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = next((n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(set(parts))), 1)
    return [os.sep.join(p[-depth:]) for p in parts]


def _column(run: RunFindings, title: str, arms: Mapping[str, dict[str, Any]], where: Path) -> dict[str, Any]:
    comparison = run.comparison
    column: dict[str, Any] = {
        "verdict": comparison.verdict, "link": _link(run.folder / "report.html", where), "top_k": comparison.top_k,
        "labels": f"{max((len(values) for values in comparison.per_label.values()), default=0):,}",
        "groups": run.groups if run.groups is not None else "", "method": comparison.method,
        "base": "", "with_heads": "", "gain": "", "interval": "", "tone": "", "cost": "", "rival": "", "minus": "", "minus_tone": "",
        "forecast": points(run.headroom["forecast"]["gain"], f"{title}/probe.json#/forecast/gain") if run.headroom.get("forecast") else "",
        "seeds": comparison.about["seeds"], "examples": f"{comparison.about['n_test']:,}",
    }  # fmt: skip
    if not {"base", comparison.method} <= arms.keys():
        return column
    method = arms[comparison.method]
    column |= {
        "base": arms["base"]["mean_average_precision"], "with_heads": method["mean_average_precision"], "gain": method["over"], "tone": method["over_tone"],
        "interval": Number.pair(method["over_low"], method["over_high"]) or "one seed", "cost": method["extra"],
    }  # fmt: skip
    if rival := comparison.best_control:
        column |= {"rival": rival, **{name: arms[rival][name] for name in ("minus", "minus_tone")}}
    return column


def _link(page: Path, where: Path) -> str:
    """The page's address from a folder, or nothing where there is no page."""
    return "./" + quote(Path(os.path.relpath(page.resolve(), where.resolve())).as_posix()) if page.exists() else ""


def _labels(runs: Sequence[RunFindings], titles: Sequence[str]) -> list[dict[str, Any]]:
    """The labels whose change under the method differs most between runs of the same labels."""
    per_label, names = [run.comparison.per_label for run in runs], tuple(runs[0].names)
    if not names or any(tuple(run.names) != names or not {"base", run.comparison.method} <= run.comparison.per_label.keys() for run in runs):
        return []
    changes = np.stack([of[run.comparison.method] - of["base"] for of, run in zip(per_label, runs, strict=True)])  # (runs, C)
    spread = changes.max(0) - changes.min(0)
    order = np.argsort(-spread, kind="stable")
    shown = [int(i) for i in order if spread[i] > 0][:_CHANGES]
    return [{"name": runs[0].names[i], "changes": [(points(float(c)), tone(c, c, SEEN)) for c in changes[:, i]]} for i in shown]
