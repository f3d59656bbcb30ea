"""How good one network is: over all labels, per label, per group, and on a mapped subset of the labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.arguments import expect, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import write_json
from selfinformed.runtime.reading import naming, read_text, reason_of, shown
from selfinformed.runtime.tabular import Table, frame
from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.structure.groups import LabelGroups, check_groups
from selfinformed.training.features import FeatureStore, Model, net_of, rank, score_batches

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One network's figures on one data set; shares from 0 to 1, multiply-adds per example."""

    ranking: Ranking
    multiply_adds: int
    base_multiply_adds: int
    parameters: int
    labels: LabelSpace
    groups: LabelGroups | None = None
    recall_at: Mapping[int, float] = field(default_factory=dict)

    @property
    def extra_computation(self) -> float:
        """Multiply-adds over the base's, as in the paper's Table 2."""
        return self.multiply_adds / self.base_multiply_adds

    def figures(self) -> dict[str, float]:
        """The columns of `comparison.json`."""
        return {
            "mean_average_precision": self.ranking.mean_average_precision,
            "mean_average_precision_per_example": self.ranking.mean_average_precision_per_example,
            "top1": self.ranking.top1, "top5": self.ranking.top5,
            "multiply_adds": self.multiply_adds, "extra_computation": self.extra_computation, "parameters": self.parameters,
        }  # fmt: skip

    def by_group(self) -> list[dict[str, Any]]:
        """Mean average precision over the labels of each group that have a positive."""
        if self.groups is None:
            return []
        return [
            {"group": name, "labels": len(members), "mean_average_precision": nan_mean(self.ranking.average_precision[members])}
            for name, members in zip(self.groups.names, self.groups.members, strict=True)
        ]

    def by_label(self) -> list[dict[str, Any]]:
        """Positives and average precision of each label, NaN without positives."""
        return [
            {"label": name, "positives": int(n), "average_precision": float(ap)}
            for name, n, ap in zip(self.labels.names, self.ranking.positives, self.ranking.average_precision, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As evaluation.json holds it; mAP and rates are shares from 0 to 1."""
        return {
            **self.figures(), "top_k": self.ranking.top_k, "n_examples": self.ranking.n_examples, "groups": self.by_group(),
            "recall_at": {str(k): v for k, v in self.recall_at.items()},
            "labels": self.by_label(),
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """A row per label {label, positives, average_precision (NaN without positives)}; needs the extra `pandas`."""
        return frame(self.by_label())

    def _repr_html_(self) -> str:
        return Table.of(str(self), self.by_group() or self.by_label(), ("group", "label")).to_html()

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        r = self.ranking
        return (
            f"mAP@{r.top_k} {100 * r.mean_average_precision:.2f}  per example {100 * r.mean_average_precision_per_example:.2f}  "
            f"top-1 {100 * r.top1:.2f}  top-5 {100 * r.top5:.2f}  {self.multiply_adds / 1e6:.4g} M multiply-adds ({self.extra_computation:.3f}x)"
        )


def evaluate(
    model: Model,
    test: Examples | FeatureStore,
    top_k: int = 50,
    *,
    groups: LabelGroups | None = None,
    mapping: Mapping[str, str] | str | Path | None = None,
) -> Evaluation:
    """Judges a base or augmented network on examples, or on cached features of the base. Within `AugmentedClassifier.conditional` the
    multiply-adds are those executed on average.

    Args:
        model: from `wrap` or `augment`.
        test: examples not used for anything else, or their cached features.
        top_k: K of mAP@K.
        groups: for figures by group (default: the augmented network's own).
        mapping: source label names to target label names, or a CSV with the columns `source,target`; recall at 1 to 20 is then also measured on
            the mapped labels alone (the paper's Figure 2).
    """
    net = net_of(model)
    if groups is not None:
        check_groups(groups, net.n_labels)
    cost = net.cost
    multiply_adds, parameters = cost.multiply_adds, cost.parameters
    if not isinstance(model, WrappedClassifier):
        groups = groups or model.plan.groups
        if not model.is_base:
            multiply_adds, parameters = model.plan.multiply_adds, model.plan.parameters
    recall = recall_on_subset(model, test, mapping) if mapping is not None else {}
    dispatch = None if isinstance(model, WrappedClassifier) or model.is_base else model.dispatch
    if dispatch is not None:
        dispatch.reset()
    ranking = rank(model, test, top_k, "evaluating")
    if dispatch is not None:
        multiply_adds = round(dispatch.multiply_adds)
    return Evaluation(ranking, multiply_adds, cost.multiply_adds, parameters, net.labels, groups, recall)


def recall_on_subset(
    model: Model, test: Examples | FeatureStore, mapping: Mapping[str, str] | str | Path, most: int = 20
) -> dict[int, float]:
    """Recall at k = 1..most on the target labels of a mapping (the paper's Figure 2).

    Only scores of mapped source labels count; a target scores the best of its sources. Recall at k is the share of an example's annotated
    targets among its k best targets, averaged over the examples that have one.
    """
    net = net_of(model)
    pairs = _read_mapping(mapping)
    names = sorted(set(pairs.values()))
    given = "mapping" if isinstance(mapping, Mapping) else mapping
    with naming(given):
        source = torch.tensor(net.labels.indices(list(pairs)), device="cpu")
    place = {name: number for number, name in enumerate(names)}
    target = torch.tensor([place[pairs[name]] for name in pairs], device="cpu")
    of_label = torch.full((net.n_labels,), -1, dtype=torch.int64, device="cpu")
    of_label[source] = target
    most = min(whole_number("most", most), len(names))
    total, n = np.zeros(most), 0
    for scores, targets, _ in score_batches(model, test):
        best = torch.full((len(scores), len(names)), -torch.inf, device="cpu")
        best = best.scatter_reduce(1, target.expand(len(scores), -1), scores[:, source].float(), "amax")
        wanted = torch.zeros(len(scores), len(names), dtype=torch.bool, device="cpu")
        examples, labels = (torch.from_numpy(a) for a in targets.pairs())
        mapped = of_label[labels] >= 0
        wanted[examples[mapped], of_label[labels[mapped]]] = True
        has = wanted.any(1)
        order = best[has].sort(dim=1, descending=True, stable=True).indices[:, :most]
        hits = wanted[has].gather(1, order).cumsum(1) / wanted[has].sum(1, keepdim=True)
        total += hits.double().sum(0).numpy()
        n += int(has.sum())
    if not n:
        raise SelfInformedError(f"{given}: no example is annotated with a mapped label; check the source names of the mapping")
    return {k + 1: float(total[k] / n) for k in range(most)}


def _read_mapping(mapping: Mapping[str, str] | str | Path) -> dict[str, str]:
    if isinstance(mapping, Mapping):
        if not mapping:
            raise SelfInformedError("mapping: expected at least one source label and its target, got none")
        for name in (*mapping.keys(), *mapping.values()):
            expect(name, str, "mapping", "label names, source to target")
        return dict(mapping)
    expect(mapping, str | Path, "mapping", "source label names to target label names, or a CSV of them")
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(mapping, "mapping"), newline=""), strict=True))
    except csv.Error as error:
        raise SelfInformedError(f"mapping: {mapping} cannot be read ({reason_of(error)})") from None
    if not rows or any(row.get(column) is None for row in rows for column in ("source", "target")):
        raise SelfInformedError(f"mapping: {mapping} must be a CSV with the columns source,target, at least one row, and both in every row")
    pairs = {row["source"]: row["target"] for row in rows}
    for row in rows:
        if pairs[row["source"]] != row["target"]:
            both = f"{shown(row['target'])} and {shown(pairs[row['source']])}"
            raise SelfInformedError(f"mapping: {mapping} maps {shown(row['source'])} to {both}; expected one target for each source")
    return pairs
