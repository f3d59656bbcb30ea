from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from conftest import refused
from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark
from selfinformed.structure import clustering
from selfinformed.structure.clustering import cluster, confusion_mass, covering, largest_gap, similarity_degrees, sweep, unit_rows, within_share
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.eigenpairs import leading_eigenpairs
from selfinformed.structure.groups import LabelGroups


def counts_of(matrix: Any) -> ConfusionCounts:
    """Counts that equal a given matrix [detected, annotated]: one example for each unit of each count."""
    cells = sp.coo_array(matrix)
    counts = ConfusionCounts(cells.shape[0], 1)
    detected, annotated = (np.repeat(ids, cells.data) for ids in cells.coords)
    counts.update_detections(detected[:, None], annotated)
    return counts


def normalised(matrix: np.ndarray) -> np.ndarray:
    """D^-1/2 W D^-1/2, written down as in the paper; W is A^T A with a zero diagonal."""
    similarity = matrix.T.astype(float) @ matrix.astype(float)
    np.fill_diagonal(similarity, 0)
    degree = similarity.sum(axis=1)
    return similarity / np.sqrt(np.outer(degree, degree))


def block_diagonal(sizes: list[int], seed: int = 0, ones: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = [np.ones((n, n), dtype=int) if ones else rng.integers(0, 3, (n, n)) + np.eye(n, dtype=int) for n in sizes]
    return sp.block_diag(blocks).toarray().astype(int)


def sprinkled(matrix: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return matrix + (np.random.default_rng(seed).random(matrix.shape) < share)


def random_sparse(n: int, seed: int = 0) -> np.ndarray:
    return sprinkled(np.eye(n, dtype=int), 8 / n, seed)


# 300 labels take the dense solver, 450 to 600 take Lanczos.
ZOO = {
    "random": random_sparse(300),
    "disconnected": block_diagonal([40, 30, 20, 10, 5, 2]),
    "identical rows": np.ones((60, 60), dtype=int),
    "repeated eigenvalues": block_diagonal([10] * 12, ones=True),
    "one-label groups": block_diagonal([1, 1, 30, 20]) + np.eye(52, k=1, dtype=int),
    "random, Lanczos": random_sparse(500),
    "disconnected, Lanczos": block_diagonal([200, 150, 60, 30, 20, 10, 5, 2]),
    "identical rows, Lanczos": np.ones((450, 450), dtype=int),
    "repeated eigenvalues, Lanczos": block_diagonal([50] * 12, ones=True),
    "near-degenerate blocks, Lanczos": sprinkled(block_diagonal([9] * 64, ones=True), 0.0004),
    "near-degenerate random blocks, Lanczos": sprinkled(block_diagonal([25] * 20), 0.0002),
}


@functools.cache
def reference(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues, falling, and their vectors."""
    values, vectors = np.linalg.eigh(normalised(ZOO[name]))
    return values[::-1], vectors[:, ::-1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # these matrices are too small to gain from more
        yield


def pairs_of(matrix: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    sparse = sp.csr_array(matrix.astype(float))
    found = leading_eigenpairs(sparse, similarity_degrees(sparse), n)
    assert np.linalg.norm(normalised(matrix) @ found.vectors - found.vectors * found.values, axis=0).max() < 1e-7
    return found.values, found.vectors


@pytest.mark.parametrize("name", ZOO)
def test_no_eigenvalue_is_missed(name: str) -> None:
    for n in (1, 13, 40):
        values, vectors = pairs_of(ZOO[name], n)
        np.testing.assert_allclose(values, reference(name)[0][:n], atol=1e-7)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-7)


@pytest.mark.parametrize("name", ZOO)
def test_eigenvectors_span_the_reference_subspace(name: str) -> None:
    """Vectors of repeated eigenvalues are not unique, their span is: compare projectors wherever the spectrum has a gap."""
    values, expected = reference(name)
    gaps = [n for n in range(1, 25) if values[n - 1] - values[n] > 1e-3]
    assert gaps
    for n in (gaps[0], gaps[-1]):
        _, vectors = pairs_of(ZOO[name], n)
        np.testing.assert_allclose(vectors @ vectors.T, expected[:, :n] @ expected[:, :n].T, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 14), st.integers(1, 4), st.integers(0, 10_000))
def test_small_random_graphs_equal_the_reference(n_labels: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, most + 1, (n_labels, n_labels)) * (rng.random((n_labels, n_labels)) < 0.4)
    degree = similarity_degrees(sp.csr_array(matrix.astype(float)))
    similarity = matrix.T @ matrix
    np.testing.assert_array_equal(degree, similarity.sum(axis=1) - similarity.diagonal())
    kept = matrix[:, degree > 0]
    if kept.shape[1]:
        values, vectors = pairs_of(kept, kept.shape[1])
        np.testing.assert_allclose(vectors * values @ vectors.T, normalised(kept), atol=1e-9)


def test_rows_are_scaled_to_unit_length_and_rounding_is_not_blown_up() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [1e-17, -1e-16], [0.0, -1e-5]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [0, 0], [0, -1]])
    single = unit_rows(np.array([[3e-2, 4e-2], [1e-7, -1e-7], [0, 1e-5], [0, 0]], np.float32))
    np.testing.assert_allclose(single, [[0.6, 0.8], [0, 0], [0, 1], [0, 0]], rtol=1e-6)


def test_four_eigenvalues_more_than_groups_are_kept() -> None:
    counts = counts_of(sprinkled(block_diagonal([22] * 20), 0.002))
    assert [len(cluster(counts, n).eigenvalues) for n in (3, 12, 20)] == [16, 16, 24]


def test_leiden_chooses_the_number_of_groups_itself() -> None:
    joined = sprinkled(block_diagonal([30, 30, 20, 15]), 0.01)
    groups = cluster(counts_of(joined), "auto", method="leiden")
    assert (list(groups.sizes), groups.eigenvalues) == ([30, 30, 20, 15], ())
    assert len(cluster(counts_of(joined), 1, method="leiden")) == 1


def planted(kind: Any, n_labels: int, n_groups: int, seed: int = 0) -> tuple[ConfusionCounts, np.ndarray]:
    """Detections and annotations that stay in the example's group, but for one detection in twenty; groups of unequal size, shuffled labels."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(n_groups) + 2 * n_groups
    truth = rng.permutation(np.repeat(np.arange(n_groups), np.ceil(sizes / sizes.sum() * n_labels).astype(int))[:n_labels])
    members = [np.flatnonzero(truth == group) for group in range(n_groups)]
    counts = ConfusionCounts(n_labels, 4, kind)
    ids, targets = [], []
    for _ in range(40 * n_labels):
        own = members[rng.integers(n_groups)]
        detected = rng.choice(own, 4, replace=False)
        stray = rng.integers(n_labels)
        if rng.random() < 0.05 and stray not in detected:
            detected[0] = stray
        ids.append(detected)
        targets.append(rng.choice(own))
    counts.update_detections(np.array(ids), np.array(targets))
    return counts, truth


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
@pytest.mark.parametrize(("n_labels", "n_groups"), [(60, 2), (90, 5), (450, 6)])
def test_planted_groups_are_recovered(kind: Any, n_labels: int, n_groups: int) -> None:
    counts, truth = planted(kind, n_labels, n_groups)
    for wanted in (n_groups, "auto"):
        groups = cluster(counts, wanted)
        assert len(groups) == n_groups
        assert adjusted_rand_score(truth, groups.assignment) == 1
        assert groups.sizes == sorted(groups.sizes, reverse=True)
        assert len(groups.ungrouped) == 0


def test_labels_within_a_group_go_by_falling_degree_and_name_it() -> None:
    matrix = np.array([[9, 1, 5, 0, 0], [1, 9, 5, 0, 0], [5, 5, 9, 0, 0], [0, 0, 0, 2, 1], [0, 0, 0, 1, 2]])
    groups = cluster(counts_of(matrix), 2, labels=LabelSpace(list("abcde")))
    assert [m.tolist() for m in groups.members] == [[2, 0, 1], [3, 4]]
    assert groups.names == ("c, a, b", "d, e")
    assert all(cluster(counts_of(matrix), 2, labels=names).names == groups.names for names in (list("abcde"), tuple("abcde")))
    for names in (LabelSpace(list("abcd")), list("abcdef")):
        with pytest.raises(SelfInformedError, match=rf"^labels: {len(names)} label names for 5 labels; give one per label$"):
            cluster(counts_of(matrix), 2, labels=names)


@pytest.mark.parametrize("seed", range(4))
def test_a_component_is_never_torn_even_where_fewer_groups_are_asked_for(seed: int) -> None:
    block = np.random.default_rng(seed).permutation(60) // 10
    counts = counts_of(2 * (block[:, None] == block) + np.eye(60, dtype=int))
    for n_groups in (2, 3, 4, 6):
        with pytest.warns(Remark, match=f"6 parts never .* in {n_groups} groups") if n_groups < 6 else nullcontext():
            groups = cluster(counts, n_groups)
        assert all(len(set(groups.assignment[block == b])) == 1 for b in range(6))
        assert len(groups.ungrouped) == 0
        assert groups.sizes == {2: [30, 30], 3: [20, 20, 20], 4: [20, 20, 10, 10], 6: [10] * 6}[n_groups]


@pytest.mark.parametrize("n_pairs", [32, 33, 300])
def test_parts_that_are_more_than_groups_share_them_evenly(n_pairs: int) -> None:
    """By 32 eigenvalues of 1 as well as by more: one group of all that is left over would be one head for nearly all labels."""
    counts = counts_of(np.kron(np.eye(n_pairs, dtype=int), np.ones((2, 2), dtype=int)))
    with pytest.warns(Remark, match=f"{n_pairs} parts") if n_pairs > 32 else nullcontext():
        assert set(cluster(counts).sizes) <= {2 * (n_pairs // 32), 2 * (n_pairs // 32) + 2}
    for method in ("spectral", "balanced"):
        with pytest.warns(Remark, match=f"{n_pairs} parts"):
            groups = cluster(counts, 5, method=method)
        assert max(groups.sizes) - min(groups.sizes) <= (2 if method == "spectral" else 1)


def test_labels_that_share_no_detection_go_to_no_group() -> None:
    matrix = block_diagonal([5, 5, 1, 1])  # labels 10 and 11 are only ever confused with themselves
    matrix = np.pad(matrix, (0, 2))  # 12 and 13 were never seen
    groups = cluster(counts_of(matrix), 2)
    assert groups.ungrouped.tolist() == [10, 11, 12, 13]
    assert sorted(map(len, groups.members)) == [5, 5]


@pytest.mark.parametrize("n_groups", [-1, 0, 11.0, 2.5, "many", None])
def test_a_number_of_groups_that_is_none(n_groups: Any) -> None:
    counts = counts_of(np.pad(block_diagonal([5, 5]), (0, 3)))
    with pytest.raises(SelfInformedError, match=f"^n_groups: expected a whole number of at least 1, or 'auto'; got {n_groups!r}$"):
        cluster(counts, n_groups)


@pytest.mark.parametrize("n_groups", [11, np.int64(70), 10**12])
def test_more_groups_than_the_graph_supports_are_as_many_as_there_can_be(n_groups: Any) -> None:
    counts = counts_of(np.pad(block_diagonal([5, 5]), (0, 3)))
    with pytest.warns(Remark, match=f"^n_groups: {n_groups:,} asked for, 10 made from confusions: only 10 of 13 labels are confused with another$") as caught:
        groups = cluster(counts, n_groups)
    assert [warning.filename for warning in caught] == [__file__]
    assert [m.tolist() for m in groups.members] == [m.tolist() for m in cluster(counts, 10).members]
    with pytest.warns(Remark, match="12 asked for, 10 made"):
        assert [row["n_groups"] for row in sweep(counts, [2, 12, 11])] == [2, 10]


@pytest.mark.parametrize("matrix", [np.zeros((4, 4), dtype=int), 3 * np.eye(4, dtype=int)], ids=["never seen", "never confused"])
def test_nothing_to_cluster(matrix: np.ndarray) -> None:
    with pytest.raises(SelfInformedError, match="no two labels are ever detected together"):
        cluster(counts_of(matrix), 2)


def test_as_many_groups_as_labels_and_a_single_one() -> None:
    counts = counts_of(random_sparse(12) + np.ones((12, 12), dtype=int))
    assert cluster(counts, 12).sizes == [1] * 12
    assert cluster(counts, 1).sizes == [12]


def test_indistinguishable_labels_give_fewer_groups() -> None:
    counts = counts_of(block_diagonal([6, 6], ones=True))
    assert cluster(counts, 2).sizes == [6, 6]
    with pytest.warns(Remark, match="^n_groups: 4 asked for, 2 made from confusions: labels fall together in no more places$"):
        assert cluster(counts, 4, method="leiden").sizes == [6, 6]
    assert cluster(counts_of(np.ones((8, 8), dtype=int)), 1).sizes == [8]


def test_auto_on_the_smallest_graph_keeps_the_pair_together() -> None:
    assert cluster(counts_of([[1, 1, 0], [0, 0, 0], [0, 0, 1]]), "auto").sizes == [2]


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [([1, 0.2], 1), ([1, 0.9, 0.1], 2), ([1, 0.3, 0.29, 0.28, 0.0], 4), ([1, 1, 1, 1, 0.5, 0.4], 4), ([1] * 5, 4), ([1, *[-0.2] * 5], 2)]
)
def test_largest_gap(eigenvalues: list[float], expected: int) -> None:
    assert largest_gap(np.array(eigenvalues, dtype=float)) == expected


@pytest.mark.parametrize("matrix", [ZOO["random"], block_diagonal([65] * 6), ZOO["repeated eigenvalues, Lanczos"]], ids=["random", "dense", "Lanczos"])
def test_same_seed_same_groups_on_any_number_of_threads(matrix: np.ndarray) -> None:
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(cluster(counts_of(matrix), 3, seed=5))
    assert [m.tolist() for m in results[0].members] == [m.tolist() for m in results[1].members]
    assert results[0].eigenvalues == results[1].eigenvalues


def test_fifty_thousand_labels_without_ever_forming_b() -> None:
    """Label 20 is detected for every other one, so B would have 2.5 billion entries (20 GB)."""
    n_labels, n_groups = 50_000, 16
    truth = np.random.default_rng(0).choice(n_groups, n_labels, p=np.linspace(1, 2, n_groups) / 24)
    every = np.arange(n_labels)
    counts = ConfusionCounts(n_labels, 1)
    counts.update_detections(np.full((n_labels, 1), 20), every)
    counts.update_detections(np.tile(truth, 30)[:, None], np.tile(every, 30))
    assert adjusted_rand_score(truth, cluster(counts, n_groups).assignment) == 1


def test_a_cover_adds_labels_to_groups_where_they_have_more_than_a_share_of_their_confusions() -> None:
    rng = np.random.default_rng(0)
    matrix = block_diagonal([12, 12, 12]) * 5 + rng.integers(0, 4, (36, 36))
    counts = counts_of(matrix)
    groups = cluster(counts, 3)
    off = matrix - np.diag(np.diag(matrix))
    for share in (0.0, 0.1, 0.2, 0.5, 1.0):
        cover = cluster(counts, 3, cover_share=share)
        for own, members in zip(groups.members, cover.members, strict=True):
            expected = {label for label in range(36) if (off[own, label] + off[label, own]).sum() > share * (off[:, label] + off[label]).sum()}
            assert set(members.tolist()) == set(own.tolist()) | expected
            assert members[: len(own)].tolist() == own.tolist()
        assert cover.method == "spectral cover"
    with pytest.raises(SelfInformedError, match="cover_share: expected a number of at least 0 and at most 1; got 1.5"):
        cluster(counts, 3, cover_share=1.5)


def test_confusions_with_no_groups_at_all() -> None:
    assert confusion_mass(counts_of(np.ones((3, 3), dtype=int)).to_scipy(), LabelGroups(3, ())).shape == (3, 0)


def test_groups_of_one_size_go_by_their_first_label_and_a_cover_by_falling_confusions() -> None:
    matrix = np.zeros((6, 6), dtype=int)
    for a, b, c in ((0, 1, 5), (3, 4, 2)):  # the last of each has most
        matrix[[a, b, c], [a, b, c]], matrix[c, [a, b]] = 9, 3
    groups = cluster(counts_of(matrix), 2)
    assert [m.tolist() for m in groups.members] == [[2, 3, 4], [5, 0, 1]]
    matrix[0, 2], matrix[1, 2] = 1, 2
    cover = covering(groups, counts_of(matrix), 0.0)
    assert cover.members[0].tolist() == [*groups.members[0].tolist(), 1, 0]


def test_no_confusions_are_within_groups_where_there_are_none() -> None:
    assert within_share(counts_of(np.eye(3, dtype=int)), LabelGroups(3, ([0, 1],))) == 0


def test_degrees_are_exact_where_a_label_is_nearly_always_right() -> None:
    """Row sums less what is on the diagonal would be nothing but rounding here."""
    often = 10**13 + 1
    assert similarity_degrees(sp.csr_array(np.array([[often, 1, 0], [0, 1, 0], [0, 0, 5]]))).tolist() == [often, often, 0]


def test_a_sweep_of_nothing_is_refused() -> None:
    with refused("sweep: expected one number of groups or more, got none"):
        sweep(counts_of(np.ones((4, 4), dtype=int)), ())


def test_a_sweep_gives_what_each_number_of_groups_gives_by_itself() -> None:
    counts = counts_of(block_diagonal([30, 20, 10]) + np.random.default_rng(1).integers(0, 2, (60, 60)))
    matrix = counts.to_scipy().toarray()
    for row in sweep(counts, [4, 2, 3, 3]):
        groups = cluster(counts, row["n_groups"])
        assert row["sizes"] == groups.sizes
        same = groups.assignment[:, None] == groups.assignment
        off = ~np.eye(60, dtype=bool)
        assert row["within_share"] == pytest.approx(matrix[same & off].sum() / matrix[off].sum())
        assert row["gap"] == pytest.approx(groups.eigenvalues[row["n_groups"] - 1] - groups.eigenvalues[row["n_groups"]], abs=1e-7)


def test_groups_of_many_points_are_found_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_SAMPLED", 40)
    monkeypatch.setattr(clustering, "_FEW", 30)
    groups = cluster(counts_of(block_diagonal([50, 40, 30])), 3)
    assert groups.sizes == [50, 40, 30]


@pytest.mark.parametrize("method", ["spectral", "balanced", "greedy", "leiden", "random"])
def test_as_many_groups_as_labels_are_made_without_a_search(method, monkeypatch):
    counts = counts_of(block_diagonal([8, 6], ones=True))
    monkeypatch.setattr(clustering, "leading_eigenpairs", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(clustering, "kmeans", lambda *_: pytest.fail("computed"))
    with pytest.warns(Remark, match="n_groups: 5,000 asked for, 14 made"):
        groups = cluster(counts, 5000, method=method)
    assert sorted(members.tolist() for members in groups.members) == [[label] for label in range(14)]
