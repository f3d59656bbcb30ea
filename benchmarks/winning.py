"""The method against every control at equal cost, on one data set with the bases that are saved for it: what `make bench-kanji`, `bench-cjk` and
`bench-wordnet` run.

For each base: the probe's forecast, a search on hold-out data, the comparison of all arms over seeds on test data, mAP against
multiply-adds, what training on cached features saves, and the whole network trained on instead (finetune.py). Features and trials are cached, so that
a stopped run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from characters import CACHE
from common import RESULTS, save

from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.figures import save_figure
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json
from selfinformed.runtime.journals import JournalFile
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.intervals import interval
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.headroom import probe
from selfinformed.training.losses import gradient_of
from selfinformed.training.recipe import RESIDUALS
from selfinformed.training.searching import SearchResult, search
from selfinformed.training.spaces import Space

N_GROUPS = 6
TUNING = (1.0, 0.5)  # factors of the learning rates that every arm tries on hold-out data, as the search does
RATES = {"learning_rate": 3e-3, "classifier_learning_rate": 1.5e-3}


@dataclass(frozen=True, eq=False)
class Task:
    """One base and its data.

    Attributes:
        name, kind: of the data set and of the base.
        train, holdout, test: cached features.
        views: another view of the test examples, where there is one.
        base_seconds: what training the base took.
        epochs: passes over the cached features, for every arm.
        budget: extra multiply-adds of every arm.
        space, candidates, rounds: of the search.
        seeds, arms, tuning: of the comparison.
        curve: budgets at which mAP is plotted.
        training: options of `fit` for every arm.
    """

    name: str
    kind: str
    net: WrappedClassifier
    train: FeatureStore
    holdout: FeatureStore
    test: FeatureStore
    views: FeatureStore | None
    base_seconds: float
    epochs: float
    space: Space
    budget: float = 0.03
    candidates: int = 20
    rounds: int = 2
    seeds: int = 5
    arms: Sequence[str] = ("base", "classifier", "confusions", "codetections", "random", "dense", "hinton", "gated", "adapter", "searched")
    curve: Sequence[float] = ()
    training: dict[str, Any] = field(default_factory=lambda: dict(RATES))
    tuning: Sequence[float] | None = TUNING

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name}-{self.kind}"


def cached(net: WrappedClassifier, examples: Callable[[], Examples], folder: str) -> FeatureStore:
    """Features of examples, from shards in the cache folder."""
    return FeatureStore.build(net, examples(), 256, f"caching {folder} features", CACHE / folder, "float16", memory=0.9)


def measure(task: Task) -> dict[str, Any]:
    """Everything about one base."""
    task.folder.mkdir(parents=True, exist_ok=True)
    net, start = task.net, time.perf_counter()
    builder = Builder(net, task.holdout, task.budget)
    plans = {kind: builder.structure(Choice(kind, N_GROUPS)).plan for kind in ("confusions", "codetections", "hinton")}
    said(f"{task.name} {task.kind}: {net}")
    forecasts: list[dict[str, Any]] = []
    inputs = [net.fingerprint, *(store.digest() for store in (task.train, task.holdout)), task.epochs, task.budget, task.tuning, task.training]
    journal = JournalFile(task.folder / "forecast.jsonl", json.dumps(inputs), forecasts.append)
    if not forecasts:
        journal.add(forecast=forecast_of(task, plans["confusions"].groups))
    forecast = forecasts[0]["forecast"]
    found = search(
        net, task.train, task.holdout, budget=task.budget, space=task.space, candidates=task.candidates, rounds=task.rounds, epochs=task.epochs,
        counts={kind: builder.counts(kind) for kind in ("confusions", "codetections")}, journal=task.folder / "search.jsonl", **task.training,
    )  # fmt: skip
    said(found.verdict)
    options: dict[str, Any] = {
        "holdout": task.holdout, "seeds": task.seeds, "epochs": task.epochs, "tuning": task.tuning, **task.training,
    }
    table = compare(
        net, plans["confusions"], task.train, task.test, codetections=plans["codetections"], hinton=plans["hinton"], searched=found.best,
        views=task.views, journal=task.folder / "comparison.jsonl",
        arms=[*task.arms, *(["views"] if task.views else []), *(["unsure_dense", "chance"] if found.best.share < 1 else [])], **options,
    )  # fmt: skip
    said(str(table) + "\n" + table.verdict)
    more = further(task, found, table)
    gain = table.difference("searched", "base")
    return {
        "kind": task.kind, "labels": net.n_labels, "features": net.feature_size, "multiply_adds": net.cost.multiply_adds,
        "labels_per_group_and_feature": net.n_labels / (N_GROUPS * net.feature_size), "examples": [len(task.train), len(task.holdout), len(task.test)],
        "epochs": task.epochs, "budget": task.budget, "base_seconds": task.base_seconds,
        **forecast, "gained": 100 * gain["mean"],
        "search": {k: v for k, v in found.to_dict().items() if k not in ("best", "dense", "plan")} | {
            "best": found.best.description, "dense": found.dense.description},
        "comparison": {"rows": table.rows, "summary": table.summary(), "verdict": table.verdict, "about": table.about},
        "further": more, "against": {
            arm: table.difference("searched", arm) for arm in table.arms if arm != "searched"},
        "curve": curve(task, found.trials, found.best.description, table.about["tuned"], task.curve),
        "speed": speed(task, table), "seconds": round(time.perf_counter() - start),
    }  # fmt: skip


def forecast_of(task: Task, groups: LabelGroups) -> dict[str, Any]:
    """What the probe says of a base."""
    room = probe(task.net, task.train, task.holdout, groups=groups, epochs=task.epochs, budget=task.budget, rates=task.tuning or (1.0,), **task.training)
    said(room.verdict)
    return {"probe": room.to_dict() | {"groups": [], "labels": []}, "forecast_gain": room.forecast.gain}


def further(task: Task, found: SearchResult, table: Comparison) -> dict[str, Any]:
    """Controls of the searched structure itself: the best dense head of the search, and random groups in the searched structure's place."""
    rows: dict[str, Any] = {}
    tuned = table.about["tuned"].get("dense", {})
    plain = Choice("dense", rate=tuned.get("factor", 1.0), residual=tuned.get("residual", 1.0))
    own = found.dense.description not in (str(plain), found.best.description)  # else there is a row of it
    arms: dict[str, Any] = {"dense as searched": found.dense} if own else {}
    if len(found.best.plan.groups) > 1:
        arms["searched, random groups"] = None
    for name, structure in arms.items():
        values = []
        for seed in range(task.seeds):
            used = structure or replace(found.best, plan=found.best.plan.with_groups(found.best.plan.groups.randomized(seed)))
            aug, _ = used.train(task.net, task.train, holdout=task.holdout, epochs=task.epochs, seed=seed, **task.training)
            with used.evaluating(aug):
                values.append(evaluate(aug, task.test).figures())
        scores = np.array([v["mean_average_precision"] for v in values])
        difference = table.values("searched") - scores
        rows[name] = {
            "mean_average_precision": scores.mean(), "interval": interval(scores), "extra_computation": np.mean([v["extra_computation"] for v in values]),
            "top1": np.mean([v["top1"] for v in values]), "searched_over_it": {"mean": difference.mean(), "interval": interval(difference)},
        }  # fmt: skip
        said(f"{name}: {100 * scores.mean():.2f}, searched over it {100 * difference.mean():+.2f} {interval(difference)}")
    return rows


def curve(
    task: Task, trials: Sequence[dict[str, Any]], searched: str, tuned: dict[str, dict[str, Any]], budgets: Sequence[float]
) -> list[dict[str, Any]]:
    """mAP on test data against multiply-adds: one seed for each budget and arm, with the residual that is best there on hold-out data; `searched` is the
    name of the best of the trials, `tuned` how the comparison trained the others."""
    best = next(row["choice"] for row in trials if row["structure"] == searched)
    arms = {"dense": Choice("dense"), "confusions": Choice("confusions", N_GROUPS), "random": Choice("random", N_GROUPS)}
    for arm, choice in arms.items():
        arms[arm] = replace(choice, rate=tuned.get(arm, {}).get("factor", 1.0))
    arms["searched"] = Choice(**best)
    rows = []
    for budget in budgets:
        builder = Builder(task.net, task.holdout, budget, train=task.train.targets)
        for name, choice in arms.items():
            tries = []
            for residual in RESIDUALS:
                try:
                    structure = builder.structure(replace(choice, residual=residual))
                except SelfInformedError as error:
                    said(f"curve: {name} at {budget:.1%} left out ({error})")
                    break
                aug, _ = structure.train(task.net, task.train, holdout=task.holdout, epochs=task.epochs, seed=0, **task.training)
                with structure.evaluating(aug):
                    tries.append((rank(aug, task.holdout).mean_average_precision, structure, aug))
            if tries:
                _, structure, aug = max(tries, key=lambda tried: tried[0])
                with structure.evaluating(aug):
                    rows.append({"arm": name, "budget": budget, "residual": structure.residual, **evaluate(aug, task.test).figures()})
                said(f"curve {name} {rows[-1]['extra_computation']:.4f}x residual {rows[-1]['residual']:g}: {100 * rows[-1]['mean_average_precision']:.2f}")
    return rows


def speed(task: Task, table: Comparison, batch_size: int = 256, steps: int = 8) -> dict[str, float]:
    """Training on cached features against training with the frozen trunk in the loop, in examples a second; and heads against the base."""
    heads: HeadPlan = plan(task.net, LabelGroups.everything(task.net.n_labels), budget=task.budget)
    aug = augment(task.net, heads)
    aug.output = task.net.output
    optimizer = torch.optim.AdamW(aug.new_parameters(), fused=True)

    def step(rows: torch.Tensor, in_the_loop: bool) -> None:
        if in_the_loop:
            assert task.train.examples is not None
            features = task.net.features(task.train.examples.read(rows.tolist()))
            attached, penultimate = features.attached, features.penultimate
        else:
            attached, penultimate = task.train.batch(rows)
        logits = aug.from_features(attached, penultimate)
        optimizer.zero_grad()
        logits.backward(gradient_of(logits, task.train.targets.take(rows.numpy()), aug.output or "logistic"))
        optimizer.step()

    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(steps + 1):
        rows = torch.arange(number * batch_size, (number + 1) * batch_size) % len(task.train)
        for way in (False, True):
            start = time.perf_counter()
            step(rows, way)
            if number:
                seconds[way].append(time.perf_counter() - start)
    cached_rate, loop_rate = (batch_size / float(np.median(seconds[way])) for way in (False, True))
    heads_seconds = float(table.values("searched", "head_seconds").mean())
    return {
        "cached_examples_per_second": cached_rate, "in_the_loop_examples_per_second": loop_rate, "ratio": cached_rate / loop_rate,
        "heads_seconds": heads_seconds, "caching_seconds": task.train.seconds,
    }  # fmt: skip


LOOKS = {"dense": ("#d55e00", "s"), "confusions": ("#0072b2", "o"), "random": ("#555555", "^"), "searched": ("#009e73", "D")}  # Okabe and Ito

BEHIND = {"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.8, "linewidth": 0}


def run(name: str, tasks: dict[str, Callable[[], Task]], only: str | None = None) -> None:
    """Measures each base, keeps what other bases gave, and writes results/NAME.json and NAME.png."""
    from finetune import main as finetune

    path = RESULTS / f"{name}.json"
    bases = {row["kind"]: row for row in read_json(path, "results")["bases"]} if path.exists() else {}
    for kind, make in tasks.items():
        if only in (None, kind):
            task = make()
            bases[kind] = measure(task)
            save(name, {"seed": 0, "bases": [bases[k] for k in tasks if k in bases]})
            finetune(name, kind, task)


def draw(name: str, bases: list[dict[str, Any]]) -> None:
    if any(base["curve"] for base in bases):
        save_figure(figure(name, bases), RESULTS / f"{name}.png")


def figure(name: str, bases: list[dict[str, Any]]) -> Any:
    """mAP@50 against extra multiply-adds, all arms, one panel per base that was measured at several budgets."""
    from matplotlib.figure import Figure

    bases = [base for base in bases if base["curve"]]
    drawn = Figure(figsize=(6.4 * len(bases), 4.6), layout="constrained")
    for place, base in enumerate(bases):
        axes = drawn.add_subplot(1, len(bases), place + 1)
        for arm, (colour, marker) in LOOKS.items():
            judged = [*base["curve"], *base["comparison"]["summary"]]  # one seed for each budget, and the mean over seeds at the comparison's
            rows = sorted((row for row in judged if row["arm"] == arm), key=lambda row: row["extra_computation"])
            points = [(100 * (row["extra_computation"] - 1), 100 * row["mean_average_precision"]) for row in rows]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=arm)
        judged = [row for row in base["comparison"]["summary"] if row["arm"] not in LOOKS]
        others = sorted((row["mean_average_precision"], row["extra_computation"], row["arm"]) for row in judged)
        low, high = axes.get_ylim()
        step, wide = (max(high, 100 * others[-1][0]) - min(low, 100 * others[0][0])) / 24, axes.get_xlim()[1]
        for free in (True, False):  # arms without multiply-adds, and those at the comparison's budget: names one above the other, since some lie close
            height = -1.0
            for precision, computation, arm in others:
                x, y = 100 * (computation - 1), 100 * precision
                if (x < 0.5) == free:
                    height = max(height + step, y)
                    axes.plot([x], [y], "x", color="0.3")
                    leader = {"arrowstyle": "-", "color": "0.6", "lw": 0.5}
                    axes.annotate(arm, (x, y), (x + 0.06 * wide, height), fontsize=7, color="0.2", va="center", arrowprops=leader, bbox=BEHIND)
        axes.set(title=f"{name}, {base['kind']} base", xlabel="extra multiply-adds executed on average (%)", ylabel="mAP@50 on test data (%)")
        axes.set_xlim(right=1.2 * wide)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return drawn


def said(line: str) -> None:
    print(line, flush=True)
