"""Where specialists overtake a dense head at equal cost, as labels become many beside groups x features: `make bench-crossover`.

The kanji budget base's trunk features are projected onto their D leading principal components (the projection's own cost is left out), so that
C / (K D) grows while labels, examples and budget stay: 3% of the base's multiply-adds. One seed for each point, half a pass, and the learning rates
that every arm chose on the whole features.
"""

from __future__ import annotations

import numpy as np
import torch
from common import RESULTS, save
from kanji import task
from torch import nn
from winning import LOOKS, N_GROUPS, RATES

from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.figures import save_figure
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore

SIZES = (1536, 384, 128, 32)
ARMS = {
    "dense": Choice("dense"), "6 groups from confusions": Choice("confusions", N_GROUPS), "6 random groups": Choice("random", N_GROUPS),
    "24 groups, output units alone, 8 run": Choice("confusions", 24, depth=0, top_groups=8),
}  # fmt: skip


class FromFeatures(nn.Module):
    """[attached D | penultimate P] to logits, with an attach point on the first D."""

    def __init__(self, size: int, classifier: nn.Linear) -> None:
        super().__init__()
        self.size, self.attached, self.classifier = size, nn.Identity(), classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.attached(x[:, : self.size])
        logits: torch.Tensor = self.classifier(x[:, self.size :])
        return logits


def projected(store: FeatureStore, shift: torch.Tensor, axes: torch.Tensor, net: WrappedClassifier) -> FeatureStore:
    parts = [store.batch(rows) for rows in torch.arange(len(store)).split(4096)]
    attached = torch.cat([(a - shift) @ axes for a, _ in parts])
    return FeatureStore(attached, torch.cat([p for _, p in parts]), store.targets, net.fingerprint, store.seconds, None, net.shapes)


def main() -> None:
    base = task("budget")
    features = torch.cat([base.holdout.batch(rows)[0] for rows in torch.arange(len(base.holdout)).split(4096)])
    shift = features.mean(0)
    _, vectors = torch.linalg.eigh(((features - shift).T @ (features - shift)).double())
    rows = []
    for size in SIZES:
        axes = vectors[:, -size:].float()
        network = FromFeatures(size, base.net.classifier).eval()
        net = wrap(network, torch.zeros(1, size + base.net.classifier.in_features), attach=AttachPoint("attached"), output="softmax", labels=base.net.labels)
        train, holdout, test = (projected(store, shift, axes, net) for store in (base.train, base.holdout, base.test))
        budget = base.budget * base.net.cost.multiply_adds / net.cost.multiply_adds
        builder = Builder(net, holdout, budget)
        for name, choice in ARMS.items():
            structure = builder.structure(choice)
            aug, _ = structure.train(net, train, holdout=holdout, epochs=base.epochs / 2, seed=0, **RATES)
            with structure.evaluating(aug):
                figures = evaluate(aug, test).figures()
            row = {"features": size, "labels_per_group_and_feature": net.n_labels / (N_GROUPS * size), "arm": name, **figures}
            rows.append(row)
            print(f"D {size:5d}  C/(KD) {row['labels_per_group_and_feature']:6.2f}  {name:40s} {100 * row['mean_average_precision']:.2f}", flush=True)
    save("crossover", {"seed": 0, "rows": rows})
    save_figure(figure(rows), RESULTS / "crossover.png")


def figure(rows: list[dict]) -> object:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = drawn.add_subplot()
    dense = {row["features"]: row["mean_average_precision"] for row in rows if row["arm"] == "dense"}
    for arm, (colour, marker) in zip([arm for arm in ARMS if arm != "dense"], [LOOKS[arm] for arm in ("confusions", "random", "searched")], strict=True):
        mine = [row for row in rows if row["arm"] == arm]
        x = [row["labels_per_group_and_feature"] for row in mine]
        axes.plot(x, [100 * (row["mean_average_precision"] - dense[row["features"]]) for row in mine], color=colour, marker=marker, label=arm)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set(xscale="log", xlabel="C / (K D), K = 6", ylabel="mAP@50 over one dense head at the same cost (points)")
    axes.set_title("kanji, budget base, 3% of its multiply-adds")
    axes.set_xticks([0.3, 1, 3, 10]), axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="center left", edgecolor="none", framealpha=0.9)
    axes.grid(alpha=0.3)
    assert np.isfinite(list(dense.values())).all()
    return drawn


if __name__ == "__main__":
    main()
