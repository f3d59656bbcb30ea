"""Headroom: the most that heads could gain at each attach point, and what a budget will gain, found before any are planned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.network.wrap import WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import real_number, real_numbers, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import write_json
from selfinformed.runtime.tabular import Table, frame, percent
from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.structure.groups import LabelGroups, check_groups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.choices import seen_of
from selfinformed.training.features import FeatureStore, Model, metrics_of, rank, score_batches
from selfinformed.training.fitting import check_training, fit
from selfinformed.training.forecasting import WORTH_IT, Diagnosis, Forecast, Judged, Limit, foresee
from selfinformed.training.overlaps import told_of_shared
from selfinformed.training.recipe import RESIDUALS, Recipe
from selfinformed.training.structures import changed
from selfinformed.training.teachers import of_rows

if TYPE_CHECKING:
    import pandas as pd

_SIDE_BY_SIDE = "all attach points side by side"
_NEAR_CHANCE = " But the base itself ranks little better than chance: are the labels in the order of its outputs, and the inputs as it was trained on them?"


@dataclass(frozen=True, eq=False)
class Headroom:
    """What could be gained at the attach points, on hold-out data; mAP as shares from 0 to 1.

    Attributes:
        base: the network as it is.
        classifier: after retraining the classifier alone.
        dense: with the best dense head, a wide one that no budget binds or one within it, trained as heads would be, at the best attach point: about the
            most any head could reach.
        width: of that dense head.
        attach: where it read.
        labels, groups: names for what lies where.
        points: a row for each attach point {attach, residual, mean_average_precision, gain, budget_gain}: mAP with a wide dense head there, its gain over
            the base, and that of a dense head within the budget (None where the budget does not reach for one unit).
        residual, residuals: how that head was trained, the share of the base's scores that it saw, and the shares that were tried; see `Recipe`.
        shared: what is wrong with the data, where hold-out examples are training examples too; else empty.
        forecast: what structures at the budget will gain.
        diagnosis: what limits the network.
    """

    base: Ranking
    classifier: Ranking
    dense: Ranking
    width: int
    attach: str
    labels: LabelSpace
    points: Sequence[dict[str, Any]]
    forecast: Forecast
    diagnosis: Diagnosis
    groups: LabelGroups | None = None
    residual: float = 1.0
    residuals: Sequence[float] = (1.0,)
    shared: str = ""

    @property
    def gain(self) -> float:
        """The larger of the two gains in points of mAP (hundredths)."""
        base = self.base.mean_average_precision
        return 100 * (max(self.dense.mean_average_precision, self.classifier.mean_average_precision) - base)

    @property
    def worth_it(self) -> bool:
        """Whether at least one point of mAP is to be had."""
        return self.gain >= WORTH_IT

    @property
    def limited_by(self) -> Limit:
        """What keeps the network from scoring higher; see `Diagnosis.limited_by`."""
        return self.diagnosis.limited_by

    @property
    def verdict(self) -> str:
        """What is to be had, and what limits the network, in two sentences; a third where the base is near chance."""
        cheap = 100 * (self.classifier.mean_average_precision - self.base.mean_average_precision)
        where = f"reading {self.attach}" + (f", trained with residual {self.residual:g}," if self.residual != 1 else "")
        if not self.worth_it:
            said = f"There is little to gain: heads {where} could add about {max(self.gain, 0):.1f} mAP at most, so heads there are not worth training."
        elif cheap > 0.7 * self.gain:
            said = (
                f"There is headroom, but retraining the classifier alone gains {cheap:+.1f} of at most about {self.gain:+.1f} mAP: do that first; "
                f"heads {where} can add only the rest."
            )
        else:
            said = (
                f"There is headroom: heads {where} could add about {self.gain:+.1f} mAP at most, of which retraining the classifier alone "
                f"gains {cheap:+.1f}; {self.forecast}."
            )
        return f"{self.shared}{' ' if self.shared else ''}{said} {self.diagnosis}{_NEAR_CHANCE if self.near_chance else ''}"

    @property
    def near_chance(self) -> bool:
        """Whether the base ranks little better than at random: then labels or inputs are not what it was trained with."""
        shares = self.base.positives[self.base.positives > 0] / self.base.n_examples
        chance = float(shares.mean()) if len(shares) else 0.0  # the mAP of random scores
        return self.base.mean_average_precision < min(3 * chance, chance + 0.05 * (1 - chance))

    def by_label(self) -> npt.NDArray[np.float64]:
        """Gain of the best dense head that was tried in average precision for each label [C], NaN without positives."""
        return self.dense.average_precision - self.base.average_precision

    def by_group(self) -> list[dict[str, Any]]:
        """For each group its mean gain in average precision and the share of all gains of labels that lies in it."""
        if self.groups is None:
            return []
        gains = self.by_label()
        total = np.nansum(np.clip(gains, 0, None))
        return [
            {
                "group": name, "labels": len(members), "gain": nan_mean(gains[members]),
                "share": float(np.nansum(np.clip(gains[members], 0, None)) / total) if total else float("nan"),
            }
            for name, members in zip(self.groups.names, self.groups.members, strict=True)
        ]  # fmt: skip

    def most(self, n: int = 10) -> list[dict[str, Any]]:
        """The labels with the most headroom."""
        gains = self.by_label()
        order = [i for i in np.argsort(-gains, kind="stable") if np.isfinite(gains[i])][:n]
        return [{"label": self.labels.names[i], "base": self.base.average_precision[i], "gain": gains[i]} for i in order]

    def to_frame(self) -> pd.DataFrame:
        """A row per label {label, base, classifier, dense (average precision with each, NaN without positives), gain (dense over base)}; needs
        the extra `pandas`."""
        columns = [ranking.average_precision.tolist() for ranking in (self.base, self.classifier, self.dense)]
        rows = zip(self.labels.names, *columns, self.by_label().tolist(), strict=True)
        return frame(dict(zip(("label", "base", "classifier", "dense", "gain"), row, strict=True)) for row in rows)

    def __str__(self) -> str:
        wide = 2 + max(len("reading"), *(len(row["attach"]) for row in self.points))
        lines = [self.verdict, f"{'reading':<{wide}}{'wide head':>9}{'gain':>8}{'gain at the budget':>20}"]
        for row in self.points:
            gains = f"{percent(row['gain'], '+'):>8}{percent(row['budget_gain'], '+'):>20}"
            lines.append(f"{row['attach']:<{wide}}{percent(row['mean_average_precision']):>9}{gains}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return Table.of(self.verdict, self.points, ("attach",)).to_html()

    def to_dict(self) -> dict[str, Any]:
        """As probe.json holds it; gains are shares from 0 to 1."""
        return {
            "verdict": self.verdict, "worth_it": self.worth_it, "gain": self.gain / 100, "attach": self.attach, "width": self.width,
            "residual": self.residual, "residuals": list(self.residuals), **({"shared": self.shared} if self.shared else {}),
            "mean_average_precision": {
                "base": self.base.mean_average_precision, "classifier": self.classifier.mean_average_precision,
                "dense": self.dense.mean_average_precision,
            },
            "limited_by": self.limited_by, "forecast": self.forecast.to_dict(), "diagnosis": self.diagnosis.to_dict(),
            "attach_points": list(self.points), "groups": self.by_group(), "labels": self.most(20),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())


def probe(
    net: WrappedClassifier,
    train: Examples | FeatureStore,
    holdout: Examples | FeatureStore,
    *,
    groups: LabelGroups | None = None,
    width: int = 256,
    epochs: float = 2,
    top_k: int = 50,
    seed: int = 0,
    budget: float = 0.03,
    rates: Sequence[float] = (1.0,),
    residuals: Sequence[float] | None = None,
    **training: Any,
) -> Headroom:
    """Says before any head is planned how much there is to win at each attach point, what a budget will win, and what limits the network.

    All of it is judged on hold-out data, from which nothing else is taken but, with `patience`, when to stop. On cached features it trains, each
    for `epochs` passes or as many steps:
    the classifier alone; at each attach point (and over all side by side, where none is a map) a wide dense head that no budget binds and one
    that keeps to the budget, each once for every residual; and the best of these heads on half of the examples. That is 8 trainings as `fit` does them,
    and with p > 1 attach points 8 + 6p; half of the training features, and as many as there are hold-out examples, are held in memory beside the rest.

    Args:
        net: the wrapped network, perhaps with several attach points; see `with_earlier_points`.
        train, holdout: examples, or their cached features.
        groups: says which groups the headroom lies in.
        width: of the wide dense head, which is made no narrower than that of the budget.
        epochs: passes over `train`, as `fit` would take.
        top_k: K of mAP@K.
        seed: of the training, the halves and the samples.
        budget: extra multiply-adds, as a share of the base's, for which to forecast the gain.
        rates: factors of the learning rates that the forecast's candidates are trained with; everything else uses the first.
        residuals: shares of the base's scores that heads see in training (default: the recipe's where it has one, else 1, 0.25 and 0, as a search).
        **training: further options of `fit`.

    Raises:
        SelfInformedError: the budget is not positive, or there are too few examples to halve.
    """
    check_wrapped(net)
    width, seed, top_k = whole_number("width", width), seed_of(seed), whole_number("top_k", top_k)
    budget = real_number("budget", budget, above=0, what=", extra multiply-adds as a share of the base's, e.g. 0.03")
    rates = real_numbers("rates", rates, above=0)
    residuals = None if residuals is None else real_numbers("residuals", residuals, least=0, most=1)
    if groups is not None:
        check_groups(groups, net.n_labels)
    check_training("probe", training, "finetune_learning_rate")
    train, holdout = FeatureStore.of(net, train), FeatureStore.of(net, holdout)
    if min(len(train), len(holdout)) < 2:
        raise SelfInformedError(f"probe: expected at least 2 training and 2 hold-out examples, which it halves; got {len(train)} and {len(holdout)}")
    if not len(holdout.targets.labels):
        raise SelfInformedError("probe: no hold-out example has a label, so nothing can be judged; give annotated ones")
    rng = np.random.default_rng(seed)
    first = rng.permutation(len(holdout)) < len(holdout) // 2
    n = train.n_inputs
    sample = _take(train, rng.permutation(n)[: len(holdout)])  # average precision among fewer examples is higher, so these and `alike` are as many
    rows = np.sort((rng.permutation(n)[: n // 2] + n * np.arange(len(train) // n)[:, None]).ravel())  # in all views
    half = _take(train, rows)
    alike = holdout if len(sample) == len(holdout) else _take(holdout, rng.permutation(len(holdout))[: len(sample)])
    of_half = {"teacher": of_rows(training["teacher"], torch.from_numpy(rows))} if training.get("teacher") is not None else {}

    own = Recipe.of(training.get("recipe")).residual
    tried_residuals = residuals or (RESIDUALS if own == 1 else (own,))

    def trained(heads: HeadPlan, store: FeatureStore, passes: float, rate: float = rates[0], residual: float = 1.0) -> AugmentedClassifier:
        aug = augment(net, heads, seed=seed)
        fit(aug, store, holdout=holdout, epochs=passes, seed=seed, **changed(training | (of_half if store is half else {}), rate, residual))
        return aug

    def judged(model: Model) -> Judged:
        return _judged(model, holdout, top_k, first)

    def on_both(model: Model, ranking: Ranking | None = None) -> tuple[float, float]:
        """mAP in percent on the hold-out examples, of all of which a ranking may be there already, and on training examples."""
        of_holdout = ranking if ranking is not None and alike is holdout else rank(model, alike, top_k)
        return 100 * of_holdout.mean_average_precision, 100 * rank(model, sample, top_k).mean_average_precision

    everything, places = LabelGroups.everything(net.n_labels), _places(net)
    none = plan(net, LabelGroups(net.n_labels, ()), hidden=(width,), attach=places[0][1])
    aug = trained(none, train, epochs)
    base, candidates = judged(net), {"classifier": judged(aug)}
    candidates |= {f"classifier, learning rates x{rate:g}": judged(trained(none, train, epochs, rate)) for rate in rates[1:]}
    seen = {"base": on_both(net, base.whole), "classifier": on_both(aug, candidates["classifier"].whole)}
    points: list[dict[str, Any]] = []
    tried: list[_Head] = []
    for name, module in places:
        within: HeadPlan | None = None
        with suppress(SelfInformedError):  # the budget does not reach for one unit
            within = plan(net, everything, budget=budget, attach=module)
        wide = plan(net, everything, hidden=(max(width, within.hidden[0][0] if within else 1),), attach=module)
        here = []
        for residual in tried_residuals:
            aug = trained(wide, train, epochs, residual=residual)
            ranking = rank(aug, holdout, top_k)
            here.append(_Head(ranking, wide, name, on_both(aug, ranking), residual, rates[0]))
        best = max(here, key=_Head.reached)
        tried.append(best)
        within_here = {}
        if within is not None:
            for rate, residual in itertools.product(rates, tried_residuals):
                also = f", learning rates x{rate:g}" if rate != rates[0] else ""
                also += f", {seen_of(residual)}" if residual != 1 else ""
                aug = trained(within, train, epochs, rate, residual)
                judgement = within_here[f"a dense head reading {name}{also}"] = judged(aug)
                if judgement.whole.mean_average_precision > tried[-1].reached():  # the wide one learnt by heart, or wants another rate
                    tried.append(_Head(judgement.whole, within, name, on_both(aug, judgement.whole), residual, rate))
        candidates |= within_here
        best_within = max(within_here.values(), key=lambda judgement: judgement.whole.mean_average_precision, default=None)
        points.append(_row(base.whole, best, best_within))
    dense, heads, attach, seen["dense"], residual, rate = max(tried, key=_Head.reached)
    classifier = candidates["classifier"].whole
    diagnosis = Diagnosis(
        {name: held_out for name, (held_out, _) in seen.items()}, {name: on_train for name, (_, on_train) in seen.items()},
        100 * rank(trained(heads, half, 2 * epochs, rate, residual), alike, top_k).mean_average_precision,
    )  # fmt: skip
    shared = told_of_shared({"training": train, "hold-out": holdout})
    forecast = foresee(base, candidates, budget)
    return Headroom(
        base.whole, classifier, dense, heads.hidden[0][0], attach, net.labels, points, forecast, diagnosis, groups, residual, tried_residuals, shared
    )  # fmt: skip


def _places(net: WrappedClassifier) -> list[tuple[str, str | None]]:
    """What to call each place a head can read, and the `attach` with which it is planned."""
    if len(net.attach_points) == 1:
        return [(str(net.attach), None)]
    modules = [point.module for point in net.attach_points]
    places: list[tuple[str, str | None]] = [(str(point), point.module) for point in net.attach_points if modules.count(point.module) == 1]
    return places if places and any(shape.map for shape in net.shapes) else [*places, (_SIDE_BY_SIDE, None)]


class _Head(NamedTuple):
    """A dense head as it was trained and judged."""

    ranking: Ranking
    heads: HeadPlan
    attach: str
    on_both: tuple[float, float]
    residual: float
    rate: float

    def reached(self) -> float:
        return float(self.ranking.mean_average_precision)


def _row(base: Ranking, wide: _Head, within: Judged | None) -> dict[str, Any]:
    gained = None if within is None else within.whole.mean_average_precision - base.mean_average_precision
    gain = wide.reached() - base.mean_average_precision
    return {"attach": wide.attach, "residual": wide.residual, "mean_average_precision": wide.reached(), "gain": gain, "budget_gain": gained}


def _judged(model: Model, store: FeatureStore, top_k: int, first: npt.NDArray[np.bool_]) -> Judged:
    """One pass over the examples; `first` [N] says which are of the first half."""
    whole, one, other = (metrics_of(model, top_k) for _ in range(3))
    for scores, targets, name in score_batches(model, store):
        mine = first[whole.n_examples : whole.n_examples + len(targets)]
        whole.update(scores, targets, name)
        for metrics, rows in ((one, np.flatnonzero(mine)), (other, np.flatnonzero(~mine))):
            metrics.update(scores[rows], targets.take(rows))
    return Judged(whole.compute(), (one.compute(), other.compute()))


def _take(store: FeatureStore, rows: npt.NDArray[np.int64]) -> FeatureStore:
    """Some of the examples, in the order of the store, in memory."""
    rows = np.sort(rows)
    attached, penultimate = store.batch(torch.from_numpy(rows))
    return replace(store, attached=attached, penultimate=penultimate, targets=store.targets.take(rows), examples=None, shards=None)
