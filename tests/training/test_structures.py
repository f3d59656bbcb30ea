"""Choices become plans within their budget, and networks that run just the heads their structure says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Problem, refused
from selfinformed.augmented.dispatch import uncertainty
from selfinformed.augmented.saved import load
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.measuring import measure
from selfinformed.structure.plans import Source
from selfinformed.training.building import Builder
from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.structures import Structure, _threshold, uncertainties

CHOICES = [
    Choice("dense"), Choice("dense", depth=2, shared=8, linear=False), Choice("dense", share=0.25), Choice("confusions", 6), Choice("codetections", 3),
    Choice("both", 3), Choice("confusions", 6, top_groups=1), Choice("confusions", 6, top_groups=2, share=0.5),
    Choice("confusions", 3, dense_share=0.5, top_groups=1), Choice("confusions", 6, cover_share=0.1, shared=12, capacity="labels"),
    Choice("confusions", 6, depth=0, top_groups=2), Choice("confusions", 6, depth=0, top_groups=2, dense_share=0.5, share=0.5),
    Choice("confusions", 6, depth=0, top_groups=4, share=0.5), Choice("confusions", 3, shared=12, dense_share=0.25),
    Choice("confusions", 6, detections=2, capacity="confusions", depth=2), Choice("confusions", 3, capacity="examples"),
]  # fmt: skip


@pytest.fixture(scope="module")
def builder(problem: Problem) -> Builder:
    return Builder(problem.net, problem.store("holdout"), 0.3)


@pytest.fixture(scope="module")
def earlier(problem: Problem) -> tuple[WrappedClassifier, dict[str, FeatureStore]]:
    """The same network, whose heads may read a map too, or copy the trunk from there on."""
    attach = [AttachPoint("trunk.2", reduce="map"), AttachPoint("stack.0", "input")]
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=attach)
    return net, {split: FeatureStore.build(net, getattr(problem, split)) for split in ("train", "holdout", "test")}


EARLIER = [
    Choice("dense", attach="trunk.2", kernel=3), Choice("confusions", 3, attach="trunk.2", kernel=2, top_groups=1),
    Choice("confusions", 6, attach="trunk.2", copy=True, top_groups=1, share=0.25), Choice("dense", attach="trunk.2", copy=True, share=0.25),
    Choice("confusions", 3, attach="trunk.2", copy=True, top_groups=1, share=0.25, dense_share=0.4),
]  # fmt: skip


@pytest.mark.parametrize("choice", EARLIER, ids=str)
def test_maps_and_copies_execute_nearly_their_budget_and_no_more(earlier, problem: Problem, choice: Choice) -> None:
    net, stores = earlier
    builder = Builder(net, stores["holdout"], 0.6)
    assert builder.settled(choice) == choice
    structure = builder.structure(choice)
    assert [source.copy is not None for source in structure.plan.sources][:1] == [choice.copy]
    assert structure.plan.sources[-1] == (Source(576, 720) if choice.dense_share else structure.plan.sources[0])
    aug, _ = structure.train(net, stores["train"], holdout=stores["holdout"], epochs=1, seed=0)
    with structure.evaluating(aug):
        rank(aug, stores["test"])
        executed = aug.dispatch.multiply_adds if aug.dispatch is not None else structure.plan.multiply_adds
    assert 0.4 < executed / net.cost.multiply_adds - 1 < 0.75
    again = Structure.from_dict(json.loads(json.dumps(structure.to_dict())))
    assert again.plan.sources == structure.plan.sources


def test_a_copy_beyond_the_budget_says_what_it_costs(earlier) -> None:
    builder = Builder(earlier[0], earlier[1]["holdout"], 0.03)
    with pytest.raises(SelfInformedError, match="one costs 82,944 for each example that runs it, and 6 with one unit, run on 1 of the examples"):
        builder.structure(Choice("confusions", 6, attach="trunk.2", copy=True))


def test_choices_settle_on_what_a_network_can_have(earlier, builder: Builder) -> None:
    both = Builder(earlier[0], earlier[1]["holdout"], 0.3)
    assert both.settled(Choice(attach="trunk.2", kernel=99)).kernel == 6
    assert both.settled(Choice(attach="trunk.2", shared=64)) == both.settled(Choice(attach="trunk.2")) == Choice(attach="trunk.2")
    assert both.settled(Choice(attach="stack.0", kernel=3)) == both.settled(Choice(attach="stack.0", copy=True)) == Choice(attach="stack.0")
    assert both.settled(Choice()) == Choice(attach="stack.0")  # a map is not read beside others
    assert builder.settled(Choice(attach="stack.0", kernel=3, copy=True)) == Choice()
    assert builder.settled(Choice(attach="elsewhere", copy=True)) == Choice()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_structure_executes_nearly_its_budget_and_no_more(builder: Builder, problem: Problem, choice: Choice) -> None:
    structure = builder.structure(choice)
    aug, history = structure.train(problem.net, problem.store("train"), holdout=problem.store("holdout"), epochs=1, seed=0)
    assert history.rows
    with structure.evaluating(aug):
        rank(aug, problem.store("test"))
        executed = aug.dispatch.multiply_adds if aug.dispatch is not None else structure.plan.multiply_adds
    extra = executed / problem.net.cost.multiply_adds - 1
    assert structure.is_conditional == (aug.above is not None or choice.top_groups is not None)
    assert 0.25 < extra < (0.36 if structure.is_conditional else 0.3 + 1e-9)  # 600 examples choose groups a little differently than 600 others
    assert str(choice) == structure.description


def test_heads_that_few_examples_run_are_larger(builder: Builder) -> None:
    widths = [builder.structure(choice).plan.hidden[0][0] for choice in (Choice("confusions", 6), Choice("confusions", 6, top_groups=1))]
    assert widths[1] > 3 * widths[0]
    shared = builder.structure(Choice("confusions", 6, depth=0, top_groups=1)).plan
    dense = builder.structure(Choice("dense")).plan
    assert shared.hidden == ((),) * 6
    assert shared.sources[0].shared > 1.1 * dense.hidden[0][0]  # the units that dense heads spend on outputs nobody looks at
    dense = [builder.structure(Choice("dense", share=share)).plan.hidden[0][0] for share in (1.0, 0.5)]
    assert dense[1] == pytest.approx(2 * dense[0], rel=0.1)


def test_counts_from_cached_features_are_those_of_measuring(builder: Builder, problem: Problem) -> None:
    for kind in ("confusions", "codetections"):
        assert (builder.counts(kind).to_scipy() != measure(problem.net, problem.holdout, kind=kind).to_scipy()).nnz == 0
    assert builder.counts("confusions", 3).top_k == 3


def test_a_share_of_the_examples_runs_heads(problem: Problem, builder: Builder, tmp_path) -> None:
    structure = builder.structure(Choice("dense", share=0.25))
    aug, _ = structure.train(problem.net, problem.store("train"), holdout=problem.store("holdout"), epochs=1)
    unsure = uncertainties(aug, problem.store("holdout"))
    assert (unsure > aug.above).mean() == pytest.approx(0.25, abs=0.01)
    inputs = problem.test.read(range(50))
    with structure.evaluating(aug):
        together = aug.logits(inputs)
        one_by_one = torch.cat([aug.logits(inputs[i : i + 1]) for i in range(50)])
        assert 0 < aug.dispatch.helped < 100
    torch.testing.assert_close(together, one_by_one)
    plain = aug.classifier(problem.net.features(inputs).penultimate)
    helped = uncertainty(plain, "softmax") > aug.above
    torch.testing.assert_close(together[~helped], plain[~helped])
    torch.testing.assert_close(together, aug.logits(inputs))
    with aug.conditional():
        torch.testing.assert_close(together[helped], aug.logits(inputs)[helped])
    aug.save_pretrained(tmp_path)
    assert load(tmp_path, problem.net).above == aug.above


@pytest.mark.parametrize("choice", [Choice("confusions", 6, depth=0, top_groups=2), Choice("confusions", 6, top_groups=1, share=0.5), Choice("dense")], ids=str)
def test_a_trained_structure_is_run_as_it_was_trained_also_when_it_was_saved(problem: Problem, builder: Builder, tmp_path, choice: Choice) -> None:
    structure = builder.structure(choice)
    aug, _ = structure.train(problem.net, problem.store("train"), holdout=problem.store("holdout"), epochs=1)
    inputs = problem.test.read(range(50))
    with structure.evaluating(aug):
        expected = aug.logits(inputs)
    assert torch.equal(aug.logits(inputs), expected)
    aug.save_pretrained(tmp_path)
    again = load(tmp_path, problem.net)
    assert (again.top_groups, again.above) == (aug.top_groups, aug.above) == (structure.top_groups, aug.above)
    assert torch.equal(again.logits(inputs), expected)
    figures = evaluate(again, problem.store("test"))
    assert (figures.multiply_adds < structure.plan.multiply_adds) == structure.is_conditional
    with again.conditional():
        assert torch.equal(again.logits(inputs), expected) is not structure.is_conditional
    again.run_conditionally()
    assert again.dispatch is None


def test_a_structures_input_is_that_of_its_training(builder: Builder, problem: Problem) -> None:
    def head(structure: Structure, **training: str) -> torch.Tensor:
        aug, _ = structure.train(problem.net, problem.store("train"), epochs=1, **training)
        return next(iter(aug.heads.parameters())).detach()

    raw, plain = builder.structure(Choice("dense", head_input="raw")), builder.structure(Choice("dense"))
    assert torch.equal(head(raw), head(plain, head_input="raw"))
    assert torch.equal(head(raw, head_input="whitened"), head(raw))
    assert not torch.equal(head(raw), head(plain))


def test_structures_survive_json(builder: Builder) -> None:
    for choice in (Choice("confusions", 6, top_groups=2, share=0.5), Choice("confusions", 6, residual=0.25), Choice("confusions", 6, head_input="raw")):
        structure = builder.structure(choice)
        again = Structure.from_dict(json.loads(json.dumps(structure.to_dict())))
        assert again.to_dict() == structure.to_dict()
        assert (again.residual, again.head_input) == (choice.residual, choice.head_input)
    with refused("not a valid structure", "residual 2.0"):
        Structure.from_dict(structure.to_dict() | {"residual": 2})
    with refused("not a valid structure", "head_input sorted"):
        Structure.from_dict(structure.to_dict() | {"head_input": "sorted"})
    for wrong in ({"top_groups": float("inf")}, {"share": 10**400}, {"residual": 10**400}, {"share": 0}):
        with refused("not a valid structure"):
            Structure.from_dict(structure.to_dict() | wrong)
    with pytest.raises(SelfInformedError, match="not a valid structure"):
        Structure.from_dict({"plan": structure.plan.to_dict()})


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(2, 30), st.sampled_from(["softmax", "logistic"]), st.integers(0, 99))
def test_uncertainty_is_the_expected_number_of_wrong_labels(batch: int, n_labels: int, output, seed: int) -> None:
    logits = 3 * torch.randn(batch, n_labels, generator=torch.Generator().manual_seed(seed))
    if output == "softmax":
        expected = 1 - logits.softmax(1).max(1).values
    else:
        p = logits.sigmoid()
        expected = torch.minimum(p, 1 - p).sum(1)
    torch.testing.assert_close(uncertainty(logits, output), expected)


def test_one_structure_has_one_name() -> None:
    assert Choice("dense", 12, dense_share=0.5, top_groups=2, capacity="labels") == Choice("dense")
    assert Choice("confusions", 3, top_groups=3) == Choice("confusions", 3)
    assert Choice("confusions", 3, linear=False) == Choice("confusions", 3)
    assert Choice("confusions", 6, depth=0) == Choice("confusions", 6)
    assert Choice("confusions", 6, depth=0, top_groups=1, shared=64, capacity="labels") == Choice("confusions", 6, depth=0, top_groups=1)
    assert Choice(attach="a", copy=True, kernel=3, shared=64, depth=0, top_groups=1) == Choice(attach="a", copy=True, top_groups=1)
    assert Choice(attach="a", kernel=3, shared=64, depth=0, top_groups=1) == Choice(attach="a", kernel=3, top_groups=1)
    assert len({str(c) for c in CHOICES + EARLIER}) == len(CHOICES + EARLIER)
    assert Choice("confusions", 3, share=0.5, residual=0.25) == Choice("confusions", 3, share=0.5)
    assert str(Choice("dense", residual=0.25)) == "one dense head, trained seeing 0.25 of the base's scores"
    assert str(Choice("dense", residual=0.0)) == "one dense head, trained without the base's scores"
    assert str(Choice("dense", head_input="raw")) == "one dense head, on raw input"
    assert "3 x 3 feature maps" in str(EARLIER[0])
    assert "each on a copy of the trunk from trunk.2 on" in str(EARLIER[2])


def test_the_search_leaves_hold_out_scores_as_they_are(builder: Builder, problem: Problem) -> None:
    before = problem.store("holdout").penultimate.clone()
    builder.structure(Choice("confusions", 6, top_groups=2, share=0.5))
    assert torch.equal(before, problem.store("holdout").penultimate)
    assert np.isfinite(uncertainties(problem.net, problem.store("holdout"))).all()


@given(unsure=st.lists(st.floats(2**-10, 1, width=32), min_size=1, max_size=500), share=st.floats(0.01, 0.99))
def test_no_example_lies_on_the_threshold_of_a_share(unsure: list[float], share: float) -> None:
    values = np.array(unsure, np.float32)
    above = _threshold(values, share)
    number, slack = max(1, round(share * len(values))), len(values) // 200
    if len(set(unsure)) == len(unsure) and min(np.diff(np.sort(values)), default=1) > 1e-6:
        assert number - slack <= (values > above).sum() <= number + slack
        assert np.abs(values - above).min() > 1e-7


def test_a_share_wants_a_frozen_network(problem: Problem, builder: Builder) -> None:
    with refused("structure: with a share below 1", "leave finetune at False"):
        builder.structure(Choice("dense", share=0.5)).train(problem.net, problem.train, holdout=problem.holdout, epochs=1, finetune=True)
