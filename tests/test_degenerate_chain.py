"""Groups, data and networks that nobody would wish for go through the whole chain: no NaN weight, no crash, a proper result or an error in words."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from conftest import N_LABELS, Problem, SmallNet, draw, refused
from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.average_precision import mean_average_precision
from selfinformed.structure.clustering import cluster
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import measure
from selfinformed.structure.planning import plan
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import fit
from selfinformed.training.headroom import probe

GROUPS = {
    "one group of all labels": [range(N_LABELS)],
    "one group of one label": [[5]],
    "each label alone": [[label] for label in range(N_LABELS)],
    "all labels, and one of them": [range(N_LABELS), [3]],
    "the same group twice": [[1, 2], [1, 2]],
    "no groups": [],
}


@pytest.mark.parametrize("members", GROUPS.values(), ids=GROUPS)
def test_odd_groups_are_planned_trained_and_judged(problem: Problem, members: list[list[int]]) -> None:
    groups = LabelGroups(N_LABELS, tuple(np.array(own) for own in members))
    aug = augment(problem.net, plan(problem.net, groups, hidden=(3,)))
    fit(aug, problem.store("train"), epochs=0.1)
    assert all(torch.isfinite(tensor).all() for tensor in aug.parameters())
    assert 0 < evaluate(aug, problem.store("test")).ranking.mean_average_precision < 1
    with aug.conditional(1):
        assert 0 < evaluate(aug, problem.store("test")).ranking.mean_average_precision < 1
    assert groups.randomized(1).sizes == groups.sizes


def test_a_budget_too_small_for_any_head_says_what_it_would_take(problem: Problem) -> None:
    groups = LabelGroups(N_LABELS, tuple(np.arange(N_LABELS)[:, None]))
    with refused(r"budget: \d+ multiply-adds do not reach for 36 heads of one unit \(\d+\); raise the budget or lower n_groups"):
        plan(problem.net, groups, budget=0.03)


def all_tied(model: SmallNet) -> None:
    model.classifier.weight.zero_()
    model.classifier.bias.zero_()


def dead(model: SmallNet) -> None:
    model.trunk[3].weight.zero_()
    model.trunk[3].bias.fill_(-1)


def huge_features(model: SmallNet) -> None:
    model.trunk[3].weight.mul_(1e8)


def huge_scores(model: SmallNet) -> None:
    model.classifier.weight.mul_(1e30)


def chain(net: WrappedClassifier, train: Examples, holdout: Examples, test: Examples) -> tuple[LabelGroups | str, str]:
    """What clustering gives or says, and the verdict of a comparison of all controls."""
    found: LabelGroups | str
    groups = LabelGroups.everything(len(net.labels))
    try:
        found = groups = cluster(measure(net, holdout))
    except SelfInformedError as error:
        found = str(error)
    stores = [FeatureStore.build(net, examples) for examples in (train, holdout, test)]
    heads = plan(net, groups, hidden=(3,))
    aug = augment(net, heads)
    fit(aug, stores[0], epochs=1)
    assert all(torch.isfinite(tensor).all() for tensor in aug.parameters())
    if len(holdout) > 1:
        assert probe(net, stores[0], stores[1], groups=groups, width=4, epochs=0.2).verdict
    table = compare(net, heads, stores[0], stores[2], holdout=stores[1], seeds=1, epochs=0.2, arms=("base", "classifier", "confusions", "random", "dense"))
    return found, table.verdict


@pytest.mark.parametrize("change", [all_tied, dead, huge_features, huge_scores], ids=lambda change: change.__name__)
def test_networks_that_say_nothing_or_too_much(problem: Problem, change: Callable[[SmallNet], None]) -> None:
    model = copy.deepcopy(problem.net.model)
    with torch.no_grad():
        change(model)
    net = wrap(model, problem.holdout.example_inputs(), labels=problem.net.labels)
    found, verdict = chain(net, problem.train, problem.holdout, problem.test)
    assert isinstance(found, LabelGroups)
    assert "mAP@50 by" in verdict


def examples(targets: list[list[int]], n_labels: int = N_LABELS, alike: bool = False) -> Examples:
    pictures, _ = draw(len(targets), 9)
    return open_dataset((pictures[:1].expand(len(targets), -1, -1, -1) if alike else pictures, targets), LabelSpace(f"label {i}" for i in range(n_labels)))


NOTHING = (
    "cluster: no two labels are ever detected together; measure more hold-out data, or a larger top_k; "
    "without annotations group by co-detections (measure(..., kind='codetections'), --grouping codetections)"
)


def test_data_without_annotations(problem: Problem) -> None:
    none = examples([[]] * 60)
    assert "mAP@50 by" in chain(problem.net, none, problem.holdout, problem.test)[1]
    assert chain(problem.net, problem.train, problem.holdout, none)[1] == "What was gained is not known: mAP@50 is not defined on these test data."


@pytest.mark.parametrize("data", [examples([[3]] * 60), examples([[3]])], ids=["one label", "one example"])
def test_data_of_one_label_or_of_one_example(problem: Problem, data: Examples) -> None:
    found, verdict = chain(problem.net, data, data, data)
    assert isinstance(found, LabelGroups) or found == NOTHING
    assert "mAP@50 by" in verdict


def test_all_inputs_alike(problem: Problem) -> None:
    data = examples([[i % N_LABELS] for i in range(72)], alike=True)
    found, verdict = chain(problem.net, data, data, data)
    assert isinstance(found, LabelGroups)
    assert "mAP@50 by" in verdict


@pytest.mark.parametrize(("n_labels", "output"), [(1, None), (1, "logistic"), (2, None)])
def test_a_network_of_one_class_or_of_two(n_labels: int, output: str | None) -> None:
    data = examples([[i % n_labels] if output is None or i % 2 else [] for i in range(60)], n_labels)
    net = wrap(SmallNet(n_labels).eval(), data.example_inputs(), labels=data.labels, output=output)
    found, verdict = chain(net, data, data, data)
    assert "there is one label, so none can be mixed up with another" in found if n_labels == 1 else isinstance(found, LabelGroups)
    assert "mAP@50 by" in verdict


def test_features_that_float16_cannot_hold_are_named(problem: Problem, tmp_path) -> None:
    model = copy.deepcopy(problem.net.model)
    with torch.no_grad():
        huge_features(model)
    net = wrap(model, problem.holdout.example_inputs(), labels=problem.net.labels)
    with refused(r"features: example \d+ has a feature of [\d.e+]+, beyond float16's 65504; store float32"):
        FeatureStore.build(net, problem.holdout, dtype="float16", folder=tmp_path / "features")


def test_tied_scores_and_classes_without_a_positive() -> None:
    scores = torch.zeros(6, 4)
    assert mean_average_precision(scores, [[0], [0], [0], [0], [0], [0]], 1) == 1  # ties go to the lower label
    assert mean_average_precision(scores, [[3]] * 6, 1) == 0
    assert mean_average_precision(scores, [[0, 3], [], [], [], [], []], 4) == pytest.approx(1 / 6)  # one of six tied examples
    assert np.isnan(mean_average_precision(scores, [[]] * 6, 2))
    assert mean_average_precision(scores.half() + 65504, [[0]] * 6, 1) == 1  # whose sum no float16 holds
