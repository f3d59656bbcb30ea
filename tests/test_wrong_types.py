"""Numbers of NumPy's types are numbers, and what is of a wrong type is told in one line, which says what to give."""

from __future__ import annotations

import json
import pickle
from collections import UserDict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import selfinformed as si
from conftest import refused
from selfinformed.evidence import Findings, conditional_curve, recall_on_subset
from selfinformed.network import AttachPoint
from selfinformed.training import Choice, Recipe

NAMES = [f"label {i}" for i in range(24)]


class Stack(nn.Module):
    """16 features to 24 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 20), nn.ReLU())
        self.stack = nn.Sequential(nn.Linear(20, 12), nn.ReLU())
        self.fc = nn.Linear(12, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stack(self.trunk(x)))


@cache
def small() -> Any:
    """All that the stages make of a small network."""
    torch.manual_seed(0)
    model, x, y = Stack(), torch.randn(240, 16), torch.arange(240) % 24
    data = si.open_dataset((x, y), NAMES)
    net = si.wrap(model, x[:4], labels=NAMES, output="softmax")
    counts = si.measure(net, data, top_k=5)
    groups = si.cluster(counts, 4, labels=NAMES)
    plan = si.plan(net, groups, budget=0.5)
    features = si.FeatureStore.build(net, data)
    aug = si.augment(net, plan)
    return SimpleNamespace(model=model, x=x, y=y, data=data, net=net, counts=counts, groups=groups, plan=plan, features=features, aug=aug)


def findings(s: Any, **more: Any) -> Findings:
    return Findings("title", s.net.labels, s.counts, s.groups, s.plan, **more)


def within(context: Any) -> None:
    with context:
        pass


def fitted(s: Any, **options: Any) -> Any:
    return si.fit(si.augment(s.net, s.plan), s.features, **{"epochs": 0.1} | options)


TAKEN = {
    "fit": lambda s: fitted(s, seed=np.int64(3), batch_size=np.int64(64), epochs=np.float32(0.1), learning_rate=np.float64(1e-3), checkpoint_every=None),
    "finetune": lambda s: si.fit(si.augment(s.net, s.plan), s.data, epochs=0.1, finetune=True, finetune_epochs=np.int64(1), batch_size=np.int16(64)),
    "probe": lambda s: si.probe(
        s.net, s.features, s.features, seed=np.int64(3), width=np.int64(4), epochs=0.1, residuals=np.array([1.0]), rates=(r for r in [1]), top_k=np.int64(5)
    ),
    "search": lambda s: si.search(
        s.net, s.features, s.features, budget=np.float32(0.5), seed=np.int64(3), candidates=np.int64(2), rounds=1, epochs=np.float32(0.1), top_k=np.int8(5)
    ).to_dict(),
    "compare": lambda s: si.compare(
        s.net, s.plan, s.features, s.features, holdout=s.features, arms=["base", "classifier"], seeds=np.int64(1), tuning=np.int64(2), epochs=0.1
    ),
    "augment": lambda s: si.augment(s.net, s.plan, seed=np.int64(3)),
    "measure": lambda s: si.measure(s.net, s.data, top_k=np.int64(5), batch_size=np.int64(7)),
    "cluster": lambda s: si.cluster(s.counts, np.int64(4), np.int64(1), cover_share=np.float32(0.1)).to_dict(),
    "plan": lambda s: si.plan(s.net, s.groups, budget=np.float32(0.5), depth=np.int64(1), usage=np.float32(1), shared_usage=np.float64(1)).to_dict(),
    "plan, of widths": lambda s: si.plan(s.net, s.groups, hidden=(np.int64(4),)).to_dict(),
    "recipe": lambda s: Recipe(patience=np.int64(3), residual=np.float32(0.5)).__dict__,
    "choice": lambda s: Choice(n_groups=np.int64(3), share=np.float32(0.5), top_groups=np.int64(1)).__dict__,
    "conditional": lambda s: within(s.aug.conditional(share=np.float32(0.5), chance=np.int64(1))),
    "conditional, above": lambda s: within(s.aug.conditional(np.int64(2), above=np.float32(0.5))),
    "run_conditionally": lambda s: si.augment(s.net, s.plan).run_conditionally(np.int64(2), above=np.float32(0.3)),
    "conditional_curve": lambda s: conditional_curve(s.aug, s.features, [np.int64(1)], np.int64(5)),
    "evaluate": lambda s: si.evaluate(s.aug, s.data, top_k=np.int64(5)).to_dict(),
    "randomized": lambda s: s.groups.randomized(np.int64(3)).to_dict(),
    "renamed": lambda s: s.groups.renamed(NAMES).to_dict(),
    "frames": lambda s: [len(s.groups.to_frame(NAMES)), len(s.counts.to_frame(np.int64(5), NAMES))],
    "most_confused": lambda s: s.counts.most_confused(5, NAMES),
    "names for targets": lambda s: (
        si.open_dataset((s.x[:2], [NAMES[3], NAMES[1]]), NAMES).targets.labels.tolist()
        + si.open_dataset((s.x[:2], np.array([[NAMES[3]], [NAMES[1]]])[:, 0]), NAMES).targets.labels.tolist()
        + si.open_dataset((s.x[:2], [[NAMES[3], NAMES[1]], []]), NAMES).targets.labels.tolist()
    ),
    "any mapping": lambda s: si.wrap(Keyed(), UserDict(x=s.x[:4])).logits(UserDict(x=s.x[:4])).tolist(),
}  # fmt: skip


class Keyed(Stack):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize("call", TAKEN.values(), ids=TAKEN)
def test_numbers_of_other_types_and_what_is_like_a_list(call: Any) -> None:
    found = call(small())
    if isinstance(found, dict | list):
        json.dumps(found)


REFUSED: list[tuple[Any, tuple[str, ...]]] = [
    # seeds
    (lambda s: fitted(s, seed=None), ("seed: expected a whole number from 0 to 4294967295; got None",)),
    (lambda s: fitted(s, seed=True), ("seed: ", "got True")),
    (lambda s: si.probe(s.net, s.features, s.features, seed=-1), ("seed: ", "got -1")),
    (lambda s: si.search(s.net, s.features, s.features, seed="3"), ("seed: ", "got '3'")),
    (lambda s: si.augment(s.net, s.plan, seed="3"), ("seed: ", "got '3'")),
    (lambda s: si.augment(s.net, s.plan, seed=1.5), ("seed: ", "got 1.5")),
    (lambda s: si.cluster(s.counts, 4, seed=2**32), ("seed: ", "got 4294967296")),
    (lambda s: s.groups.randomized(-1), ("seed: ", "got -1")),
    # whole numbers
    (lambda s: fitted(s, batch_size=True), ("batch_size: expected a whole number of at least 1; got True",)),
    (lambda s: fitted(s, checkpoint="x", checkpoint_every=0), ("checkpoint_every: expected a whole number of at least 1; got 0",)),
    (lambda s: si.fit(s.aug, s.data, finetune=True, finetune_epochs="1"), ("finetune_epochs: expected a whole number of at least 0; got '1'",)),
    (lambda s: si.probe(s.net, s.features, s.features, width=2.5), ("width: expected a whole number of at least 1; got 2.5",)),
    (lambda s: si.compare(s.net, s.plan, s.features, s.features, seeds=1.5), ("seeds: expected a whole number of at least 1; got 1.5",)),
    (lambda s: si.compare(s.net, s.plan, s.features, s.features, holdout=s.features, tuning="two"), ("tuning: ", "got 'two'")),
    (lambda s: si.cluster(s.counts, 2.0), ("n_groups: expected a whole number of at least 1, or 'auto'; got 2.0",)),
    (lambda s: si.open_dataset((s.x, s.y), image_size="224"), ("image_size: expected a whole number of at least 1; got '224'",)),
    (lambda s: si.open_dataset(".", image_size=(8, 8)), ("image_size: expected a whole number", r"got \(8, 8\)")),
    (lambda s: Recipe(patience=2.5), ("recipe: patience: expected a whole number of at least 0; got 2.5",)),
    (lambda s: Choice(kernel=0), ("kernel: expected a whole number of at least 1; got 0",)),
    (lambda s: s.aug.run_conditionally(99), ("top_groups: expected a whole number from 0 to 4, the heads; got 99",)),
    # real numbers
    (lambda s: fitted(s, epochs="3"), ("epochs: expected a number of at least 0; got '3'",)),
    (lambda s: fitted(s, learning_rate=None), ("learning_rate: expected a number of at least 0; got None",)),
    (lambda s: si.cluster(s.counts, 4, cover_share="3"), ("cover_share: expected a number of at least 0 and at most 1; got '3'",)),
    (lambda s: si.plan(s.net, s.groups, usage="ab"), ("usage: expected a list of numbers, at least one; got 'ab'",)),
    (lambda s: si.plan(s.net, s.groups, shared_usage=None), ("shared_usage: expected a number of at least 0 and at most 1; got None",)),
    (lambda s: si.plan(s.net, s.groups, shared_usage=2), ("shared_usage: expected a number of at least 0 and at most 1; got 2",)),
    (lambda s: within(s.aug.conditional(share="x")), ("share: expected a number above 0 and at most 1; got 'x'",)),
    (lambda s: within(s.aug.conditional(above="x")), ("above: expected a finite number; got 'x'",)),
    (lambda s: si.probe(s.net, s.features, s.features, rates=()), (r"rates: expected a list of numbers, at least one; got \(\)",)),
    (lambda s: si.probe(s.net, s.features, s.features, residuals=[2]), ("residuals: expected a number of at least 0 and at most 1; got 2",)),
    (lambda s: si.probe(s.net, s.features, s.features, budget="x"), ("budget: expected a number above 0, extra multiply-adds", "got 'x'")),
    (lambda s: si.open_dataset(".", pixels=(0.5, 0.5)), ("pixels: expected a list of numbers, at least one; got 0.5",)),
    (lambda s: si.open_dataset(".", pixels=0.5), ("pixels: expected a mean and a deviation, three numbers each; got 0.5",)),
    (lambda s: si.open_dataset(".", pixels=([0.5], [0.5])), ("pixels: expected a mean and a deviation, three numbers each; got",)),
    # what other functions gave
    (lambda s: si.report(s.groups, "out"), ("report: expected si.Findings", "got LabelGroups")),
    (lambda s: si.report("runs/demo", "x"), ("report: expected si.Findings", "got str", "selfinformed report")),
    (lambda s: si.cluster(s.net, 4), ("counts: expected what measure gave, got WrappedClassifier",)),
    (lambda s: si.cluster(s.counts.to_scipy(), 4), ("counts: expected what measure gave, got csr_array",)),
    (lambda s: si.plan(s.groups, s.net), ("network: expected what wrap gave, got LabelGroups",)),
    (lambda s: si.plan(s.net, s.counts), ("groups: expected what cluster gave, got ConfusionCounts",)),
    (lambda s: si.plan(s.net, [[0, 1]]), ("groups: expected what cluster gave, got list", "LabelGroups")),
    (lambda s: si.plan(s.net, s.groups, capacity="confusions", counts=s.groups), ("counts: expected what measure gave, got LabelGroups",)),
    (lambda s: si.cost(s.net, s.x), ("cost: expected a torch.nn.Module, got WrappedClassifier", "net.cost")),
    (lambda s: si.probe(s.aug, s.features, s.features), ("network: expected what wrap gave, got AugmentedClassifier", "aug.net")),
    (lambda s: si.search(s.aug, s.features, s.features), ("network: expected what wrap gave, got AugmentedClassifier", "aug.net")),
    (lambda s: si.compare(s.model, s.plan, s.features, s.features), ("network: expected what wrap gave, got Stack",)),
    (lambda s: si.evaluate(s.net, s.data, groups=[[1]]), ("groups: expected what cluster gave, got list",)),
    (lambda s: si.evaluate(s.net, s.data, groups=s.plan), ("groups: expected what cluster gave, got HeadPlan", "plan.groups")),
    (lambda s: si.probe(s.net, s.features, s.features, groups=s.plan), ("groups: expected what cluster gave, got HeadPlan",)),
    (lambda s: si.search(s.net, s.features, s.features, counts=s.counts), ("counts: expected counts by kind", "got ConfusionCounts")),
    (lambda s: si.search(s.net, s.features, s.features, counts={"confusions": 3}), ("counts: expected what measure gave, got int",)),
    (lambda s: si.search(s.net, s.features, s.features, space={"depth": [1]}), ("space: expected a Space, got dict",)),
    (lambda s: si.search(s.net, s.features, s.features, latency_inputs=s.x), ("latency_inputs: expected a list of batches, got Tensor",)),
    (lambda s: si.search(s.net, s.features, s.features, budget_of="time"), ("budget_of: expected one of multiply_adds, latency; got 'time'",)),
    (lambda s: si.wrap(s.model, s.x[:4], attach=s.model.trunk), ("attach: expected a module's name", "give 'trunk'")),
    (lambda s: si.wrap(s.model, s.x[:4], attach=["trunk", 3]), ("attach: expected a module's name", "got int")),
    (lambda s: si.wrap(s.model, s.x[:4], attach=nn.Linear(1, 1)), ("attach: expected a module's name", "none of the model's")),
    (lambda s: si.wrap(s.model, s.x[:4], attach=AttachPoint(s.model.trunk)), ("attach: expected a module's name", "give 'trunk'")),
    (lambda s: si.wrap(s.model, s.x[:4], classifier=s.model.fc), ("classifier: expected a module's name", "give 'fc'")),
    (lambda s: si.wrap(s.model, s.x[:4].numpy()), ("model: expected a tensor or a mapping of tensors by name, got ndarray", "torch.from_numpy")),
    (lambda s: si.wrap(s.model, (s.x[:4],)), ("model: expected a tensor or a mapping", "got tuple")),
    (lambda s: si.wrap(s.model, s.data), ("model: expected a tensor or a mapping", "got Examples", "example_inputs")),
    (lambda s: s.aug(s.x[:4].numpy()), ("model: expected a tensor or a mapping", "got ndarray")),
    (lambda s: fitted(s, teacher=s.net, recipe={"soft_targets": 0.5}), ("teacher: expected logits", "got WrappedClassifier", "TeacherNetwork")),
    (lambda s: fitted(s, teacher=s.aug, recipe={"soft_targets": 0.5}), ("teacher: expected logits", "got AugmentedClassifier", "TeacherNetwork")),
    (lambda s: fitted(s, teacher=np.zeros((240, 24)), recipe={"soft_targets": 0.5}), ("teacher: expected logits", "got ndarray", "from_numpy")),
    (lambda s: fitted(s, recipe=["ema"]), ("recipe: expected a Recipe or its options by name, got list",)),
    (lambda s: fitted(s, log=__file__), ("log: expected a folder, got the file", "test_wrong_types.py")),
    (lambda s: recall_on_subset(s.net, s.data, {"label 1": 1}), ("mapping: expected label names, source to target, got int",)),
    (lambda s: recall_on_subset(s.net, s.data, {"label 1": "a"}, most=0), ("most: expected a whole number of at least 1; got 0",)),
    (lambda s: si.load(s.model, "folder"), ("load: expected a folder, then the model, got Stack",)),
    (lambda s: findings(s, comparison=s.counts), ("comparison: expected what compare gave, got ConfusionCounts",)),
    (lambda s: si.open_dataset((s.x[:2], ["cat", "label 1"]), NAMES), ("example 0", "no label is named 'cat'")),
    (lambda s: si.open_dataset((s.x[:2], ["cat", "dog"])), ("targets: label names, such as 'cat', want", "labels=")),
    (lambda s: si.FeatureStore.build(s.aug, s.data), ("network: expected what wrap gave, got AugmentedClassifier",)),
    (lambda s: si.measure(s.data, s.net), ("data: expected data from open_dataset, got WrappedClassifier",)),
    (lambda s: conditional_curve(s.net, s.data), ("aug: expected what augment gave, got WrappedClassifier",)),
    (lambda s: si.export_onnx(s.aug, "x.onnx", s.x[:2], opset=True), ("opset: expected a whole number from 18 to 23; got True",)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=range(len(REFUSED)))
def test_wrong_types_and_values_are_told_in_one_line(call: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        call(small())


def test_counts_of_labels_that_are_never_confused_say_where_codetections_come_from() -> None:
    counts = si.ConfusionCounts(3, 1)
    counts.update(torch.eye(3), [0, 1, 2])
    with refused(r"measure\(\.\.\., kind='codetections'\)", "--grouping codetections"):
        si.cluster(counts)


def test_examples_can_be_pickled(tmp_path: Path) -> None:
    s = small()
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    (tmp_path / "one").mkdir()
    picture.save(tmp_path / "one" / "0.png")
    items = [(row, int(label)) for row, label in zip(s.x[:4], s.y[:4], strict=True)]
    views = si.FeatureStore.build(s.net, [s.data, s.data.take(np.arange(len(s.data)))]).examples
    for kept in (s.data, s.data.take([3, 1]), si.open_dataset(items), si.open_dataset(tmp_path, views=2, augmentation="crop"), s.features.examples, views):
        again = pickle.loads(pickle.dumps(kept))
        assert torch.equal(again.read([1, 0]), kept.read([1, 0]))
        assert again.fingerprint == kept.fingerprint
    assert torch.equal(pickle.loads(pickle.dumps(s.features)).attached, s.features.attached)


def test_what_a_report_is_of_may_be_the_results_themselves() -> None:
    s = small()
    found = si.evaluate(s.aug, s.features, top_k=5)
    comparison = si.compare(s.net, s.plan, s.features, s.features, arms=["base", "classifier"], seeds=1, epochs=0.1, top_k=5)
    assert findings(s, comparison=comparison, evaluation=found).evaluation == found.to_dict()
