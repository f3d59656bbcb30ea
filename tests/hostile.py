"""Findings of a run whose label names would like to be markup."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np

from conftest import Problem
from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.mistakes import Calibration
from selfinformed.evidence.reporting import Findings
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.training.headroom import probe

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
SEARCH = {
    "verdict": "specialists were worth it", "trials": [
        {"structure": "a", "choice": {"grouping": grouping}, "epochs": 1.0, "mean_average_precision": 0.5, "extra_computation": 1.02}
        for grouping in ("dense", "confusions")],
}  # fmt: skip
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "'single' & \"double\"", "😀 مرحبا 漢字", "x" * 300, "{{ 7 * 7 }}", "$\\frac{1}{0}$"]


def hostile_findings(problem: Problem, counts: ConfusionCounts) -> Findings:
    names = LabelSpace([*HOSTILE, *(f"label {i}" for i in range(len(HOSTILE), 36))])
    table = compare(
        problem.net, problem.plan(), problem.store("train"), problem.store("test"), holdout=problem.store("holdout"), seeds=2, epochs=1,
        arms=["base", "confusions", "random", "dense"],
    )  # fmt: skip
    headroom = probe(problem.net, problem.store("train"), problem.store("holdout"), groups=problem.groups.renamed(names), width=16, epochs=1)
    return Findings(
        HOSTILE[0], names, counts, replace(problem.groups.renamed(names), eigenvalues=(1.0, 0.5, 0.4)), problem.plan(),
        table, headroom.to_dict(), evaluation(names),
        stability={"halves": 0.75, "bootstraps": [0.5, 0.625]}, search=SEARCH, latency={"rows": [
            {"batch_size": 1, "base_p50": 1.25, "base_p95": 1.5, "augmented_p50": 1.375, "augmented_p95": 1.75, "ratio": 1.1}]},
        conditional=[{"top_groups": n, "mean_average_precision": 0.3 + n / 100, "extra_computation": 1 + n / 100} for n in range(3)],
        history=[{"stage": "heads", "epoch": i, "loss": 3.0 / i, "steps": 10 * i} for i in (1, 2)], images={0: PNG, 5: PNG},
        config={"model": HOSTILE[0], "top_k": None, "seed": 3},
    )  # fmt: skip


def evaluation(names: LabelSpace) -> dict[str, Any]:
    """As evaluation.json holds it."""
    bins = Calibration.of(np.array([0.25, 0.75, 0.875], np.float32), np.array([False, True, True])).to_dict()
    return {
        "calibration": bins, "base": {"mean_average_precision": 0.25, "calibration": bins, "recall_at": {"1": 0.3, "2": 0.5}},
        "recall_at": {"1": 0.4, "2": 0.6}, "mistakes": [{"taken": HOSTILE[0], "annotated": HOSTILE[1], "base": 12, "augmented": 3}],
        "confident_mistakes": {"example": [7], "name": [HOSTILE[2]], "taken": [0], "annotated": [1], "confidence": [0.96875]},
        "training_positives": list(range(36)), "labels": [{"label": name, "positives": i, "average_precision": 0.5} for i, name in enumerate(names.names)],
    }  # fmt: skip
