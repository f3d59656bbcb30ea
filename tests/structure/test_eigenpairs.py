from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure import eigenpairs
from selfinformed.structure.clustering import similarity_degrees
from selfinformed.structure.eigenpairs import Eigenpairs, Similarity, leading_eigenpairs


def planted(n_labels: int, n_groups: int, noise: float, seed: int) -> sp.csr_array:
    """Counts in equal blocks, which gives n_groups eigenvalues that lie close together, plus noise."""
    rng = np.random.default_rng(seed)
    group = np.arange(n_labels) % n_groups
    near = (group[:, None] == group) & (rng.random((n_labels, n_labels)) < 0.4)
    counts = np.eye(n_labels, dtype=np.int64) + near * rng.integers(1, 4, near.shape) + (rng.random(near.shape) < noise)
    return sp.csr_array(counts)


def dense(matrix: sp.csr_array) -> np.ndarray:
    similarity = (matrix.T @ matrix).toarray().astype(float)
    np.fill_diagonal(similarity, 0)
    degree = similarity.sum(axis=1)
    return similarity / np.sqrt(np.outer(degree, degree))


def residuals_of(matrix: sp.csr_array, found: Eigenpairs) -> np.ndarray:
    return np.linalg.norm(dense(matrix) @ found.vectors - found.vectors * found.values, axis=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.002, 0.05])
@pytest.mark.parametrize("n", [5, 24, 30])
def test_every_member_of_a_cluster_of_eigenvalues_is_found(n: int, noise: float, seed: int) -> None:
    """24 groups: 5 stops inside the cluster of eigenvalues, 24 at its end, 30 beyond it, among those of the noise."""
    matrix = planted(480, 24, noise, seed)
    expected = np.linalg.eigvalsh(dense(matrix))[::-1]
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), n)
    np.testing.assert_allclose(found.values, expected[:n], atol=1e-9)
    np.testing.assert_allclose(dense(matrix) @ found.vectors, found.vectors * found.values, atol=2e-7)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(n), atol=1e-10)
    assert residuals_of(matrix, found).max() <= 1e-7


def test_the_product_is_the_dense_one_and_the_same_on_any_number_of_threads() -> None:
    matrix = planted(480, 6, 0.02, 0)
    similarity = Similarity(matrix, similarity_degrees(matrix))
    block = np.random.default_rng(0).standard_normal((480, 70))
    expected = 3 * (dense(matrix) @ block - 0.25 * block) - 2 * block[:, ::-1]
    before, products = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            products.append(similarity.times(block, 0.25, 3.0, block[:, ::-1], -2.0))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(products[0], expected, atol=1e-12)
    assert all((product == products[0]).all() for product in products)


def test_float32_finds_the_same_eigenpairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenpairs, "_SINGLE", 100)
    matrix = planted(480, 24, 0.02, 0)
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), 24)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(dense(matrix))[::-1][:24], atol=2e-5)
    assert residuals_of(matrix, found).max() <= 2e-5


def test_of_many_components_the_largest_come_first() -> None:
    matrix = sp.csr_array(sp.block_diag([np.ones((n, n), dtype=np.int64) for n in (3, 200, 50, 200, 2)]))
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), 3)
    np.testing.assert_allclose(found.values, 1)
    assert [np.flatnonzero(np.abs(v) > 1e-12).tolist() for v in found.vectors.T] == [
        list(range(3, 203)), list(range(253, 453)), list(range(203, 253)),
    ]  # fmt: skip


def test_only_the_vectors_that_are_needed_have_to_converge() -> None:
    matrix = planted(900, 6, 0.05, 1)
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), 20, lambda values: 6)
    np.testing.assert_allclose(found.values[:6], np.linalg.eigvalsh(dense(matrix))[::-1][:6], atol=1e-9)
    assert residuals_of(matrix, found)[:6].max() <= 1e-7 < residuals_of(matrix, found)[6:].max()


@pytest.mark.parametrize(("n_labels", "n"), [(2, 1), (60, 7), (60, 60), (400, 3), (450, 200)])
def test_few_labels_or_many_eigenvalues_are_solved_densely(n_labels: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenpairs, "_leading", lambda *_: pytest.fail("the iterative solver was used"))
    matrix = sp.csr_array(np.random.default_rng(n_labels).integers(1, 3, (n_labels, n_labels)) + np.eye(n_labels, dtype=np.int64))
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), n)
    assert found.vectors.shape == (n_labels, n)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(dense(matrix))[::-1][:n], atol=1e-12)
    np.testing.assert_allclose(dense(matrix) @ found.vectors, found.vectors * found.values, atol=1e-12)
    assert (found.vectors[np.abs(found.vectors).argmax(axis=0), np.arange(n)] > 0).all()


@pytest.mark.parametrize(("n_labels", "precise"), [(5_000, True), (5_001, False)])
def test_beyond_5000_labels_vectors_are_float32(n_labels: int, precise: bool) -> None:
    chain = sp.csr_array(sp.eye_array(n_labels, dtype=np.int64) + sp.eye_array(n_labels, k=1, dtype=np.int64))
    assert Similarity(chain, similarity_degrees(chain)).dtype == (np.float64 if precise else np.float32)


def test_one_eigenvalue_more_than_the_components_is_iterated_for() -> None:
    blocks = [planted(n, 2, 0.05, seed) for seed, n in enumerate((300, 200))]
    matrix = sp.csr_array(sp.block_diag(blocks))
    for n in (1, 2, 3, 4):
        found = leading_eigenpairs(matrix, similarity_degrees(matrix), n)
        np.testing.assert_allclose(found.values, np.linalg.eigvalsh(dense(matrix))[::-1][:n], atol=1e-9)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(n), atol=1e-10)


@pytest.mark.parametrize("degree", [1, 2, 3, 9, 24])
def test_the_filter_is_a_chebyshev_polynomial(degree: int) -> None:
    """T_d((L - centre) / half) / T_d((top - centre) / half), by eigenvectors; and nothing of a known vector is left, however large it would grow."""
    matrix = planted(480, 6, 0.05, 3)
    similarity = Similarity(matrix, similarity_degrees(matrix))
    values, vectors = np.linalg.eigh(dense(matrix))
    low, cut, top = -0.2, values[-20], values[-2]
    polynomial = np.polynomial.Chebyshev.basis(degree)
    scaled = polynomial((values - (cut + low) / 2) / ((cut - low) / 2)) / polynomial((top - (cut + low) / 2) / ((cut - low) / 2))
    trivial = similarity.trivial(1)
    block = np.random.default_rng(0).standard_normal((480, 3))
    block -= trivial @ (trivial.T @ block)
    found = eigenpairs._filtered(similarity, block, low, cut, top, degree, trivial)
    np.testing.assert_allclose(found, vectors @ (scaled[:, None] * (vectors.T @ block)), atol=1e-9 * np.abs(scaled).max())
    if degree > 1:
        known = eigenpairs._filtered(similarity, block + trivial, low, cut, top, degree, trivial)
        np.testing.assert_allclose(trivial.T @ known, 0, atol=1e-9)


def test_the_filter_of_a_whole_cluster_is_scaled_by_its_width() -> None:
    """Where the top is no further from the middle than the interval's end, T_d is 1 there."""
    similarity = Similarity(matrix := planted(480, 6, 0.05, 3), similarity_degrees(matrix))
    block = np.random.default_rng(0).standard_normal((480, 2))
    nothing = np.zeros((480, 0))
    found = eigenpairs._filtered(similarity, block, -1.0, 1.0, 0.5, 3, nothing)
    values, vectors = np.linalg.eigh(dense(matrix))
    np.testing.assert_allclose(found, vectors @ ((4 * values**3 - 3 * values)[:, None] * (vectors.T @ block)), atol=1e-12)


RESIDUALS = [(1.0, 1e-8, 100), (0.1, 1e-8, 100), (1e-3, 1e-8, 100), (1e-9, 1e-8, 100), (1.0, 1e-8, 6), (1e-2, 1e-5, 100)]


@pytest.mark.parametrize(("residual", "tolerance", "largest"), RESIDUALS)
def test_the_degree_is_what_brings_the_residual_down(residual: float, tolerance: float, largest: int) -> None:
    """Beyond the interval T_d grows as exp(d arccosh) does; no further than rounding allows."""
    values, interval = np.array([0.31, 0.305, 0.3, 0.2]), (-0.3, 0.2)
    last, first = (np.arccosh((value + 0.05) / 0.25) for value in (0.3, 0.31))
    wanted = np.floor(np.log(4 * max(residual, tolerance) / tolerance) / last)
    safe = np.floor(np.log(2e8 if tolerance == 1e-8 else 2e4) / first)
    found = eigenpairs._degree(values, np.array([0.1, 0.5, 1.0, 7.0]) * residual, 3, interval, tolerance, largest)
    assert found == min(max(wanted, 2), safe, largest)


def test_with_nothing_needed_the_degree_is_the_least() -> None:
    assert eigenpairs._degree(np.array([0.5, 0.2]), np.array([1.0, 1.0]), 0, (-0.3, 0.2), 1e-8, 100) == 2


def test_the_interval_of_unwanted_eigenvalues_never_turns_round() -> None:
    similarity = Similarity(matrix := planted(480, 6, 0.05, 3), similarity_degrees(matrix))
    assert similarity.lowest == -similarity.own.max()
    assert eigenpairs._interval(similarity, np.array([0.9, 0.1])) == (pytest.approx(similarity.lowest - 1e-6), 0.1)
    low, cut = eigenpairs._interval(similarity, np.array([0.9, similarity.lowest - 0.5]))
    assert cut == similarity.lowest - 0.5
    assert 0.0009 < cut - low < 0.0011


@pytest.mark.parametrize(("n", "noise", "most"), [(5, 0.002, 1_030), (24, 0.002, 640), (24, 0.05, 760), (30, 0.05, 1_770)])
def test_it_takes_few_products(n: int, noise: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that the matrix is multiplied with, all rounds together: what the solver costs."""
    products = []
    times = Similarity.times
    monkeypatch.setattr(Similarity, "times", lambda self, block, *rest: (products.append(block.shape[1]), times(self, block, *rest))[1])
    matrix = planted(480, 24, noise, 0)
    leading_eigenpairs(matrix, similarity_degrees(matrix), n)
    assert sum(products) <= most, sum(products)


def test_memory_is_asked_for_by_the_size_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = planted(480, 6, 0.05, 3)
    room = 8 * 480 * 18 * 8  # six vectors, one of them known, and the twelve that guard them, eight blocks at a time in float64
    monkeypatch.setattr("selfinformed.runtime.memory.free_memory", lambda: room - 1)
    with pytest.raises(SelfInformedError, match="17 eigenvectors of 480 labels needs about"):
        leading_eigenpairs(matrix, similarity_degrees(matrix), 6)
    monkeypatch.setattr("selfinformed.runtime.memory.free_memory", lambda: room)
    assert leading_eigenpairs(matrix, similarity_degrees(matrix), 6).values[0] == pytest.approx(1)


def test_counts_of_fewer_rows_than_labels_are_multiplied_alike() -> None:
    matrix = sp.csr_array(np.random.default_rng(0).integers(0, 3, (90, 480)) + np.ones((90, 480), dtype=np.int64))
    block = np.random.default_rng(1).standard_normal((480, 3))
    for part in (matrix, sp.vstack([matrix] * 12, format="csr")):
        similarity = Similarity(sp.csr_array(part), similarity_degrees(part))
        np.testing.assert_allclose(similarity.times(block), dense(part) @ block, atol=1e-12)


@pytest.mark.parametrize("diagonal", [1_000, 100_000])
def test_labels_that_are_nearly_always_right_cost_no_exactness(diagonal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32 products of their counts nothing would be left but rounding."""
    monkeypatch.setattr(eigenpairs, "_SINGLE", 100)
    rounds = []
    filtered = eigenpairs._filtered
    monkeypatch.setattr(eigenpairs, "_filtered", lambda *given: rounds.append(1) or filtered(*given))
    matrix = planted(480, 24, 0.02, 0)
    matrix = sp.csr_array(matrix + diagonal * sp.eye_array(480, dtype=np.int64))
    found = leading_eigenpairs(matrix, similarity_degrees(matrix), 24)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(dense(matrix))[::-1][:24], atol=2e-5)
    assert residuals_of(matrix, found).max() <= 2e-5
    assert len(rounds) < 12


def test_what_is_not_exact_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenpairs, "_ROUNDS", 1)
    matrix = planted(480, 24, 0.05, 0)
    with pytest.warns(UserWarning, match="cluster: of \\d+ eigenvectors the least exact has a residual of .* after 1 rounds"):
        leading_eigenpairs(matrix, similarity_degrees(matrix), 24)
