"""make bench-wordnet: WordNet's glosses to all hypernyms with 20 or more members, several labels per example, a frozen MiniLM."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from bases import log_seconds
from characters import PARTS
from glosses import base, embedding_seconds, embeddings, examples, glosses
from winning import RATES, Task, run

from selfinformed.network.wrap import wrap
from selfinformed.training.features import FeatureStore
from selfinformed.training.spaces import Space

SPACE = Space(
    grouping=("confusions", "codetections", "hinton"), n_groups=(3, 6, 12), detections=(None,), cover_share=(None,), dense_share=(0.0, 0.5), depth=(1, 0),
    capacity=("uniform",), top_groups=(None, 4), share=(1.0,), shared=(0,), rate=(1.0,),
)  # fmt: skip
# Chosen among nine by a dense head on hold-out data, and the best of six for the structure that had won (see docs/results.md).
TRAINING = {"learning_rate": 6e-3, "classifier_learning_rate": 3e-3, "recipe": {"epsilon": 1e-3}}


def task(kind: str) -> Task:
    _, targets, labels, part = glosses()
    network = base(kind)
    inputs = examples("test").example_inputs()
    net = wrap(network, inputs, labels=labels, attach="trunk.layers", output="logistic")
    stores = []
    for name in PARTS:
        rows = np.flatnonzero(part == PARTS.index(name))
        attached = embeddings()[torch.from_numpy(rows)]
        with torch.no_grad():
            penultimate = network.stack(attached[:, -384:])
        stores.append(FeatureStore(attached, penultimate, targets.take(rows), net.fingerprint, embedding_seconds(name), examples(name), net.shapes))
    train, holdout, test = stores
    arms = ("base", "classifier", "confusions", "random", "dense", "searched")
    if kind == "budget":
        arms = (*arms, "hinton", "gated", "adapter")
        return Task(
            "wordnet", kind, net, train, holdout, test, None, log_seconds("wordnet", kind), 0.5, SPACE, budget=0.01, candidates=30, rounds=1,
            arms=arms, curve=(0.005, 0.05), tuning=None, training=TRAINING,
        )  # fmt: skip
    space = replace(SPACE, grouping=("confusions", "codetections"), n_groups=(6, 12), residual=(0.0, 0.25))  # none that corrects came near
    return Task(
        "wordnet", kind, net, train, holdout, test, None, log_seconds("wordnet", kind), 2.0, space, budget=0.01, candidates=18, rounds=1,
        arms=arms, tuning=None, training=RATES | {"recipe": {"epsilon": 1e-4}},
    )  # fmt: skip


if __name__ == "__main__":
    run("wordnet", {kind: lambda kind=kind: task(kind) for kind in ("budget", "converged")}, *sys.argv[1:])
