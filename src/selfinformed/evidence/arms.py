"""The arms of a comparison: what each of them is, needs, and trains."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfinformed.augmented.controls import adapted, adapter_rank, gated, gated_widths
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.slot import NewClassifier
from selfinformed.evidence.evaluation import Evaluation, evaluate
from selfinformed.evidence.views import check_views, evaluate_with_views
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import shown
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit, fit_whole
from selfinformed.training.joining import classifier_for
from selfinformed.training.recipe import Recipe
from selfinformed.training.stepping import History
from selfinformed.training.structures import Structure, changed

ARMS = (
    "base", "classifier", "confusions", "codetections", "random", "dense", "hinton", "finetune", "gated", "adapter", "views", "searched", "searched_dense",
    "unsure_dense", "chance",
)  # fmt: skip
DESCRIPTIONS = {
    "base": "the network as it is",
    "classifier": "classifier retrained, nothing added",
    "confusions": "heads on groups from confusions (eq. 3)",
    "codetections": "heads on groups from co-detections (eq. 4)",
    "random": "the same heads, labels permuted",
    "dense": "one head over all labels, same cost",
    "hinton": "heads on groups from the covariance of predictions",
    "finetune": "the whole network trained on for the same time",
    "gated": "as many experts over all labels under a learned gate",
    "adapter": "a low-rank adapter on the frozen classifier",
    "views": "classifier retrained, a second view of unsure examples",
    "searched": "the structure that the search found",
    "searched_dense": "the best dense head that the search found",
    "unsure_dense": "one head over all labels, same cost, on the same share of examples",
    "chance": "the searched heads on as many examples, drawn at random",
}

# Of the arm `confusions`, which has the groups of its plan: by `LabelGroups.method`.
GROUPED = {
    "spectral": "from confusions", "balanced": "of equal size from confusions", "greedy": "from pairs of confusions", "leiden": "from confusions by Leiden",
    "codetections": "from co-detections", "hinton": "from the covariance of predictions", "random": "drawn at random", "randomized": "drawn at random",
}  # fmt: skip

HEADED = ("confusions", "codetections", "random", "dense", "hinton", "gated")  # arms whose heads see as much of the base's scores as the recipe says
FOUND = ("searched", "searched_dense", "unsure_dense", "chance")  # what the search found, as it was found, and what stands in its place


def named(arms: Iterable[str] | None) -> list[str] | None:
    """The arms asked for, before anything is computed for them; None where none are chosen.

    Raises:
        SelfInformedError: they are no list of names of arms.
    """
    if arms is None:
        return None
    found = [arms] if isinstance(arms, str) else list(arms)
    wrong = [arm for arm in found if arm not in ARMS]
    if wrong or not found or isinstance(arms, str):
        raise SelfInformedError(f"arms: expected some of {', '.join(ARMS)}, in a list; got {shown(wrong[0] if wrong else arms) if found else 'none'}")
    return found


@dataclass(frozen=True, eq=False)
class Bench:
    """All that the arms of one comparison are made from; the names are those of `compare`."""

    net: WrappedClassifier
    plan: HeadPlan
    train: FeatureStore
    test: FeatureStore
    holdout: FeatureStore | None = None
    codetections: HeadPlan | None = None
    hinton: HeadPlan | None = None
    searched: Structure | None = None
    searched_dense: Structure | None = None
    views: FeatureStore | None = None
    epochs: float = 2
    classifier: NewClassifier = "keep"
    finetune_learning_rate: float = 5e-4
    training: Mapping[str, Any] = field(default_factory=dict)

    def choose(self, arms: Sequence[str] | None) -> list[str]:
        """The arms to run, in the table's order: those asked for, or all that there is input for."""
        if self.views is not None:
            check_views(self.test, self.views)
        if arms is None:
            return [arm for arm in ARMS if not self.missing(arm)]
        for arm in arms:
            if missing := self.missing(arm):
                raise SelfInformedError(f"arms: {arm!r} needs {missing}")
        if set(arms) & set(FOUND) and "searched" not in arms:
            raise SelfInformedError(f"arms: {', '.join(arm for arm in arms if arm in FOUND)}: what is a control of the arm 'searched' wants it too")
        return [arm for arm in ARMS if arm in arms]

    def left_out(self, chosen: Sequence[str]) -> dict[str, str]:
        """The controls that are not among those chosen since they lack something, and what."""
        return {arm: what for arm in ARMS if arm not in (*chosen, *FOUND) and (what := self.missing(arm))}

    def missing(self, arm: str) -> str | None:
        """What an arm needs and does not have."""
        if arm in ("gated", "adapter"):
            try:
                (gated_widths if arm == "gated" else adapter_rank)(self.net, self.plan)
            except SelfInformedError as error:
                return f"other heads or a larger budget ({error})"
            return None
        needs = {
            "codetections": (self.codetections, "the plan of heads on groups from co-detections (codetections=)"),
            "hinton": (self.hinton, "the plan of heads on groups from cluster(counts, method='hinton') (hinton=)"),
            "searched": (self.searched, "what search found (searched=)"),
            "searched_dense": (self.searched_dense, "the best dense head that search found, where that is not the structure itself (searched_dense=)"),
            "unsure_dense": (self._shared_out, "heads that are not dense themselves and that a share of the examples runs (searched=)"),
            "chance": (self.searched if self.searched and self.searched.share < 1 else None, "heads that a share of the examples runs (searched=)"),
            "views": (self.views, "another view of the test examples (views=)"),
            "finetune": (self.train.examples and self.test.examples, "examples, not cached features alone, for train and test"),
        }
        given, what = needs.get(arm, (True, ""))
        return what if given is None else None

    def trained(
        self, arm: str, seed: int, factor: float = 1.0, seconds: float = 0.0, residual: float | None = None
    ) -> tuple[AugmentedClassifier, History]:
        """Trains one arm, with its learning rates times a factor and perhaps another `residual` than the recipe's; `finetune` for so many seconds."""
        training = changed(self.training, factor, residual)
        if arm == "finetune":
            assert self.train.examples is not None
            aug = augment(self.net, self._no_heads, seed=seed)
            rate = factor * self.finetune_learning_rate
            given: dict[str, Any] = {name: training.get(name) for name in ("recipe", "output")}
            return aug, fit_whole(aug, self.train.examples, seconds=seconds, learning_rate=rate, seed=seed, **given)
        if arm in FOUND:
            return self._found(arm).train(
                self.net, self.train, holdout=self.holdout, epochs=self.epochs, seed=seed, classifier=self.classifier,
                chance=seed if arm == "chance" else None, **training,
            )  # fmt: skip
        aug = self._made(arm, seed, Recipe.of(training.get("recipe")).residual)
        return aug, fit(aug, self.train, holdout=self.holdout, epochs=self.epochs, seed=seed, **training)

    def score(self, arm: str, aug: AugmentedClassifier, top_k: int) -> float:
        """mAP on the hold-out examples, by which an arm chooses among its learning rates."""
        assert self.holdout is not None
        if arm in FOUND:
            return self._judged_as_found(arm, aug, self.holdout, top_k, 0).ranking.mean_average_precision
        return rank(aug, self.holdout.examples if arm == "finetune" and self.holdout.examples else self.holdout, top_k).mean_average_precision

    def judged(self, arm: str, aug: AugmentedClassifier, top_k: int, seed: int = 0) -> Evaluation:
        """Judges one trained arm on the test examples; `seed` draws those of `chance`."""
        if arm == "finetune":
            assert self.test.examples is not None
            return evaluate(aug, self.test.examples, top_k)
        if arm in FOUND:
            return self._judged_as_found(arm, aug, self.test, top_k, seed)
        if arm == "views":
            assert self.views is not None
            return evaluate_with_views(aug, self.test, self.views, min(1.0, self.plan.extra_computation - 1), top_k)
        return evaluate(aug, self.test, top_k)

    @property
    def _shared_out(self) -> Structure | None:
        """The searched structure, where only a share of the examples runs its heads and these are not one over all labels."""
        found = self.searched
        return found if found and found.share < 1 and found.plan.groups.sizes != [self.net.n_labels] else None

    def _found(self, arm: str) -> Structure:
        structure = self.searched_dense if arm == "searched_dense" else self.searched
        if arm == "unsure_dense" and structure is not None:
            structure = replace(structure, plan=self._dense(structure.share), top_groups=None)
        assert structure is not None
        return structure

    def _judged_as_found(self, arm: str, aug: AugmentedClassifier, data: FeatureStore, top_k: int, seed: int) -> Evaluation:
        with self._found(arm).evaluating(aug, chance=seed if arm == "chance" else None):
            return evaluate(aug, data, top_k)

    def _made(self, arm: str, seed: int, residual: float = 1.0) -> AugmentedClassifier:
        classifier = classifier_for(residual, self.classifier) if arm in HEADED else self.classifier
        if arm == "gated":
            return gated(self.net, self.plan, classifier=classifier, seed=seed)
        if arm == "adapter":
            return adapted(self.net, self.plan, seed=seed)
        return augment(self.net, self.plan_of(arm, seed), classifier=classifier, seed=seed)

    def plan_of(self, arm: str, seed: int) -> HeadPlan:
        """The heads of an arm that has heads, or none."""
        heads = self.plan
        if arm == "random":
            return heads.with_groups(heads.groups.randomized(seed))
        if arm == "dense":
            return self._dense()
        given = {"confusions": heads, "codetections": self.codetections, "hinton": self.hinton}.get(arm)
        return given or self._no_heads

    def _dense(self, share: float = 1.0) -> HeadPlan:
        """One head over all labels that costs what the heads of the method do, where a share of the examples runs it."""
        # Costs are whole numbers: the half keeps rounding from losing a unit that just fits.
        allowed = (self.plan.multiply_adds - self.plan.base_multiply_adds + 0.5) / share
        depth = max(map(len, self.plan.hidden), default=1)
        everything = LabelGroups.everything(self.net.n_labels)
        return plan(self.net, everything, budget=allowed / self.plan.base_multiply_adds, depth=depth, **self._read_by_dense())

    @property
    def _no_heads(self) -> HeadPlan:
        return replace(self.plan, groups=LabelGroups(self.net.n_labels, ()), hidden=(), sources=())

    def _read_by_dense(self) -> dict[str, Any]:
        """All attach points side by side, or where one is a map, the one on which the method spends most."""
        if not any(shape.map for shape in self.net.shapes):
            return {}
        _, source = max(zip(self.plan.head_multiply_adds, self.plan.sources, strict=True), key=lambda head: head[0])
        starts = itertools.accumulate((shape.size for shape in self.net.shapes), initial=0)
        return {"attach": self.net.attach_points[bisect(list(starts), source.start) - 1].module, "kernel": source.kernel}
