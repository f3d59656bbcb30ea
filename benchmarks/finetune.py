"""The arm `finetune` of the benchmarks where it was not part of the comparison:

    python benchmarks/finetune.py kanji budget

The whole network is trained on for as long as the searched structure took, the caching of features counted, and its rows join results/NAME.json. A time is
a number of passes: those that would have taken so long where the features were cached, by how long caching and training on take beside one another now. So
neither a busy machine nor another one gives the control less. A stopped run goes on.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import numpy as np
import torch
from common import RESULTS, save
from winning import Task, draw, said

from selfinformed.augmented.network import augment
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.evaluation import evaluate
from selfinformed.runtime.files import read_json
from selfinformed.runtime.journals import JournalFile
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.features import rank
from selfinformed.training.fitting import fit_whole

# Learning rates and AdamW's epsilon; the heads' own epsilon, 1e-3 with thousands of logistic labels, and the usual one.
TRIES = {
    "cjk": ((1e-4, 1e-3), (2.5e-4, 1e-3), (5e-4, 1e-3), (2e-3, 1e-3), (1e-4, 1e-8), (3e-4, 1e-8), (1e-3, 1e-8)),
    "wordnet": ((1e-3, 1e-3), (4e-3, 1e-3), (5e-4, 1e-8), (2.5e-4, 1e-8), (1.2e-4, 1e-8)),
}
USUAL = tuple((rate, 1e-8) for rate in (5e-4, 2e-3, 4e-3, 8e-3, 1.6e-2))
CONVERGED = tuple((rate, 1e-8) for rate in (2e-5, 1e-4, 5e-4, 2e-3, 4e-3))
BATCH = 128  # examples of a step of the whole network


def main(name: str, kind: str, task: Task | None = None) -> None:
    task = task or importlib.import_module(name).task(kind)
    assert task is not None
    bases = read_json(RESULTS / f"{name}.json", "results")["bases"]
    base = next(row for row in bases if row["kind"] == kind)
    found = base["comparison"]
    before = Comparison(found["rows"], {}, 50, found["about"])
    own, tuned = finetuned(task, before, base["speed"]["caching_seconds"])
    rows = [row for row in found["rows"] if row["arm"] != "finetune"] + own
    table = Comparison(rows, {}, 50, found["about"])
    base["finetune"] = tuned
    base["comparison"] |= {"rows": rows, "summary": table.summary(), "verdict": table.verdict}
    base["against"] = {arm: table.difference("searched", arm) for arm in table.arms if arm != "searched"}
    said(str(table) + "\n" + table.verdict)
    save(name, {"seed": 0, "bases": bases})
    draw(name, bases)


def finetuned(task: Task, table: Comparison, caching_seconds: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row of each seed, at the learning rate that is best on hold-out data, and how that was chosen; caching the training features took so long."""
    task.folder.mkdir(parents=True, exist_ok=True)
    kept: dict[Any, dict[str, Any]] = {}
    journal = JournalFile(task.folder / "finetune.jsonl", task.net.fingerprint, lambda line: kept.update({tuple(line["of"]): line}))
    if ("passes",) not in kept:
        journal.add(of=["passes"], passes=passes(task, table, caching_seconds))
    allowed = kept[("passes",)]["passes"]
    said(f"finetune: {np.mean(allowed):.2f} passes over {len(task.train):,} examples")

    def trained(rate: float, epsilon: float, seed: int) -> dict[str, Any]:
        if (rate, epsilon, seed) not in kept:
            train, holdout, test = (store.examples for store in (task.train, task.holdout, task.test))
            assert train is not None
            assert holdout is not None
            assert test is not None
            aug = augment(task.net, plan(task.net, LabelGroups(task.net.n_labels, ()), budget=task.budget), seed=seed)
            options = {"epochs": allowed[seed], "learning_rate": rate, "seed": seed, "recipe": {"epsilon": epsilon}}
            history = fit_whole(aug, train, batch_size=BATCH, **options)
            held_out = rank(aug, holdout, 50).mean_average_precision
            figures = {"arm": "finetune", "seed": seed, **evaluate(aug, test, 50).figures(), "seconds": history.seconds, "head_seconds": 0.0}
            journal.add(of=[rate, epsilon, seed], held_out=held_out, row=figures)
            said(f"finetune at {rate:g}, epsilon {epsilon:g}, seed {seed}: {100 * held_out:.2f} on hold-out data, in {history.seconds:.0f} s")
        return kept[(rate, epsilon, seed)]

    tries = {tried: trained(*tried, 0)["held_out"] for tried in (TRIES.get(task.name, USUAL) if task.kind == "budget" else CONVERGED)}
    best = max(tries, key=lambda tried: tries[tried])
    rows = [trained(*best, seed)["row"] for seed in range(len(allowed))]
    said(f"finetune on test data: {100 * np.mean([row['mean_average_precision'] for row in rows]):.2f}")
    told = [{"learning_rate": rate, "epsilon": epsilon, "holdout": score} for (rate, epsilon), score in tries.items()]
    return rows, {"passes": float(np.mean(allowed)), "tries": told}


def passes(task: Task, table: Comparison, caching_seconds: float, rounds: int = 5, examples: int = 1024) -> list[float]:
    """How many passes of training the whole network take as long as the searched structure did, for each seed."""
    data = task.train.examples
    assert data is not None
    ratios = []
    for number in range(rounds + 1):
        rows = [i % len(data) for i in range(number * examples, (number + 1) * examples)]
        start = time.perf_counter()
        with torch.inference_mode():
            for at in range(0, examples, 256):
                task.net.features(data.read(rows[at : at + 256]))
        caching = time.perf_counter() - start
        aug = augment(task.net, plan(task.net, LabelGroups(task.net.n_labels, ()), budget=task.budget))
        history = fit_whole(aug, data.take(rows), epochs=1, batch_size=BATCH, learning_rate=0.0)
        if number:
            ratios.append(history.seconds / caching)
    an_example = caching_seconds / len(task.train)
    said(f"training the whole network takes {np.median(ratios):.2f} times as long as caching ({min(ratios):.2f} to {max(ratios):.2f})")
    taken = an_example * (len(task.train) + len(task.holdout)) + table.values("searched", "head_seconds")
    return [float(seconds / (caching_seconds * np.median(ratios))) for seconds in taken]


if __name__ == "__main__":
    main(*sys.argv[1:])
