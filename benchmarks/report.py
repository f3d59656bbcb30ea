"""The report of a benchmark's comparison, of 21,616 labels for cjk:

    python benchmarks/report.py cjk budget   # writes runs/cjk-budget/report.html

The comparison's rows come from its journal in the cache folder; the searched structure is trained once more, for how it errs.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from common import RESULTS
from winning import Task

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.judging import judge
from selfinformed.evidence.reporting import Findings, report
from selfinformed.runtime.files import read_json, write_json
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.groups import LabelGroups
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice


def main(name: str, kind: str) -> None:
    task: Task = importlib.import_module(name).task(kind)
    base = next(row for row in read_json(RESULTS / f"{name}.json", "results")["bases"] if row["kind"] == kind)
    comparison = compared(task, base["comparison"])
    best = next(row["choice"] for row in base["search"]["trials"] if row["structure"] == base["search"]["best"])
    builder = Builder(task.net, task.holdout, task.budget)
    structure = builder.structure(Choice(**best))
    aug, history = structure.train(task.net, task.train, holdout=task.holdout, epochs=task.epochs, seed=0, **task.training)
    groups = structure.plan.groups
    with structure.evaluating(aug):
        evaluation = judge(aug, task.test, training_positives=task.train.targets.positives().tolist())
    folder = Path("runs") / f"{name}-{kind}"
    findings = Findings(
        f"{name}, {kind} base, {task.net.n_labels:,} labels", task.net.labels, builder.counts("confusions"), groups, structure.plan, comparison,
        base["probe"], evaluation, search=base["search"], history=history.rows, images=pictures(task, groups), config={"epochs": task.epochs, **task.training},
    )  # fmt: skip
    print(report(findings, folder))
    for artefact, content in {"comparison": comparison.to_dict(), "evaluation": evaluation, "probe": base["probe"]}.items():
        write_json(folder / f"{artefact}.json", content)


def compared(task: Task, found: dict) -> Comparison:
    """The results' rows, with each label's average precision from the journal."""
    lines = [json.loads(line) for line in (task.folder / "comparison.jsonl").read_text("utf-8").splitlines()]
    by_arm: dict[str, list[np.ndarray]] = {}
    for line in lines:
        if "row" in line and line["key"] == lines[-1]["key"]:
            by_arm.setdefault(line["row"]["arm"], []).append(np.array(line["per_label"], dtype=float))
    means = {arm: np.array([nan_mean(column) for column in np.stack(values).T]) for arm, values in by_arm.items()}
    return Comparison(found["rows"], means, 50, found["about"])


def pictures(task: Task, groups: LabelGroups, most: int = 1_500) -> dict[int, bytes]:
    """A PNG of a hold-out example for the first labels of each group."""
    from PIL import Image

    assert task.holdout.examples is not None
    rows, labels = task.holdout.targets.pairs()
    first = dict(zip(labels[::-1].tolist(), rows[::-1].tolist(), strict=True))
    wanted = [int(label) for members in groups.members for label in members[: most // len(groups)] if int(label) in first]
    images = task.holdout.examples.read([first[label] for label in wanted])
    found = {}
    for label, image in zip(wanted, images, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[0].numpy().astype(np.uint8)).quantize(8).save(buffer, "png", optimize=True)
        found[label] = buffer.getvalue()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
