"""One network's figures, against whole scores and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.data.opening import open_dataset
from selfinformed.evidence.evaluation import evaluate, recall_on_subset
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.average_precision import mean_average_precision
from selfinformed.structure.groups import LabelGroups
from selfinformed.training.fitting import fit


@pytest.mark.parametrize("top_k", [1, 5, 50])
def test_figures_are_those_of_the_whole_scores(either: Problem, top_k: int) -> None:
    scores = either.net.logits(either.test.read(range(600)))
    result = evaluate(either.net, either.test, top_k)
    figures = result.figures()
    hot = either.test.targets.multi_hot()
    assert figures["mean_average_precision"] == pytest.approx(mean_average_precision(scores, either.test.targets, top_k), abs=1e-4)
    assert figures["top1"] == pytest.approx(hot.gather(1, scores.topk(1).indices).any(1).double().mean().item(), abs=2e-3)
    assert figures["top5"] == pytest.approx(hot.gather(1, scores.topk(5).indices).any(1).double().mean().item(), abs=2e-3)
    assert figures["extra_computation"] == 1
    assert result.multiply_adds == either.net.cost.multiply_adds


def test_cost_and_groups_are_the_augmented_networks_own(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    fit(aug, problem.store("train"), epochs=1)
    result = evaluate(aug, problem.store("test"))
    assert result.multiply_adds == aug.plan.multiply_adds
    assert result.parameters == aug.plan.parameters
    assert result.groups is problem.groups
    assert result.extra_computation == aug.plan.extra_computation
    assert f"{100 * result.ranking.mean_average_precision:.2f}" in str(result)


def test_figures_per_group_are_means_over_its_labels(either: Problem) -> None:
    result = evaluate(either.net, either.store("test"), groups=either.groups)
    for row, members in zip(result.by_group(), either.groups.members, strict=True):
        assert row["labels"] == len(members)
        assert row["mean_average_precision"] == pytest.approx(np.nanmean(result.ranking.average_precision[members]))
    assert evaluate(either.net, either.store("test")).by_group() == []


def test_saved_as_json(problem: Problem, tmp_path) -> None:
    result = evaluate(problem.net, problem.test.take(range(10)), mapping={"label 0": "a", **{f"label {i}": "b" for i in range(1, 36)}})
    result.save(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["mean_average_precision"] == result.ranking.mean_average_precision
    assert len(content["labels"]) == 36
    assert None in [row["average_precision"] for row in content["labels"]]  # ten examples hold no positive of most labels
    assert content["recall_at"].keys() == {"1", "2"}


def recall_by_hand(scores: np.ndarray, annotated: list[list[int]], names: list[str], mapping: dict[str, str], most: int) -> dict[int, float]:
    targets = sorted(set(mapping.values()))
    sums, n = np.zeros(min(most, len(targets))), 0
    for row, labels in zip(scores, annotated, strict=True):
        best = {t: max(row[names.index(s)] for s in mapping if mapping[s] == t) for t in targets}
        wanted = {mapping[names[label]] for label in labels if names[label] in mapping}
        if wanted:
            order = sorted(targets, key=lambda t: (-best[t], targets.index(t)))
            sums += [len(wanted & set(order[: k + 1])) / len(wanted) for k in range(len(sums))]
            n += 1
    return {k + 1: total / n for k, total in enumerate(sums)}


@pytest.fixture
def mapping() -> dict[str, str]:
    """Many to one: 24 of 36 labels onto 10 targets."""
    return {f"label {i}": f"target {i % 10}" for i in range(36) if i % 3}


def test_recall_on_a_subset_equals_brute_force(either: Problem, mapping) -> None:
    store = either.store("test")
    scores = either.net.classifier(store.penultimate).detach().numpy()
    annotated = [either.test.targets.of(i).tolist() for i in range(600)]
    expected = recall_by_hand(scores, annotated, list(either.net.labels.names), mapping, 20)
    got = recall_on_subset(either.net, store, mapping)
    assert got.keys() == set(range(1, 11))
    assert got == pytest.approx(expected, abs=1e-6)
    assert got[10] == pytest.approx(1)


def test_mapping_from_a_file(problem: Problem, mapping, tmp_path) -> None:
    path = tmp_path / "mapping.csv"
    path.write_text("source,target\n" + "".join(f"{s},{t}\n" for s, t in mapping.items()), "utf-8")
    assert evaluate(problem.net, problem.store("test"), mapping=path).recall_at == recall_on_subset(problem.net, problem.store("test"), mapping)


@pytest.mark.parametrize(
    "content",
    [b"", b"source,target\n", b"from,to\nlabel 1,a\n", b"source\nlabel 1\n", b"source,target\nlabel 1\n", b"\xff\xfe\x00source", b"source,target\nnobody,a\n"],
)
def test_bad_mappings_are_errors(problem: Problem, tmp_path, content: bytes) -> None:
    path = tmp_path / "mapping.csv"
    path.write_bytes(content)
    with pytest.raises(SelfInformedError, match="mapping.csv"):
        recall_on_subset(problem.net, problem.store("test"), path)


def test_other_bad_mappings_are_errors(problem: Problem, tmp_path) -> None:
    store = problem.store("test")
    with pytest.raises(SelfInformedError, match="no label is named 'nobody'"):
        recall_on_subset(problem.net, store, {"nobody": "a"})
    with pytest.raises(SelfInformedError, match="(cannot be read|does not exist)"):
        recall_on_subset(problem.net, store, tmp_path / "absent.csv")
    with pytest.raises(SelfInformedError, match="got none"):
        recall_on_subset(problem.net, store, {})
    with pytest.raises(SelfInformedError, match="no example is annotated with a mapped label"):
        recall_on_subset(problem.net, open_dataset((problem.test.read([0]), [[]]), problem.net.labels), {"label 0": "a"})


def test_groups_of_other_labels_are_refused(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="groups: made for 5 labels, the network has 36"):
        evaluate(problem.net, problem.store("test"), groups=LabelGroups.everything(5))


def test_a_source_with_two_targets_is_refused(problem: Problem, tmp_path):
    (tmp_path / "map.csv").write_text("source,target\n0,a\n0,b\n1,b\n")
    with pytest.raises(SelfInformedError, match=r"map\.csv maps '0' to 'a' and 'b'; expected one target for each source"):
        recall_on_subset(problem.net, problem.store("test"), tmp_path / "map.csv")
