"""The arm `finetune` of the benchmarks where it was not part of the comparison, and cached features against the trunk in the loop:

    python benchmarks/finetune.py kanji budget

The whole network is trained on for as long as the searched structure took, the caching of features counted, and its rows join results/NAME.json. Run it
on an idle machine: a time is a number of steps only there.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from common import RESULTS, save
from winning import N_GROUPS, Task, draw, said, speed

from selfinformed.evidence.arms import Bench
from selfinformed.evidence.comparison import Comparison
from selfinformed.runtime.files import read_json
from selfinformed.training.structures import Builder, Choice

TUNING = {"wordnet": (0.1, 0.3, 1.0, 4.0)}  # factors of 5e-4 that are tried; a pretrained transformer wants lower ones
USUAL = (1.0, 4.0, 8.0, 16.0, 32.0)


def main(name: str, kind: str) -> None:
    task: Task = importlib.import_module(name).task(kind)
    bases = read_json(RESULTS / f"{name}.json", "results")["bases"]
    base = next(row for row in bases if row["kind"] == kind)
    found = base["comparison"]
    before = Comparison(found["rows"], {}, 50, found["about"])
    rows = [row for row in found["rows"] if row["arm"] != "finetune"] + finetuned(task, before)
    table = Comparison(rows, {}, 50, found["about"])
    base["comparison"] |= {"rows": rows, "summary": table.summary(), "verdict": table.verdict}
    base["against"] = {arm: table.difference("searched", arm) for arm in table.arms if arm != "searched"}
    base["speed"] = speed(task, table)
    said(str(table) + "\n" + table.verdict)
    save(name, {"seed": 0, "bases": bases})
    draw(name, bases)


def finetuned(task: Task, table: Comparison) -> list[dict[str, Any]]:
    heads = Builder(task.net, task.holdout, task.budget).structure(Choice("confusions", N_GROUPS)).plan
    bench = Bench(task.net, heads, task.train, task.test, task.holdout, None, None, None, None, task.epochs, "keep", 5e-4, dict(task.training))
    caching = task.train.seconds + task.holdout.seconds
    seconds = [caching + float(taken) for taken in table.values("searched", "head_seconds")]
    tries = {factor: bench.trained("finetune", 0, factor, seconds[0]) for factor in TUNING.get(task.name, USUAL)}
    scores = {factor: bench.score("finetune", aug, 50) for factor, (aug, _) in tries.items()}
    best = max(scores, key=lambda factor: scores[factor])
    said("finetune on hold-out data: " + ", ".join(f"{5e-4 * factor:g} {100 * score:.2f}" for factor, score in scores.items()))
    rows = []
    for seed, allowed in enumerate(seconds):
        aug, history = tries[best] if seed == 0 else bench.trained("finetune", seed, best, allowed)
        rows.append({"arm": "finetune", "seed": seed, **bench.judged("finetune", aug, 50).figures(), "seconds": history.seconds, "head_seconds": 0.0})
        said(f"finetune {seed}: {100 * rows[-1]['mean_average_precision']:.2f} in {history.seconds:.0f} s")
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
