"""Conditional evaluation equals running the chosen heads one by one; all chosen, it is full evaluation."""

from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Problem
from devices import SecondDevice, There, there
from selfinformed.augmented import dispatch as module
from selfinformed.augmented.dispatch import Dispatch, uncertainty
from selfinformed.augmented.exported import export_program
from selfinformed.augmented.heads import Heads
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan, Source
from selfinformed.training.fitting import fit


def by_hand(heads: Heads, features: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(len(features), heads.plan.groups.n_labels)
    for row, x in enumerate(features):
        for g, members in enumerate(heads.plan.groups.members):
            total[row, members] += slowly(heads, g, x)
    return total


def slowly(heads: Heads, g: int, x: torch.Tensor) -> torch.Tensor:
    """One head on one example, from the weights as they are saved."""
    source, weights = heads.plan.sources[g], heads.to_weights()
    r = heads.reader_of[g]
    several = len(heads.readers) > 1
    x = x[source.start : source.stop]
    if source.shared:
        x = weights[f"shared.{r}.weight"] @ x + weights[f"shared.{r}.bias"]
        x = x if source.linear else x.relu()
    if heads.plan.hidden[g]:
        first = f"first.{r}" if several else "first"
        weight, bias = weights[f"{first}.weight"][heads.rows[g]], weights[f"{first}.bias"][heads.rows[g]]
        if source.map is None:
            x = (weight @ x + bias).relu()
        else:
            x = torch.nn.functional.conv2d(x.view(1, *source.map), weight, bias).relu().mean((0, 2, 3))
    for depth in range(len(heads.plan.hidden[g]) - 1):
        x = (weights[f"hidden.{g}.{2 * depth}.weight"] @ x + weights[f"hidden.{g}.{2 * depth}.bias"]).relu()
    return weights[f"outputs.{g}.weight"] @ x


@settings(max_examples=100)
@given(st.data())
def test_any_plan_runs_just_the_chosen_heads(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    n_labels, n, batch = int(rng.integers(2, 40)), int(rng.integers(1, 7)), int(rng.integers(1, 9))
    members = [rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)] for _ in range(n)]
    if data.draw(st.booleans()):
        members = [m for m in np.array_split(rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)], n) if len(m)]
    sources = [Source(0, 12), Source(0, 12, (3, 2, 2)), Source(0, 12, shared=4), Source(0, 12, shared=3, linear=True), Source(0, 12, shared=5)]
    n = len(members)
    read = tuple(sources[i] for i in rng.integers(0, 5, n))
    hidden = tuple(() if source.shared == 5 else tuple(rng.integers(1, 9, rng.integers(1, 3)).tolist()) for source in read)
    made = HeadPlan(LabelGroups(n_labels, tuple(members)), hidden, 12, 1000, 1000, read)
    torch.manual_seed(0)
    heads, top = Heads(made, zero_outputs=False), int(rng.integers(0, n + 1))
    features, logits = torch.randn(batch, 12), torch.randint(-3, 3, (batch, n_labels)).float()  # with ties
    dispatch = Dispatch(made, top)
    added = dispatch(heads, features, logits)
    if top:
        added.square().sum().backward()
    gradients = [parameter.grad for parameter in heads.parameters()]
    with torch.no_grad(), mock.patch.object(module, "_CACHED", 0):  # rows are taken head by head
        torch.testing.assert_close(Dispatch(made, top)(heads, features, logits), added, rtol=1e-4, atol=1e-5)
    heads.zero_grad()
    with mock.patch.object(module, "_suits_kernels", return_value=False):  # as on other devices and in other types
        plain = Dispatch(made, top)(heads, features, logits)
        if top:
            plain.square().sum().backward()
    torch.testing.assert_close(plain, added, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(heads.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)
    executed = 0
    for row in range(batch):
        score = [(-np.inf if len(m) == n_labels else -float(logits[row, m].max()), g) for g, m in enumerate(members)]
        expected = torch.zeros(n_labels)
        for _, g in sorted(score)[:top]:
            expected[members[g]] += slowly(heads, g, features[row])
            executed += made.head_multiply_adds[g]
        torch.testing.assert_close(added[row], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads(features), by_hand(heads, features), rtol=1e-4, atol=1e-5)
    fixed = 1000 + (made.shared_multiply_adds if top else 0)
    assert dispatch.examples == batch
    assert dispatch.multiply_adds == pytest.approx(fixed + executed / batch)
    if top == n:
        assert torch.equal(added, heads(features))
        assert dispatch.multiply_adds == pytest.approx(made.multiply_adds)


@pytest.fixture
def trained(problem: Problem) -> AugmentedClassifier:
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"), epochs=1)
    return aug


def test_all_groups_chosen_is_full_evaluation_and_none_the_classifier(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(40))
    with trained.conditional(len(problem.groups)):
        everything = trained.logits(inputs)
    assert torch.equal(everything, trained.logits(inputs))
    features = problem.net.features(inputs)
    with trained.conditional(0) as dispatch:
        torch.testing.assert_close(trained.logits(inputs), trained.classifier(features.penultimate))
    assert dispatch.multiply_adds == problem.net.cost.multiply_adds
    assert trained.dispatch is None
    assert torch.equal(everything, trained.logits(inputs))


def test_an_examples_logits_do_not_depend_on_the_others_of_its_batch(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(30))
    with trained.conditional(2):
        together = trained.logits(inputs)
        alone = torch.cat([trained.logits(inputs[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together, trained.logits(inputs))


def test_a_batch_may_be_empty_and_autocast_or_narrow_types_change_little(problem: Problem, trained: AugmentedClassifier):
    trained.run_conditionally(2)
    features = problem.net.features(problem.test.read(range(20)))
    with torch.no_grad():
        expected = trained.from_features(features.attached, features.penultimate)
        assert trained.from_features(features.attached[:0], features.penultimate[:0]).shape == (0, 36)
    with torch.autocast("cpu", torch.bfloat16):
        cast = trained.from_features(features.attached, features.penultimate)
    cast.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.heads.parameters() if p.grad is not None)
    trained.bfloat16()
    narrow = trained.from_features(features.attached.bfloat16(), features.penultimate.bfloat16())
    narrow.float().sum().backward()
    for found in (cast, narrow):
        assert (found.float() - expected).abs().median() < 0.05 * expected.abs().max()  # near, but for examples that choose otherwise


def test_compiled_and_transformed_it_gives_the_same(problem: Problem, trained: AugmentedClassifier):
    trained.run_conditionally(2)
    inputs = problem.test.read(range(12))
    expected = trained(inputs)
    torch.testing.assert_close(torch.compile(trained, backend="eager")(inputs), expected)
    parameters = {name: parameter.detach() for name, parameter in trained.named_parameters()}
    found = torch.func.grad(lambda own: torch.func.functional_call(trained, own, (inputs,)).square().sum())(parameters)
    weights = [trained.heads.outputs.weight]
    (gradient,) = torch.autograd.grad(trained(inputs).square().sum(), weights, create_graph=True)
    name = next(name for name, parameter in trained.named_parameters() if parameter is weights[0])
    torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    (second,) = torch.autograd.grad(gradient.square().sum(), weights)
    with mock.patch.object(module, "_suits_kernels", return_value=False):
        (plain,) = torch.autograd.grad(trained(inputs).square().sum(), weights, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(plain.square().sum(), weights)[0], rtol=1e-3, atol=1e-3)


def test_for_each_example_of_a_vmap_and_without_values_it_gives_the_same(problem: Problem, trained: AugmentedClassifier):
    trained.run_conditionally(2)
    inputs = problem.test.read(range(7))
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(lambda example: trained(example[None])[0])(inputs), trained(inputs), rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(trained).to("meta")(inputs.to("meta")).shape == (7, problem.net.n_labels)


def test_compiled_it_is_not_compiled_anew_for_each_batch(problem: Problem, trained: AugmentedClassifier):
    import torch._dynamo  # not before something is compiled: it takes seconds

    inputs = problem.test.read(range(60))
    graphs: list[object] = []
    torch._dynamo.reset()
    with trained.conditional(2) as dispatch, torch.no_grad(), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        compiled = torch.compile(trained, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        got = [compiled(inputs[:5])]
        first = len(graphs)
        got += [compiled(inputs[start : start + 5]) for start in range(5, 60, 5)]
        assert len(graphs) == first
        assert dispatch.examples == 60  # counted as ever
        torch.testing.assert_close(torch.cat(got), trained(inputs), rtol=1e-4, atol=1e-5)


def test_contexts_nest_and_survive_an_error(problem: Problem, trained: AugmentedClassifier):
    with trained.conditional(3) as outer:
        with pytest.raises(RuntimeError, match="mine"), trained.conditional(1):
            raise RuntimeError("mine")
        assert trained.dispatch is outer
    assert trained.dispatch is None


@pytest.mark.parametrize("n", [3, 12])
def test_an_accelerator_is_sent_no_tensor_for_each_head(n: int):
    made = HeadPlan(LabelGroups(36, tuple(np.arange(36).reshape(n, -1))), ((3,),) * n, 12, 1000, 1000)
    heads, features, logits = Heads(made, zero_outputs=False), torch.randn(20, 12), torch.randn(20, 36)
    dispatch = Dispatch(made, 2)
    expected = dispatch(heads, features, logits)
    with SecondDevice() as device:
        got = dispatch(there(heads), features.as_subclass(There), logits.as_subclass(There))
        assert isinstance(got, There)
    torch.testing.assert_close(got.as_subclass(torch.Tensor), expected)
    assert device.copies <= 5


@settings(max_examples=50)
@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 99), st.sampled_from(["softmax", "logistic"]))
def test_chance_draws_as_many_examples_whatever_their_scores(batch: int, share: float, seed: int, output):
    made = HeadPlan(LabelGroups(9, (range(4), range(4, 9))), ((3,), (3,)), 12, 1000, 1000)
    torch.manual_seed(seed)
    heads, features, logits = Heads(made, zero_outputs=False), torch.randn(batch, 12), torch.randn(3, batch, 9)
    chosen, drawn, other = Dispatch(made, 2, output, share), Dispatch(made, 2, output, share, chance=seed), Dispatch(made, 2, output, share, chance=seed + 1)
    for dispatch in (chosen, drawn, other):
        first = [dispatch(heads, features, scores) for scores in logits]
        dispatch.reset()
        assert all(torch.equal(a, dispatch(heads, features, scores)) for a, scores in zip(first, logits))
    assert drawn.multiply_adds == other.multiply_adds == chosen.multiply_adds
    assert drawn.helped == other.helped == chosen.helped == 3 * max(1, round(share * batch))
    again = Dispatch(made, 2, output, share, chance=seed)
    rows = [again.unsure(scores) for scores in 5 * logits.flip(1)]
    drawn.reset()
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(rows, [drawn.unsure(scores) for scores in logits]))
    if batch == 40 and 0.2 < share < 0.8:
        assert not torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], Dispatch(made, 2, output, share, chance=seed + 1).unsure(logits[0]))


def test_chance_needs_a_share_to_draw(trained: AugmentedClassifier):
    with pytest.raises(SelfInformedError, match="chance: expected a share of the examples beside it"), trained.conditional(above=0.5, chance=0):
        pass


@pytest.mark.parametrize("wrong", [-1, True])
def test_a_wrong_number_of_groups_is_refused(trained: AugmentedClassifier, wrong):
    with pytest.raises(SelfInformedError, match="top_groups: expected a whole number of at least 0"), trained.conditional(wrong):
        pass


def test_training_within_the_context_trains_on_the_examples_that_choose_a_head(problem: Problem):
    full, conditional = (augment(problem.net, problem.plan()) for _ in range(2))
    fit(full, problem.store("train"), epochs=2)
    with conditional.conditional(1) as dispatch:
        fit(conditional, problem.store("train"), epochs=2)
    assert dispatch.examples == 2 * len(problem.train)
    assert conditional.heads is not None
    before, after = full.heads.to_weights(), conditional.heads.to_weights()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    inputs, targets = problem.test.read(range(600)), torch.from_numpy(problem.test.targets.labels)
    with conditional.conditional(1):
        right = float((conditional.logits(inputs).argmax(1) == targets).float().mean())
    assert right > float((problem.net.logits(inputs).argmax(1) == targets).float().mean())


def test_quantized_heads_are_near_the_float_ones_and_leave_them_alone(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(8))
    expected = trained.logits(inputs)
    with trained.quantized_heads():
        got = trained.logits(inputs)
        grads = trained(inputs)
        with trained.conditional(2), trained.quantized_heads():
            few = trained.logits(inputs)
        assert torch.equal(trained.logits(inputs), got)
    with trained.conditional(2):
        torch.testing.assert_close(few, trained.logits(inputs), rtol=0.05, atol=0.1)
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.1)
    assert grads.requires_grad  # training within the context is training in float
    assert torch.equal(trained.logits(inputs), expected)


def test_the_method_applied_again_at_another_attach_point(problem: Problem, trained: AugmentedClassifier):
    from selfinformed.network.wrap import wrap
    from selfinformed.structure.clustering import cluster
    from selfinformed.structure.measuring import measure

    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=[problem.net.attach, "trunk.2"])
    groups = cluster(measure(trained, problem.holdout), n_groups=3)
    again = augment(net, plan(net, groups, hidden=(8,), attach="trunk.2"), onto=trained)
    inputs = problem.test.read(range(40))
    torch.testing.assert_close(again.logits(inputs), trained.logits(inputs), rtol=1e-4, atol=1e-5)
    assert len(again.plan.groups) == 9
    assert again.plan.multiply_adds > trained.plan.multiply_adds
    fit(again, problem.train, epochs=1)
    assert not torch.equal(again.logits(inputs), trained.logits(inputs))
    other = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach="trunk.2")
    with pytest.raises(SelfInformedError, match="attach points that begin with the input of 'stack.0'"):
        augment(other, plan(other, groups, hidden=(8,)), onto=trained)


@pytest.mark.parametrize("by", ["share", "above"])
def test_only_uncertain_examples_run_heads(problem: Problem, trained: AugmentedClassifier, by: str):
    inputs = problem.test.read(range(40))
    plain = trained.classifier(problem.net.features(inputs).penultimate)
    unsure = uncertainty(plain.detach(), "softmax")
    helped = unsure >= unsure.sort().values[-12]
    options = {"share": 0.3} if by == "share" else {"above": float(unsure.sort().values[-13])}
    with trained.conditional(2) as dispatch:
        everyone = trained.logits(inputs)
        each = (dispatch.multiply_adds - problem.net.cost.multiply_adds) * 40
    with trained.conditional(2, **options) as dispatch:
        some = trained.logits(inputs)
        assert dispatch.helped == helped.sum()
        assert 0 < dispatch.multiply_adds - problem.net.cost.multiply_adds < each / 40
    torch.testing.assert_close(some[helped], everyone[helped])
    assert torch.equal(some[~helped], plain[~helped])
    with trained.conditional(share=1.0):
        assert torch.equal(trained.logits(inputs), trained.logits(inputs))
    with trained.conditional(above=2.0) as dispatch:  # nobody is as unsure as that
        assert torch.equal(trained.logits(inputs), plain)
        assert dispatch.multiply_adds == problem.net.cost.multiply_adds


def test_impossible_shares_are_refused(problem: Problem):
    plan = problem.plan()
    for options in ({"share": 0.0}, {"share": 1.5}, {"share": 0.5, "above": 0.1}):
        with pytest.raises(SelfInformedError, match="share: expected "):
            Dispatch(plan, 2, "softmax", **options)
    with pytest.raises(SelfInformedError, match="wrap it with output="):
        Dispatch(plan, 2, None, above=0.5)


def test_gradients_of_chosen_heads_are_those_of_running_them_one_by_one(problem: Problem, trained: AugmentedClassifier):
    features = problem.net.features(problem.test.read(range(20)))
    trained.heads.zero_grad()
    with trained.conditional(2) as dispatch:
        logits = trained.from_features(features.attached, features.penultimate)
        logits.square().mean().backward()
        chosen = dispatch.choose(trained.classifier(features.penultimate))
    found = [p.grad.clone() for p in trained.heads.parameters()]
    trained.heads.zero_grad()
    mask = torch.zeros(20, 36)
    for row, groups in enumerate(chosen):
        for group in groups:
            mask[row, torch.from_numpy(trained.plan.groups.members[group])] = 1
    (trained.classifier(features.penultimate) + mask * trained.heads(features.attached)).square().mean().backward()
    for parameter, gradient in zip(trained.heads.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_what_is_exported_or_traced_is_in_32_bits(problem: Problem, trained: AugmentedClassifier):
    inputs = problem.test.read(range(4))
    with trained.quantized_heads():
        program = export_program(trained, inputs).module()
        with torch.no_grad():
            traced = torch.jit.trace(trained, inputs, check_trace=False)
    for made in (program, traced):
        torch.testing.assert_close(made(problem.test.read(range(20))), trained.logits(problem.test.read(range(20))), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_depends_on_the_batch_is_not_traced(problem: Problem, trained: AugmentedClassifier):
    trained.output = "softmax"
    with trained.conditional(2, share=0.5), pytest.raises(SelfInformedError, match=r"conditional\(share=...\) which heads run depends on the rest"):
        torch.jit.trace(trained, problem.test.read(range(4)), check_trace=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("above", [None, 0.5])
def test_a_trace_chooses_heads_for_the_examples_it_is_given(problem: Problem, above):
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    aug.output = "softmax"
    aug.run_conditionally(2, above)
    traced = torch.jit.trace(aug, problem.test.read(range(20)), check_trace=False)
    other = problem.test.read(range(100, 170))
    torch.testing.assert_close(traced(other), aug.logits(other), rtol=1e-4, atol=1e-4)
