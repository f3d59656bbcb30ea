"""Clustering: 17,000 labels against forming B for scikit-learn's SpectralClustering, a million labels, and what 1,000 to a million cost.

    make bench-cluster
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from common import RESULTS, median_seconds, peak_bytes, planted, resident_bytes, save
from sklearn.metrics import adjusted_rand_score

from selfinformed.data.targets import Targets
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts

SEED, GROUPS, INSIDE = 0, 60, 0.03  # a detection comes from the example's own group in 3 of 100 cases, else from anywhere
SIZES = {1_000: 4_000, 4_000: 12_000, 17_000: 40_000, 100_000: 250_000, 1_000_000: 2_000_000}  # labels: examples


def main() -> None:
    rows = {"peer": against_scikit_learn(), "curves": [curve(*size) for size in SIZES.items()]}
    rows["million"] = next(row for row in rows["curves"] if row["n_labels"] == 1_000_000)
    exponents = {key: exponent(rows["curves"], key) for key in ("count_seconds", "cluster_seconds", "peak_bytes")}
    plot(rows["curves"], exponents)
    save("cluster", {"seed": SEED, "groups": GROUPS, "inside": INSIDE, "exponents": exponents, **rows})


def counted(n_labels: int, n: int, top_k: int, n_groups: int, n_true: int, inside: float, batch: int = 50_000) -> tuple[ConfusionCounts, np.ndarray]:
    counts, group = ConfusionCounts(n_labels, top_k), np.empty(0)
    for start in range(0, n, batch):
        ids, true, group = planted(min(batch, n - start), n_labels, n_groups, top_k, n_true, inside, SEED, start)
        counts.update_detections(ids, Targets(np.arange(len(true) + 1) * n_true, np.sort(true, 1).ravel(), n_labels))
    assert counts.nbytes
    return counts, group


def against_scikit_learn() -> dict[str, Any]:
    counts, group = counted(17_000, 40_000, 100, GROUPS, 3, INSIDE)
    ours = median_seconds(lambda: cluster(counts, GROUPS, SEED))
    agreement = adjusted_rand_score(group, cluster(counts, GROUPS, SEED).assignment)
    our_peak, _ = peak_bytes(_ours, GROUPS)
    peer_peak, (forming, clustering, peer_agreement) = peak_bytes(_scikit_learn, GROUPS)
    return {
        "n_labels": 17_000, "examples": 40_000, "top_k": 100, "seconds": ours, "adjusted_rand": agreement, "peak_bytes": our_peak,
        "scikit_learn": {"forming_b": forming, "clustering": clustering, "adjusted_rand": peer_agreement, "peak_bytes": peer_peak, "runs": 1},
        "times_faster": (forming + clustering) / ours, "share_of_memory": our_peak / peer_peak,
    }  # fmt: skip


def _ours(n_groups: int) -> tuple[int, None]:
    counted(1000, 2000, 10, 4, 1, 0.5)
    counts, _ = counted(17_000, 40_000, 100, n_groups, 3, INSIDE)
    before = resident_bytes()
    cluster(counts, n_groups, SEED)
    return before, None


def _scikit_learn(n_groups: int) -> tuple[int, tuple[float, float, float]]:
    from sklearn.cluster import SpectralClustering

    counts, group = counted(17_000, 40_000, 100, n_groups, 3, INSIDE)
    matrix = counts.to_scipy().astype(np.float64)
    before, start = resident_bytes(), time.perf_counter()
    similarity = (matrix.T @ matrix).toarray()
    np.fill_diagonal(similarity, 0)
    formed = time.perf_counter()
    found = SpectralClustering(n_groups, affinity="precomputed", random_state=SEED).fit_predict(similarity)
    return before, (formed - start, time.perf_counter() - formed, float(adjusted_rand_score(group, found)))


def curve(n_labels: int, n: int) -> dict[str, Any]:
    """K = 20, one label an example, a group per 10,000 labels and at least 10; in a process of its own."""
    n_groups = max(10, n_labels // 10_000)
    peak, row = peak_bytes(_curve, n_labels, n, n_groups)
    return {"n_labels": n_labels, "examples": n, "n_groups": n_groups, **row, "peak_bytes": peak}


def _curve(n_labels: int, n: int, n_groups: int) -> tuple[int, dict[str, float]]:
    small, _ = counted(500, 1000, 10, 4, 1, 0.5)
    cluster(small, 4)
    before, start = resident_bytes(), time.perf_counter()
    counts, group = counted(n_labels, n, 20, n_groups, 1, 0.5)
    middle = time.perf_counter()
    groups = cluster(counts, n_groups, SEED)
    end = time.perf_counter()
    found = groups.assignment >= 0
    return before, {
        "count_seconds": middle - start, "cluster_seconds": end - middle,
        "adjusted_rand": float(adjusted_rand_score(group[found], groups.assignment[found])), "labels_in_no_group": int((~found).sum()),
    }  # fmt: skip


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Slope of log(key) over log(labels), of the three largest: what is fixed weighs on the small ones."""
    return float(np.polyfit(np.log([row["n_labels"] for row in rows[-3:]]), np.log([row[key] for row in rows[-3:]]), 1)[0])


def plot(rows: list[dict[str, Any]], exponents: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [row["n_labels"] for row in rows]
    for key, name, colour in (("count_seconds", "making and counting examples", "#8a93a5"), ("cluster_seconds", "clustering", "#0b6e6e")):
        left.loglog(labels, [row[key] for row in rows], "o-", color=colour, label=f"{name}, ~ labels^{exponents[key]:.2f}")
    right.loglog(labels, [row["peak_bytes"] / 1e9 for row in rows], "o-", color="#c2571a", label=f"~ labels^{exponents['peak_bytes']:.2f}")
    left.set_ylabel("seconds")
    right.set_ylabel("peak memory (GB)")
    for axes in (left, right):
        axes.set_xlabel("labels (two to four examples each)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(RESULTS / "cluster.png", dpi=130)


if __name__ == "__main__":
    sys.exit(main())
