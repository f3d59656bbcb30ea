"""Puts results/*.json into the tables of docs/results.md, and draws the calibration of the probe's forecasts: `python benchmarks/tables.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bases import log_seconds
from common import RESULTS

from selfinformed.evidence.figures import calibration_figure, save_figure
from selfinformed.runtime.files import read_json

NAMES = ("kanji", "kanji2", "cjk", "wordnet")
TITLES = {"kanji2": "kanji, all 6,355"}
KINDS = {"long": "longest-trained"}  # not converged by the definition: see its logs
PAGE = Path(__file__).parent.parent / "docs" / "results.md"


def main() -> None:
    bases = measured()
    page = PAGE.read_text("utf-8")
    for name, text in parts(bases).items():
        page = re.sub(rf"(<!-- {name} -->\n).*(<!-- /{name} -->)", lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
    PAGE.write_text(page, "utf-8")
    points = [
        {"benchmark": TITLES.get(name, name), "base": kind_of(base), "forecast": base["probe"]["forecast"]["gain"],
         "interval": base["probe"]["forecast"]["interval"], "gain": best_dense(base) / 100}
        for name, base in bases
    ]  # fmt: skip
    save_figure(calibration_figure(points), RESULTS / "calibration.png")


def measured() -> list[tuple[str, dict[str, Any]]]:
    """(name, results) of each base."""
    paths = [(name, RESULTS / f"{name}.json") for name in NAMES]
    return [(name, base) for name, path in paths if path.exists() for base in read_json(path, "results")["bases"]]


def parts(bases: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """What stands between <!-- name --> and <!-- /name --> on the page, by name."""
    return {"summary": overview(bases), "tables": "\n".join(table(name, base) for name, base in bases).strip()}


def title(name: str, base: dict[str, Any]) -> str:
    return f"{TITLES.get(name, name)}, {kind_of(base)} base"


def kind_of(base: dict[str, Any]) -> str:
    return KINDS.get(base["kind"], base["kind"])


def overview(bases: list[tuple[str, dict[str, Any]]]) -> str:
    """A row per base: how good it is, what the search found beside the strongest controls, and what the probe had said."""
    arms = ("base", "random", "confusions", "finetune", "dense", "searched")
    lines = [
        f"| | {' | '.join(arms)} | searched minus dense | executed | gain | forecast |", f"| --- |{' ---: |' * (len(arms) + 4)}",
    ]  # fmt: skip
    for name, base in bases:
        rows = {row["arm"]: row for row in base["comparison"]["summary"]}
        scores = [f"{100 * rows[arm]['mean_average_precision']:.2f}" if arm in rows else "" for arm in arms]
        over = rows["dense"]["method_over_it"]
        lines.append(
            f"| {title(name, base)} | {' | '.join(scores)} | {100 * over['mean']:+.2f} ({100 * over['low']:+.2f} to {100 * over['high']:+.2f}) | "
            f"{rows['searched']['extra_computation']:.4f}x | {100 * base['against']['base']['mean']:+.2f} | {100 * base['probe']['forecast']['gain']:+.2f} |"
        )
    return "\n".join(lines)


def best_dense(base: dict[str, Any]) -> float:
    """What the better of classifier and dense head gained on test data, which is what the probe forecasts, in points."""
    return max(100 * row["over_base"]["mean"] for row in base["comparison"]["summary"] if row["arm"] in ("classifier", "dense"))


def seconds(base: dict[str, Any], arm: str) -> float:
    """What training an arm took on cached features, mean over seeds."""
    taken = [row["head_seconds"] for row in base["comparison"]["rows"] if row["arm"] == arm]
    return float(sum(taken) / len(taken))


def tuned(arms: dict[str, dict[str, Any]]) -> list[str]:
    """Which arms chose, on hold-out data, to see how much of the base's scores."""
    chosen: dict[float, list[str]] = {}
    for arm, row in arms.items():
        if "residual" in row:
            chosen.setdefault(row["residual"], []).append(arm)
    said = "; ".join(f"{residual:g} by {', '.join(names)}" for residual, names in sorted(chosen.items(), reverse=True))
    return [f"Residual chosen on hold-out data: {said}."] if said else []


def table(name: str, base: dict[str, Any]) -> str:
    lines = [
        f"### {title(name, base)}", "",
        f"{base['labels']:,} labels, {base['features']:,} features, {base['multiply_adds'] / 1e6:.1f} M multiply-adds, "
        f"{base['examples'][0]:,} cached training examples, {base['epochs']:g} pass, C / (K D) = {base['labels_per_group_and_feature']:.2f} at K = 6.", "",
        "| arm | mAP@50 | 95% interval | searched minus it | per example | top-1 | executed | weights added | heads, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    parameters = next(row["parameters"] for row in base["comparison"]["summary"] if row["arm"] == "base")
    for row in base["comparison"]["summary"]:
        low, high = row["interval"]
        over = row["method_over_it"]
        against = f"{100 * over['mean']:+.2f} ({100 * over['low']:+.2f} to {100 * over['high']:+.2f})" if over else ""
        lines.append(
            f"| {row['arm']} | {100 * row['mean_average_precision']:.2f} | {100 * low:.2f} to {100 * high:.2f} | {against} | "
            f"{100 * row['mean_average_precision_per_example']:.2f} | {100 * row['top1']:.2f} | {row['extra_computation']:.4f}x | "
            f"{(row['parameters'] - parameters) / 1e6:.2f} M | {seconds(base, row['arm']):.0f} |"
        )
    for arm, row in base["further"].items():
        if arm == "dense as searched" and base["search"]["best"] == base["search"]["dense"]:
            continue
        over = row["searched_over_it"]
        low, high = (100 * x for x in over["interval"])
        lines.append(
            f"| *{arm}* | {100 * row['mean_average_precision']:.2f} | {100 * row['interval'][0]:.2f} to {100 * row['interval'][1]:.2f} | "
            f"{100 * over['mean']:+.2f} ({low:+.2f} to {high:+.2f}) | | {100 * row['top1']:.2f} | {row['extra_computation']:.4f}x | | |"
        )
    forecast, speed = base["probe"]["forecast"], base["speed"]
    share = speed["heads_seconds"] / log_seconds(name, base["kind"])
    spent = f"heads took {speed['heads_seconds']:.0f} s, {100 * share:.1f}% of the base's training, caching features {speed['caching_seconds']:.0f} s."
    lines += [
        "", f"Searched: {base['search']['best']}. Best dense head of the search: {base['search']['dense']}.",
        *tuned(base["comparison"]["about"].get("tuned", {})),
        f"Probe: {100 * forecast['gain']:+.2f} forecast for a dense head at this budget; gained {best_dense(base):+.2f}. "
        f"Limited by: {base['probe']['limited_by']}.",
        f"Cached features train {speed['ratio']:.1f} times as many examples a second as the frozen trunk in the loop; {spent}", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
