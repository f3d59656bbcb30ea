"""Each head moves its own group's outputs, and no others; folding keeps the function."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.augmented.blocks import in_int8, int8_product
from selfinformed.augmented.heads import Heads
from selfinformed.augmented.readers import InputTransform
from selfinformed.network.points import FeatureShape
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan, Source

PARTITION = LabelGroups(9, (np.array([7, 0, 3]), np.array([1, 2]), np.array([8, 4, 5])))  # label 6 is in no group
COVER = LabelGroups(9, (np.array([7, 0, 3]), np.array([3, 2, 0]), np.arange(9)))


def heads(groups: LabelGroups, hidden: tuple[int, ...] = (4,)) -> Heads:
    torch.manual_seed(0)
    return with_outputs(Heads(HeadPlan(groups, (hidden,) * len(groups), 5, 1000, 1000)))


def with_outputs(made: Heads) -> Heads:
    weights = made.to_weights()
    made.set_weights({n: torch.randn_like(w) if n.startswith("outputs") else w for n, w in weights.items()})
    return made


def looped(made: Heads, features: torch.Tensor, only: int | None = None) -> torch.Tensor:
    """The obvious way: one head after the other, from the weights as they are saved."""
    plan, weights, taken = made.plan, made.to_weights(), {}
    total = torch.zeros(len(features), plan.groups.n_labels)
    several = len(set(plan.sources)) > 1
    for head, (source, widths, members) in enumerate(zip(plan.sources, plan.hidden, plan.groups.members, strict=True)):
        place = f"{made.reader_of[head]}." if several else ""
        x = features[:, source.start : source.stop]
        if source.shared:
            r = made.reader_of[head]
            x = (x @ weights[f"shared.{r}.weight"].T + weights[f"shared.{r}.bias"]).relu()
        start = taken.get(source, 0)
        taken[source] = start + widths[0]
        weight, bias = weights[f"first.{place}weight"][start : start + widths[0]], weights[f"first.{place}bias"][start : start + widths[0]]
        if source.map:
            maps = x.reshape(len(x), *source.map).unfold(2, source.kernel, 1).unfold(3, source.kernel, 1)
            x = (torch.einsum("bchwij,fcij->bfhw", maps, weight) + bias[:, None, None]).relu().mean((2, 3))
        else:
            x = (x @ weight.T + bias).relu()
        for depth in range(len(widths) - 1):
            x = (x @ weights[f"hidden.{head}.{2 * depth}.weight"].T + weights[f"hidden.{head}.{2 * depth}.bias"]).relu()
        if only in (None, head):
            total[:, members] += x @ weights[f"outputs.{head}.weight"].T
    return total


@pytest.mark.parametrize("groups", [PARTITION, COVER, LabelGroups.everything(9)], ids=["partition", "cover", "dense"])
@pytest.mark.parametrize("hidden", [(4,), (4, 3), (2, 6, 3)])
def test_heads_equal_a_loop_over_groups(groups, hidden):
    made, features = heads(groups, hidden), torch.randn(6, 5)
    torch.testing.assert_close(made(features), looped(made, features))


ANY = (Source(0, 20), Source(0, 8), Source(8, 20), Source(8, 20, (3, 2, 2)), Source(8, 20, (3, 2, 2), 2), Source(0, 8, shared=3), Source(2, 5))


@settings(max_examples=150)
@given(st.data())
def test_any_plan_equals_a_loop_over_groups(data):
    n_labels = data.draw(st.integers(1, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n = data.draw(st.integers(1, 8))
    members = tuple(rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)] for _ in range(n))
    if data.draw(st.booleans()):  # a partition
        members = tuple(m for m in np.array_split(rng.permutation(n_labels), n) if len(m))
    hidden = tuple(tuple(rng.integers(1, 40, rng.integers(1, 4)).tolist()) for _ in members)
    plan = HeadPlan(LabelGroups(n_labels, members), hidden, 20, 1000, 1000, tuple(data.draw(st.sampled_from(ANY)) for _ in members))
    torch.manual_seed(0)
    made, features = with_outputs(Heads(plan)), torch.randn(5, 20)
    expected = looped(made, features)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max() + 1)}
    torch.testing.assert_close(made(features), expected, **close)
    torch.testing.assert_close(made.by_group(features), torch.cat([looped(made, features, h)[:, m] for h, m in enumerate(members)], 1), **close)
    for head, group in enumerate(members):
        alone = made.some([(head, made.readers[made.reader_of[head]].inputs(features))])[head]
        torch.testing.assert_close(alone, looped(made, features, head)[:, group], **close)
    again = Heads(plan)
    again.set_weights(made.to_weights())
    assert torch.equal(again(features), made(features))
    own = sum(w.numel() for w in made.to_weights().values())
    assert own == plan.parameters - plan.base_parameters


@settings(max_examples=200)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 8))
def test_products_in_8_bits_of_any_size(inputs, outputs, batch):
    weight, x = torch.randn(outputs, inputs), torch.randn(batch, inputs).bfloat16()
    packed, scale = in_int8(weight)
    rounded = packed[:, :inputs].float() * scale.float()[:, None]
    assert ((rounded - weight).abs() <= 0.51 * scale.float()[:, None] + 0.004 * weight.abs()).all()
    expected = x.float() @ rounded.T
    torch.testing.assert_close(int8_product(x, packed, scale).float(), expected, rtol=0.02, atol=0.01 * inputs**0.5)


@pytest.mark.parametrize("batch", [1, 3, 8, 9])
def test_large_blocks_in_8_bits(batch):
    hidden = ((600, 520), (500, 600))
    groups = LabelGroups(1400, (np.arange(500), np.arange(500, 1400)))
    made = with_outputs(Heads(HeadPlan(groups, hidden, 40, 1000, 1000)))
    for layer in made.layers:
        torch.nn.init.normal_(layer.bias)
    features = torch.randn(batch, 40)
    with torch.no_grad():
        expected, alone = made(features), made.some([(1, features)])[1]
        made.quantize(True)
        assert made.layers[0]._int8 is not None
        assert made.outputs._int8 is not None
        got, alone8 = made(features), made.some([(1, features)])[1]
        made.quantize(False)
        assert torch.equal(made(features), expected)
    assert torch.equal(got, expected) == (batch > 8)
    assert (got - expected).abs().max() < 0.03 * expected.abs().max()
    assert (alone8 - alone).abs().max() < 0.03 * alone.abs().max()


def test_the_number_of_operators_does_not_depend_on_the_number_of_groups():
    def operators(n: int) -> int:
        groups = LabelGroups(640, tuple(np.array_split(np.random.default_rng(0).permutation(640), n)))
        made = Heads(HeadPlan(groups, ((6, 4),) * n, 5, 1000, 1000))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            made(torch.randn(3, 5))
        return sum(event.count for event in seen.key_averages() if event.key.startswith("aten::"))

    assert operators(64) <= operators(4) + 2


@pytest.mark.parametrize("groups", [PARTITION, COVER], ids=["partition", "cover"])
def test_each_head_moves_only_its_groups_outputs(groups):
    made, features = heads(groups), torch.randn(6, 5)
    before = made(features)
    for head, members in enumerate(groups.members):
        changed = copy.deepcopy(made)
        changed.outputs.set_block(head, torch.randn(len(members), 4))
        moved = (changed(features) != before).any(0)
        others = np.setdiff1d(np.arange(9), members)
        assert not moved[others].any()
        assert moved[members].all()


def test_labels_in_no_head_get_nothing():
    assert torch.equal(heads(PARTITION)(torch.randn(6, 5))[:, 6], torch.zeros(6))


SOURCES = [Source(0, 5), Source(0, 17), Source(5, 17), Source(5, 17, (3, 2, 2), 2), Source(0, 5, shared=4)]


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("hidden", [(4,), (4, 3)])
def test_fold_keeps_the_function(source, hidden):
    made, features, transform = made_for(source, hidden)
    expected = made(transform(features))
    made.fold(transform)
    torch.testing.assert_close(made(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_unfold_keeps_the_function_of_trained_heads_and_the_weights_of_new_ones(source):
    made, features, transform = made_for(source)
    before = made.to_weights()
    made.unfold(transform)
    assert all(torch.equal(w, before[n]) for n, w in made.to_weights().items())
    made.trained = len(made.plan.groups)
    expected = made(features)
    made.unfold(transform)
    torch.testing.assert_close(made(transform(features)), expected, rtol=1e-3, atol=1e-3)


class Single(torch.Tensor):
    """A tensor on a device that knows no float64, as Apple's does not."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        given = super().__torch_function__(function, types, args, kwargs)
        assert not isinstance(given, torch.Tensor) or given.dtype != torch.float64
        return given


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_device_needs_no_float64(source):
    made, features, transform = made_for(source)
    expected = made(transform(features))
    for reader in made.readers:
        for layer in (reader.layer, reader.shared):
            if layer is not None:
                layer.weight, layer.bias = (torch.nn.Parameter(p.detach().as_subclass(Single)) for p in (layer.weight, layer.bias))
    made.fold(transform)
    torch.testing.assert_close(made(features).cpu(), expected, rtol=1e-4, atol=1e-4)


def made_for(source: Source, hidden: tuple[int, ...] = (4,)) -> tuple[Heads, torch.Tensor, InputTransform]:
    torch.manual_seed(0)
    shapes = (FeatureShape(5), FeatureShape(12, (3, 2, 2)) if source.map else FeatureShape(12))
    sizes = [5, 3 if source.map else 12]
    transform = InputTransform(shapes, tuple(torch.randn(n) for n in sizes), tuple(torch.randn(n, n) for n in sizes))
    made = with_outputs(Heads(HeadPlan(PARTITION, (hidden,) * 3, 17, 1000, 1000, (source,) * 3)))
    return made, 3 + 2 * torch.randn(50, 17), transform


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, unique=True), min_size=1, max_size=5), st.data())
def test_in_any_cover_a_head_moves_its_own_labels_only(members, data):
    made, features = heads(LabelGroups(9, tuple(members))), torch.randn(20, 5)
    head = data.draw(st.integers(0, len(members) - 1))
    before = made(features)
    made.outputs.set_block(head, made.outputs.weight_of(head) + 1)
    moved = (made(features) != before).any(dim=0)
    assert torch.nonzero(moved).flatten().tolist() == sorted(members[head])


def test_new_heads_add_exactly_nothing_and_only_weights_are_state():
    made = Heads(HeadPlan(COVER, ((4, 2),) * 3, 5, 1000, 1000))
    assert torch.equal(made(torch.randn(6, 5)), torch.zeros(6, 9))
    assert set(made.state_dict()) == {name for name, _ in made.named_parameters()}


def test_weights_of_another_plan_are_refused():
    with pytest.raises(SelfInformedError, match="the first that does not fit is 'first.weight'"):
        heads(PARTITION).set_weights(heads(PARTITION, (5,)).to_weights())
    with pytest.raises(SelfInformedError, match="'hidden.0.0.bias'"):
        heads(PARTITION).set_weights(heads(PARTITION, (4, 4)).to_weights())
