"""Counts that nobody would wish for, through every way to group labels, on one, two and four threads in turn: the same groups, to the bit?

    python benchmarks/degenerate.py --runs 20

The matrices are those of tests/structure/degenerate.py, each as confusions or as co-detections; every run of a way is compared with its first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import torch
from common import save
from threadpoolctl import threadpool_limits

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groupings import Method

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "structure"))
from degenerate import MATRICES, counts_of, numbers_of_groups, outcome

THREADS = (1, 2, 4)


def main(runs: int) -> None:
    start, tally, wrong = time.perf_counter(), Counter[str](), []
    for i, name in enumerate(MATRICES):
        for method in get_args(Method):
            counts = counts_of(name, "codetections" if method == "hinton" or i % 2 else "confusions")
            numbers = numbers_of_groups(counts)
            n_groups = numbers[i // 2 % len(numbers)]
            try:
                result = outcome(counts, n_groups, method)
                tally["refused in words" if isinstance(result, str) else "grouped"] += 1
                seen = [told(counts, n_groups, method, THREADS[run % len(THREADS)]) for run in range(runs)]
                tally["runs"] += len(seen)
                differing = sum(one != seen[0] for one in seen)
                if differing:
                    wrong.append(f"{name}, {counts.kind}, {method}, n_groups {n_groups}: {differing} runs differ")
            except Exception as error:  # NaN, an error of another kind, groups that do not hold what groups have to hold
                wrong.append(f"{name}, {counts.kind}, {method}, n_groups {n_groups}: {type(error).__name__}: {error}")
    save("degenerate", {
        "command": f"python benchmarks/degenerate.py --runs {runs}", "matrices": len(MATRICES), "ways": list(get_args(Method)), "runs_of_each": runs,
        "threads": THREADS, **tally, "wrong": wrong, "seconds": time.perf_counter() - start,
    })  # fmt: skip


def told(counts: ConfusionCounts, n_groups: Any, method: Method, threads: int) -> Any:
    """All that a grouping says, or its error, on some number of threads."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        try:
            groups = cluster(counts, n_groups, method=method)
        except SelfInformedError as error:
            return str(error)
    return [members.tolist() for members in groups.members], groups.eigenvalues, groups.method


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each way")
    main(parser.parse_args().runs)
