"""Controls cost what they say and what the method costs, compute what they say, and are trained as heads are."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import Problem, SmallNet
from selfinformed.augmented.controls import GatedExperts, LowRankLinear, _gated_cost, _widths, adapted, gated
from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan, Source
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit

MADE = {"gated": gated, "adapter": adapted}
FLAT, MAP = Source(0, 12), Source(0, 12, (3, 2, 2))


def counted(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops() // 2


def slowly(module: GatedExperts, x: torch.Tensor) -> torch.Tensor:
    """Example by example and expert by expert, as the formula has it."""
    total = torch.zeros(len(x), module.outputs.out_features)
    edges = [0]
    for widths in module.hidden:
        edges.append(edges[-1] + widths[-1])
    firsts = [0]
    for widths in module.hidden:
        firsts.append(firsts[-1] + widths[0])
    for row, example in enumerate(x):
        read = example[module.gate.source.start : module.gate.source.stop]
        read = read if module.gate.source.map is None else read.unflatten(0, module.gate.source.map).mean((1, 2))
        gates = (module.gate.layer.weight.flatten(1) @ read + module.gate.layer.bias).exp()
        gates = gates / gates.sum()
        inputs = module.reader.inputs(example[None])
        for e in range(len(module.hidden)):
            mine = slice(firsts[e], firsts[e + 1])
            hidden = module.reader.rows(inputs, mine, module.reader.layer.weight[mine], module.reader.layer.bias[mine])[0]
            for layers in module.deeper:
                hidden = (layers[e].weight @ hidden + layers[e].bias).relu()
            total[row] += len(gates) * gates[e] * (module.outputs.weight[:, edges[e] : edges[e + 1]] @ hidden)
    return total


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 20), st.integers(1, 3), st.integers(1, 9), st.sampled_from([FLAT, MAP, Source(2, 9), Source(0, 12, shared=4)]))
def test_experts_are_mixed_as_one_by_one_at_the_cost_they_say(experts, more, depth, n_labels, source):
    torch.manual_seed(0)
    widths = _widths(experts + more, experts, depth)
    assert sum(w[0] for w in widths) == experts + more
    module = GatedExperts(source, widths, n_labels, zero_outputs=False)
    with torch.no_grad():
        module.gate.layer.weight *= 20  # so that the gate is far from even
    x = torch.randn(5, 12)
    torch.testing.assert_close(module(x), slowly(module, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.gates(x).sum(1), torch.ones(5))
    mixing = sum(w[-1] for w in widths)  # no matrix product: PyTorch does not count it
    assert counted(module, x[:1]) + mixing == _gated_cost(source, widths, n_labels)


@pytest.mark.parametrize("hidden", [(5,), (12,), (40,), (30, 8), (64, 64, 9)])
def test_controls_cost_at_most_the_heads_and_within_one_unit(problem: Problem, hidden: tuple[int, ...]) -> None:
    heads = problem.plan(hidden)
    aug = gated(problem.net, heads)
    module = aug.heads
    assert isinstance(module, GatedExperts)
    assert len(module.hidden) == 6
    assert {len(w) for w in module.hidden} == {len(hidden)}
    units = sum(w[0] for w in module.hidden)
    assert aug.plan.multiply_adds <= heads.multiply_adds
    assert problem.net.cost.multiply_adds + _gated_cost(module.reader.source, _widths(units + 1, 6, len(hidden)), 36) > heads.multiply_adds
    inputs = problem.test.read([0])
    mixing = sum(w[-1] for w in module.hidden)
    assert counted(aug, inputs) + mixing == aug.plan.multiply_adds
    assert aug.plan.parameters == heads.base_parameters + sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("units", "rank"), [(1, 14), (2, 16)])
def test_the_adapter_has_the_largest_rank_within_the_budget(problem: Problem, units: int, rank: int) -> None:
    heads = plan(problem.net, LabelGroups(36, problem.groups.members[:5]), hidden=(units,))
    aug = adapted(problem.net, heads)
    assert isinstance(aug.classifier, LowRankLinear)
    extra = heads.multiply_adds - heads.base_multiply_adds
    assert aug.classifier.down.shape == (min(extra // (16 + 36), 16), 16)
    assert aug.classifier.down.shape[0] == rank
    assert counted(aug, problem.test.read([0])) == aug.plan.multiply_adds <= heads.multiply_adds
    assert aug.plan.parameters - heads.base_parameters == aug.plan.multiply_adds - heads.base_multiply_adds


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_until_it_is_trained_a_control_is_the_base(problem: Problem, make) -> None:
    before, inputs = copy.deepcopy(problem.net.model.state_dict()), problem.test.read([0, 1, 2])
    aug = make(problem.net, problem.plan())
    assert torch.equal(aug.logits(inputs), problem.net.logits(inputs))
    fit(aug, problem.store("train"), epochs=1)
    assert not torch.equal(aug.logits(inputs), problem.net.logits(inputs))
    with aug.heads_disabled():
        assert torch.equal(aug.logits(inputs), problem.net.logits(inputs))
    assert all(torch.equal(value, before[name]) for name, value in problem.net.model.state_dict().items())


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("head_input", ["whitened", "raw"])
def test_training_on_cached_features_is_training_the_network(either: Problem, make, head_input) -> None:
    aug = make(either.net, either.plan())
    fit(aug, either.store("train"), holdout=either.store("holdout"), epochs=4, head_input=head_input)
    test = either.store("test")
    rows = torch.arange(20)
    torch.testing.assert_close(aug.from_features(*test.batch(rows)), aug.logits(either.test.read(rows.tolist())), rtol=1e-4, atol=1e-4)
    gain = rank(aug, test).mean_average_precision_per_example - rank(either.net, test).mean_average_precision_per_example
    assert gain > (0.1 if make is gated and head_input == "whitened" else 0)


def test_training_goes_on_in_any_input_transform(problem: Problem) -> None:
    aug, store = gated(problem.net, problem.plan(), seed=3), problem.store("train")
    fit(aug, store, epochs=1)
    before = aug.from_features(*store.batch(torch.arange(50))).detach()
    for head_input in ("standardised", "raw"):
        transform = store.input_transform(head_input)
        aug.heads.unfold(transform)
        seen = store.transformed(transform)
        torch.testing.assert_close(aug.from_features(*seen.batch(torch.arange(50))), before, rtol=1e-3, atol=1e-3)
        aug.heads.fold(transform)
        torch.testing.assert_close(aug.from_features(*store.batch(torch.arange(50))), before, rtol=1e-3, atol=1e-3)


def test_an_adapter_is_its_merged_weight_and_the_classifiers_own_stays(problem: Problem) -> None:
    aug = adapted(problem.net, problem.plan((1,)))
    fit(aug, problem.store("train"), epochs=1)
    layer = aug.classifier
    assert isinstance(layer, LowRankLinear)
    assert torch.equal(layer.weight, problem.net.classifier.weight)
    assert {name for name, _ in layer.named_parameters()} == {"bias", "down", "up"}
    x = torch.randn(7, 16)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.merged(), layer.bias))
    assert torch.linalg.matrix_rank(layer.merged() - layer.weight) <= layer.down.shape[0]
    assert not torch.equal(layer.bias, problem.net.classifier.bias)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_seed_decides(problem: Problem, make) -> None:
    state = [make(problem.net, problem.plan(), seed=seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])
    assert any(not torch.equal(state[0][name], state[2][name]) for name in state[0])


class Distilled(SmallNet):
    """Two classifiers whose average is the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 36)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.stack(self.trunk(x))
        return (self.classifier(read) + self.second(read)) / 2


def test_an_average_of_classifiers_is_adapted_part_by_part() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 6, 6)
    net = wrap(Distilled().eval(), x, classifier=("classifier", "second"))
    heads = plan(net, LabelGroups(36, (range(3),)), hidden=(6,))
    for make in MADE.values():
        aug = make(net, heads)
        assert torch.equal(aug.logits(x), net.logits(x))
    aug = adapted(net, heads)
    assert isinstance(aug.classifier, AveragedClassifier)
    assert aug.plan.multiply_adds - heads.base_multiply_adds == min(16, (heads.multiply_adds - heads.base_multiply_adds) // 104) * 104
    for part in aug.classifier.parts:
        nn.init.normal_(part.up)
    features = net.features(x)
    torch.testing.assert_close(aug.logits(x), aug.from_features(features.attached, features.penultimate))


def test_a_re_initialised_classifier_has_experts_that_start_at_random(problem: Problem) -> None:
    aug = gated(problem.net, problem.plan(), classifier="reinitialise")
    assert not torch.equal(aug.classifier.weight, problem.net.classifier.weight)
    assert aug.heads.outputs.weight.abs().sum() > 0


def with_sources(net: WrappedClassifier, *sources: Source) -> HeadPlan:
    members = tuple(range(n, 36, len(sources)) for n in range(len(sources)))
    return HeadPlan(LabelGroups(36, members), ((9,),) * len(sources), net.feature_size, net.cost.multiply_adds, net.cost.parameters, sources)


def test_experts_read_what_the_heads_read() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(40, 1, 6, 6), SmallNet().eval()
    net = wrap(model, x[:2], attach=[AttachPoint("trunk.1", reduce="map"), AttachPoint("trunk.6")])
    maps = plan(net, LabelGroups(36, (range(9), range(9, 36))), hidden=(9,), attach="trunk.1")
    aug = gated(net, maps)
    assert aug.plan.multiply_adds <= maps.multiply_adds
    features = net.features(x)
    store = FeatureStore(features.attached, features.penultimate, _targets(40), net.fingerprint, 0.0, None, net.shapes)
    fit(aug, store, epochs=2, head_input="whitened")
    torch.testing.assert_close(aug.logits(x), aug.from_features(features.attached, features.penultimate), rtol=1e-4, atol=1e-4)
    both = maps + plan(net, LabelGroups.everything(36), hidden=(9,), attach="trunk.6")
    with pytest.raises(SelfInformedError, match="several attach points, one of them a map"):
        gated(net, both)
    flat = wrap(model, x[:2], attach=["trunk.3", "trunk.6"])
    assert gated(flat, with_sources(flat, Source(0, 576), Source(576, 720))).heads.reader.source == Source(0, 720)


def _targets(n: int):
    from selfinformed.data.targets import as_targets

    return as_targets([i % 36 for i in range(n)], 36)


def test_a_budget_that_is_too_small_is_said(problem: Problem) -> None:
    tiny = plan(problem.net, LabelGroups(36, ([0],)), hidden=(1,))
    with pytest.raises(SelfInformedError, match="gated: 145 multiply-adds do not reach for a gate and 1 experts"):
        gated(problem.net, tiny)
    assert adapted(problem.net, tiny).classifier.down.shape == (2, 16)
    with pytest.raises(SelfInformedError, match="adapter: 0 multiply-adds do not reach for rank 1, which takes 52"):
        adapted(problem.net, plan(problem.net, LabelGroups(36, ()), hidden=(1,)))


def test_a_control_is_not_saved_nor_run_by_groups(problem: Problem, tmp_path) -> None:
    for make in MADE.values():
        aug: AugmentedClassifier = make(problem.net, problem.plan())
        with pytest.raises(SelfInformedError, match="save_pretrained: this network is a control"):
            aug.save_pretrained(tmp_path)
        with pytest.raises(SelfInformedError, match="conditional: this network is a control"), aug.conditional(1):
            pass
        with pytest.raises(SelfInformedError, match="quantized_heads: this network is a control"), aug.quantized_heads():
            pass
