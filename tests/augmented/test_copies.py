"""Heads that begin with a copy of the trunk's end: they start from the base, train apart, and run only where they are chosen."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import Problem
from selfinformed.augmented.controls import gated
from selfinformed.augmented.exported import export_onnx
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.saved import load
from selfinformed.network.points import AttachPoint
from selfinformed.network.trunk import CopiedEnd
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit

HIDDEN = [(), (12,), (9, 5)]
POINT = "trunk.0"  # before the BatchNorm
every_depth = pytest.mark.parametrize("hidden", HIDDEN, ids=str)


@pytest.fixture(scope="module")
def net(problem: Problem) -> WrappedClassifier:
    attach = [AttachPoint(POINT, reduce="map"), AttachPoint("stack.0", "input")]
    return wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=attach)


@pytest.fixture(scope="module")
def stores(problem: Problem, net: WrappedClassifier) -> dict[str, FeatureStore]:
    return {split: FeatureStore.build(net, getattr(problem, split)) for split in ("train", "holdout", "test")}


def copies(net: WrappedClassifier, problem: Problem, hidden: tuple[int, ...] = (12,)) -> HeadPlan:
    return plan(net, problem.groups, hidden=hidden, attach=POINT, copy=True)


@pytest.fixture(scope="module", params=HIDDEN, ids=str)
def trained(request, net: WrappedClassifier, problem: Problem, stores) -> AugmentedClassifier:
    aug = augment(net, copies(net, problem, request.param))
    fit(aug, stores["train"], holdout=stores["holdout"], epochs=1)
    return aug


def executed(aug: AugmentedClassifier, inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        aug.logits(inputs)
    return counter.get_total_flops() // 2


@every_depth
def test_before_training_it_is_the_base_bit_for_bit(net, problem: Problem, hidden) -> None:
    aug, inputs = augment(net, copies(net, problem, hidden)), problem.test.read(range(64))
    assert torch.equal(aug.logits(inputs), net.logits(inputs))
    own = [reader.copy for reader in aug.heads.readers]
    assert len(own) == len(problem.groups)
    for one in own:  # each its own, with the trunk's weights
        pairs = zip(one.layers[0].parameters(), net.model.trunk[1].parameters(), strict=True)
        assert all(torch.equal(mine, its) and mine.data_ptr() != its.data_ptr() for mine, its in pairs)
    assert len({p.data_ptr() for one in own for p in one.parameters()}) == sum(len(list(one.parameters())) for one in own)


@every_depth
def test_cost_is_what_is_executed(net, problem: Problem, hidden) -> None:
    made = copies(net, problem, hidden)
    aug = augment(net, made)
    assert made.multiply_adds == executed(aug, problem.test.read([0]))
    added = sum(p.numel() for p in aug.heads.parameters())
    assert made.parameters == net.cost.parameters + added
    assert made.head_multiply_adds[0] > made.sources[0].copy.multiply_adds > 0
    assert HeadPlan.from_dict(made.to_dict()).to_dict() == made.to_dict()
    assert HeadPlan.from_dict(made.to_dict()).sources == made.sources


def test_training_moves_only_heads_and_classifier_and_keeps_the_statistics(net, problem: Problem, trained) -> None:
    fresh = augment(net, trained.plan)
    new = {name for name, p in trained.named_parameters() if any(p is q for q in trained.new_parameters())}
    before = fresh.state_dict()
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= new
    assert {name for name in new if ".copy." in name} <= moved  # every weight of every copy, the BatchNorms' too
    normalisers = [module for module in trained.heads.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(normalisers) == len(problem.groups)
    trained.train()
    assert not any(module.training for module in normalisers)
    trained.eval()
    first, second = (list(reader.copy.parameters()) for reader in trained.heads.readers[:2])
    assert not all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_it_helps_and_without_heads_it_is_the_base(net, problem: Problem, stores, trained) -> None:
    inputs = problem.test.read(range(32))
    assert rank(trained, stores["test"]).mean_average_precision > rank(net, stores["test"]).mean_average_precision + 0.03
    with trained.heads_disabled():
        assert torch.equal(trained.logits(inputs), net.logits(inputs))
    features = net.features(inputs)
    torch.testing.assert_close(trained(inputs), trained.from_features(features.attached, features.penultimate))


@pytest.mark.parametrize("kind", ["whitened", "standardised", "raw"])
def test_a_copy_reads_raw_features_and_gives_transformed_ones(net, problem: Problem, stores, kind) -> None:
    made = copies(net, problem) + plan(net, problem.groups, hidden=(4,), attach="stack.0") + plan(net, problem.groups, hidden=(3,), attach=POINT, kernel=2)
    aug, store = augment(net, made, classifier="reinitialise"), stores["holdout"]
    ends = {source: CopiedEnd(net.model, source.copy) for source in made.sources if source.copy}
    transform = store.input_transform(kind, ends)
    assert store.input_transform(kind, ends) is transform
    assert store.input_transform(kind) is not transform
    rows = torch.arange(40)
    raw, seen = store.batch(rows)[0], store.transformed(transform).batch(rows)[0]
    assert torch.equal(raw[:, :576], seen[:, :576])
    plain, copied = aug.heads(raw), aug.heads.readers[0]
    torch.testing.assert_close(copied.copied(copied.inputs(raw)), raw[:, 576:])  # untrained, it gives what the trunk gives
    aug.heads.unfold(transform)
    if kind != "raw":
        white = copied.copied(copied.inputs(store.transformed(transform).attached))
        assert white.mean(0).abs().max() < 1e-2
        assert white.var(0).max() < 1.1
    expected = aug.heads(seen)
    aug.heads.fold(transform)
    torch.testing.assert_close(aug.heads(raw), expected, rtol=1e-3, atol=1e-4)
    assert torch.allclose(plain, expected, rtol=1e-3, atol=1e-4) == (kind == "raw")
    aug.heads.unfold(transform)  # trained heads keep their function
    torch.testing.assert_close(aug.heads(seen), expected, rtol=1e-2, atol=2e-3)


def test_a_trained_network_is_saved_and_loaded(net, problem: Problem, trained, tmp_path) -> None:
    from safetensors import safe_open

    inputs = problem.test.read(range(32))
    trained.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, net.model, inputs[:2])(inputs), trained(inputs))
    with safe_open(tmp_path / "heads.safetensors", "np") as file:
        numbers = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert numbers == sum(p.numel() for p in trained.new_parameters())
    assert torch.equal(copy.deepcopy(trained)(inputs), trained(inputs))


def test_a_copy_runs_only_on_the_examples_that_chose_it(net, problem: Problem, trained, monkeypatch) -> None:
    inputs, ran = problem.test.read(range(50)), []
    features = net.features(inputs)
    forward = CopiedEnd.forward
    monkeypatch.setattr(CopiedEnd, "forward", lambda self, x: ran.append(len(x)) or forward(self, x))
    for top, share in ((1, None), (2, 0.2), (None, 0.1)):
        ran.clear()
        trained.output = "softmax"
        with trained.conditional(top, share=share) as dispatch:
            logits = trained.logits(inputs)
        rows = 50 if share is None else round(share * 50)
        assert sum(ran) == rows * (6 if top is None else top)
        assert dispatch.multiply_adds == pytest.approx(net.cost.multiply_adds + sum(ran) * trained.plan.head_multiply_adds[0] / 50)
        plain = trained.classifier(features.penultimate)
        unsure = dispatch.unsure(plain)
        helped = torch.arange(50) if unsure is None else unsure
        chosen = dispatch.choose(plain[helped])
        for row, heads in zip(helped.tolist(), chosen.tolist(), strict=True):
            for head in heads:
                given = trained.heads.some([(head, trained.heads.readers[head].inputs(features.attached[row : row + 1]))])[head]
                plain[row, problem.groups.members[head]] += given[0]
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_the_method_again_starts_from_trained_copies(net, problem: Problem, trained) -> None:
    inputs = problem.test.read(range(16))
    again = augment(net, plan(net, problem.groups, hidden=(3,), attach=POINT, copy=True), onto=trained)
    torch.testing.assert_close(again(inputs), trained(inputs))
    assert again.heads.trained == len(problem.groups)


@pytest.mark.filterwarnings("ignore")
def test_copies_are_exported(problem: Problem, net, tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    aug = augment(net, copies(net, problem, (9, 5)), classifier="reinitialise")
    assert export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(8))).top1_agreement == 1


def test_usage_multiplies_what_copies_cost(net, problem: Problem) -> None:
    one = copies(net, problem, (1,)).sources[0].copy.multiply_adds
    base = net.cost.multiply_adds
    budget = 6 * 0.05 * 1.5 * one / base
    made = plan(net, problem.groups, budget=budget, attach=POINT, copy=True, usage=0.05)
    average = 0.05 * sum(made.head_multiply_adds)
    assert average <= budget * base
    wider = replace(made, hidden=tuple((w + 1,) for (w,) in made.hidden))
    assert 0.05 * sum(wider.head_multiply_adds) > budget * base
    refused = rf"budget: {budget * base:,.0f} multiply-adds do not reach for copies of trunk.1 .*: one costs {one:,} for each example that runs it, and 6 "
    with pytest.raises(SelfInformedError, match=refused + r"with one unit, run on 0.1 of the examples, [0-9,]+ on average"):
        plan(net, problem.groups, budget=budget, attach=POINT, copy=True, usage=0.1)


def test_copies_that_cannot_be_are_refused(net, problem: Problem) -> None:
    for options in ({"kernel": 3}, {"shared": 4}):
        with pytest.raises(SelfInformedError, match="copy: a copy reads one attach point, without kernel= and shared="):
            plan(net, problem.groups, hidden=(4,), attach=POINT, copy=True, **options)
    with pytest.raises(SelfInformedError, match="gated: the heads begin with copies"):
        gated(net, copies(net, problem))
    made = copies(net, problem)
    with pytest.raises(SelfInformedError, match="is no source"):
        replace(made.sources[0], start=1)
    with pytest.raises(SelfInformedError, match="is no source"):
        replace(made.sources[0], shared=3)
    with pytest.raises(SelfInformedError, match="give neither shared= nor dense_share= nor copy="):
        plan(net, problem.groups, depth=0, attach=POINT, copy=True)
