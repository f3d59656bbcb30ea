"""make bench-search: what a user gets from the command line alone: `selfinformed search --budget 0.03` with every option at its default, on kanji's
budget base and on files, from uncached features to the structure; then `compare`. How long each takes, what was found, and what it gains on test data.

    python benchmarks/search.py [--folder FOLDER] [--seeds 5]     # goes on where it was stopped, in the folder; times are then of what was left
    python benchmarks/search.py --latency-batch 256 --budget 0.06     # the same for a budget of time, of so many examples at once
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bases import network_of
from characters import CACHE, kanji
from common import save

from selfinformed.augmented.network import augment
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.latency import latency
from selfinformed.runtime.files import read_json
from selfinformed.training.structures import Structure

MODEL = """
import sys

sys.path.insert(0, {benchmarks!r})
from bases import base


def make():
    return base("kanji", "budget", {n_labels})
"""
ARMS = ["base", "classifier", "dense", "searched"]


def prepare(folder: Path, seeds: int) -> Path:
    """Writes data, model and configuration as a user has them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = kanji(1)
    for part in ("train", "holdout", "test"):
        if not (folder / f"{part}.npz").exists():
            examples = data.examples(part)
            np.savez(folder / f"{part}.npz", inputs=examples.read(range(len(examples))), targets=examples.targets.labels)
    (folder / "labels.txt").write_text("\n".join(data.labels.names) + "\n")
    (folder / "model.py").write_text(MODEL.format(benchmarks=str(Path(__file__).parent.resolve()), n_labels=len(data.labels)))
    options: dict[str, Any] = {"model": f"{folder / 'model.py'}:make", "labels": str(folder / "labels.txt"), "output": str(folder / "run"), "seeds": seeds}
    options |= {part: str(folder / f"{part}.npz") for part in ("train", "holdout", "test")}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder / "config.yaml"


def called(*arguments: str) -> float:
    """Seconds of one call of the command line."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "selfinformed", *arguments], check=True)
    return time.perf_counter() - start


def times(found: dict[str, Any], batch: int) -> dict[str, float]:
    """Measured time of the best structure and of the best dense head over the base's, on test images, untrained."""
    data = kanji(1)
    net, examples = network_of("kanji", "budget", data), data.examples("test")
    ratios = {}
    for name in ("best", "dense"):
        structure = Structure.from_dict(found[name])
        aug = augment(net, structure.plan)
        aug.run_conditionally(structure.top_groups)
        ratios[name] = latency(aug, examples, (batch,), repeats=100)["rows"][0]["ratio"]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CACHE / "search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.03)
    parser.add_argument("--latency-batch", type=int, help="the budget is of time, of so many examples at once")
    given = parser.parse_args()
    config = prepare(given.folder, given.seeds)
    by_time = ["--budget-of", "latency", "--latency-batch", str(given.latency_batch)] if given.latency_batch else []
    options = ["--budget", str(given.budget), *by_time, "--output", str(given.folder / f"run-{given.latency_batch or 'multiply-adds'}")]
    run = Path(options[-1])
    searching = called("search", str(config), *options)
    found = read_json(run / "search.json", "search")
    arms = [*ARMS, *(["searched_dense"] if found["dense"] != found["best"] else [])]
    comparing = called("compare", str(config), *options, "--arms", ",".join(arms))
    table = Comparison.load(run / "comparison.json")
    save(f"search-latency-{given.latency_batch}" if given.latency_batch else "search", {
        "data": "kanji, 2,965 labels, budget base", "seed": 0, "seeds": given.seeds, "budget": given.budget, "latency_batch": given.latency_batch,
        "search_seconds": searching, "compare_seconds": comparing,
        "trials_seconds": sum(row["seconds"] for row in found["trials"]),
        "tried": len({row["structure"] for row in found["trials"]}), "trials": len(found["trials"]), "left_out": len(found["left_out"]),
        "search_verdict": found["verdict"], "verdict": table.verdict, "summary": table.summary(), "tuned": table.about["tuned"],
        "time": times(found, given.latency_batch) if given.latency_batch else None,
        "against": {arm: table.difference("searched", arm) for arm in table.arms if arm != "searched"},
    })  # fmt: skip
    print(found["verdict"], table, table.verdict, f"search {searching:.0f} s, compare {comparing:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
