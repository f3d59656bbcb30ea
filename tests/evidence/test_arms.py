"""What each arm is: its size, its training, its judge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import Problem
from selfinformed.evidence.arms import ARMS, DESCRIPTIONS, Bench, changed
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore
from selfinformed.training.structures import Structure


def two_of_six(plan: HeadPlan) -> Structure:
    """As what search finds."""
    return Structure(plan, 2, 1.0, "two of six heads")


def another_view(problem: Problem) -> FeatureStore:
    """The test pictures again, with a little noise."""
    pictures = problem.test.read(range(len(problem.test)))
    noisy = pictures + 0.05 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    features = problem.net.features(noisy)
    return FeatureStore(features.attached, features.penultimate, problem.test.targets, problem.net.fingerprint, 0.0)


def bench(problem: Problem, heads: HeadPlan | None = None, **options) -> Bench:
    given = {"holdout": problem.store("holdout"), "epochs": 1, **options}
    return Bench(problem.net, heads or problem.plan(), problem.store("train"), problem.store("test"), **given)


def test_every_arm_is_described() -> None:
    assert list(DESCRIPTIONS) == list(ARMS)


def test_random_heads_have_the_methods_sizes(problem: Problem) -> None:
    heads = problem.plan()
    random = bench(problem).plan_of("random", 3)
    assert random.groups.sizes == heads.groups.sizes
    assert random.hidden == heads.hidden
    assert any(set(a) != set(b) for a, b in zip(random.groups.members, heads.groups.members, strict=True))


@pytest.mark.parametrize("hidden", [(1,), (7,), (12, 5), (30, 30, 4)])
@pytest.mark.parametrize("shared", [0, 5])
def test_a_dense_head_fits_any_methods_budget_and_nearly_fills_it(problem: Problem, hidden: tuple[int, ...], shared: int) -> None:
    heads = plan(problem.net, problem.groups, hidden=hidden, shared=shared)
    dense = bench(problem, heads).plan_of("dense", 0)
    assert len(dense.groups) == 1
    assert len(dense.hidden[0]) == len(hidden)
    assert dense.multiply_adds <= heads.multiply_adds
    wider = tuple(width + 1 for width in dense.hidden[0])
    assert plan(problem.net, LabelGroups.everything(36), hidden=wider).multiply_adds > heads.multiply_adds


def test_every_arm_of_heads_that_read_a_map_among_several_attach_points(problem: Problem) -> None:
    points = [AttachPoint("trunk.5", "output", "map"), AttachPoint("stack")]
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, attach=points)
    train, test = (FeatureStore.build(net, split.take(range(100))) for split in (problem.train, problem.test))
    for attach, kernel, read in (("trunk.5", 2, slice(0, 144)), ("stack", 1, slice(144, 160))):
        heads = plan(net, problem.groups, hidden=(9,), attach=attach, kernel=kernel)
        made = Bench(net, heads, train, test, epochs=1)
        assert {"classifier", "random", "dense", "finetune"} <= set(made.choose(None))
        dense = made.plan_of("dense", 0)
        assert (dense.sources[0].start, dense.sources[0].stop, dense.sources[0].kernel) == (read.start, read.stop, kernel)
        assert 0.8 < (dense.extra_computation - 1) / (heads.extra_computation - 1) <= 1
        for arm in ("classifier", "dense"):
            assert made.judged(arm, made.trained(arm, 0)[0], 50).multiply_adds == made.plan_of(arm, 0).multiply_adds
    both = plan(net, problem.groups, hidden=(9,), attach="stack") + plan(net, LabelGroups.everything(36), hidden=(50,), attach="trunk.5", kernel=2)
    assert Bench(net, both, train, test).plan_of("dense", 0).sources == (both.sources[-1],)  # where the method spends most


def test_a_structure_is_judged_as_it_says(problem: Problem) -> None:
    made = bench(problem, searched=two_of_six(problem.plan()))
    aug, history = made.trained("searched", 0)
    assert history.seconds > 0
    with aug.conditional(2):
        expected = evaluate(aug, problem.store("test")).figures()
        held_out = evaluate(aug, problem.store("holdout")).figures()
    assert made.judged("searched", aug, 50).figures() == expected
    assert made.score("searched", aug, 50) == held_out["mean_average_precision"]
    assert expected["multiply_adds"] < problem.plan().multiply_adds


def test_the_dense_head_of_a_search_is_trained_as_it_was_found(problem: Problem) -> None:
    dense = Structure(plan(problem.net, LabelGroups.everything(36), hidden=(20,)), None, 1.0, "one dense head", 0.5, 0.25)
    made = bench(problem, searched=two_of_six(problem.plan()), searched_dense=dense)
    expected, _ = dense.train(problem.net, made.train, holdout=made.holdout, epochs=made.epochs, seed=3, **made.training)
    aug, _ = made.trained("searched_dense", 3)
    assert aug.heads.plan == dense.plan
    assert made.judged("searched_dense", aug, 50).figures() == evaluate(expected, made.test).figures()
    assert "searched_dense" in made.choose(None)
    with pytest.raises(SelfInformedError, match="arms: searched_dense: what is a control of the arm 'searched' wants it too"):
        made.choose(["base", "searched_dense"])
    with pytest.raises(SelfInformedError, match="'searched_dense' needs the best dense head that search found"):
        bench(problem, searched=two_of_six(problem.plan())).choose(["searched", "searched_dense"])


def test_chance_runs_the_searched_heads_on_as_many_examples_and_gains_less(problem: Problem) -> None:
    structure = Structure(plan(problem.net, LabelGroups.everything(36), hidden=(40,)), None, 0.3, "dense on the least certain 0.3")
    made = bench(problem, searched=structure, epochs=4)
    trained = {arm: made.trained(arm, 1)[0] for arm in ("searched", "chance")}
    found = {arm: made.judged(arm, aug, 50, 1).figures() for arm, aug in trained.items()}
    extra = {arm: figures["extra_computation"] - 1 for arm, figures in found.items()}
    assert extra["chance"] == pytest.approx(0.3 * (structure.plan.extra_computation - 1), rel=1e-3)
    assert extra["searched"] == pytest.approx(extra["chance"], rel=0.1)  # test examples are not as uncertain as hold-out examples
    assert found["searched"]["mean_average_precision_per_example"] > found["chance"]["mean_average_precision_per_example"]
    assert made.judged("chance", trained["chance"], 50, 1).figures() == found["chance"] != made.judged("chance", trained["chance"], 50, 2).figures()
    assert 0 < made.score("chance", trained["chance"], 50) < 1
    again, other = made.trained("chance", 1)[0], made.trained("chance", 2)[0]
    for name, weights in trained["chance"].heads.to_weights().items():
        assert torch.equal(weights, again.heads.to_weights()[name])
    assert trained["chance"].above is None
    assert made.judged("chance", other, 50, 1).figures() != found["chance"]


def test_a_dense_head_on_the_same_share_of_the_examples_costs_as_much(problem: Problem) -> None:
    heads = problem.plan()
    structure = replace(two_of_six(heads), top_groups=None, share=0.25)
    made = bench(problem, heads, searched=structure)
    assert made.choose(["base", "searched", "unsure_dense"]) == ["base", "searched", "unsure_dense"]
    aug, _ = made.trained("unsure_dense", 0)
    assert aug.heads.plan.groups.sizes == [36]
    assert (aug.heads.plan.extra_computation - 1) * 0.25 == pytest.approx(heads.extra_computation - 1, rel=0.02)
    found = made.judged("unsure_dense", aug, 50).figures()
    assert found["extra_computation"] - 1 == pytest.approx(heads.extra_computation - 1, rel=0.15)  # of test examples as many are unsure, roughly
    assert 0 < made.score("unsure_dense", aug, 50) < 1
    for other in (two_of_six(heads), Structure(plan(problem.net, LabelGroups.everything(36), hidden=(40,)), None, 0.3)):
        with pytest.raises(SelfInformedError, match="'unsure_dense' needs heads that are not dense themselves and that a share"):
            bench(problem, heads, searched=other).choose(["searched", "unsure_dense"])


def test_whether_a_budget_suffices_is_known_without_a_network_being_made(problem: Problem, monkeypatch) -> None:
    monkeypatch.setattr("selfinformed.evidence.arms.gated", lambda *_, **__: pytest.fail("a network was made"))
    monkeypatch.setattr("selfinformed.evidence.arms.adapted", lambda *_, **__: pytest.fail("a network was made"))
    assert {"gated", "adapter"} <= set(bench(problem).choose(None))
    poor = bench(problem, plan(problem.net, LabelGroups(36, ())))
    assert poor.missing("gated").startswith("other heads or a larger budget (gated: 0 multiply-adds do not reach")
    assert poor.missing("adapter").startswith("other heads or a larger budget (adapter: 0 multiply-adds do not reach")


def test_arms_without_what_they_need_are_left_out(problem: Problem) -> None:
    assert bench(problem).choose(None) == ["base", "classifier", "confusions", "random", "dense", "finetune", "gated", "adapter"]
    tiny = plan(problem.net, LabelGroups(36, ([0],)), hidden=(1,))
    assert "gated" not in bench(problem, tiny).choose(None)
    with pytest.raises(SelfInformedError, match=r"'gated' needs other heads or a larger budget \(gated: 145 multiply-adds do not reach"):
        bench(problem, tiny).choose(["gated"])
    with pytest.raises(SelfInformedError, match="'chance' needs heads that a share of the examples runs"):
        bench(problem, searched=two_of_six(problem.plan())).choose(["chance"])
    with pytest.raises(SelfInformedError, match="views: expected another view of the 600 test examples"):
        bench(problem, views=problem.store("train")).choose(None)


def test_all_learning_rates_are_scaled_the_given_or_fits_own() -> None:
    assert changed({"batch_size": 8}, 1) == {"batch_size": 8}
    rates = {"learning_rate": 0.2, "classifier_learning_rate": 6e-3, "finetune_learning_rate": 2e-3}
    assert changed({"learning_rate": 0.1, "batch_size": 8}, 2) == {**rates, "batch_size": 8}
