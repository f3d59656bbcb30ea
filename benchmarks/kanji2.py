"""make bench-kanji2: all 6,355 kanji of JIS X 0208 in 36 typefaces, otherwise as `kanji.py`; half a pass over twice the examples."""

from __future__ import annotations

import sys
from dataclasses import replace

from bases import log_seconds
from kanji import SPACE, cached_parts
from winning import Task, run

WHAT_WON = replace(SPACE, grouping=("confusions",), n_groups=(24, 48), depth=(0,), top_groups=(8, 16))


def task(kind: str) -> Task:
    net, stores = cached_parts("kanji2", kind, 2)
    train, holdout, test, views = stores
    return Task(
        "kanji2", kind, net, train, holdout, test, views, log_seconds("kanji2", kind), 0.5, WHAT_WON, candidates=20, rounds=1, tuning=(1.0,),
    )  # fmt: skip


if __name__ == "__main__":
    run("kanji2", {kind: lambda kind=kind: task(kind) for kind in ("budget",)}, *sys.argv[1:])
