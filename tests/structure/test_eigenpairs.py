from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from selfinformed.structure import eigenpairs
from selfinformed.structure.clustering import similarity_degrees
from selfinformed.structure.eigenpairs import Similarity, leading_eigenpairs


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
    assert found.residuals.max() <= 1e-7


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
    assert found.residuals.max() <= 2e-5


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
    assert found.residuals[:6].max() <= 1e-7 < found.residuals[6:].max()
