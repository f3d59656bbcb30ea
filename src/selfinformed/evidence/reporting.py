"""The report: one self-contained HTML file, and its figures as PNG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.figures import (
    confusion_figure,
    cost_figure,
    eigenvalue_figure,
    group_gain_figure,
    recall_figure,
    save_figure,
)
from selfinformed.runtime.files import write_text
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan


@dataclass(frozen=True, eq=False)
class Findings:
    """What a report is made of. `headroom`, `mistakes`, `recall` and `images` may be empty.

    Attributes:
        title: of the report.
        labels, counts, groups, plan, comparison: artefacts of the stages.
        headroom: `Headroom.to_dict()`.
        mistakes: rows {taken, annotated, base, augmented} of the pairs taken for each other most, with the numbers of test examples.
        recall: curves {"base": {k: recall}, "augmented": {...}} on the mapped labels.
        images: label number to a PNG that shows it.
        config: the resolved configuration.
    """

    title: str
    labels: LabelSpace
    counts: ConfusionCounts
    groups: LabelGroups
    plan: HeadPlan
    comparison: Comparison
    headroom: Mapping[str, Any] = field(default_factory=dict)
    mistakes: Sequence[Mapping[str, Any]] = ()
    recall: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    images: Mapping[int, bytes] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def report(findings: Findings, folder: str | Path) -> Path:
    """Writes `report.html`, which needs no other file and no network, and `figures/*.png`.

    Returns:
        the path of the report.
    """
    import jinja2

    folder = Path(folder)
    figures = {
        "cost": cost_figure(findings.comparison),
        "confusions": confusion_figure(findings.counts, findings.groups),
        "groups": group_gain_figure(findings.comparison, findings.groups),
        "eigenvalues": eigenvalue_figure(findings.groups),
    }
    if findings.recall:
        figures["recall"] = recall_figure(findings.recall)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.png")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "signed": _signed}
    template = environment.from_string(resources.files("selfinformed.evidence").joinpath("report.html.j2").read_text("utf-8"))
    page = template.render(
        title=findings.title,
        verdict=findings.comparison.verdict,
        comparison=findings.comparison,
        summary=findings.comparison.summary(),
        method=findings.comparison.method,
        headroom=findings.headroom,
        groups=_groups(findings),
        mistakes=findings.mistakes,
        plan=findings.plan,
        figures={name: _embedded((folder / "figures" / f"{name}.png").read_bytes()) for name in figures},
        n_labels=len(findings.labels),
        counts=findings.counts,
        config=findings.config,
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _groups(findings: Findings) -> list[dict[str, Any]]:
    comparison, labels = findings.comparison, findings.labels
    unknown = np.full(len(labels), np.nan)
    gains = comparison.per_label.get(comparison.method, unknown) - comparison.per_label.get("base", unknown)
    shown = []
    heads = findings.plan.groups
    for i, members in enumerate(findings.groups.members):
        pictured = [(labels.names[m], _embedded(findings.images[m])) for m in members if m in findings.images][:24]
        ranked = [(labels.names[m], 100 * gains[m]) for m in members if gains[m] == gains[m]]
        ranked.sort(key=lambda pair: pair[1])
        shown.append(
            {
                "number": i + 1, "name": findings.groups.names[i], "size": len(members),
                "names": [labels.names[m] for m in members[:40]], "pictures": pictured,
                "width": "–".join(map(str, findings.plan.hidden[i])) if i < len(heads) else "",
                "gain": sum(g for _, g in ranked) / len(ranked) if ranked else float("nan"),
                "best": ranked[::-1][:5], "worst": ranked[:5],
            }
        )  # fmt: skip
    return shown


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _percent(value: float | None, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f}" if value is not None and np.isfinite(value) else "–"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}" if value == value else "–"
