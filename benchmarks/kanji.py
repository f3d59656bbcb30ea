"""make bench-kanji: 2,965 JIS kanji in 36 typefaces, one label per example, softmax."""

from __future__ import annotations

import sys
from dataclasses import replace

from bases import log_seconds, network_of
from characters import kanji
from winning import Task, cached, run

from selfinformed.network.wrap import WrappedClassifier
from selfinformed.training.features import FeatureStore
from selfinformed.training.spaces import Space

SPACE = Space(
    grouping=("confusions", "codetections", "hinton"), n_groups=(6, 24), detections=(None,), cover_share=(None,), dense_share=(0.0,), depth=(1, 0),
    capacity=("uniform",), top_groups=(None, 8), share=(1.0,), shared=(0,), rate=(1.0,),
)  # fmt: skip


def task(kind: str) -> Task:
    net, stores = cached_parts("kanji", kind, 1)
    train, holdout, test, views = stores
    arms = ("base", "classifier", "confusions", "codetections", "random", "dense", "hinton", "gated", "adapter", "searched")
    if kind != "budget":  # on the long-trained base a tenth of the rates is enough where heads correct it, and more is too much; on the converged one not
        arms = ("base", "classifier", "confusions", "random", "dense", "searched")
        return Task(
            "kanji", kind, net, train, holdout, test, views, log_seconds("kanji", kind), 2.0, replace(SPACE, rate=(1.0, 0.3)), candidates=24, rounds=1,
            arms=arms, tuning=(1.0, 0.1) if kind == "long" else (1.0,),
        )  # fmt: skip
    return Task(  # at the rates that every arm preferred to half of them
        "kanji", kind, net, train, holdout, test, views, log_seconds("kanji", kind), 1.0, SPACE, candidates=36, rounds=1,
        arms=arms, curve=(0.005, 0.01, 0.02, 0.1), tuning=(1.0,),
    )  # fmt: skip


def cached_parts(name: str, kind: str, level: int) -> tuple[WrappedClassifier, list[FeatureStore]]:
    """A base and the cached features of train, hold-out and test examples and of a second view of the latter."""
    data = kanji(level)
    net = network_of(name, kind, data)
    parts = (("train", "train", 0), ("holdout", "holdout", 0), ("test", "test", 0), ("views", "test", 1))
    return net, [cached(net, lambda part=part, seed=seed: data.examples(part, seed=seed), f"{name}-{kind}/{to}") for to, part, seed in parts]


if __name__ == "__main__":
    run("kanji", {kind: lambda kind=kind: task(kind) for kind in ("budget", "converged", "long")}, *sys.argv[1:])
