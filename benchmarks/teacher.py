"""What a better teacher is worth beside a better structure: kanji's budget base, 3% more multiply-adds, two passes, the dense head and the structure that
`make bench-search` found, as it found them, trained with labels alone and with the longest-trained network of the same architecture as teacher, judged on
test data. Run by `make bench-teacher`; a quarter of an hour.

How much of the loss is the teacher's, and at what temperature, was chosen on hold-out data, one seed, among 0.5 at 2, 0.9 at 2 and 0.9 at 4.
"""

from __future__ import annotations

import numpy as np
from bases import network_of
from characters import kanji
from choosing import DENSE, FOUND
from common import save
from kanji import cached_parts
from winning import cached

from selfinformed.evidence.evaluation import evaluate
from selfinformed.structure.intervals import interval
from selfinformed.training.building import Builder
from selfinformed.training.teachers import TeacherNetwork

SEEDS = 3
TAUGHT = {"soft_targets": 0.9, "temperature": 4.0}


def main() -> None:
    net, (train, holdout, test, _) = cached_parts("kanji", "budget", 1)
    data = kanji(1)
    better = network_of("kanji", "long", data)
    teacher = TeacherNetwork(better, cached(better, lambda: data.examples("train"), "kanji-long/train"))
    builder, rows = Builder(net, holdout, 0.03), {}
    for name, choice in (("dense", DENSE), ("searched", FOUND)):
        structure = builder.structure(choice)
        for how, training in (("labels", {}), ("teacher", {"recipe": TAUGHT, "teacher": teacher})):
            values = []
            for seed in range(SEEDS):
                aug, _ = structure.train(net, train, holdout=holdout, epochs=2, seed=seed, **training)
                values.append(evaluate(aug, test).ranking.mean_average_precision)
            rows[name, how] = np.array(values)
            print(f"{name}, {how}: {100 * rows[name, how].mean():.2f}", flush=True)
    pairs = {
        "taught minus labels, dense": ("dense", "teacher", "dense", "labels"), "taught minus labels, searched": ("searched", "teacher", "searched", "labels"),
        "searched minus dense, labels": ("searched", "labels", "dense", "labels"), "searched minus dense, taught": ("searched", "teacher", "dense", "teacher"),
    }  # fmt: skip
    differences = {what: rows[a, b] - rows[c, d] for what, (a, b, c, d) in pairs.items()}
    save("teacher", {
        "seeds": SEEDS, "teacher_right": teacher.right(), "base": evaluate(net, test).ranking.mean_average_precision, **TAUGHT,
        "rows": [{"arm": name, "targets": how, "mean_average_precision": v.mean(), "interval": interval(v)} for (name, how), v in rows.items()],
        "differences": {what: {"mean": d.mean(), "interval": interval(d)} for what, d in differences.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
