"""The method and every control trained alike and judged on the same test data: what a `Comparison` is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.augmented.network import AugmentedClassifier, check_classifier
from selfinformed.augmented.slot import NewClassifier
from selfinformed.data.examples import Examples
from selfinformed.evidence.arms import ARMS, FOUND, HEADED, Bench, named
from selfinformed.evidence.comparison import METHODS, Comparison
from selfinformed.evidence.evaluation import evaluate
from selfinformed.evidence.journal import Journal, Try
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import expect, real_number, real_numbers, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.progress import progress
from selfinformed.runtime.versions import machine, versions
from selfinformed.structure.average_precision import nan_mean
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import check_training
from selfinformed.training.overlaps import told_of_shared
from selfinformed.training.recipe import RESIDUALS, REVISION, Recipe
from selfinformed.training.searching import SearchResult
from selfinformed.training.stepping import History
from selfinformed.training.structures import Structure
from selfinformed.training.teachers import TeacherNetwork, keyed

_FINETUNE_FACTORS = [1.0, 4.0, 16.0]  # of the learning rate of the whole network
_FINETUNE_SHARE = 1 / 3  # of its time, for each


def compare(
    net: WrappedClassifier,
    plan: HeadPlan,
    train: Examples | FeatureStore,
    test: Examples | FeatureStore,
    *,
    holdout: Examples | FeatureStore | None = None,
    codetections: HeadPlan | None = None,
    hinton: HeadPlan | None = None,
    searched: Structure | SearchResult | None = None,
    searched_dense: Structure | None = None,
    views: Examples | FeatureStore | None = None,
    seeds: int = 3,
    arms: Iterable[str] | None = None,
    top_k: int = 50,
    epochs: float = 2,
    tuning: int | Sequence[float] | None = None,
    tune_finetune: bool = True,
    finetune_learning_rate: float = 5e-4,
    classifier: NewClassifier = "keep",
    journal: str | Path | None = None,
    **training: Any,
) -> Comparison:
    """Trains the method and every control alike and judges them on the same test data.

    `plan` sets the multiply-adds of all controls: `random` permutes its labels, `dense` spends them on one head, `gated` on a mixture of
    experts, `adapter` on a low-rank adapter, `views` on a second look at so many test examples. Where `searched` runs heads on the least certain
    share of the examples, `chance` runs the same heads on as large a share drawn at random, in training and on test data.

    Args:
        net: the wrapped base.
        plan: the method's heads, on groups from confusions.
        train, test: examples, or cached features (`finetune` needs the examples they were built from).
        holdout: what learning rates and residuals are chosen by, and what `Recipe.patience` watches.
        codetections: heads on groups from co-detections; without it that arm is left out.
        hinton: heads on as many groups at the same budget from `cluster(counts, method="hinton")`; likewise.
        searched: what `search` found; likewise. It is then the method that the controls are held against.
        searched_dense: the best dense head that it found, a control with the same search behind it, and in a search by latency of the same time; likewise.
        views: another, augmented view of the test examples in the same order; likewise.
        seeds: how many; seed s draws the new weights, the order of examples, the permutation and the examples of `chance`.
        arms: which of base, classifier, confusions, codetections, random, dense, hinton, finetune, gated, adapter, views, searched,
            searched_dense, chance (default: all there is input for).
        top_k: K of mAP@K.
        epochs: passes over `train` for each arm on cached features.
        tuning: factors of both learning rates, e.g. (0.5, 1, 2), or how many powers of two about 1. Each arm, method and controls alike, is first
            trained once with each, at seed 0, and keeps for all seeds the one with the highest mAP on `holdout`, which is its row of seed 0: one training
            more per arm for each factor but one. Default: none. Beside `searched`, since a search tries them too, every arm but `finetune` also tries these
            times the factor of what was found, and every arm with heads each `residual` of 1, 0.25 and 0. These tries are not part of the rows' seconds.
        tune_finetune: whether `finetune` chooses its learning rate too, where `holdout` has examples: among 1, 4 and 16 times the one given, each tried
            for a third of the time that the method took, its features counted.
        finetune_learning_rate: peak of the `finetune` arm's schedule.
        classifier: whether the arms keep the trained classifier or re-initialise it (the paper's choice).
        journal: a file that takes each row and each try as it is done; with it a stopped comparison of the same inputs goes on where it was.
        **training: further options of `fit`, the same for every arm on cached features.

    Raises:
        SelfInformedError: an arm is asked for that lacks its input, `views` are of other examples, or `tuning` has no hold-out data.
    """
    check_wrapped(net)
    expect(plan, HeadPlan, "compare", "the heads of the method first, as plan gives them, then training and test data")
    searched = searched.best if isinstance(searched, SearchResult) else searched
    arms, seeds, top_k = named(arms), whole_number("seeds", seeds), whole_number("top_k", top_k)
    finetune_learning_rate = real_number("finetune_learning_rate", finetune_learning_rate, least=0)
    check_classifier(classifier)
    check_training("compare", training)
    factors = _factors(tuning, holdout)
    train, test = FeatureStore.of(net, train, "caching train features"), FeatureStore.of(net, test, "caching test features")
    holdout = None if holdout is None else FeatureStore.of(net, holdout, "caching hold-out features")
    views = None if views is None else FeatureStore.of(net, views, "caching features of views of the test")
    bench = Bench(
        net, plan, train, test, holdout, codetections, hinton, searched, searched_dense, views, epochs, classifier, finetune_learning_rate,
        training,
    )  # fmt: skip
    chosen = bench.choose(arms)
    tune_finetune = tune_finetune and holdout is not None and holdout.examples is not None
    residuals = [Recipe.of(training.get("recipe")).residual]
    rates = factors  # of the arms beside what was found
    beside = [arm for arm in ARMS if arm not in ("base", "finetune", *FOUND)]
    if searched and "searched" in chosen and {*beside} & {*chosen}:
        if searched.rate != 1:
            rates = list(dict.fromkeys([*(factors or [1.0]), *(searched.rate * factor for factor in factors or [1.0])]))
        if {*HEADED} & {*chosen} and (holdout is not None or searched.residual not in residuals):
            residuals = list(dict.fromkeys([*residuals, *RESIDUALS, searched.residual]))
    if holdout is None and (len(residuals) > 1 or rates):
        raise SelfInformedError(
            "searched: it was trained with another residual or learning rate than the other arms, which choose theirs on hold-out data; give holdout="
        )
    inputs = [
        REVISION, net.fingerprint, net.output, [store and store.digest() for store in (train, test, holdout, views)], plan.to_dict(),
        codetections and codetections.to_dict(), hinton and hinton.to_dict(), searched and searched.to_dict(),
        top_k, epochs, factors, tune_finetune and _FINETUNE_FACTORS, finetune_learning_rate, classifier, keyed(training),
        *([residuals] if len(residuals) > 1 else []),
        *([rates] if rates != factors else []),
    ]  # fmt: skip
    done = Journal(journal, inputs, {"searched_dense": searched_dense.digest()} if searched_dense else {})
    wanted = [(arm, seed) for seed in range(seeds) for arm in chosen]
    missing = sorted((key for key in wanted if key not in done.rows), key=lambda key: (key[1], key[0] == "finetune"))  # which waits for the method's time
    base = evaluate(net, test, top_k) if any(arm == "base" for arm, _ in missing) else None
    teacher = training.get("teacher")
    caching = sum(store.seconds for store in (train, holdout, teacher.features if isinstance(teacher, TeacherNetwork) else None) if store is not None)
    tries = {
        arm: [
            Try(factor, residual)
            for factor in (_FINETUNE_FACTORS if arm == "finetune" else rates if arm in beside else factors) or [1.0]
            for residual in (residuals if arm in HEADED and len(residuals) > 1 else [None])
        ] for arm in ARMS
    }  # fmt: skip
    tuned = {
        arm: _tuned_as(arm) for arm in chosen
        if arm != "base" and (factors or len(tries[_tuned_as(arm)]) > 1) and (arm != "finetune" or tune_finetune)
    }  # fmt: skip
    steps: dict[tuple[str, int, Try | None], None] = {}  # in their order: the tries that an arm still wants, then its row
    for arm, seed in missing:
        if arm in tuned:
            steps |= dict.fromkeys((tuned[arm], 0, tried) for tried in tries[tuned[arm]] if (tuned[arm], tried) not in done.tries)
        steps[arm, seed, None] = None
    at_hand: dict[tuple[str, int, Try], tuple[AugmentedClassifier, History]] = {}  # what the best try of an arm trained, which is what its row of seed 0 judges
    for arm, seed, tried in progress(steps, len(steps), "comparing"):
        seconds = caching + _seconds_of_heads(done, seed) if arm == "finetune" else 0.0
        if tried is not None:
            score, trained = _tried(bench, arm, tried, top_k, _FINETUNE_SHARE * seconds)
            done.add_try(arm, tried, score)
            if trained and arm != "finetune" and _best(done, arm, [t for t in tries[arm] if (arm, t) in done.tries]) == tried:
                at_hand = {(arm, seed, tried): trained}
        elif base is not None and arm == "base":
            done.add(arm, seed, base, 0.0)
        else:
            best = _best(done, tuned[arm], tries[tuned[arm]]) if arm in tuned else Try()
            key = _tuned_as(arm), seed, best
            aug, history = at_hand.pop(key) if key in at_hand else bench.trained(arm, seed, best.factor, seconds, best.residual)
            own, head_seconds = (history.seconds, 0.0) if arm == "finetune" else (caching + history.seconds, history.seconds)
            done.add(arm, seed, bench.judged(arm, aug, top_k, seed), own, head_seconds)
    shared = told_of_shared({"training": train, "hold-out": holdout, "test": test})
    about = {
        **({"shared": shared} if shared else {}),
        **({"left_out": left_out} if arms is None and (left_out := bench.left_out(chosen)) else {}),
        "date": date.today().isoformat(), "grouping": plan.groups.method,
        "seeds": seeds, "epochs": epochs, "n_train": train.n_inputs, "n_test": len(test), "revision": REVISION, "versions": versions(), "machine": machine(),
        "tuned": {arm: _tuning(done, of, tries[of]) for arm, of in tuned.items()}, "searched": searched and searched.description,
        "found": searched and searched.digest(), "found_dense": searched_dense and searched_dense.digest(),
    }  # fmt: skip
    rows = [done.rows[key] for key in wanted]
    per_label = {arm: _mean_over_seeds([done.per_label[arm, seed] for seed in range(seeds)]) for arm in chosen}
    return Comparison(rows, per_label, top_k, about)


def _factors(tuning: int | Sequence[float] | None, holdout: Examples | FeatureStore | None) -> list[float]:
    """The learning-rate factors that each arm tries; none without tuning."""
    if tuning is None:
        return []
    if isinstance(tuning, Iterable):
        factors = list(real_numbers("tuning", tuning, above=0))
    else:
        number = whole_number("tuning", tuning, what=", or a list of learning-rate factors")
        factors = [2.0 ** (i - (number - 1) // 2) for i in range(number)]
    if holdout is None:
        raise SelfInformedError("tuning: learning rates are chosen on hold-out data; give holdout=")
    return factors


def _tuned_as(arm: str) -> str:
    """The arm whose learning rates an arm uses: `views` trains what `classifier` trains."""
    return "classifier" if arm == "views" else arm


def _tried(bench: Bench, arm: str, tried: Try, top_k: int, seconds: float) -> tuple[float, tuple[AugmentedClassifier, History] | None]:
    """mAP on hold-out data of an arm trained so, at seed 0, and what was trained; NaN and nothing where it cannot be."""
    try:
        trained = bench.trained(arm, 0, tried.factor, seconds, tried.residual)
        return bench.score(arm, trained[0], top_k), trained
    except SelfInformedError:  # a rate too high for the loss to stay finite; what is wrong with every rate is raised by the rows
        return float("nan"), None


def _best(done: Journal, arm: str, tries: Sequence[Try]) -> Try:
    """The try with the highest mAP on hold-out data, the first of several."""
    scores = [done.tries[arm, tried] for tried in tries]
    return tries[max(range(len(tries)), key=lambda i: scores[i] if scores[i] == scores[i] else -1.0)]


def _tuning(done: Journal, arm: str, tries: Sequence[Try]) -> dict[str, Any]:
    """The best try, and what each gave."""
    rows = [{**tried.to_dict(), "mean_average_precision": done.tries[arm, tried]} for tried in tries]
    return {**_best(done, arm, tries).to_dict(), "tries": rows}


def _seconds_of_heads(done: Journal, seed: int) -> float:
    """How long this seed's method trained, or the longest of its arms where the method is not among them."""
    taken = {arm: row["head_seconds"] for (arm, s), row in done.rows.items() if s == seed}
    return float(next((taken[arm] for arm in METHODS if arm in taken), max(taken.values(), default=0.0)))


def _mean_over_seeds(values: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    return np.array([nan_mean(column) for column in np.stack(values).T])
