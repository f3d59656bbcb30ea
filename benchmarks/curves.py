"""More budgets in the figure of mAP against multiply-adds, for a benchmark that was measured before:

    python benchmarks/curves.py kanji budget 0.005 0.02 0.05

Each arm is trained at each budget with the learning rates that the comparison chose and the residual that is best on hold-out data, and its row
joins results/NAME.json.
"""

from __future__ import annotations

import importlib
import sys

from common import RESULTS, save
from winning import Task, curve, draw

from selfinformed.runtime.files import read_json


def main(name: str, kind: str, *budgets: str) -> None:
    bases = read_json(RESULTS / f"{name}.json", "results")["bases"]
    base = next(row for row in bases if row["kind"] == kind)
    task: Task = importlib.import_module(name).task(kind)
    for budget in map(float, budgets):  # kept one by one
        rows = curve(task, base["search"]["trials"], base["search"]["best"], base["comparison"]["about"]["tuned"], [budget])
        base["curve"] = [row for row in base["curve"] if row["budget"] != budget] + rows
        save(name, {"seed": 0, "bases": bases})
    draw(name, bases)


if __name__ == "__main__":
    main(*sys.argv[1:])
