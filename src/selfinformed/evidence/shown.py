"""A comparison as pages show it: each number with its place in comparison.json."""

from __future__ import annotations

from typing import Any

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.numbers import Number, percent, points


def shown_arms(comparison: Comparison, run: str = "") -> dict[str, dict[str, Any]]:
    """What pages show of each arm, by its name. Where there is no such figure it is empty, or a pair that is.

    Args:
        run: on a page of several, the title of the comparison's.
    """
    shown: dict[str, dict[str, Any]] = {}
    for i, row in enumerate(comparison.summary()):
        source, arm = f"{run}/comparison.json#/summary/{i}".lstrip("/"), row["arm"]
        over, minus = (_difference(row[name], f"{source}/{name}") for name in ("over_base", "method_over_it"))
        shown[arm] = {
            "arm": arm, "description": row["description"],
            **{name: percent(row[name], f"{source}/{name}") for name in ("mean_average_precision", "mean_average_precision_per_example", "top1", "top5")},
            "interval": Number.pair(percent(row["interval"][0], f"{source}/interval/0"), percent(row["interval"][1], f"{source}/interval/1")),
            "over": over["mean"] if row["over_base"] and arm != "base" else "", "over_low": over["low"], "over_high": over["high"],
            "over_tone": comparison.tone(arm, "base") if row["over_base"] else "",
            "minus": minus["mean"] if row["method_over_it"] else "", "minus_interval": Number.pair(minus["low"], minus["high"]),
            "minus_tone": comparison.tone(comparison.method, arm) if row["method_over_it"] else "",
            "multiply_adds": Number(row["multiply_adds"], f"{source}/multiply_adds", "{:,.0f}"),
            "extra": Number(row["extra_computation"], f"{source}/extra_computation", "{:.3f}×"),
            "seconds": Number(row["seconds"], f"{source}/seconds", "{:.1f}"),
        }  # fmt: skip
    return shown


def _difference(found: dict[str, float] | None, source: str) -> dict[str, Number]:
    return {end: points(found[end] if found else None, f"{source}/{end}") for end in ("mean", "low", "high")}
