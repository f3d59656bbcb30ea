"""make bench-cjk: 17,000 and more ideographs and their components, logistic outputs, 384 pooled features: many labels beside few features."""

from __future__ import annotations

import sys
from dataclasses import replace

from bases import log_seconds, network_of
from characters import PARTS, cjk
from winning import Task, cached, run

from selfinformed.training.spaces import Space

SPACE = Space(
    grouping=("confusions", "balanced"), n_groups=(24, 48), detections=(None,), cover_share=(None,), dense_share=(0.0,), depth=(1, 0), capacity=("uniform",),
    top_groups=(8,), share=(1.0,), shared=(0,), rate=(1.0,),
)  # fmt: skip
# Chosen among eleven by a dense head on hold-out data: with AdamW's usual epsilon every rate loses in so short a training (see docs/results.md).
TRAINING = {"learning_rate": 1e-2, "classifier_learning_rate": 1e-3, "recipe": {"epsilon": 1e-3}}


def task(kind: str) -> Task:
    data = cjk()
    net = network_of("cjk", kind, data)
    folder = f"cjk-{kind}"
    train, holdout, test = (cached(net, lambda part=part: data.examples(part), f"{folder}/{part}") for part in PARTS)
    arms = ("base", "classifier", "confusions", "codetections", "random", "dense", "hinton", "gated", "adapter", "searched")
    if kind == "converged":  # a dense head after a pass, on hold-out data (base 89.6): 90.0 seeing the scores, 90.8 half of them, 90.9 a quarter
        return Task(
            "cjk", kind, net, train, holdout, test, None, log_seconds("cjk", kind), 2.0, replace(SPACE, residual=(0.25,)), candidates=6, rounds=1,
            arms=("base", "classifier", "confusions", "random", "dense", "searched"), tuning=None,
            training=TRAINING | {"recipe": {"epsilon": 1e-3, "residual": 0.25}},
        )  # fmt: skip
    return Task(
        "cjk", kind, net, train, holdout, test, None, log_seconds("cjk", kind), 0.25, SPACE, candidates=15, rounds=1, arms=arms, curve=(0.01,),
        tuning=None, training=TRAINING,
    )  # fmt: skip


if __name__ == "__main__":
    run("cjk", {kind: lambda kind=kind: task(kind) for kind in ("budget", "converged")}, *sys.argv[1:])
