"""The probe once more, for bases that were measured before it became what it is; its figures take the place of those in results/NAME.json:

    python benchmarks/forecasts.py kanji budget
"""

from __future__ import annotations

import importlib
import sys

from common import RESULTS, save
from winning import N_GROUPS, Task, forecast_of

from selfinformed.runtime.files import read_json
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice


def main(name: str, kind: str) -> None:
    task: Task = importlib.import_module(name).task(kind)
    groups = Builder(task.net, task.holdout, task.budget).structure(Choice("confusions", N_GROUPS)).plan.groups
    found = forecast_of(task, groups)
    bases = read_json(RESULTS / f"{name}.json", "results")["bases"]
    next(row for row in bases if row["kind"] == kind).update(found)
    save(name, {"seed": 0, "bases": bases})


if __name__ == "__main__":
    main(*sys.argv[1:])
