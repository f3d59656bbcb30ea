"""The report: one self-contained HTML file, and its figures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.data.labels import LabelSpace, as_labels
from selfinformed.evidence import figures as draw
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.explorer import embedded_json, explored, labels_of, matrices, mistakes_of, neighbours
from selfinformed.evidence.numbers import SEEN, Number, percent, points, tone
from selfinformed.evidence.page import rendered
from selfinformed.evidence.shown import shown_arms
from selfinformed.runtime.arguments import expect
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import is_sealed, plain, write_text
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

_SHOWN = 40  # labels of each group
_PICTURED = 24
_CHANGES = 12
_ARTEFACTS = ("comparison", "conditional", "evaluation", "groups", "latency", "plan", "probe", "search", "stability")  # in JSON


@dataclass(frozen=True, eq=False)
class Findings:
    """What a report is made of; all from `headroom` on may be empty.

    Attributes:
        title: of the report.
        labels, counts, groups, plan, comparison: artefacts of the stages.
        headroom, evaluation, stability, search: as probe.json, evaluation.json, stability.json and search.json hold them, or what `probe`, `evaluate`,
            `stability` and `search` gave.
        latency: as latency.json.
        conditional: the rows of conditional.json.
        history: the rows of log/training.jsonl, or those of history.jsonl.
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
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    stability: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    conditional: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    images: Mapping[int, bytes] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))
        for name, kind, function in (
            ("counts", ConfusionCounts, "measure"), ("groups", LabelGroups, "cluster"), ("plan", HeadPlan, "plan"), ("comparison", Comparison, "compare"),
        ):  # fmt: skip
            expect(getattr(self, name), kind, name, f"what {function} gave")
        for name in ("headroom", "evaluation", "stability", "search", "latency"):  # results themselves too
            if hasattr(found := getattr(self, name), "to_dict"):
                object.__setattr__(self, name, found.to_dict())


@contextmanager
def reading(*folders: Path) -> Iterator[None]:
    """What is made from the JSON artefacts of these runs is made in this context: an error may be due to those that carry no checksum, which it names, or
    where all do to those that were made for another."""
    import jinja2

    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, jinja2.UndefinedError) as error:
        paths = [folder / f"{name}.json" for folder in folders for name in _ARTEFACTS]
        if not (doubtful := [str(path) for path in paths if path.exists() and not is_sealed(path)]):
            raise SelfInformedError(
                f"report: the artefacts in {' and '.join(map(str, folders))} do not fit together ({error!r}); delete those that come from elsewhere to have "
                "them made again; if none do, this is an error of the program"
            ) from error
        raise SelfInformedError(
            f"report: {' or '.join(doubtful)}, without a checksum, may be damaged or of another version ({error!r}); "
            "if it was changed, delete it to have it made again"
        ) from error


def report(findings: Findings, folder: str | Path) -> Path:
    """Writes `report.html`, which needs no other file and no network, and `figures/*`.

    Every figure of the page's tables stands in a `<data>` element whose `data-from` names the artefact and the place in it (a JSON pointer)
    where it comes from; what is computed from several, a difference or a mean over a group, names none.

    Returns:
        the path of the report.
    """
    hint = "give si.Findings(title, labels, counts, groups, plan, comparison), and of a run's folder call `selfinformed report`"
    expect(findings, Findings, "report", "si.Findings", hint)
    folder = Path(folder)
    drawn = _figures(findings)
    for name, figure in drawn.items():
        draw.lay_out(figure)
        draw.save_figure(figure, folder / "figures" / f"{name}.png")
    del drawn["confusions"]  # the page draws its own
    path = folder / "report.html"
    write_text(path, _page(findings, {name: draw.inline_svg(figure, name) for name, figure in drawn.items()}))
    return path


def _figures(findings: Findings) -> dict[str, Any]:
    """Those there is data for, by name."""
    comparison, evaluation = findings.comparison, findings.evaluation
    figures = {
        "cost": draw.cost_figure(comparison),
        "confusions": draw.confusion_figure(findings.counts, findings.groups),
    }
    if {"base", comparison.method} <= comparison.per_label.keys():
        figures["groups"] = draw.group_gain_figure(comparison, findings.groups)
    if findings.groups.eigenvalues:
        figures["eigenvalues"] = draw.eigenvalue_figure(findings.groups)
    base = evaluation.get("base", {})
    if evaluation.get("recall_at") and "recall_at" in base:
        curves = {"base": base["recall_at"], "augmented": evaluation["recall_at"]}
        figures["recall"] = draw.recall_figure({name: {int(k): v for k, v in curve.items()} for name, curve in curves.items()})
    if "calibration" in evaluation:
        figures["calibration"] = draw.reliability_figure({"base": base["calibration"]["bins"], "augmented": evaluation["calibration"]["bins"]})
    learnt = [row for row in findings.history if row.get("loss") is not None]
    if learnt:
        figures["learning"] = draw.learning_figure(learnt + [row for row in findings.history if "loss" not in row])
    if findings.conditional and "mean_average_precision" in base:
        figures["conditional"] = draw.conditional_figure(findings.conditional, base["mean_average_precision"])
    if findings.search.get("trials"):
        figures["search"] = draw.search_figure(findings.search["trials"])
    return figures


def _page(findings: Findings, figures: Mapping[str, str]) -> str:
    comparison = findings.comparison
    return rendered(
        "report.html.j2", "page.js",
        title=findings.title, verdict=_parted(comparison.verdict), method=comparison.method, top_k=comparison.top_k, comparison=comparison,
        most_groups=draw.MOST_GROUPS, counts=findings.counts, config=findings.config, names=findings.labels.names, figures=figures,
        tiles=_tiles(findings), arms=list(shown_arms(comparison).values()), groups=_groups(findings), ungrouped=_ungrouped(findings),
        **_changes(findings), mistakes=_pairs(findings), n_mistakes=_all_mistakes(findings), stability=_stability(findings),
        search=findings.search, headroom=_headroom(findings.headroom),
        calibration=_calibration(findings.evaluation), latency=_latency(findings.latency), plan=_plan(findings),
        seconds=f"{_seconds(comparison):,.0f}",
        pictures={number: base64.b64encode(png).decode("ascii") for number, png in findings.images.items()}, data=embedded_json(_data(findings)),
    )  # fmt: skip


def _seconds(comparison: Comparison) -> float:
    """What all rows took, the caching of features counted once; an arm that needs none has no seconds of heads."""
    trained = [row for row in comparison.rows if row.get("head_seconds")]
    caching = min((row["seconds"] - row["head_seconds"] for row in trained), default=0.0)
    return float(caching + sum(row.get("head_seconds") or row["seconds"] for row in comparison.rows))


def _parted(verdict: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    first, end, rest = verdict.partition(". ")
    return first + end.strip(), rest


def _data(findings: Findings) -> dict[str, Any]:
    """What the page's script reads. Labels go by their positions among those shown, which are all of them unless there are very many."""
    evaluation, comparison, counts, groups = findings.evaluation, findings.comparison, findings.counts, findings.groups
    shown = explored(counts)
    position = np.full(counts.n_labels, -1)
    position[shown] = np.arange(len(shown))
    kept = evaluation.get("confident_mistakes") or {name: [] for name in ("example", "name", "taken", "annotated", "confidence")}
    return {
        "kind": counts.kind, "ids": [] if len(shown) == counts.n_labels else shown.tolist(), "n_labels": counts.n_labels,
        "labels": labels_of(findings.labels.names, groups, comparison.per_label, comparison.method, evaluation, shown),
        "groups": list(groups.names), "neighbours": neighbours(counts, shown), "matrices": matrices(counts, groups, position),
        "mistakes": {**mistakes_of(kept, position), "kept": "confident_mistakes" in evaluation},
        "pictures": {str(position[number]): base64.b64encode(png).decode("ascii") for number, png in findings.images.items() if position[number] >= 0},
    }  # fmt: skip


def _tiles(findings: Findings) -> list[dict[str, Any]]:
    """The verdict in figures."""
    comparison = findings.comparison
    arms = shown_arms(comparison)
    if not {"base", comparison.method} <= arms.keys():
        return []
    method = arms[comparison.method]
    tiles = [
        {"name": f"mAP@{comparison.top_k}, base", "value": arms["base"]["mean_average_precision"], "more": "percent, on test data", "tone": ""},
        {"name": f"mAP@{comparison.top_k}, {comparison.method}", "value": method["mean_average_precision"], "more": method["description"], "tone": ""},
        {"name": "gained", "value": method["over"], "tone": method["over_tone"],
         "more": Number.pair(method["over_low"], method["over_high"], "points, 95% interval") or "points, of one seed"},
        {"name": "multiply-adds", "value": method["extra"], "more": "of the base's, executed on average", "tone": ""},
    ]  # fmt: skip
    if rival := comparison.best_control:
        row = arms[rival]
        tiles.append({"name": f"against the best control, {rival}", "value": row["minus"], "tone": row["minus_tone"], "more": row["description"]})
    return tiles


def _gains(findings: Findings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision before, after, and the change, float64 [C] each; NaN where unknown."""
    unknown = np.full(len(findings.labels), np.nan)
    before, after = (findings.comparison.per_label.get(arm, unknown) for arm in ("base", findings.comparison.method))
    return before, after, after - before


def _changes(findings: Findings) -> dict[str, Any]:
    """The labels that changed most, either way, and how many changed."""
    before, after, gains = _gains(findings)
    positives = {i: row["positives"] for i, row in enumerate(findings.evaluation.get("labels", ()))}
    order = np.argsort(gains, kind="stable")
    order = order[~np.isnan(gains[order])]

    def row(label: int) -> dict[str, Any]:
        source = f"comparison.json#/per_label/{{}}/{label}"
        return {
            "label": label, "positives": Number(positives.get(label), f"evaluation.json#/labels/{label}/positives", "{:,}"),
            "before": percent(before[label], source.format("base")), "after": percent(after[label], source.format(findings.comparison.method)),
            "change": points(gains[label]), "tone": tone(gains[label], gains[label], SEEN),
        }  # fmt: skip

    return {
        "worst": [row(int(i)) for i in order[:_CHANGES] if gains[i] < -SEEN], "best": [row(int(i)) for i in order[::-1][:_CHANGES] if gains[i] > SEEN],
        "changed": {"better": f"{(gains > SEEN).sum():,}", "worse": f"{(gains < -SEEN).sum():,}", "same": f"{(abs(gains) <= SEEN).sum():,}"},
    }  # fmt: skip


def _ungrouped(findings: Findings) -> list[tuple[int, str]]:
    """How many labels are in no group, and why."""
    without, unseen = findings.groups.ungrouped, findings.counts.never_annotated
    n_unseen = int(np.isin(without, unseen).sum())
    return [(n_unseen, "having no hold-out example"), (len(without) - n_unseen, "sharing no detection with another")]


def _groups(findings: Findings) -> list[dict[str, Any]]:
    gains, shown = _gains(findings)[2], []
    heads = findings.plan.groups if findings.comparison.method != "searched" else ()
    for i, members in enumerate(findings.groups.members):
        gain = nan_mean(gains[members])
        shown.append(
            {
                "name": findings.groups.names[i], "size": f"{len(members):,}", "shown": members[:_SHOWN].tolist(), "more": max(0, len(members) - _SHOWN),
                "pictures": [m for m in members.tolist() if m in findings.images][:_PICTURED],
                "width": "–".join(map(str, findings.plan.hidden[i])) if i < len(heads) else "", "gain": points(gain) if gain == gain else "",
            }
        )  # fmt: skip
    return shown


def _pairs(findings: Findings) -> list[dict[str, Any]]:
    """The pairs taken for each other most, with the numbers of test examples."""
    place = {name: i for i, name in enumerate(findings.labels.names)}
    return [
        {
            "taken": place[row["taken"]], "annotated": place[row["annotated"]], "tone": tone(row["base"] - row["augmented"], row["base"] - row["augmented"]),
            **{name: Number(row[name], f"evaluation.json#/mistakes/{i}/{name}", "{:,}") for name in ("base", "augmented")},
        }
        for i, row in enumerate(findings.evaluation.get("mistakes", ()))
    ]  # fmt: skip


def _all_mistakes(findings: Findings) -> dict[str, Number]:
    return {name: Number(n, f"evaluation.json#/n_mistakes/{name}", "{:,}") for name, n in findings.evaluation.get("n_mistakes", {}).items()}


def _stability(findings: Findings) -> dict[str, Any]:
    found = findings.stability
    if not found:
        return {}
    bootstraps = [Number(value, f"stability.json#/bootstraps/{i}", "{:.2f}") for i, value in enumerate(found["bootstraps"])]
    return {"halves": Number(found["halves"], "stability.json#/halves", "{:.2f}"), "bootstraps": bootstraps}


def _headroom(found: Mapping[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    rows = [
        {
            "group": row["group"], "labels": Number(row["labels"], f"probe.json#/groups/{i}/labels", "{:,}"),
            "gain": points(row["gain"], f"probe.json#/groups/{i}/gain"), "share": percent(row["share"], f"probe.json#/groups/{i}/share", 0),
        }
        for i, row in enumerate(found["groups"])
    ]  # fmt: skip
    figures = {name: percent(value, f"probe.json#/mean_average_precision/{name}") for name, value in found["mean_average_precision"].items()}
    return {"verdict": found["verdict"], "width": found["width"], "attach": found["attach"], "groups": rows, **figures}


def _calibration(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    if "calibration" not in evaluation:
        return {}
    name = "calibration/expected_calibration_error"
    places = {"base": (evaluation["base"], f"base/{name}"), "augmented": (evaluation, name)}
    return {who: percent(found["calibration"]["expected_calibration_error"], f"evaluation.json#/{at}") for who, (found, at) in places.items()}


def _latency(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = ("base_p50", "base_p95", "augmented_p50", "augmented_p95", "ratio")
    return [
        {"batch_size": row["batch_size"], **{name: Number(row[name], f"latency.json#/rows/{i}/{name}", "{:.3f}") for name in names}}
        for i, row in enumerate(found.get("rows", ()))
    ]


def _plan(findings: Findings) -> dict[str, Any]:
    """What the run's network costs: the plan's, or what a search found, as it was judged."""
    heads, evaluation = findings.plan, findings.evaluation
    if findings.config.get("structure") == "searched":
        return {
            "base": Number(evaluation["base"]["multiply_adds"], "evaluation.json#/base/multiply_adds", "{:,}"),
            "augmented": Number(evaluation["multiply_adds"], "evaluation.json#/multiply_adds", "{:,}"),
            "parameters": Number(evaluation["parameters"] - evaluation["base"]["parameters"], "", "{:,}"),
        }  # fmt: skip
    return {
        "base": Number(heads.base_multiply_adds, "plan.json#/base_multiply_adds", "{:,}"),
        "augmented": Number(heads.multiply_adds, "plan.json#/multiply_adds", "{:,}"),
        "parameters": Number(plain(heads.parameters - heads.base_parameters), "", "{:,}"),
    }  # fmt: skip
