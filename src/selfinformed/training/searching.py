"""Finding the structure that helps most at a budget: successive halving on cached features, chosen on hold-out data."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples, Inputs
from selfinformed.network.calls import batch_size_of
from selfinformed.network.timing import paired_seconds
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import plain
from selfinformed.runtime.journals import JournalFile
from selfinformed.runtime.progress import progress
from selfinformed.runtime.tabular import Table, frame
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore, HeadInput, rank
from selfinformed.training.recipe import RESIDUALS, REVISION, Recipe
from selfinformed.training.structures import Builder, Choice, Structure
from selfinformed.training.teachers import keyed

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "selfinformed.search/1"
_TRIES = 7  # measurements of a structure's time
_MOST = 4  # times as many multiply-adds as the time allowed, both as shares, at most
_KEPT = 3  # one in so many goes on to the next round, which trains so many times longer


@dataclass(frozen=True)
class Space:
    """The values a search chooses from; see `Choice`. Up to a third of the candidates are dense heads, of its depths, shared layers, rates,
    residuals and inputs."""

    grouping: Sequence[str] = ("confusions", "codetections", "both", "balanced", "hinton", "greedy", "dense")
    n_groups: Sequence[int] = (3, 6, 12, 24, 48)
    detections: Sequence[int | None] = (None, 5, 20)
    cover_share: Sequence[float | None] = (None, 0.2)
    dense_share: Sequence[float] = (0.0, 0.25, 0.5, 0.75)
    depth: Sequence[int] = (1, 0, 2)
    capacity: Sequence[Any] = ("uniform", "labels", "confusions")
    top_groups: Sequence[int | None] = (None, 1, 2, 4, 8)
    share: Sequence[float] = (1.0, 0.5, 0.25)
    attach: Sequence[str | None] = (None,)
    kernel: Sequence[int] = (1,)
    copy: Sequence[bool] = (False,)
    shared: Sequence[int] = (0, 64, 128)
    linear: Sequence[bool] = (True, False)
    rate: Sequence[float] = (1.0, 0.5, 0.25)
    residual: Sequence[float] = RESIDUALS
    head_input: Sequence[HeadInput | None] = (None,)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not values:
                raise SelfInformedError(f"search: the space has no value for {name}; give at least one")

    @classmethod
    def of(cls, net: WrappedClassifier) -> Space:
        """The default space for a network: each of its attach points, feature maps over those that are maps, copies of the trunk from there on (then
        also for the least certain tenth of the examples alone).
        """
        points = [point.module for point in net.attach_points]
        attach = (None, *points) if len(points) > 1 else (None,)
        if not any(shape.map for shape in net.shapes):
            return cls(attach=attach)
        return cls(attach=attach, kernel=(1, 3), copy=(False, True), share=(*cls.share, 0.1))

    @property
    def middle_rate(self) -> float:
        """What most structures want."""
        return self.rate[(len(self.rate) - 1) // 2]

    def dense(self) -> list[Choice]:
        """Every dense head of the space that is run on all examples and reads features as they are."""
        names = ("depth", "attach", "kernel", "shared", "linear", "rate", "residual", "head_input")
        parts = itertools.product(*(getattr(self, name) for name in names))
        return list(dict.fromkeys(Choice("dense", **dict(zip(names, values, strict=True))) for values in parts))

    def anchors(self) -> list[Choice]:
        """The paper's structure and its nearest relatives, of which a third of the candidates is taken."""
        numbers = sorted({self.n_groups[0], self.n_groups[len(self.n_groups) // 2], self.n_groups[-1]})
        rate = self.middle_rate
        found = [Choice(self.grouping[0], n, rate=r, residual=q) for n in numbers for r in (self.rate[0], rate) for q in self.residual]
        for n, top in itertools.product(numbers, [top for top in self.top_groups if top is not None and top < numbers[-1]]):
            depths = sorted({min(self.depth), 1})
            found += [Choice(self.grouping[0], n, depth=depth, top_groups=top, rate=rate, residual=q) for depth in depths for q in self.residual]
        few = next((top for top in self.top_groups if top is not None), None)
        for attach, n, share in itertools.product(self.attach, numbers[:2], sorted(self.share)[:2]):  # a draw would rarely hit on these
            found += [Choice(self.grouping[0], n, top_groups=few, share=share, attach=attach, copy=True, rate=rate) for copied in self.copy if copied]
            found += [Choice(self.grouping[0], n, top_groups=few, attach=attach, kernel=kernel, rate=rate) for kernel in self.kernel if kernel != 1]
        return list(dict.fromkeys(replace(choice, head_input=self.head_input[0]) for choice in found))

    def draw(self, rng: np.random.Generator) -> Choice:
        """One choice at random; each attribute has its first value half of the time, so that most draws differ from the paper in few ways."""
        drawn: dict[str, Any] = {}
        for name, values in vars(self).items():
            free = name in ("grouping", "n_groups", "top_groups", "rate", "residual")
            drawn[name] = values[rng.integers(len(values))] if free or rng.random() < 0.5 else values[0]
        return Choice(**drawn)

    def candidates(self, number: int, seed: int, settled: Callable[[Choice], Choice] = lambda choice: choice) -> list[Choice]:
        """So many different choices, fewer where the space holds fewer: up to a third dense heads, up to a third anchors, the rest at random.

        Among them always, for each residual at the middle rate, the plainest dense head, and output units alone of as many groups as there may be, run
        where the scores point; and a copy and a map where the space has them. `settled` gives each the one name it has for a network; see `Builder.settled`.
        """
        rng = np.random.default_rng(seed)
        found: dict[Choice, None] = {}
        dense, anchors = (list(map(settled, choices)) for choices in (self.dense(), self.anchors()))
        pointed = Choice(
            self.grouping[0], self.n_groups[-1], depth=min(self.depth), top_groups=max(filter(None, self.top_groups), default=None),
            head_input=self.head_input[0],
        )  # fmt: skip
        first, second = ([settled(replace(c, rate=self.middle_rate, residual=q)) for q in self.residual] for c in (self.dense()[0], pointed))
        rare = [choice for choice in anchors if choice.copy][:1] + [choice for choice in anchors if choice.kernel != 1][:1]
        for always, others in (([dense[0], *first], dense), ([anchors[0], *second, *rare], anchors)):
            found |= dict.fromkeys(_some(always, others, max(1, number // 3), rng))
        only_dense = {*self.grouping} == {"dense"}
        for _ in range(50 * number):
            if len(found) >= number:
                break
            drawn = settled(self.draw(rng))
            if only_dense or not drawn.is_dense:
                found.setdefault(drawn)
        return list(found)


def _some(always: Sequence[Choice], others: Sequence[Choice], number: int, rng: np.random.Generator) -> list[Choice]:
    """So many different choices, fewer where there are not as many: those first, then some of the others at random, in their order."""
    given, sure = list(dict.fromkeys([*always, *others])), min(number, len({*always}))
    return given[:sure] + [given[i] for i in sorted(rng.permutation(len(given) - sure)[: number - sure] + sure)]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search tried and chose, on hold-out data.

    Attributes:
        best: the winner.
        dense: the best dense head run on every example: what specialists must beat.
        trials: a row per structure and round {structure, choice, round, epochs, mean_average_precision, extra_computation (executed on
            average), seconds}, the last round first and the best first within a round.
        base: hold-out mAP of the network without heads.
        budget: extra multiply-adds as a share of the base's (or of its latency).
    """

    best: Structure
    dense: Structure
    trials: list[dict[str, Any]]
    base: float
    budget: float
    budget_of: str = "multiply_adds"
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def plan(self) -> HeadPlan:
        """The winner's heads."""
        return self.best.plan

    @property
    def gain(self) -> float:
        """Of the winner over the base, as a share."""
        return float(self._score(self.best) - self.base)

    @property
    def over_dense(self) -> float:
        """Of the winner over the best dense head, as a share; 0 where that won."""
        return float(self._score(self.best) - self._score(self.dense))

    @property
    def verdict(self) -> str:
        """What was tried, what won, by how much, and whether specialists were worth it."""
        tried = len({row["structure"] for row in self.trials})
        text = (
            f"Of {tried} structures at {self.budget:.1%} more {self.budget_of.replace('_', '-')}, {self.best.description} is best on hold-out data: "
            f"{100 * self.gain:+.2f} mAP over the base. "
        )
        if self.gain <= 0:
            return text + "Nothing that was tried helps: keep the network as it is."
        if len(self.best.plan.groups) == 1:
            return text + "Specialists were not worth it: no structure with groups did better than this dense head."
        return text + f"Specialists were worth it: {100 * self.over_dense:+.2f} over the best dense head ({self.dense.description})."

    def to_frame(self) -> pd.DataFrame:
        """A row per trial {structure, round, epochs, mean_average_precision, extra_computation, seconds, and each attribute of its `Choice`};
        needs the extra `pandas`."""
        return frame({**{key: value for key, value in row.items() if key != "choice"}, **row["choice"]} for row in self.trials)

    def _repr_html_(self) -> str:
        keys = ("structure", "round", "mean_average_precision", "extra_computation", "seconds")
        return Table.of(self.verdict, ({key: row[key] for key in keys} for row in self.trials), ("structure",)).to_html()

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "verdict": self.verdict, "budget": self.budget, "budget_of": self.budget_of, "base": self.base,
            "gain": self.gain, "over_dense": self.over_dense,
            "best": self.best.to_dict(), "dense": self.dense.to_dict(), "plan": self.plan.to_dict(), "trials": self.trials, "left_out": self.left_out,
        }  # fmt: skip

    def _score(self, structure: Structure) -> float:
        return float(next(row["mean_average_precision"] for row in self.trials if row["structure"] == structure.description))


def search(
    net: WrappedClassifier,
    train: Examples | FeatureStore,
    holdout: Examples | FeatureStore,
    *,
    budget: float = 0.03,
    budget_of: str = "multiply_adds",
    space: Space | None = None,
    candidates: int = 32,
    rounds: int = 3,
    epochs: float = 2.0,
    counts: Mapping[Kind, ConfusionCounts] | None = None,
    top_k: int = 50,
    seed: int = 0,
    latency_inputs: Sequence[Inputs] | None = None,
    journal: str | Path | None = None,
    **training: Any,
) -> SearchResult:
    """Finds which structure at a budget helps most, judged on hold-out data only. Judge the winner once more on test data (`compare`).

    Successive halving (Jamieson and Talwalkar 2016): all candidates are trained briefly; the best third of each `residual` goes on, from the start,
    three times as long, until a few are trained for `epochs`. Of each the best dense head, the best output units alone and the best other heads always go
    on, so that the last round compares them. What wins it, and the best dense head, are then trained at the space's other learning rates too.

    Args:
        net: the wrapped network.
        train: examples, or their cached features.
        holdout: examples or their cached features; they give the counts, and judge.
        budget: extra multiply-adds as a share of the base's, executed on average; or extra latency.
        budget_of: `multiply_adds`, or `latency`: widths are then changed until the measured time of `latency_inputs` fits.
        space: what to choose from (default: `Space.of(net)`).
        candidates: how many structures the first round tries.
        rounds: how many rounds.
        epochs: passes of the last round.
        counts: counts already measured, by kind; others are made from hold-out features.
        top_k: K of mAP@K.
        seed: of the draw, of clustering and of training.
        latency_inputs: batches, as large as those that will be waited for and of examples as mixed (default: the network's example inputs).
        journal: a file that takes each trial as it is done; with it a stopped search goes on where it was.
        **training: further options of `fit`, and `classifier` of `augment`, the same for all.

    Raises:
        SelfInformedError: no candidate fits the labels and the budget.
    """
    if budget_of not in ("multiply_adds", "latency"):
        raise SelfInformedError(f"budget_of: expected 'multiply_adds' or 'latency', got {budget_of!r}")
    if candidates < 1 or rounds < 1 or not epochs > 0:
        raise SelfInformedError(f"search: expected candidates >= 1, rounds >= 1 and epochs > 0; got {candidates}, {rounds} and {epochs}")
    train = train if isinstance(train, FeatureStore) else FeatureStore.build(net, train)
    holdout = holdout if isinstance(holdout, FeatureStore) else FeatureStore.build(net, holdout)
    builder = Builder(net, holdout, budget, counts, seed, train.targets)
    batches = latency_inputs or [net.example_inputs]
    timed = [] if budget_of == "multiply_adds" else [batch_size_of(batches[0]), str(net.classifier.weight.device), torch.get_num_threads()]
    done = _Trials(journal, [REVISION, train.digest(), holdout.digest(), budget, budget_of, epochs, rounds, top_k, seed, keyed(training), *timed])
    structures: dict[str, Structure] = {}
    choices: dict[str, Choice] = {}
    left_out = []
    if space is None:
        own = Recipe.of(training.get("recipe")).residual
        space = replace(Space.of(net), residual=tuple(dict.fromkeys((*RESIDUALS, own))))
    drawn = space.candidates(candidates, seed, builder.settled)
    for choice in progress(drawn, len(drawn), "measuring structures") if timed else drawn:
        try:
            heads = _heads_of(choice)
            if timed and heads not in done.fits:
                done.add_fit(heads, _within_latency(builder, choice, batches))
            fit = done.fits.get(heads, Fit())
            if fit.reason:
                raise SelfInformedError(fit.reason)
            built = builder.structure(choice, fit.budget)
        except SelfInformedError as error:  # more groups than the labels or the budget carry, an extra that is not there
            left_out.append({"structure": str(choice), "reason": str(error)})
        else:
            structures[str(choice)], choices[str(choice)] = built, choice
    if not any(choice.is_dense for choice in choices.values()):
        raise SelfInformedError(f"search: not one dense head fits; {left_out[0]['reason']}")

    def tried(names: Sequence[str], number: int, what: str) -> list[dict[str, Any]]:
        passes, rows = epochs / _KEPT ** (rounds - number), []
        for name in progress(names, len(names), f"searching, {what}"):
            about = {"structure": name, "choice": asdict(choices[name]), "round": number, "epochs": passes}
            about |= {"extra_time": done.fits[_heads_of(choices[name])].extra_time} if timed else {}
            row = done.find(structures[name], passes)
            if row is None:
                row = about | _judged(net, structures[name], train, holdout, passes, top_k, seed, training)
                done.add(structures[name], row)
            rows.append(row | about)  # of what a file holds only the figures count
        return rows

    def best_of(rows: list[dict[str, Any]]) -> tuple[str, str]:
        """Puts the best first; gives its name and that of the best dense head."""
        rows.sort(key=lambda row: -row["mean_average_precision"])
        ranked = [row["structure"] for row in rows]
        return ranked[0], next(name for name in ranked if choices[name].is_dense)

    trials: list[dict[str, Any]] = []
    alive = list(structures)
    for number in range(1, rounds + 1):
        rows = tried(alive, number, f"round {number} of {rounds}")
        if all("reason" in row for row in rows):
            raise SelfInformedError(f"search: no structure could be trained; {rows[0]['reason']}")
        best, dense = best_of(rows)
        if number == rounds:  # short rounds cannot say which rates are best in the end
            others = []
            for name, rate in itertools.product(dict.fromkeys((best, dense)), space.rate):
                choice = replace(choices[name], rate=rate)
                if str(choice) not in alive:
                    structures[str(choice)], choices[str(choice)] = replace(structures[name], description=str(choice), rate=rate), choice
                    others.append(str(choice))
            rows += tried(others, number, "learning rates of the best")
            best, dense = best_of(rows)
        trials = rows + trials
        alive = _going_on({row["structure"]: choices[row["structure"]] for row in rows})
    base = rank(net, holdout, top_k).mean_average_precision
    return SearchResult(structures[best], structures[dense], trials, base, budget, budget_of, left_out)


def _going_on(ranked: Mapping[str, Choice]) -> list[str]:
    """Of structures, the best first: for each residual the best third, and the best of each kind (dense heads, output units alone, other heads). Heads
    that learn the labels beside the base, and wide layers, are behind as long as training is short, and would never reach the round that they win."""
    found: dict[str, None] = {}
    for residual in {choice.residual: None for choice in ranked.values()}:
        alike = {name: choice for name, choice in ranked.items() if choice.residual == residual}
        found |= dict.fromkeys(list(alike)[: max(1, len(alike) // _KEPT)])
        kinds = {(choice.is_dense, choice.depth == 0): name for name, choice in reversed(alike.items())}
        found |= dict.fromkeys(kinds.values())
    return list(found)


def _judged(
    net: WrappedClassifier, structure: Structure, train: FeatureStore, holdout: FeatureStore, epochs: float, top_k: int, seed: int, training: Any
) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        aug, _ = structure.train(net, train, holdout=holdout, epochs=epochs, seed=seed, **training)
        with structure.evaluating(aug):
            score = rank(aug, holdout, top_k).mean_average_precision
            executed = aug.dispatch.multiply_adds if aug.dispatch is not None else structure.plan.multiply_adds
    except SelfInformedError as error:  # no finite loss or scores at this learning rate: it comes last
        return {"mean_average_precision": 0.0, "extra_computation": structure.plan.extra_computation, "seconds": 0.0, "reason": str(error)}
    seconds = round(time.perf_counter() - start, 2)
    return {"mean_average_precision": score, "extra_computation": executed / net.cost.multiply_adds, "seconds": seconds}


def _heads_of(choice: Choice) -> str:
    """The choice without how its heads are trained, which changes nothing of the time they take."""
    return str(replace(choice, rate=1.0, residual=1.0, head_input=None))


@dataclass(frozen=True)
class Fit:
    """With how many multiply-adds, as a share of the base's, a structure takes the time allowed, and what it takes; or why it does not fit."""

    budget: float | None = None
    extra_time: float | None = None
    reason: str = ""


def _within_latency(builder: Builder, choice: Choice, batches: Sequence[Inputs]) -> Fit:
    """The multiply-adds with which a structure's measured time is within the builder's budget, and near it."""
    allowed, budget, over, found = builder.budget, builder.budget, inf, Fit()
    for _ in range(_TRIES):
        try:
            extra = _extra_time(builder.net, builder.structure(choice, budget), batches)
        except SelfInformedError as error:  # too few multiply-adds for its heads, or more weights than there is memory for
            return found if found.budget else Fit(reason=str(error))
        if extra > allowed:
            over, least = min(over, budget), extra
        elif budget > (found.budget or 0.0):
            found = Fit(budget, extra)
        near = 0.8 * allowed <= extra <= allowed or (found.budget or 0.0) > 0.9 * over or budget >= _MOST * allowed
        if near:
            break
        budget *= min(max(0.2, 0.9 * allowed / max(extra, 1e-9)), 3.0)
        if found.budget and not found.budget < budget < over:
            budget = (found.budget + over) / 2
        budget = min(budget, _MOST * allowed)
    return found if found.budget else Fit(reason=f"latency: {choice} takes {least:+.1%} at its smallest, more than {allowed:.1%}")


def _extra_time(net: WrappedClassifier, structure: Structure, batches: Sequence[Inputs]) -> float:
    """Measured time over the base's, minus 1, of such batches, of whose examples a share runs heads."""
    aug = augment(net, structure.plan)
    aug.output = aug.output or "softmax"
    start = time.perf_counter()
    net.logits(batches[0])
    repeats = round(min(200.0, max(5.0, 4 / (time.perf_counter() - start))))  # four seconds of each network
    batches = batches[: 10 if structure.is_conditional else 1]  # which heads run depends on the examples

    def extra(**run: Any) -> float:
        with aug.conditional(structure.top_groups, **run) if structure.is_conditional else nullcontext():
            pairs = [
                paired_seconds(net.logits, aug.logits, inputs, -(-repeats // len(batches)), warm=1 if number else 5)
                for number, inputs in enumerate(batches)
            ]
        return float(np.median(np.concatenate([other / one for one, other, _ in pairs]))) - 1

    some = min(1.0, structure.share * batch_size_of(batches[0]))  # of the batches: the rest have no example that runs heads
    return some * extra(share=structure.share) + ((1 - some) * extra(above=inf) if some < 1 else 0.0)


class _Trials:
    """The rows of the same inputs done so far, and in a search by latency how each structure fits, in memory and, if asked for, in a file."""

    def __init__(self, path: str | Path | None, inputs: Sequence[Any]) -> None:
        self._rows: dict[tuple[str, float], dict[str, Any]] = {}
        self.fits: dict[str, Fit] = {}
        self._file = JournalFile(path, json.dumps(plain(list(inputs)), sort_keys=True, default=repr), self._keep)

    def find(self, structure: Structure, epochs: float) -> dict[str, Any] | None:
        return self._rows.get((structure.digest(), epochs))

    def add(self, structure: Structure, row: dict[str, Any]) -> None:
        self._file.add(heads=structure.digest(), row=row)

    def add_fit(self, choice: str, fit: Fit) -> None:
        self._file.add(choice=choice, fit=asdict(fit))

    def _keep(self, content: dict[str, Any]) -> None:
        if "fit" in content:
            fit = content["fit"]
            if not isinstance(fit["reason"], str) or (not fit["reason"] and not (0 < fit["budget"] < inf and -1 < fit["extra_time"] < inf)):
                raise ValueError("neither a budget nor a reason")
            self.fits[str(content["choice"])] = Fit(**fit)
            return
        _check_trial(content["row"])
        self._rows[str(content["heads"]), content["row"]["epochs"]] = content["row"]


def _check_trial(row: Any) -> None:
    """`TypeError` or `KeyError` where a row is no trial."""
    if not isinstance(row["structure"], str) or not isinstance(row["choice"], dict | None):
        raise TypeError("no structure")
    for name in ("epochs", "mean_average_precision", "extra_computation", "seconds"):
        if not isinstance(row[name], int | float) or isinstance(row[name], bool) or not abs(row[name]) < 1e30:
            raise TypeError(f"{name} is no figure")
