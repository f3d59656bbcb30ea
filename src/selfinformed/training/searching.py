"""Finding the structure that helps most at a budget: successive halving on cached features, chosen on hold-out data."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.augmented.network import check_classifier
from selfinformed.data.examples import Examples
from selfinformed.data.inputs import InputsLike
from selfinformed.network.calls import batch_size_of
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import expect, one_of, real_number, seed_of, whole_number
from selfinformed.runtime.errors import NotFiniteError, SelfInformedError
from selfinformed.runtime.files import plain, write_json
from selfinformed.runtime.journals import JournalFile
from selfinformed.runtime.progress import progress
from selfinformed.runtime.tabular import Table, frame
from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.structure.counts import ConfusionCounts, Kind, check_counts
from selfinformed.structure.intervals import interval
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import check_training
from selfinformed.training.latency_budgets import Fit, heads_of, within_latency
from selfinformed.training.overlaps import told_of_shared
from selfinformed.training.recipe import RESIDUALS, REVISION, Recipe
from selfinformed.training.spaces import Space
from selfinformed.training.structures import Structure
from selfinformed.training.teachers import keyed

if TYPE_CHECKING:
    import pandas as pd

BudgetOf = Literal["multiply_adds", "latency"]
FORMAT = "selfinformed.search/1"
_SMALLER = 3  # times that heads which run beyond a budget become narrower
_KEPT = 3  # one in so many goes on to the next round, which trains so many times longer


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
        shared: what is wrong with the data, where hold-out examples are training examples too; else empty.
        again: what the winner gave over the base (`over_base`), and the best structure with groups over the best dense head (`over_dense`), trained once more
            from another seed, since the best of many tries flatters itself: {mean, low, high} with a 95% interval over labels. Judged on the same hold-out
            examples, it still has what of its luck lies in them, which test data tell.
    """

    best: Structure
    dense: Structure
    trials: list[dict[str, Any]]
    base: float
    budget: float
    budget_of: BudgetOf = "multiply_adds"
    left_out: list[dict[str, str]] = field(default_factory=list)
    shared: str = ""
    again: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def plan(self) -> HeadPlan:
        """The winner's heads."""
        return self.best.plan

    @property
    def gain(self) -> float:
        """Of the winner over the base, as a share, in the trial that it won."""
        return float(self._score(self.best) - self.base)

    @property
    def over_dense(self) -> float:
        """Of the winner over the best dense head, as a share, in the trial that it won; 0 where that won."""
        return float(self._score(self.best) - self._score(self.dense))

    @property
    def verdict(self) -> str:
        """What was tried, what won, by how much, and whether specialists were worth it."""
        tried = len({row["structure"] for row in self.trials})
        text = f"{self.shared} " if self.shared else ""
        text += (
            f"Of {tried} structures at {self.budget:.1%} more {self.budget_of.replace('_', '-')}, {self.best.description} is best on hold-out data: "
            f"{100 * self.gain:+.2f} mAP over the base. "
        )
        if failed := {row["structure"]: row["reason"] for row in self.trials if "reason" in row}:
            text += f"{len(failed)} could not be trained in some round ({next(iter(failed.values()))}). "
        if self.gain <= 0:
            return text + "Nothing that was tried helps: keep the network as it is."
        again = self.again.get("over_base")
        if again is not None and again["low"] <= 0:
            return text + f"Trained again from another seed it is {_points(again)} over the base: nothing that was tried surely helps."
        rivals = [row for row in self.trials if row["round"] == self.trials[0]["round"] and "reason" not in row and not Choice(**row["choice"]).is_dense]
        if not rivals:
            return text + "No structure with groups was tried to the end."
        over, against, unclear = self.over_dense, f"over the best dense head ({self.dense.description})", "may not have been"
        if self.best.description == self.dense.description:
            over, unclear = rivals[0]["mean_average_precision"] - self._score(self.dense), "may have been"
            against = f"over this dense head with {rivals[0]['structure']}"
        who, were = "Specialists", "were"
        if Choice(**rivals[0]["choice"]).grouping == "dense":
            who, were = "A dense head for the least certain examples alone", "was"
        against = f"{100 * over:+.2f} {against}"
        again = self.again.get("over_dense")
        if again is None:
            return text + f"{who} {were}{'' if over > 0 else ' not'} ahead: {against}, of one seed."
        worth = were if min(again["low"], over) > 0 else f"{were} not" if again["high"] < 0 else unclear
        return text + f"{who} {worth} worth it: {against}, and {_points(again)} with both trained again from another seed."

    def __str__(self) -> str:
        return self.verdict

    def __repr__(self) -> str:
        return f"SearchResult({len(self.trials)} trials, best {self.best.description})"

    def to_frame(self) -> pd.DataFrame:
        """A row per trial {structure, round, epochs, mean_average_precision, extra_computation, seconds, and each attribute of its `Choice`};
        needs the extra `pandas`."""
        return frame({**{key: value for key, value in row.items() if key != "choice"}, **row["choice"]} for row in self.trials)

    def _repr_html_(self) -> str:
        keys = ("structure", "round", "mean_average_precision", "extra_computation", "seconds")
        return Table.of(self.verdict, ({key: row[key] for key in keys} for row in self.trials), ("structure",)).to_html()

    def to_dict(self) -> dict[str, Any]:
        """As search.json holds it."""
        return {
            "format": FORMAT, "verdict": self.verdict, "budget": self.budget, "budget_of": self.budget_of, "base": self.base,
            "gain": self.gain, "over_dense": self.over_dense,
            "best": self.best.to_dict(), "dense": self.dense.to_dict(), "plan": self.plan.to_dict(), "trials": self.trials, "left_out": self.left_out,
            "again": self.again, **({"shared": self.shared} if self.shared else {}),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    def _score(self, structure: Structure) -> float:
        return float(next(row["mean_average_precision"] for row in self.trials if row["structure"] == structure.description))


def search(
    net: WrappedClassifier,
    train: Examples | FeatureStore,
    holdout: Examples | FeatureStore,
    *,
    budget: float = 0.03,
    budget_of: BudgetOf = "multiply_adds",
    space: Space | None = None,
    candidates: int = 32,
    rounds: int = 3,
    epochs: float = 2.0,
    counts: Mapping[Kind, ConfusionCounts] | None = None,
    top_k: int = 50,
    seed: int = 0,
    latency_inputs: Sequence[InputsLike] | None = None,
    journal: str | Path | None = None,
    **training: Any,
) -> SearchResult:
    """Finds which structure at a budget helps most, judged on hold-out data only. Judge the winner once more on test data (`compare`).

    Successive halving (Jamieson and Talwalkar 2016): all candidates are trained briefly; the best third of each `residual` goes on, from the start,
    three times as long, until a few are trained for `epochs`. Of each the best dense head, the best output units alone and the best other heads always go
    on, so that the last round compares them. What wins it, and the best dense head, are then trained at the space's other learning rates too, and what is
    best then once more from another seed.

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
        SelfInformedError: no candidate fits the labels and the budget, no dense head can be trained, no hold-out example has a label, or the space has
            none of what `training` says.
    """
    check_wrapped(net)
    one_of("budget_of", budget_of, get_args(BudgetOf))
    candidates, rounds, top_k, seed = whole_number("candidates", candidates), whole_number("rounds", rounds), whole_number("top_k", top_k), seed_of(seed)
    budget, most_epochs = real_number("budget", budget, above=0), real_number("epochs", epochs, above=0)  # a journal holds the epochs as they are given
    check_training("search", training, "finetune_learning_rate", "classifier")
    check_classifier(training.get("classifier", "keep"))
    expect(space, Space | None, "space", "a Space", "give e.g. selfinformed.training.Space(depth=(1, 2))")
    expect(latency_inputs, Sequence | None, "latency_inputs", "a list of batches", "give [inputs] for one")
    expect(counts, Mapping | None, "counts", "counts by kind", "give {counts.kind: counts}")
    for measured in (counts or {}).values():
        check_counts(measured)
    own = Recipe.of(training.get("recipe")).residual
    if space is None:
        space = replace(Space.of(net), residual=tuple(dict.fromkeys((*RESIDUALS, own))))
    _check_space(space, net, own, training.get("head_input"))
    train, holdout = FeatureStore.of(net, train), FeatureStore.of(net, holdout)
    if not len(holdout.targets.labels):
        raise SelfInformedError("search: no hold-out example has a label, so nothing can be judged; give annotated ones")
    builder = Builder(net, holdout, budget, counts, seed, train.targets)
    batches = latency_inputs or [net.example_inputs]
    timed = [] if budget_of == "multiply_adds" else [batch_size_of(batches[0]), str(net.classifier.weight.device), torch.get_num_threads()]
    done = _Trials(journal, [REVISION, net.output, train.digest(), holdout.digest(), budget, budget_of, epochs, rounds, top_k, seed, keyed(training), *timed])
    structures: dict[str, Structure] = {}
    choices: dict[str, Choice] = {}
    left_out = []
    drawn = space.candidates(candidates, seed, builder.settled)
    for choice in progress(drawn, len(drawn), "measuring structures") if timed else drawn:
        try:
            heads = heads_of(choice)
            if timed and heads not in done.fits:
                done.add_fit(heads, within_latency(builder, choice, batches))
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

    def judged(name: str, passes: float, about: dict[str, Any]) -> dict[str, Any]:
        row = done.find(structures[name], passes)
        if row is None:
            row, is_final = _judged(net, structures[name], train, holdout, passes, top_k, seed, training)
            row = about | row
            if is_final:
                done.add(structures[name], row)
        return row

    def tried(names: Sequence[str], number: int, what: str) -> list[dict[str, Any]]:
        passes, rows = most_epochs / _KEPT ** (rounds - number), []
        for name in progress(names, len(names), f"searching, {what}"):
            about = {"structure": name, "choice": asdict(choices[name]), "round": number, "epochs": passes}
            about |= {"extra_time": done.fits[heads_of(choices[name])].extra_time} if timed else {}
            row, allowed = judged(name, passes, about), budget
            for _ in range(_SMALLER):  # once trained, other examples may run a head than by the base's scores: then narrower heads
                over = (row["extra_computation"] - 1) / budget
                if timed or "reason" in row or over <= 1:
                    break
                allowed *= 0.99 / over
                try:
                    structures[name] = builder.structure(choices[name], allowed)
                except SelfInformedError:
                    break
                row = judged(name, passes, about)
            if not timed and row["extra_computation"] - 1 > budget:
                row = {"reason": f"once trained it runs {row['extra_computation'] - 1:.2%} more multiply-adds than the base, beyond the budget"} | row
            rows.append(row | about)  # of what a file holds only the figures count
        return rows

    def best_of(rows: list[dict[str, Any]]) -> tuple[str, str, str]:
        """Puts the best first; gives its name, that of the best dense head, and that of the best with groups, or without any the best again."""
        rows.sort(key=lambda row: ("reason" in row, -row["mean_average_precision"]))
        ranked = [row["structure"] for row in rows if "reason" not in row]
        dense = next((name for name in ranked if choices[name].is_dense), None)
        if dense is None:
            raise SelfInformedError(f"search: no dense head could be trained; {next(row['reason'] for row in rows if choices[row['structure']].is_dense)}")
        return ranked[0], dense, next((name for name in ranked if not choices[name].is_dense), ranked[0])

    trials: list[dict[str, Any]] = []
    alive = list(structures)
    for number in range(1, rounds + 1):
        rows = tried(alive, number, f"round {number} of {rounds}")
        best, dense, grouped = best_of(rows)
        if number == rounds:  # short rounds cannot say which rates are best in the end
            others = []
            for name, rate in itertools.product(dict.fromkeys((best, dense)), space.rate):
                choice = replace(choices[name], rate=rate)
                if str(choice) not in alive:
                    structures[str(choice)], choices[str(choice)] = replace(structures[name], description=str(choice), rate=rate), choice
                    others.append(str(choice))
            rows += tried(others, number, "learning rates of the best")
            best, dense, grouped = best_of(rows)
        trials = rows + trials
        alive = _going_on({row["structure"]: choices[row["structure"]] for row in rows if "reason" not in row})
    base, shared = rank(net, holdout, top_k), told_of_shared({"training": train, "hold-out": holdout})
    found = {name: structures[name] for name in dict.fromkeys((best, dense, grouped))}
    key = " ".join(structure.digest() for structure in found.values())
    if key not in done.again:
        with suppress(SelfInformedError):  # no finite loss from that seed
            other = (seed + 1) % 2**32
            of = {name: _ranked(net, heads, train, holdout, most_epochs, top_k, other, training)[0].average_precision for name, heads in found.items()}
            over = {"over_base": _over(of[best], base.average_precision)} | ({"over_dense": _over(of[grouped], of[dense])} if grouped != dense else {})
            done.add_again(key, over)
    again = done.again.get(key, {})
    return SearchResult(structures[best], structures[dense], trials, base.mean_average_precision, budget, budget_of, left_out, shared, again)


def _check_space(space: Space, net: WrappedClassifier, residual: float, head_input: Any) -> None:
    """That the space's attach points are the network's, and that what the options of training say is among its values.

    Raises:
        SelfInformedError: it would go by the space, without a word.
    """
    points = [point.module for point in net.attach_points]
    if wrong := [attach for attach in space.attach if attach not in (None, *points)]:
        raise SelfInformedError(f"search: the space's attach {wrong[0]!r} is none of the network's attach points; they are {', '.join(points)}")
    for name, value, values in (("residual", residual, space.residual), ("head_input", head_input, space.head_input)):
        if value not in (1.0, None, *values) and None not in values:
            raise SelfInformedError(f"search: {name} {value!r} is asked for, and the space has {', '.join(map(repr, values))}; give Space({name}=({value!r},))")


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
) -> tuple[dict[str, Any], bool]:
    """The figures of a trial, and whether it would come out so again."""
    start = time.perf_counter()
    try:
        ranking, executed = _ranked(net, structure, train, holdout, epochs, top_k, seed, training)
    except SelfInformedError as error:  # no finite loss or scores at this learning rate, or something is in the way, such as a lack of memory
        row = {"mean_average_precision": 0.0, "extra_computation": 1.0, "seconds": 0.0, "reason": str(error)}
        return row, isinstance(error, NotFiniteError)
    seconds = round(time.perf_counter() - start, 2)
    return {"mean_average_precision": ranking.mean_average_precision, "extra_computation": executed / net.cost.multiply_adds, "seconds": seconds}, True


def _ranked(
    net: WrappedClassifier, structure: Structure, train: FeatureStore, holdout: FeatureStore, epochs: float, top_k: int, seed: int, training: Any
) -> tuple[Ranking, float]:
    """Trains a structure; how it ranks the hold-out examples, and the multiply-adds executed on average."""
    aug, _ = structure.train(net, train, holdout=holdout, epochs=epochs, seed=seed, **training)
    with structure.evaluating(aug):
        ranking = rank(aug, holdout, top_k)
        return ranking, aug.dispatch.multiply_adds if aug.dispatch is not None else structure.plan.multiply_adds


def _over(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean difference in average precision over the labels that have one, and its 95% interval; of a single label, from -1 to 1."""
    differences = (one - other)[np.isfinite(one - other)]
    low, high = np.clip(interval(differences), -1, 1)
    return {"mean": nan_mean(differences) if len(differences) else 0.0, "low": float(low), "high": float(high)}


def _points(over: Mapping[str, float]) -> str:
    mean, low, high = (100 * over[key] for key in ("mean", "low", "high"))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


class _Trials:
    """The rows of the same inputs done so far, and in a search by latency how each structure fits, in memory and, if asked for, in a file."""

    def __init__(self, path: str | Path | None, inputs: Sequence[Any]) -> None:
        self._rows: dict[tuple[str, float], dict[str, Any]] = {}
        self.fits: dict[str, Fit] = {}
        self.again: dict[str, dict[str, dict[str, float]]] = {}
        self._file = JournalFile(path, json.dumps(plain(list(inputs)), sort_keys=True, default=repr), self._keep)

    def find(self, structure: Structure, epochs: float) -> dict[str, Any] | None:
        return self._rows.get((structure.digest(), epochs))

    def add(self, structure: Structure, row: dict[str, Any]) -> None:
        self._file.add(heads=structure.digest(), row=row)

    def add_fit(self, choice: str, fit: Fit) -> None:
        self._file.add(choice=choice, fit=asdict(fit))

    def add_again(self, of: str, over: dict[str, dict[str, float]]) -> None:
        self._file.add(of=of, again=over)

    def _keep(self, content: dict[str, Any]) -> None:
        if "again" in content:
            over = {str(name): {key: float(found[key]) for key in ("mean", "low", "high")} for name, found in content["again"].items()}
            if not all(abs(value) < inf for found in over.values() for value in found.values()):
                raise ValueError("again is no figure")
            self.again[str(content["of"])] = over
            return
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
