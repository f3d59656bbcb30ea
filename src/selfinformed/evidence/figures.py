"""The figures, drawn with matplotlib for one column of a paper and written as PNG and SVG."""

from __future__ import annotations

import html
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.explorer import MOST_CELLS, block_sums, order_of
from selfinformed.runtime.files import written_atomically
from selfinformed.runtime.tabular import one_line
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, ACCENT, CONTROL = "#1d2433", "#8a93a5", "#0072b2", "#d55e00"  # told apart under every colour blindness; shapes differ too
MOST_GROUPS = 30  # in a figure
RUNS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind eyes too (Okabe and Ito)
_WIDTH = 3.5  # inches: one column of two
_FALLBACKS = (  # typefaces for scripts that matplotlib's own lacks, where they are installed
    "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Hiragino Sans", "Yu Gothic",
    "Microsoft YaHei", "Malgun Gothic", "Segoe UI", "Arial Unicode MS",
)  # fmt: skip
P = ParamSpec("P")


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    style: dict[Any, Any] = {
        "font.size": 8, "font.family": _families(), "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.markersize": 4,
        "lines.linewidth": 1.2, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.edgecolor": QUIET,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "legend.frameon": False,
        "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "selfinformed",
    }  # fmt: skip
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # label names may be in any script; the SVG and the page beside show them
        yield


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in the style, ticks and texts that are added late included."""

    @wraps(draw)
    def styled(*args: P.args, **options: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **options)

    return styled


@cache
def _families() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _FALLBACKS if name in installed)]


@_styled
def confusion_figure(counts: ConfusionCounts, groups: LabelGroups) -> Figure:
    """The counts with labels ordered by group, at most 1,000 x 1,000 cells, on a logarithmic scale; lines between the groups."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    cells = block_sums(counts.to_scipy(), order_of(groups), MOST_CELLS).toarray()
    figure, axes = _figure(2.9)
    shown = np.where(cells > 0, cells, np.nan)
    image = axes.imshow(shown, cmap="viridis", norm=LogNorm(vmin=1, vmax=max(2, float(cells.max()))), interpolation="nearest", aspect="auto", rasterized=True)
    sizes = np.array([len(m) for m in first_groups(groups)])
    ends = np.cumsum(sizes) * len(cells) / counts.n_labels
    inner = ends[ends < len(cells)]
    for edge in inner[_apart(inner, 0.02 * len(cells))]:
        axes.axhline(edge - 0.5, color=CONTROL, linewidth=0.4)
        axes.axvline(edge - 0.5, color=CONTROL, linewidth=0.4)
    middles = ends - sizes * len(cells) / counts.n_labels / 2
    numbered = _apart(middles, 0.04 * len(cells))
    axes.set_xticks([]), axes.set_yticks(middles[numbered], [group + 1 for group in numbered])
    other = "annotated" if counts.kind == "confusions" else "detected"
    axes.set_xlabel(f"{other} label, by group"), axes.set_ylabel("detected label, by group")
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="examples", shrink=0.8, ticks=LogLocator(subs=(1, 2, 5)), format=_whole).minorticks_off()
    return figure


@_styled
def conditional_figure(rows: Sequence[Mapping[str, Any]], base: float) -> Figure:
    """mAP against the multiply-adds executed on average, by how many heads an example may run; `base` is the base's mAP."""
    figure, axes = _figure(2.6)
    cost = [100 * (row["extra_computation"] - 1) for row in rows]
    axes.plot(cost, [100 * row["mean_average_precision"] for row in rows], "o-", color=ACCENT)
    for x, row in zip(cost, rows, strict=True):
        axes.annotate(str(row["top_groups"]), (x, 100 * row["mean_average_precision"]), (4, -9), textcoords="offset points", color=INK, fontsize=7)
    axes.axhline(100 * base, color=QUIET, linestyle="--", linewidth=0.8)
    axes.annotate("base", (max(cost), 100 * base), (0, 3), textcoords="offset points", color=INK, ha="right", fontsize=7)
    figure.set_label(f"mAP {_course(100 * row['mean_average_precision'] for row in rows)} by heads that an example runs; base {100 * base:.2f}")
    axes.set_xlabel("extra multiply-adds executed on average (%)\nnumbers: heads that an example runs"), axes.set_ylabel("mAP (%)")
    return figure


@_styled
def calibration_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What the probe forecast, with its interval, against what training then gained on test data; within the band they differ by at most half a point.

    Args:
        rows: {benchmark, base, forecast, interval (low, high), gain}, one for each benchmark and base, all gains as shares from 0 to 1.
    """
    figure, axes = _figure(3.2)
    ends = np.array([100 * value for row in rows for value in (row["forecast"], row["gain"], *row["interval"])] or [0.0])
    line = np.array([min(0.0, ends.min()) - 1, ends.max() + 1])
    axes.fill_between(line, line - 0.5, line + 0.5, color=QUIET, alpha=0.3, linewidth=0)
    axes.plot(line, line, color=QUIET, linewidth=0.8)
    colours = dict(zip(dict.fromkeys(row["base"] for row in rows), (ACCENT, CONTROL, INK, QUIET), strict=False))
    rows = sorted(rows, key=lambda row: row["gain"])
    heights = _spread([100 * row["gain"] for row in rows], float(line[1] - line[0]))
    for row, height in zip(rows, heights, strict=True):
        x, y, (low, high) = 100 * row["forecast"], 100 * row["gain"], row["interval"]
        colour = colours.get(row["base"], QUIET)
        axes.errorbar(x, y, xerr=[[max(x - 100 * low, 0)], [max(100 * high - x, 0)]], fmt="o", color=colour, capsize=2)
        right = max(x, 100 * high) + 0.03 * (line[1] - line[0])
        axes.annotate(f"{row['benchmark']}, {row['base']}", (x, y), (right, height), color=INK, fontsize=7, va="center")
    axes.set_xlim(line[0], line[1] + 0.4 * (line[1] - line[0])), axes.set_ylim(line[0], max(line[1], *heights, line[0]))
    axes.set_xlabel("forecast gain on hold-out data (points of mAP)"), axes.set_ylabel("gain on test data (points of mAP)")
    return figure


@_styled
def cost_figure(comparison: Comparison) -> Figure:
    """mAP against multiply-adds, with 95% intervals over seeds."""
    figure, axes = _figure(2.6)
    rows = sorted((row for row in comparison.summary() if np.isfinite(row["mean_average_precision"])), key=lambda row: row["mean_average_precision"])
    reached = [100 * end for row in rows for end in (row["mean_average_precision"], *row["interval"]) if np.isfinite(end)] or [0.0]
    margin = 0.05 * (max(reached) - min(reached) or 1.0)
    bottom, top = max(min(reached) - margin, 0.0), min(max(reached) + margin, 100.0)
    heights = _spread([100 * row["mean_average_precision"] for row in rows], top - bottom, top)
    widest = max([1.0, *(100 * (row["extra_computation"] - 1) for row in rows)])
    costs = [round(5000 * (row["extra_computation"] - 1) / widest) for row in rows]  # arms of equal cost stand side by side
    for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
        same = costs.count(costs[i])
        x, y = 100 * (row["extra_computation"] - 1), 100 * row["mean_average_precision"]
        right = x + (0.08 + 0.01 * same) * widest
        x += 0.02 * widest * (costs[:i].count(costs[i]) - (same - 1) / 2)
        low, high = (100 * v if np.isfinite(v) else y for v in row["interval"])
        colour = ACCENT if row["arm"] == comparison.method else INK if row["arm"] == "base" else CONTROL
        shape: dict[str, Any] = {"fmt": "D", "zorder": 3} if row["arm"] == comparison.method else {"fmt": "o"}
        axes.errorbar(x, y, [[max(y - low, 0)], [max(high - y, 0)]], color=colour, capsize=2, **shape)
        leader = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.4, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        axes.annotate(f"{row['arm']} {y:.2f}", (x, y), (right, height), color=INK, fontsize=7, va="center", arrowprops=leader)
    axes.set_xlim(-0.1 * widest, 1.6 * widest), axes.set_ylim(bottom, top)
    said = (f"{row['arm']} {100 * row['mean_average_precision']:.2f} for {100 * (row['extra_computation'] - 1):.1f}%" for row in rows)
    figure.set_label(f"mAP@{comparison.top_k} of each arm for its extra multiply-adds: {', '.join(said)}")
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel("extra multiply-adds (%)"), axes.set_ylabel(f"mAP@{comparison.top_k} (%)")
    return figure


@_styled
def runs_figure(comparisons: Mapping[str, Comparison]) -> Figure:
    """mAP against multiply-adds of every arm of several runs; each run's method is filled and joined to its base."""
    figure, axes = _figure(2.6)
    said = []
    for (name, comparison), (colour, marker) in zip(comparisons.items(), itertools.cycle(zip(RUNS, "os^Dv*", strict=True)), strict=False):
        rows = {row["arm"]: (100 * (row["extra_computation"] - 1), 100 * row["mean_average_precision"]) for row in comparison.summary()}
        axes.plot([x for x, _ in rows.values()], [y for _, y in rows.values()], marker, markerfacecolor="none", color=colour)
        ends = [rows[arm] for arm in ("base", comparison.method) if arm in rows]
        axes.plot([x for x, _ in ends], [y for _, y in ends], f"{marker}-", color=colour, label=_short(name))
        said.append(f"{_short(name)} {_course(y for _, y in ends)}")
    figure.set_label(f"mAP of each run's base and method: {'; '.join(said)}")
    axes.set_xlabel("extra multiply-adds (%)"), axes.set_ylabel("mAP (%)")
    axes.legend()
    return figure


@_styled
def group_gain_figure(comparison: Comparison, groups: LabelGroups) -> Figure:
    """Gain over the base in mean average precision of the method and of random groups, for each group of labels; of more than 30 groups, for the
    15 that gain least and the 15 that gain most."""
    arms = [arm for arm in (comparison.method, "random") if {arm, "base"} <= comparison.per_label.keys()]
    gains = {arm: [100 * nan_mean((comparison.per_label[arm] - comparison.per_label["base"])[m]) for m in groups.members] for arm in arms}
    shown = list(range(len(groups)))
    if arms and len(groups) > MOST_GROUPS:
        order = np.argsort(gains[arms[0]], kind="stable")
        shown = sorted({*order[: MOST_GROUPS // 2].tolist(), *order[-MOST_GROUPS // 2 :].tolist()})
    figure, axes = _figure(0.8 + 0.42 * len(shown))
    looks: tuple[dict[str, str], ...] = ({"color": CONTROL, "edgecolor": "white", "hatch": "/////"}, {"color": ACCENT})
    for i, arm in enumerate(arms):
        height = 0.56 / len(arms)
        values = [gains[arm][group] for group in shown]
        axes.barh(np.arange(len(shown)) + (i + 0.5) * height - 0.14, values, height * 0.9, label=arm, **looks[arm == comparison.method])
    axes.set_yticks(np.arange(len(shown)) + 0.14, [group + 1 for group in shown])
    for i, group in enumerate(shown):
        name = _short(groups.names[group])
        axes.annotate(
            name, (0, i - 0.14), (2, 1), textcoords="offset points", xycoords=("axes fraction", "data"), fontsize=7, va="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        ).set_in_layout(False)  # fmt: skip
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("gain over base (points of average precision)"), axes.set_ylabel("group")
    axes.tick_params(axis="y", length=0)
    if arms:
        figure.legend(loc="outside upper right", ncols=2)
    figure.set_label(f"gain over the base in points, group by group: {', '.join(f'{arm} {_course(gains[arm])}' for arm in arms)}")
    return figure


@_styled
def eigenvalue_figure(groups: LabelGroups) -> Figure:
    """The leading eigenvalues; the last one used is followed by the gap."""
    figure, axes = _figure(2.0)
    values = np.array(groups.eigenvalues)
    n = len(groups)
    axes.plot(np.arange(1, len(values) + 1), values, "o-", color=QUIET)
    axes.plot(np.arange(1, n + 1)[: len(values)], values[:n], "D", color=ACCENT, label=f"{n} group{'s' if n != 1 else ''}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("eigenvalue number"), axes.set_ylabel("eigenvalue")
    axes.legend()
    figure.set_label(f"{len(values)} leading eigenvalues {_course(values)}; of the {n} used {_course(values[:n])}")
    return figure


@_styled
def sweep_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """For several numbers of groups: the eigenvalues and the gap after each, the share of confusions within groups, and the groups' sizes."""
    from matplotlib.ticker import LogLocator

    figure, (gaps, within, sizes) = _figure(4.4, 3)
    numbers = [row["n_groups"] for row in rows]
    values = np.array(rows[0]["eigenvalues"])
    gaps.plot(np.arange(1, len(values) + 1), values, ".-", color=QUIET)
    gaps.plot(numbers, values[np.array(numbers) - 1], "D", color=ACCENT)
    gaps.set_ylabel("eigenvalue")
    within.plot(numbers, [100 * row["within_share"] for row in rows], "o-", color=ACCENT)
    within.set_ylim(0, 105)
    within.set_ylabel("confusions\nwithin groups (%)")
    for row in rows:
        sizes.plot([row["n_groups"]] * len(row["sizes"]), row["sizes"], "_", color=INK, markersize=6)
    sizes.set_yscale("log")
    sizes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5))), sizes.yaxis.set_major_formatter(_whole), sizes.yaxis.set_minor_formatter("")
    sizes.set_ylabel("labels in each group")
    for axes in (gaps, within, sizes):
        axes.set_xlim(0, max(*numbers, len(values)) + 1)
    sizes.set_xlabel("number of groups")
    return figure


@_styled
def recall_figure(curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """Recall at k on the mapped labels, as in the paper's Figure 2."""
    figure, axes = _figure(2.4)
    for name, colour, marker in (("base", INK, "o"), ("augmented", ACCENT, "D")):
        if name in curves:
            ks = sorted(curves[name])
            axes.plot(ks, [100 * curves[name][k] for k in ks], f"{marker}-", color=colour, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("k"), axes.set_ylabel("recall at k (%)")
    figure.set_label(f"recall by k: {', '.join(f'{name} {_course(100 * curve[k] for k in sorted(curve))}' for name, curve in curves.items())}")
    axes.legend(loc="lower right")
    return figure


@_styled
def reliability_figure(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """How often the best label is annotated against the probability it was given, for each network (`Calibration.rows`); marks grow with the examples."""
    figure, axes = _figure(2.6)
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle="--")
    said = []
    for (name, rows), colour, marker, line in zip(bins.items(), (INK, ACCENT), "oD", (":", "-"), strict=False):
        shown = [row for row in rows if row["n"]]
        most = max((row["n"] for row in shown), default=1)
        x, y = ([100 * row[column] for row in shown] for column in ("confidence", "accuracy"))
        axes.plot(x, y, line, marker=marker, markersize=2, color=colour, label=name)
        axes.scatter(x, y, [4 + 30 * row["n"] / most for row in shown], color=colour, linewidths=0, marker=marker)
        said.append(f"{name} probability {_course(x)}, right {_course(y)}")
    figure.set_label(f"the best label's probability and how often it is right, in percent: {'; '.join(said)}")
    axes.set_xlabel("probability of the best label (%)"), axes.set_ylabel("examples annotated with it (%)")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@_styled
def learning_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The training loss, and a held-out figure where one was watched, against steps: rows of training.jsonl or of history.jsonl."""
    from matplotlib.ticker import LogLocator

    watched = next((name for row in rows for name in row if name.startswith("holdout_")), None)
    figure, axes = _figure(2.4)
    losses = [(row.get("step", row.get("steps", i)), row["loss"]) for i, row in enumerate(rows) if "loss" in row]
    axes.plot(*zip(*losses, strict=True), "o-" if len(losses) < 12 else "-", color=ACCENT, label="loss")
    values = [loss for _, loss in losses]
    if 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5))), axes.yaxis.set_major_formatter("{x:g}"), axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("step"), axes.set_ylabel("training loss")
    figure.set_label(f"training loss {_course(values)}")
    if watched:
        other = axes.twinx()
        found = [(row.get("step", row.get("steps", i)), row[watched]) for i, row in enumerate(rows) if row.get(watched) is not None]
        other.plot(*zip(*found, strict=True), "D-", color=CONTROL, label=watched.replace("_", " "))
        other.spines.right.set_visible(True)
        other.set_ylabel(watched.replace("_", " "))
        figure.legend(loc="outside upper right", ncols=2)
    return figure


@_styled
def search_figure(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """What a search tried: mAP on hold-out data against executed multiply-adds; larger marks were trained longer, hollow ones are dense heads."""
    figure, axes = _figure(2.6)
    longest = max(trial["epochs"] for trial in trials)
    for trial in trials:
        score = trial["mean_average_precision"]
        if score is None or score != score:
            continue
        dense = trial["choice"]["grouping"] == "dense"
        colour = CONTROL if dense else ACCENT
        axes.scatter(
            100 * (trial["extra_computation"] - 1), 100 * score, 8 + 24 * trial["epochs"] / longest, facecolors="none" if dense else colour, edgecolors=colour
        )
    axes.plot([], [], "o", color=ACCENT, label="specialists"), axes.plot([], [], "o", markerfacecolor="none", color=CONTROL, label="dense")
    axes.set_xlabel("extra multiply-adds executed on average (%)"), axes.set_ylabel("mAP on hold-out data (%)")
    axes.legend()
    scores = {dense: [100 * t["mean_average_precision"] for t in trials if t["mean_average_precision"] and (t["choice"]["grouping"] == "dense") == dense]
              for dense in (False, True)}  # fmt: skip
    figure.set_label(f"mAP on hold-out data of {len(trials)} trials: specialists {_course(scores[False])}, dense heads {_course(scores[True])}")
    return figure


def inline_svg(figure: Figure, name: str, keep: Sequence[str] = ()) -> str:
    """The figure as an SVG element for a page: its colours, apart from those to keep, are the page's variables, its text is text, its label stands for it
    where it is not seen."""
    import io
    import re

    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)

    def ours(tag: re.Match[str]) -> str:
        written = re.sub(r' xmlns:?\w*="[^"]*"', "", tag[0])
        written = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', written)  # one page holds several figures
        written = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", written).replace("xlink:href", "href")
        for colour, variable in {INK: "ink", QUIET: "quiet", ACCENT: "accent", CONTROL: "control", "#000000": "ink", "#ffffff": "paper"}.items():
            written = written if colour in keep else written.replace(colour, f"var(--{variable})")
        return written

    text = re.sub(r"<[^>]*>", ours, text)  # tags alone: what stands between them may be a label's name
    return f'<svg role="img" aria-label="{html.escape(str(figure.get_label()) or f"{name} figure")}" ' + text.removeprefix("<svg ")


def lay_out(figure: Figure) -> None:
    """Finds the places of what a figure holds, once for all the formats that it is then written in."""
    with _style():
        figure.draw_without_rendering()
    figure.set_layout_engine(None)  # a figure without one is not drawn twice for each format


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, and beside it an SVG whose text is text and whose bytes depend on the figure alone; each atomically.

    Texts are not read as formulas, so a logarithmic axis needs a formatter of its own.
    """
    with _style():
        for format, about in (("png", {}), ("svg", {"Date": None})):
            with written_atomically(path.with_suffix(f".{format}")) as temporary:
                figure.savefig(temporary, format=format, dpi=300, metadata=about)


def first_groups(groups: LabelGroups) -> list[npt.NDArray[np.int64]]:
    """For each group the labels whose first group it is."""
    assignment = groups.assignment
    return [np.flatnonzero(assignment == g) for g in range(len(groups))]


def _figure(height: float, rows: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows)


def _apart(places: npt.NDArray[np.float64], least: float) -> list[int]:
    """Which of the places, rising, lie at least so far from the one taken before."""
    taken: list[int] = []
    for i, place in enumerate(places):
        if not taken or place - places[taken[-1]] >= least:
            taken.append(i)
    return taken


def _spread(heights: Sequence[float], span: float, top: float = math.inf) -> list[float]:
    """Label heights, rising, moved apart so that none overlap on axes of that span, nor stands above their top."""
    least, placed = min(0.065, 1 / max(len(heights), 1)) * span, list(heights)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + least)
    for i, height in enumerate(reversed(placed)):
        placed[-1 - i] = min(height, top - i * least)
    return placed


def _course(values: Iterable[float]) -> str:
    """Where a series begins and ends, and its extremes, in words."""
    known = [value for value in values if np.isfinite(value)]
    return f"from {known[0]:.2f} to {known[-1]:.2f} (least {min(known):.2f}, most {max(known):.2f})" if known else "not known"


def _whole(value: float, _: int | None = None) -> str:
    """A tick of a logarithmic axis, without the formula that matplotlib would set."""
    return f"{value:,.0f}"


def _short(name: str, most: int = 44) -> str:
    """At most so many cells of a terminal, of which a wide character takes two."""
    name = one_line(name)
    widths = itertools.accumulate(map(cell_len, name))
    return name if cell_len(name) <= most else "".join(c for c, width in zip(name, widths, strict=True) if width < most) + "…"
