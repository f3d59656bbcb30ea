"""Choosing a structure under a budget, on cached features, by successive halving."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.data.examples import Examples
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import measure
from selfinformed.structure.plans import HeadPlan, plan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search tried and chose.

    Attributes:
        plan: the winner's.
        trials: a row per structure and round {structure, epochs, mean_average_precision on hold-out, extra_computation}, best of the last
            round first.
    """

    plan: HeadPlan
    trials: list[dict[str, Any]]


def search(
    net: WrappedClassifier,
    train: Examples | FeatureStore,
    holdout: Examples,
    *,
    budget: float = 0.03,
    n_groups: Sequence[int] = (3, 6, 12),
    dense_shares: Sequence[float] = (0.0, 0.5),
    counts: Sequence[ConfusionCounts] | None = None,
    top_k: int = 50,
    epochs: int = 4,
    seed: int = 0,
) -> SearchResult:
    """Finds which structure at a budget helps most, judged on hold-out data only.

    Candidates are a dense head, and for each counts, number of groups and dense share, specialists (with a dense head beside them). All are
    trained for one pass; the better half goes on with twice the passes, from the start, until `epochs`.

    Args:
        net: the wrapped network.
        train: examples, or their cached features.
        holdout: examples; they give the counts, and judge. Judge the winner once more on test data.
        budget: extra multiply-adds as a share of the base's.
        n_groups: numbers of groups to try; those that the labels or the budget do not carry are left out.
        dense_shares: shares of the budget to try for a dense head beside the specialists.
        counts: confusion and co-detection counts, if already measured.
        top_k: K of mAP@K.
        epochs: passes of the last round.
        seed: of clustering and training.
    """
    if not n_groups or not dense_shares:
        raise SelfInformedError("search: give at least one number of groups and one dense share")
    counts = counts or [measure(net, holdout, kind=kind) for kind in ("confusions", "codetections")]
    train = train if isinstance(train, FeatureStore) else FeatureStore.build(net, train)
    features = FeatureStore.build(net, holdout)
    plans = {"dense": plan(net, LabelGroups.everything(net.n_labels), budget=budget)}
    for source in counts:
        for n in n_groups:
            with suppress(SelfInformedError):  # more groups than the labels or the budget carry
                groups = cluster(source, n, seed, net.labels)
                for share in sorted(dense_shares):
                    name = f"{n} groups from {source.kind}" + (f", {share:.0%} of the budget dense" if share else "")
                    plans[name] = plan(net, groups, budget=budget, dense_share=share)
    trials: list[dict[str, Any]] = []
    alive, passes = list(plans), 1
    while True:
        results: list[dict[str, Any]] = []
        for name in alive:
            aug = _fitted(net, plans[name], train, features, passes, seed)
            score = rank(aug, features, top_k).mean_average_precision
            row = {"structure": name, "epochs": passes, "mean_average_precision": score, "extra_computation": plans[name].extra_computation}
            results.append(row)
        results.sort(key=lambda row: -row["mean_average_precision"])
        trials = results + trials
        if passes >= epochs or len(alive) == 1:
            return SearchResult(plans[results[0]["structure"]], trials)
        alive = [row["structure"] for row in results[: max(1, len(results) // 2)]]
        passes = min(2 * passes, epochs)


def _fitted(net: WrappedClassifier, heads: HeadPlan, train: FeatureStore, holdout: FeatureStore, epochs: int, seed: int) -> AugmentedClassifier:
    aug = augment(net, heads, seed=seed)
    fit(aug, train, holdout=holdout, epochs=epochs, seed=seed)
    return aug
