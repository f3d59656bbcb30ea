"""Wall-clock of the paper's topology: augmented over base, fused heads over a Python loop, 8-bit first layers, conditional evaluation.

Run by `make bench-latency`; about six minutes on 2 cores. Every figure is a ratio of medians, or a median of ratios, of arms measured in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from common import save
from torch import nn

import selfinformed as si
from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.network.googlenet import PaperNet
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

REPEATS = {1: 41, 8: 15, 32: 11}


class Loop(nn.Module):
    """What one would write first: a list of heads, each with three linear layers, added to its columns one after the other."""

    def __init__(self, plan: HeadPlan) -> None:
        super().__init__()
        self.members = [torch.from_numpy(m) for m in plan.groups.members]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(plan.feature_size, w[0]), nn.ReLU(), nn.Linear(w[0], w[1]), nn.ReLU(), nn.Linear(w[1], n, bias=False))
            for w, n in zip(plan.hidden, plan.groups.sizes, strict=True)
        )
        self.n_labels = plan.groups.n_labels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        added = features.new_zeros(len(features), self.n_labels)
        for members, head in zip(self.members, self.heads, strict=True):
            added[:, members] += head(features)
        return added


def grouped(n_labels: int, n: int, unequal: bool) -> LabelGroups:
    rng = np.random.default_rng(0)
    order = rng.permutation(n_labels)
    shares = rng.dirichlet(np.full(n, 2.0)) if unequal else np.full(n, 1 / n)
    cuts = np.cumsum(np.maximum(1, (shares * n_labels).astype(int)))[:-1]
    return LabelGroups(n_labels, tuple(np.split(order, cuts)))


def timed(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds of each arm, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(repeats + 2):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            if turn > 1:
                seconds[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(taken) for name, taken in seconds.items()}


def compared(name: str, net: si.WrappedClassifier, groups: LabelGroups, size: int) -> list[dict[str, Any]]:
    plan = si.plan(net, groups, hidden=(512, 512))
    aug, rows = si.augment(net, plan, classifier="reinitialise"), []
    slot = aug._slot
    fused, loop = slot.heads, Loop(plan).eval()
    for batch, repeats in REPEATS.items():
        images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

        def within(run: AugmentedClassifier, *contexts: Any, images: torch.Tensor = images) -> Callable[[], Any]:
            def call() -> None:
                with ExitStack() as stack:
                    for context in contexts:
                        stack.enter_context(context())
                    run.logits(images)

            return call

        def looped(images: torch.Tensor = images) -> None:
            slot.heads = loop
            try:
                aug.logits(images)
            finally:
                slot.heads = fused

        top = lambda: aug.conditional(2)  # noqa: E731
        taken = timed({"base": lambda images=images: net.logits(images), "augmented": within(aug), "loop": looped, "conditional": within(aug, top)}, repeats)
        with aug.quantized_heads():  # entered once, as a server would
            small = {"base": lambda images=images: net.logits(images), "augmented": within(aug), "conditional": within(aug, top)}
            taken |= {f"{k} int8": v for k, v in timed(small, repeats).items()}
        added = {k: float(np.median(v - taken["base int8" if "int8" in k else "base"])) for k, v in taken.items() if "base" not in k}
        row = {
            "heads": name, "batch": batch, "multiply_adds_ratio": plan.extra_computation,
            "base_p50": float(np.median(taken["base"])), "base_p95": float(np.percentile(taken["base"], 95)),
            "augmented_p50": float(np.median(taken["augmented"])), "augmented_p95": float(np.percentile(taken["augmented"], 95)),
            "ratio": float(np.median(taken["augmented"] / taken["base"])), "ratio_int8": float(np.median(taken["augmented int8"] / taken["base int8"])),
            "ratio_loop": float(np.median(taken["loop"] / taken["base"])), "added_ms": added,
            **alone(plan, fused, loop, batch),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:<12} batch {batch:>2}: multiply-adds {row['multiply_adds_ratio']:.3f}x; "
            f"wall-clock float32 {row['ratio']:.3f}x, int8 {row['ratio_int8']:.3f}x, loop {row['ratio_loop']:.3f}x; "
            f"heads alone: loop/fused {row['loop_over_fused']:.2f}, "
            f"loop/int8 {row['loop_over_int8']:.2f}; conditional/all "
            f"{row['conditional_over_all']:.3f} (int8 {row['conditional_over_all_int8']:.3f}), random choice {row['random_conditional_over_all']:.3f}"
            f" (int8 {row['random_conditional_over_all_int8']:.3f})",
            flush=True,
        )
    return rows


@torch.no_grad()
def alone(plan: HeadPlan, fused: Any, loop: nn.Module, batch: int) -> dict[str, float]:
    """The heads without the network, which at batch 1 is most of the time and all of the noise: medians of 15.

    Conditional evaluation with scores as one network gives them for noise (all examples of a batch choose alike), and with random scores
    (the choices are as many as can be, so most heads run for some example).
    """
    from selfinformed.augmented.dispatch import Dispatch

    features, dispatch = torch.randn(batch, plan.feature_size), Dispatch(plan, 2)
    alike, random = torch.randn(1, plan.groups.n_labels).expand(batch, -1), torch.randn(batch, plan.groups.n_labels)
    arms = {
        "fused": lambda: alike + fused(features), "loop": lambda: alike + loop(features),
        "alike": lambda: alike + dispatch(fused, features, alike), "random": lambda: random + dispatch(fused, features, random),
    }  # fmt: skip
    taken = {k: float(np.median(v)) for k, v in timed(arms, 15).items()}
    fused.quantize(True)
    int8 = {k: float(np.median(v)) for k, v in timed({k: arms[k] for k in ("fused", "alike", "random")}, 15).items()}
    fused.quantize(False)
    return {
        "loop_over_fused": taken["loop"] / taken["fused"], "loop_over_int8": taken["loop"] / int8["fused"],
        "conditional_over_all": taken["alike"] / taken["fused"], "conditional_over_all_int8": int8["alike"] / int8["fused"],
        "random_conditional_over_all": taken["random"] / taken["fused"], "random_conditional_over_all_int8": int8["random"] / int8["fused"],
        "fused_ms": taken["fused"], "loop_ms": taken["loop"], "int8_ms": int8["fused"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=17_000)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = PaperNet(given.labels).eval().to(memory_format=torch.channels_last)
    net = si.wrap(model, torch.randn(2, 3, given.size, given.size), output="logistic")
    print(net)
    rows = []
    for name, n, unequal in (("6 equal", 6, False), ("13 equal", 13, False), ("13 unequal", 13, True), ("50 unequal", 50, True)):
        rows += compared(name, net, grouped(given.labels, n, unequal), given.size)
    save("latency", {"seed": 0, "labels": given.labels, "base_multiply_adds": net.cost.multiply_adds, "rows": rows})


if __name__ == "__main__":
    main()
