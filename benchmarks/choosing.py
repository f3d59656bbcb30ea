"""What equal multiply-adds take in time, and what equal time gains: kanji's budget base with dense heads of several widths, and with output units that run
where the scores point (the structure that `make bench-search` found), on one thread.

    python benchmarks/choosing.py          # both; three quarters of an hour
    python benchmarks/choosing.py times    # PyTorch, test images, untrained heads, which changes no time; what is chosen depends on the base's scores
    python benchmarks/choosing.py gains    # trained as that search and its comparison train them (two passes), test data
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from bases import network_of
from characters import kanji
from common import RESULTS, save
from kanji import cached_parts
from winning import cached

from selfinformed.augmented.network import augment
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.latency import latency
from selfinformed.runtime.files import read_json
from selfinformed.structure.intervals import interval
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice

SEEDS = 3
DENSE = Choice("dense", rate=0.5, residual=0.25)
FOUND = Choice("confusions", 48, depth=0, top_groups=8, rate=0.5, residual=0.25)
ARMS = {
    **{f"dense, {budget:.0%}": (DENSE, budget) for budget in (0.03, 0.04, 0.05, 0.08)}, "chosen, 3%": (FOUND, 0.03),
}  # fmt: skip


def times() -> list[dict]:
    torch.set_num_threads(1)
    data = kanji(1)
    net, examples = network_of("kanji", "budget", data), data.examples("test")
    holdout = cached(net, lambda: data.examples("holdout"), "kanji-budget/holdout")
    rows = []
    for name, (choice, budget) in ARMS.items():
        structure = Builder(net, holdout, budget).structure(choice)
        for ran in (name, *([f"{name}, all run"] if structure.is_conditional else [])):
            aug = augment(net, structure.plan)
            aug.run_conditionally(structure.top_groups if ran == name else None)
            taken = latency(aug, examples, (1, 32, 256), repeats=200)
            rows.append({"arm": ran, "structure": structure.description, **{key: taken[key] for key in ("extra_computation", "rows")}})
            print(f"{ran}: {taken['extra_computation']:.3f}x; " + ", ".join(f"{row['ratio']:.3f}x at {row['batch_size']}" for row in taken["rows"]), flush=True)
    return rows


def gains() -> list[dict]:
    net, (train, holdout, test, _) = cached_parts("kanji", "budget", 1)
    rows = []
    for name, (choice, budget) in ARMS.items():
        structure = Builder(net, holdout, budget).structure(choice)
        scores = []
        for seed in range(SEEDS):
            aug, _ = structure.train(net, train, holdout=holdout, epochs=2, seed=seed)
            scores.append(evaluate(aug, test).ranking.mean_average_precision)
        rows.append({"arm": name, "mean_average_precision": np.mean(scores), "interval": interval(np.array(scores)), "scores": scores})
        print(f"{name}: {100 * np.mean(scores):.2f}", flush=True)
    return rows


if __name__ == "__main__":
    path, wanted = RESULTS / "choosing.json", sys.argv[1:] or ["times", "gains"]
    found = {key: read_json(path, "results").get(key) for key in ("times", "gains")} if path.exists() else {}
    found |= {name: {"times": times, "gains": gains}[name]() for name in wanted}
    save("choosing", {"seeds": SEEDS, "threads": 1, **found})
