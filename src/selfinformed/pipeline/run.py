"""A run folder and the stages that fill it, each from the artefacts of those before."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, get_args

import numpy as np
import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.augmented.saved import load
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.predictions import Predictions, open_predictions
from selfinformed.evidence.arms import FOUND
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.conditional import conditional_curve
from selfinformed.evidence.figures import conditional_figure, save_figure, sweep_figure
from selfinformed.evidence.judging import judge
from selfinformed.evidence.latency import latency
from selfinformed.evidence.papers import write_tables
from selfinformed.evidence.reporting import Findings, reading, report
from selfinformed.network.stages import with_earlier_points
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.pipeline.artefacts import read_artefact, read_history
from selfinformed.pipeline.config import RunConfig
from selfinformed.pipeline.folder import RunFolder, Say
from selfinformed.pipeline.inputs import Inputs, Part
from selfinformed.runtime.device import rank
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import to_line, write_json, write_text
from selfinformed.runtime.tabular import percent
from selfinformed.runtime.work import remove_leftovers
from selfinformed.structure.clustering import cluster, grouping_of, sweep
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import count, detect
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.structure.stability import stability
from selfinformed.training.checkpoints import is_finished
from selfinformed.training.features import FeatureStore, estimate
from selfinformed.training.headroom import probe
from selfinformed.training.processes import Processes
from selfinformed.training.recipe import RESIDUALS, Recipe
from selfinformed.training.searching import search
from selfinformed.training.stored import are_whole
from selfinformed.training.structures import Structure
from selfinformed.training.teachers import TeacherNetwork


class Run:
    """A run folder. Asking for a stage's artefact makes it, and those before it, unless it is there already.

    Args:
        config: the configuration; its `output` is the folder.
        say: takes a line about each stage.
        checked: look at once whether network and data are still those of the run, which may open them.

    Raises:
        SelfInformedError: the folder cannot be written, or holds artefacts of another configuration.
    """

    def __init__(self, config: RunConfig, say: Say = lambda line: None, checked: bool = True) -> None:
        self.config, self.say = config, say
        self._kept = RunFolder(config, say)
        self.folder = self._kept.path
        self.inputs = Inputs(config)
        self._features: dict[Part, FeatureStore] = {}
        changed = self._kept.changed() if config.model and checked else []
        if changed:
            _ = self.net
        for split in ("train", "holdout", "test", "second_view"):
            if split in changed and are_whole(self.folder / "features" / split):
                self.features(split)  # refused where it is of other data
        if "holdout" in changed and (self.folder / "detections" / "manifest.json").exists():
            _ = self.predictions
        if changed:
            self._kept.keep_network(data_too=True)

    @cached_property
    def net(self) -> WrappedClassifier:
        """The wrapped base."""
        net = self.inputs.network()
        self._kept.belongs_to(net)
        self.say(f"network    {net}")
        if self.inputs.has_random_weights:
            self.say("           its weights are random; --checkpoint FILE gives it those that it was trained to")
        if self.config.teacher is not None and not (self.folder / "config.json").exists():
            self.say(f"teacher    {self._teaching[0]}")  # what is wrong with it is said before anything is made
        return net

    @cached_property
    def labels(self) -> LabelSpace:
        """The label names: the network's, or without a network those given, or numbers."""
        if self.config.model:
            return self.net.labels
        return self.inputs.labels or LabelSpace.numbered(self.counts().n_labels)

    @cached_property
    def predictions(self) -> Predictions:
        """The saved predictions that were given, or detections/unit-*.safetensors."""
        c = self.config
        if c.predictions:
            given = self.net.n_labels if c.model else c.n_labels or (len(self.inputs.labels) if self.inputs.labels else None)
            return open_predictions(c.predictions, given, c.top_k)
        return detect(self.net, self.inputs.examples("holdout"), self.folder / "detections", c.top_k, c.forward_batch_size)

    def counts(self, kind: Kind = "confusions") -> ConfusionCounts:
        """counts.safetensors (eq. 3) or codetections.safetensors (eq. 4)."""
        name = "counts.safetensors" if kind == "confusions" else "codetections.safetensors"
        counts = self._kept.stage("measure", name, ConfusionCounts.load, lambda: count(self.predictions, kind), lambda c, path: c.save(path))
        expected = self.net.n_labels if self.config.model else counts.n_labels
        if counts.n_labels != expected:
            raise SelfInformedError(f"{self.folder / name} counts {counts.n_labels} labels, the network has {expected}; delete it")
        return counts

    def groups(self, kind: Kind = "confusions") -> LabelGroups:
        """groups.json, or groups-codetections.json."""

        def make() -> LabelGroups:
            c = self.config
            counted, method = grouping_of(c.grouping)
            if kind == "codetections":  # the paper's control of the method, whatever that groups
                method = method if method in ("balanced", "greedy", "leiden") else "spectral"
                return cluster(self.counts(kind), len(self.groups()), c.seed, self.labels, c.cover_share, method)
            counts = self.counts(counted)
            if len(unseen := counts.never_annotated):
                names = ", ".join(repr(self.labels.names[label]) for label in unseen[:3])
                which = f"{len(unseen):,} of {counts.n_labels:,} labels have no hold-out example"
                self.say(f"           {which}, so what they are mixed up with is not known: {names}{', …' if len(unseen) > 3 else ''}")
            found = cluster(counts, c.n_groups, c.seed, self.labels, c.cover_share, method)
            return replace(found, method=found.method.replace(method, c.grouping))  # its own name also where that is a kind of counts

        return self._kept.stage("cluster", _named("groups", kind), LabelGroups.load, make, lambda g, path: g.save(path))

    def stability(self) -> dict[str, Any]:
        """stability.json: how well groups found on halves and bootstrap samples of the hold-out examples agree."""

        def make() -> dict[str, Any]:
            c = self.config
            kind, method = grouping_of(c.grouping)
            found = stability(self.predictions, self.groups(), kind, bootstraps=c.bootstraps, seed=c.seed, method=method)
            return {**vars(found), "text": str(found)}

        return self._kept.json_stage("stability", "stability.json", make)

    def sweep(self) -> list[dict[str, Any]]:
        """sweep.json and figures/sweep.png: what other numbers of groups would give."""

        def save(rows: list[dict[str, Any]], path: Path) -> None:
            save_figure(sweep_figure(rows), self.folder / "figures" / "sweep.png")
            self._kept.write(path.name, rows)

        def make() -> list[dict[str, Any]]:
            return sweep(self.counts(), self.config.sweep or (), self.config.seed)

        return self._kept.stage("sweep", "sweep.json", read_artefact, make, save, also="figures/sweep.png")

    def plan(self, kind: Kind = "confusions") -> HeadPlan:
        """plan.json, or plan-codetections.json."""
        c = self.config

        def make() -> HeadPlan:
            examples = self.inputs.examples("train").targets.positives() if c.capacity == "examples" else None
            counts = self.counts(kind) if c.capacity == "confusions" else None
            return plan(
                self.net, self.groups(kind), hidden=c.hidden, budget=c.budget, depth=c.depth, capacity=c.capacity, counts=counts,
                examples=examples, dense_share=c.dense_share,
            )  # fmt: skip

        return self._kept.stage("plan", _named("plan", kind), HeadPlan.load, make, lambda p, path: p.save(path))

    def features(self, split: Part) -> FeatureStore:
        """features/SPLIT/unit-*.safetensors; what an older version kept as features/SPLIT.safetensors is read too."""
        if split not in self._features:
            self._features[split] = self._cached(self.net, split, f"features/{split}")
        return self._features[split]

    def _cached(self, net: WrappedClassifier, split: Part, name: str) -> FeatureStore:
        """A network's features of a split, from the folder of that name, which is filled where it is not whole."""
        c = self.config
        examples, folder, skipped = self.inputs.examples(split), self.folder / name, self.folder / f"skipped-{split}.json"
        if (one_file := folder.with_suffix(".safetensors")).exists():
            left_out = [row["example"] for row in read_artefact(skipped)] if skipped.exists() else []
            kept = examples.take(np.delete(np.arange(len(examples)), left_out)) if left_out else examples
            store = FeatureStore.load(one_file, net, kept)
        elif are_whole(folder):
            remove_leftovers(folder)
            store = FeatureStore.load(folder, net, examples)
            _check_still_given(store, net, examples, folder)
            self.say(f"{'features':<10} {name} is there already")
        else:
            about, start = estimate(net, examples, c.forward_batch_size, c.feature_dtype), time.perf_counter()
            self.say(f"{'features':<10} {name} will take {about['bytes'] / 1e6:,.0f} MB of disk and about {about['seconds']:,.0f} s in all")
            store = FeatureStore.build(net, examples, c.forward_batch_size, f"caching {name.partition('/')[2]} features", folder, c.feature_dtype)
            self.say(f"{'features':<10} {name} in {time.perf_counter() - start:.1f} s")
        self._kept.keep_network()
        if examples.skipped and not skipped.exists() and rank() == 0:
            write_json(skipped, {"format": "selfinformed.skipped/1", "rows": [{"example": k, "reason": why} for k, why in examples.skipped.items()]})
            self.say(f"           {len(examples.skipped)} unreadable {split} examples set aside, see {skipped.name}")
        return store

    def headroom(self) -> dict[str, Any]:
        """probe.json: what heads could gain, also at `attach_points` earlier points of the network."""
        c = self.config
        if (there := self._kept.there("probe.json")) and not self._is_whole(there):
            self._kept.make_again("probe.json")

        def make() -> dict[str, Any]:
            net = with_earlier_points(self.net, c.attach_points) if c.attach_points else self.net
            stores, folders = list[FeatureStore](), list[Path]()
            if net.attach_points == self.net.attach_points:
                stores = [self.features("train"), self.features("holdout")]
            else:
                data = [self.inputs.examples("train"), self.inputs.examples("holdout")]
                seconds = self.estimate()["cache_seconds"] * sum(map(len, data)) / len(data[0])
                self.say(f"           heads may read {', '.join(map(str, net.attach_points))}; caching their features takes about {seconds:.0f} s")
                for part, examples in zip(("train", "holdout"), data, strict=True):
                    folders.append(self.folder / f"features/{part}-{c.attach_points}-earlier")
                    stores.append(FeatureStore.build(net, examples, c.forward_batch_size, f"caching {part} features", folders[-1], c.feature_dtype))
            found = probe(
                net, *stores, groups=self.groups(), width=c.probe_width, epochs=c.epochs, top_k=c.map_k, seed=c.seed,
                budget=self._budget, **self._training(probed=False),
            )  # fmt: skip
            for folder in folders:
                rmtree(folder, ignore_errors=True)  # some file systems keep what is still mapped
            return {**found.to_dict(), "earlier_points": c.attach_points}

        return self._kept.json_stage("probe", "probe.json", make)

    def _is_whole(self, probed: dict[str, Any]) -> bool:
        """Whether a probe.json, which may be of an earlier version, holds all that the configuration asks for."""
        tried = self.config.residual != "auto" or {*RESIDUALS} <= {*probed.get("residuals", ())}
        return tried and bool(probed.get("earlier_points", -1) >= self.config.attach_points)

    def augmented(self, replace_others: bool = False) -> AugmentedClassifier:
        """heads.safetensors, config.json and history.jsonl; a training that was stopped goes on from training.safetensors.

        Processes joined by `torch.distributed` call this alike: they share the measuring, the features and each batch; the first writes the rest.

        Args:
            replace_others: whether heads of another `structure`, or of an earlier search, may be replaced, and what led to those that are there removed.
        """
        c, checkpoint, processes = self.config, self.folder / "training.safetensors", Processes.joined()
        if (self.folder / "config.json").exists() and not self.is_trained and not replace_others:
            use = "to go on with them: --structure searched; " if c.structure == "planned" else ""
            raise SelfInformedError(
                f"{self.folder} has heads of another structure than {c.structure}, or of an earlier search; {use}to replace them: "
                f"selfinformed fit {self.folder} --structure {c.structure}"
            )

        def make() -> AugmentedClassifier:
            if processes.world > 1 and not (self.folder / "plan.json").exists():
                self.counts()
            with processes.first_alone(self.net.classifier.weight):
                structure = self._found() if c.structure == "searched" else Structure(self.plan())
            training = self._training()
            recipe = Recipe.of(training.get("recipe"))
            if c.structure == "planned":
                structure = replace(structure, residual=recipe.residual)
            aug, history = structure.train(
                self.net, self.features("train"),
                holdout=self.features("holdout") if recipe.patience or structure.share < 1 else None, seed=c.seed, epochs=c.epochs,
                classifier="keep" if c.keep_classifier else "reinitialise", finetune=c.finetune, checkpoint=checkpoint, log=self.folder / "log",
                tensorboard=None if c.log else False, **training,
            )  # fmt: skip
            if rank() == 0:
                write_text(self.folder / "history.jsonl", "".join(to_line(row) + "\n" for row in history.rows))
            return aug

        def read(path: Path) -> AugmentedClassifier:
            if replace_others and rank() == 0 and is_finished(checkpoint):  # of a process that ended right after the training
                with self._kept.held("fit"):  # or of one that is about to save what it trained
                    checkpoint.unlink(missing_ok=True)
            return load(path.parent, self.net)

        def save(aug: AugmentedClassifier, path: Path) -> None:
            path.unlink(missing_ok=True)  # first: it must never describe other weights than are there
            aug.save_pretrained(path.parent, self._kept.made_with(path.name))
            checkpoint.unlink(missing_ok=True)

        return self._kept.stage("fit", "config.json", read, make, save, also="heads.safetensors")

    def _found(self, which: Literal["best", "dense"] = "best") -> Structure:
        """What search found: the best structure, or the best dense head."""
        path = self.folder / "search.json"
        if Processes.joined().world > 1 and self._kept.current(path.name) is None:
            raise SelfInformedError("structure: searched wants search.json, which one process makes; run selfinformed search on the run folder first")
        if path.exists() and self._kept.current(path.name) is None:
            raise SelfInformedError(
                f"{path} is of a search with other options than these; to use it name the run folder, {self.folder}, instead of a configuration; to replace it "
                "run selfinformed search with these first"
            )
        if which not in (found := self.search()):
            raise SelfInformedError(f"{path}: it has no {which!r}; delete it to have it made again")
        return Structure.from_dict(found[which], str(path))

    @property
    def is_trained(self) -> bool:
        """Whether the heads that are there are those that the configuration asks for."""
        return (self.folder / "config.json").exists() and self._kept.is_current("config.json")

    def evaluation(self) -> dict[str, Any]:
        """evaluation.json: the augmented network's figures, and the base's under `base`."""
        c = self.config

        def make() -> dict[str, Any]:
            aug, features, train = self.augmented(), self.features("test"), self.features("train")
            return judge(
                aug, self.inputs.examples("test") if aug.base_was_tuned else features, c.map_k, base_test=features, groups=self.groups(),
                mapping=self.inputs.mapping(), training_positives=train.targets.take(np.arange(train.n_inputs)).positives().tolist(),
            )  # fmt: skip

        return self._kept.json_stage("evaluate", "evaluation.json", make)

    def conditional(self) -> list[dict[str, Any]]:
        """conditional.json and figures/conditional.png: mAP against executed multiply-adds."""
        c = self.config
        structure = self._found() if c.structure == "searched" else Structure(self.plan())
        n_heads = len(structure.plan.groups)
        numbers = sorted({min(n, n_heads) for n in (0, *(c.top_groups or ()), structure.top_groups or n_heads, n_heads)})
        if (there := self._kept.there("conditional.json")) and [row["top_groups"] for row in there] != numbers:
            self._kept.make_again("conditional.json")

        def make() -> list[dict[str, Any]]:
            aug = self.augmented()
            data = self.inputs.examples("test") if aug.base_was_tuned else self.features("test")
            return conditional_curve(aug, data, numbers, c.map_k)

        def save(rows: list[dict[str, Any]], path: Path) -> None:
            base = self.evaluation()["base"]["mean_average_precision"]
            save_figure(conditional_figure(rows, base), self.folder / "figures" / "conditional.png")
            self._kept.write(path.name, rows)

        return self._kept.stage("evaluate", "conditional.json", read_artefact, make, save, also="figures/conditional.png")

    def comparison(self) -> Comparison:
        """comparison.json; comparison.jsonl holds the rows done so far. What a search has found since is compared too."""
        c, path = self.config, self.folder / "comparison.json"
        if path.exists() and self._kept.is_current("comparison.json") and self._differs(Comparison.load(path)):
            self._kept.make_again("comparison.json")

        def make() -> Comparison:
            def wants(arm: str) -> bool:
                return c.arms is None or arm in c.arms

            if c.finetune:
                self.say("           compared are trained heads; the network that was trained on as a whole after them is judged in evaluation.json")
            heads, hinton, (searched, dense, arms) = self.plan(), None, self._searched()
            views = self.features("second_view") if c.second_view and wants("views") else None
            if wants("hinton"):
                found = cluster(self.counts("codetections"), len(self.groups()), c.seed, self.labels, method="hinton")
                budget = heads.extra_computation - 1 + 0.5 / heads.base_multiply_adds  # the half keeps rounding from losing a unit that just fits
                hinton = plan(self.net, found, budget=budget, depth=max(map(len, heads.hidden), default=1), dense_share=0.0 if c.hidden else c.dense_share)
            return compare(
                self.net, heads, self.features("train"), self.features("test"), holdout=self.features("holdout"),
                codetections=self.plan("codetections") if wants("codetections") else None, hinton=hinton, searched=searched,
                searched_dense=dense, views=views, seeds=c.seeds, arms=arms, top_k=c.map_k, epochs=c.epochs, tuning=c.tuning,
                classifier="keep" if c.keep_classifier else "reinitialise", journal=self.folder / "comparison.jsonl", **self._training(),
            )  # fmt: skip

        return self._kept.json_stage("compare", "comparison.json", make, Comparison.load)

    def _differs(self, found: Comparison) -> bool:
        """Whether a comparison is of other seeds or arms than the configuration says, or of another search than the last."""
        c = self.config
        searched, dense, arms = self._searched() if (self.folder / "search.json").exists() else (None, None, c.arms)
        if found.about["seeds"] != c.seeds or (arms is not None and set(found.arms) != set(arms)):
            return True
        if searched is None:
            return False
        digest, untried = found.about.get("found", searched.digest()), searched.rate != 1 and "revision" not in found.about  # a rate that others did not try
        other = "searched_dense" in found.arms and (dense is None or found.about.get("found_dense") != dense.digest())
        return digest != searched.digest() or found.about.get("searched") != searched.description or untried or other

    def _searched(self) -> tuple[Structure | None, Structure | None, tuple[str, ...] | None]:
        """What search found, if arms want it, the best dense head where that is another, and the arms that there are then."""
        arms = self.config.arms
        if not (set(FOUND) & set(arms) if arms is not None else (self.folder / "search.json").exists()):
            return None, None, arms
        best, dense = self._found(), self._found("dense")
        if dense.digest() != best.digest():
            return best, dense, arms
        return best, None, arms and tuple(arm for arm in arms if arm != "searched_dense")  # the structure itself is a dense head

    def search(self) -> dict[str, Any]:
        """search.json: what was tried, best first, what won, and whether specialists were worth it; search.jsonl holds the trials done so far."""
        c = self.config

        def make() -> dict[str, Any]:
            return search(
                self.net, self.features("train"), self.features("holdout"), budget=c.budget if c.budget_of == "latency" else self._budget,
                budget_of=c.budget_of, candidates=c.candidates, rounds=c.rounds, epochs=c.epochs, top_k=c.map_k, seed=c.seed,
                counts={kind: self.counts(kind) for kind in get_args(Kind)},
                latency_inputs=self.inputs.batches_to_time() if c.budget_of == "latency" else None, journal=self.folder / "search.jsonl",
                classifier="keep" if c.keep_classifier else "reinitialise", **self._training(),
            ).to_dict()  # fmt: skip

        return self._kept.json_stage("search", "search.json", make)

    def report(self) -> Path:
        """report.html, figures/*.png and *.svg, and tables/*.csv, *.md and *.tex, written anew from the other artefacts."""
        title = f"selfinformed: {self.config.model}, {self.net.n_labels:,} labels"
        made = (self.counts(), self.groups(), self.plan(), self.comparison(), self.headroom(), self.evaluation())
        with reading(self.folder):
            findings = Findings(
                title, self.net.labels, *made,
                **{name: there for name in ("stability", "search", "latency", "conditional") if (there := self._kept.current(f"{name}.json"))},
                history=self._history(), images=self.inputs.pictures(self.groups()), config=self.config.to_dict(),
            )  # fmt: skip
            path = report(findings, self.folder)
            write_tables(self.folder / "tables", findings.comparison, findings.groups, self.labels, findings.plan, findings.search.get("trials", ()))
            return path

    def latency(self, again: bool = False) -> dict[str, Any]:
        """latency.json: milliseconds of base and augmented network, measured in alternation; `again` where they are there already."""
        if again:
            self._kept.make_again("latency.json")

        def make() -> dict[str, Any]:
            return latency(self.augmented(), self.inputs.examples("test"))

        return self._kept.json_stage("bench", "latency.json", make)

    def _history(self) -> list[dict[str, Any]]:
        """The rows of log/training.jsonl, or those of history.jsonl; lines that are damaged are left out."""
        rows = (read_history(self.folder / name) for name in ("log/training.jsonl", "history.jsonl"))
        return next((found for found in rows if found), [])

    def estimate(self) -> dict[str, float]:
        """What training will take: cached features in bytes, seconds to cache them and to train once, from one timed batch."""
        heads, cost, examples = self.plan(), self.net.cost, self.inputs.examples("train")
        about = estimate(self.net, examples, self.config.forward_batch_size, self.config.feature_dtype)
        trained = heads.multiply_adds - cost.multiply_adds + cost.by_part["classifier"]
        return {
            "cache_bytes": about["bytes"],
            "cache_seconds": about["seconds"],
            "training_seconds": about["forward_seconds"] * self.config.epochs * 3 * trained / cost.multiply_adds,  # a backward pass costs two forward
        }

    @property
    def _budget(self) -> float:
        """Extra multiply-adds as a share of the base's: of the plan where widths are given."""
        return self.plan().extra_computation - 1 if self.config.hidden else self.config.budget

    def _training(self, probed: bool = True) -> dict[str, Any]:
        """Options of `fit`; what the probe says of `residual: auto` among them, unless they are for the probe."""
        names = ("batch_size", "learning_rate", "classifier_learning_rate", "head_input")
        recipe = {f.name: getattr(self.config, f.name) for f in fields(Recipe) if getattr(self.config, f.name) != f.default}
        if recipe.get("residual") == "auto":
            recipe["residual"] = self._probed_residual() if probed else 1.0
        taught = {} if self.config.teacher is None else {"teacher": self._teacher}
        return {name: getattr(self.config, name) for name in names} | ({"recipe": recipe} if recipe else {}) | taught

    @cached_property
    def _teaching(self) -> tuple[WrappedClassifier, torch.Tensor | None]:
        return self.inputs.teacher()

    @cached_property
    def _teacher(self) -> TeacherNetwork:
        """The teacher, by its cached features of the training examples."""
        net, order = self._teaching
        try:
            found = TeacherNetwork(net, self._cached(net, "train", "features/teacher"), order)
        except SelfInformedError as error:
            if "features of another network" in str(error):
                raise SelfInformedError(
                    f"{self.folder / 'features/teacher'} holds features of another teacher, and so may what was trained here; choose another --output"
                ) from None
            raise
        self.say(f"teacher    its best label is right for {percent(found.right())}% of the training examples")
        return found

    def _probed_residual(self) -> float:
        """That of the probe's best head where this plan's heads read."""
        there = self._kept.current("probe.json")
        if Processes.joined().world > 1 and not (there and self._is_whole(there)):
            raise SelfInformedError("residual: auto wants probe.json, which one process makes; run selfinformed probe on the run folder first")
        found = self.headroom()
        own = str(self.net.attach) if len(self.net.attach_points) == 1 else None
        return float(next((row["residual"] for row in found["attach_points"] if row["attach"] == own and "residual" in row), found["residual"]))


def _check_still_given(store: FeatureStore, net: WrappedClassifier, examples: Examples, folder: Path) -> None:
    """Stops where the network gives other features of the first example than are cached: its code is another, though its weights are the same."""
    found = net.features(examples.example_inputs())
    for kept, given in zip(store.batch(torch.tensor([0], device="cpu")), (found.attached, found.penultimate), strict=True):
        if not (kept - given.float().cpu()).abs().max() <= _ROUNDING * kept.abs().max().clamp(min=1e-6):
            raise SelfInformedError(
                f"{folder} holds features that the network does not give any more, though its weights are the same: the model's code has changed; "
                "choose another --output, or delete the folder"
            )


_ROUNDING = 0.02  # of the largest feature: of another batch size, number of threads, or type


def _named(name: str, kind: Kind) -> str:
    return f"{name}.json" if kind == "confusions" else f"{name}-{kind}.json"
