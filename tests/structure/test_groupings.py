from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from conftest import PLANTED, Problem
from selfinformed.pipeline.config import RunConfig
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark
from selfinformed.structure import groupings
from selfinformed.structure.clustering import cluster, similarity_degrees
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groupings import Method, balanced, cheapest_assignment, confusion_graph, covariance_rows, greedy, leiden, random_groups
from selfinformed.structure.measuring import measure
from selfinformed.structure.stability import agreement

METHODS = get_args(Method)
INFORMED = [method for method in METHODS if method != "random"]


def planted(n_labels: int = 90, sizes: tuple[int, ...] = (24, 20, 18, 16, 12), inside: float = 0.95, seed: int = 0) -> tuple[ConfusionCounts, np.ndarray]:
    """Co-detections of 4 labels of one group, but for one in twenty detections, and each label's group; two more labels were never seen."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    ids = np.empty((60 * n_labels, 4), np.int64)
    for row in ids:
        row[:] = rng.choice(np.flatnonzero(truth == rng.choice(len(sizes), p=np.array(sizes) / n_labels)), 4, replace=False)
        stray = rng.integers(n_labels)
        if rng.random() > inside and stray not in row:
            row[0] = stray
    counts = ConfusionCounts(n_labels + 2, 4, "codetections")
    counts.update_detections(ids, ids[:, 1])
    return counts, np.append(truth, [-1, -1])


@pytest.fixture(scope="module")
def known() -> tuple[ConfusionCounts, np.ndarray]:
    return planted()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_groups_of_one_form_and_the_informed_ones_find_those_planted(method: Any, known: tuple[ConfusionCounts, np.ndarray]) -> None:
    counts, truth = known
    degree = similarity_degrees(counts.to_scipy())
    for wanted in (5, "auto"):
        groups = cluster(counts, wanted, seed=3, method=method)
        assert groups.method == method
        assert len(groups) == 5
        assert groups.sizes == sorted(groups.sizes, reverse=True)
        assert groups.ungrouped.tolist() == [90, 91]
        for members in groups.members:
            assert (np.diff(degree[members]) <= 0).all()
        found = adjusted_rand_score(truth, groups.assignment)
        if method == "random":
            assert found < 0.2
            assert max(groups.sizes) - min(groups.sizes) <= 1
        elif method == "balanced":
            assert found > 0.7  # as close as groups of 18 come to those of 12 to 24
            assert groups.sizes == [18] * 5
        else:
            assert found == 1


@pytest.mark.parametrize("method", METHODS)
def test_planted_confusions_of_a_trained_network(method: Any, problem: Problem) -> None:
    counts = measure(problem.net, problem.holdout, kind="codetections" if method == "hinton" else "confusions")
    found = agreement(cluster(counts, 6, method=method), PLANTED)
    if method == "random":
        assert found < 0.3
    else:
        assert found > (0.7 if method == "hinton" else 0.9)  # what is detected beside the label it is says less than what it is taken for


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_groups_on_any_number_of_threads(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupings, "_EXACT", 10)
    monkeypatch.setattr(groupings, "_ROWS", 16)
    counts, _ = planted(inside=0.3, seed=1)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found.append([m.tolist() for m in cluster(counts, 7, seed=5, method=method).members])
    torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("method", METHODS)
def test_covers_and_the_ends_of_n_groups(method: Any, known: tuple[ConfusionCounts, np.ndarray]) -> None:
    counts, _ = known
    cover = cluster(counts, 5, method=method, cover_share=0.1)
    assert cover.method == f"{method} cover"
    assert sum(cover.sizes) >= 90
    assert cluster(counts, 1, method=method).sizes == [90]
    assert cluster(counts, 90, method=method).sizes == [1] * 90
    with pytest.warns(Remark, match=r"^n_groups: 91 asked for, 90 made from codetections: only 90 of 92 labels are confused with another$"):
        assert cluster(counts, 91, method=method).sizes == [1] * 90
    with pytest.raises(SelfInformedError, match="n_groups: expected a whole number of at least 1, or 'auto'; got 0"):
        cluster(counts, 0, method=method)


def test_an_unknown_method_and_confusions_for_hinton_are_named() -> None:
    counts = ConfusionCounts(3, 2)
    counts.update_detections([[0, 1], [1, 2], [2, 0]], [0, 1, 2])
    with pytest.raises(SelfInformedError, match="method: expected one of spectral, balanced, hinton, greedy, leiden, random; got 'louvain'"):
        cluster(counts, 2, method="louvain")  # type: ignore[arg-type]
    with pytest.raises(SelfInformedError, match=r"hinton needs co-detection counts \(eq. 4\), got confusions; make them with .*kind='codetections'"):
        cluster(counts, 2, method="hinton")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_a_seed_that_is_none(method: Any, seed: Any, known: tuple[ConfusionCounts, np.ndarray]) -> None:
    with pytest.raises(SelfInformedError, match=f"^seed: expected a whole number from 0 to 4294967295; got {seed}$"):
        cluster(known[0], 3, seed=seed, method=method)
    assert cluster(known[0], 3, seed=2**32 - 1, method=method).sizes


def test_a_run_offers_the_same_methods() -> None:
    offered = get_args(get_type_hints(RunConfig)["grouping"])
    assert [method for method in offered if method != "codetections"] == list(METHODS)  # spectral, of other counts


def symmetric(n: int, most: int, seed: int, filled: float = 0.4) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    return confusion_graph(sp.csr_array(rng.integers(0, most + 1, (n, n)) * (rng.random((n, n)) < filled)))


def test_the_confusion_graph_counts_both_ways_and_no_label_with_itself() -> None:
    assert confusion_graph(sp.csr_array([[9, 4, 0], [1, 9, 0], [0, 2, 9]])).toarray().tolist() == [[0, 5, 0], [5, 0, 2], [0, 2, 0]]


def obvious_pairs(graph: np.ndarray, n_groups: int) -> list[list[int]]:
    """Greedy pairs, every pair looked at before each merge."""
    n = len(graph)
    cap = 2 * -(-n // n_groups)
    groups = [[label] for label in range(n)]
    while len(groups) > n_groups:
        pairs = [(a, b) for a, b in itertools.combinations(groups, 2) if len(a) + len(b) <= cap]
        a, b = min(pairs, key=lambda pair: (-graph[np.ix_(*pair)].sum() / (len(pair[0]) * len(pair[1])), *sorted(map(min, pair))))
        if graph[np.ix_(a, b)].sum() == 0:
            a, b = sorted(sorted(groups, key=lambda g: (len(g), min(g)))[:2], key=min)
        groups.remove(b)
        groups[groups.index(a)] = a + b
    return sorted(sorted(group) for group in groups)


@settings(max_examples=150)
@given(st.integers(1, 16), st.integers(1, 16), st.sampled_from([1, 3, 100]), st.floats(0, 1), st.integers(0, 10_000))
def test_greedy_pairs_equal_the_obvious_loop(n: int, n_groups: int, most: int, filled: float, seed: int) -> None:
    graph, n_groups = symmetric(n, most, seed, filled), min(n, n_groups)
    place = greedy(graph, n_groups)
    found = sorted(np.flatnonzero(place == group).tolist() for group in range(place.max() + 1))
    assert found == obvious_pairs(graph.toarray(), n_groups)
    assert len(found) == n_groups
    assert max(map(len, found)) <= 2 * -(-n // n_groups)


@settings(max_examples=100)
@given(st.integers(1, 6), st.integers(0, 20), st.booleans(), st.integers(0, 10_000))
def test_the_cheapest_assignment_equals_that_of_the_hungarian_method(k: int, extra: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = rng.multinomial(extra, np.full(k, 1 / k)) + rng.integers(0, 2, k)
    n = capacity.sum()
    cost = rng.integers(0, 3, (n, k)).astype(float) if ties else rng.standard_normal((n, k))
    place = cheapest_assignment(cost, capacity)
    assert np.bincount(place, minlength=k).tolist() == capacity.tolist()
    rows, columns = linear_sum_assignment(np.repeat(cost, capacity, axis=1))
    assert cost[np.arange(n), place].sum() == pytest.approx(np.repeat(cost, capacity, axis=1)[rows, columns].sum(), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 10_000))
def test_balanced_groups_differ_by_one_at_most(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(n, k)
    points, start = rng.integers(0, 3, (n, 2)).astype(np.float32), rng.integers(0, k, n)
    sizes = np.bincount(balanced(points, start, k), minlength=k)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_hintons_points_are_the_covariance_of_the_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids = np.array([rng.choice(20, 3, replace=False) for _ in range(50)])
    counts = ConfusionCounts(20, 3, "codetections")
    counts.update_detections(ids, ids[:, 0])
    detected = np.zeros((50, 20))
    np.put_along_axis(detected, ids, 1, axis=1)
    rows = np.cov(detected.T, bias=True)
    np.testing.assert_allclose(covariance_rows(counts.to_scipy(), 50, 6, 0), rows, atol=1e-12)
    monkeypatch.setattr(groupings, "_EXACT", 10)
    projected = covariance_rows(counts.to_scipy(), 50, 6, 0)  # on 2 * 6 + 8 directions, here all: distances are kept
    np.testing.assert_allclose(projected @ projected.T, rows @ rows.T, atol=1e-12)


def test_projected_covariances_give_the_same_groups(monkeypatch: pytest.MonkeyPatch, known: tuple[ConfusionCounts, np.ndarray]) -> None:
    counts, truth = known
    monkeypatch.setattr(groupings, "_EXACT", 10)
    assert covariance_rows(counts.to_scipy(), counts.n_examples, 5, 0).shape == (92, 18)
    assert adjusted_rand_score(truth, cluster(counts, 5, method="hinton").assignment) == 1


def modularity(graph: np.ndarray, place: np.ndarray) -> float:
    degree = graph.sum(axis=1)
    same = place[:, None] == place
    return float(((graph - np.outer(degree, degree) / degree.sum()) * same).sum() / degree.sum())


def test_leiden_on_a_small_graph_reaches_the_best_modularity() -> None:
    graph = symmetric(8, 5, seed=2)
    best = max(modularity(graph.toarray(), np.array(place)) for place in itertools.product(range(4), repeat=7) for place in [(0, *place)])
    assert modularity(graph.toarray(), leiden(graph, None, 0)) == pytest.approx(best)


def test_leiden_finds_the_resolution_for_any_number_of_groups_and_merges_components_that_are_too_many() -> None:
    graph = symmetric(60, 9, seed=0)
    numbers = [leiden(graph, n, 0).max() + 1 for n in range(1, 13)]
    assert all(n - 2 <= number <= n for n, number in zip(range(1, 13), numbers))
    blocks = confusion_graph(sp.block_diag([np.full((n, n), 2) for n in (9, 8, 7, 3, 2)], format="csr"))
    place = leiden(blocks, 3, 0)
    assert sorted(np.bincount(place).tolist()) == [8, 9, 12]  # the smallest two, and then the next
    assert all(len(set(block)) == 1 for block in np.split(place, [9, 17, 24, 27]))
    assert sorted(np.bincount(leiden(sp.csr_array((5, 5), dtype=np.int64), 2, 0)).tolist()) == [2, 3]


def test_leiden_is_the_same_in_another_process() -> None:
    graph = symmetric(80, 3, seed=0, filled=0.1)
    script = f"""
import scipy.sparse as sp
from selfinformed.structure.groupings import leiden
print(leiden(sp.csr_array({graph.toarray().tolist()}), 6, 4).tolist())
"""
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(leiden(graph, 6, 4).tolist())


def test_leiden_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    with pytest.raises(SelfInformedError, match=r"pip install 'selfinformed\[leiden\]'"):
        leiden(symmetric(8, 5, 0), 2, 0)


def test_random_groups_follow_the_seed() -> None:
    assert sorted(np.bincount(random_groups(11, 3, 0)).tolist()) == [3, 4, 4]
    assert random_groups(40, 3, 0).tolist() == random_groups(40, 3, 0).tolist() != random_groups(40, 3, 1).tolist()
