"""Spectral clustering of labels after Ng, Jordan and Weiss (2002) on B = A^T A, which is never formed."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from threadpoolctl import threadpool_limits

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups

FloatArray = npt.NDArray[np.float64]
_DENSE = 400  # up to this many labels a dense eigensolver is exact and faster
_MOST_GROUPS = 32  # how far `auto` looks for the eigengap


def cluster(
    counts: ConfusionCounts,
    n_groups: int | Literal["auto"] = "auto",
    seed: int = 0,
    labels: LabelSpace | None = None,
) -> LabelGroups:
    """Groups the labels a network mixes up.

    W = B with a zero diagonal, normalised to D^-1/2 W D^-1/2; rows of its n_groups leading eigenvectors, scaled to unit length, go
    to k-means. Labels that share no detection with another (degree zero) go to no group. Groups come largest first, labels within
    a group by falling degree, the most confused first. Where labels fall together in fewer places than groups were asked for, fewer
    groups are returned.

    Args:
        counts: confusion or co-detection counts.
        n_groups: how many, from 1 to the number of labels with a degree; or `auto`, the largest eigengap in 2..32.
        seed: of the k-means; the same seed gives the same groups.
        labels: names groups by their most confused labels.

    Raises:
        SelfInformedError: no two labels share a detection, or n_groups is more than the labels that do.
    """
    matrix = counts.to_scipy().astype(np.float64)
    degree = similarity_degrees(matrix)
    connected = np.flatnonzero(degree > 0)
    if len(connected) == 0:
        raise SelfInformedError("cluster: no two labels are ever detected together; measure more hold-out data, or a larger top_k")
    if n_groups != "auto" and not (isinstance(n_groups, int | np.integer) and 1 <= n_groups <= len(connected)):
        raise SelfInformedError(
            f"n_groups: expected 'auto' or 1 to {len(connected)}, the labels (of {counts.n_labels}) confused with another; got {n_groups!r}"
        )
    wanted = min(_MOST_GROUPS, len(connected) - 1) + 1 if n_groups == "auto" else int(n_groups)
    shown = min(max(wanted + 4, 16), len(connected))
    with threadpool_limits(1):  # sums taken in one order: eigenvectors of repeated eigenvalues would depend on the number of threads
        eigenvalues, vectors = leading_eigenpairs(matrix[:, connected], degree[connected], shown)
        if n_groups == "auto":
            wanted = largest_gap(eigenvalues[:wanted])
        place = kmeans(unit_rows(vectors[:, :wanted]), wanted, seed)
    by_degree = np.argsort(-degree[connected], kind="stable")
    members = [connected[by_degree[place[by_degree] == group]] for group in range(wanted)]
    members = sorted((m for m in members if len(m)), key=lambda m: (-len(m), m[0]))
    groups = LabelGroups(counts.n_labels, tuple(members), (), "spectral", tuple(eigenvalues.tolist()))
    return groups.renamed(labels) if labels is not None else groups


def similarity_degrees(matrix: sp.csr_array) -> FloatArray:
    """Row sums [C] of W = A^T A with a zero diagonal."""
    ones = np.ones(matrix.shape[1])
    degree: FloatArray = matrix.T @ (matrix @ ones) - _diagonal(matrix)
    return degree  # exact: the sums are integers below 2^53 wherever A's squared entries are


def leading_eigenpairs(matrix: sp.csr_array, degree: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """The n largest eigenvalues, falling, and eigenvectors [C, n] of D^-1/2 W D^-1/2, all degrees above zero.

    One multiplication by W is two by A. Lanczos (ARPACK) can leave out a member of a tight cluster of eigenvalues while reporting
    convergence (scipy #26112), and good groups give just that: so what it found is moved out of the way and the search repeated until
    the largest eigenvalue left is no larger than the smallest one kept.
    """
    size = matrix.shape[1]
    scale = 1 / np.sqrt(degree)
    if size <= max(_DENSE, 2 * n):
        similarity = (matrix.T @ matrix).toarray()
        np.fill_diagonal(similarity, 0)
        values, vectors = np.linalg.eigh(similarity * scale[:, None] * scale)
        return values[::-1][:n].copy(), _signed(vectors[:, ::-1][:, :n])
    diagonal, transposed = _diagonal(matrix), matrix.T.tocsr()

    def multiply(x: FloatArray) -> FloatArray:
        y = scale * x.ravel()
        product: FloatArray = scale * (transposed @ (matrix @ y) - diagonal * y)
        return product

    rng = np.random.default_rng(0)
    values, vectors = _lanczos(multiply, size, n, rng)
    while True:
        found = vectors

        def deflated(x: FloatArray, found: FloatArray = found) -> FloatArray:
            inside = found @ (found.T @ x.ravel())
            outside = x.ravel() - inside
            product = multiply(outside)
            return product - found @ (found.T @ product) - 2 * inside  # W's eigenvalues are at least -1, so -2 is last

        extra, extra_vectors = _lanczos(deflated, size, 1, rng, tol=1e-6)
        order = np.argsort(-values, kind="stable")
        values, vectors = values[order], vectors[:, order]
        if extra[0] <= values[n - 1] + 1e-8:
            return values[:n], _signed(vectors[:, :n])
        vectors, _ = np.linalg.qr(np.column_stack([vectors, extra_vectors]))
        projected = vectors.T @ np.column_stack([multiply(v) for v in vectors.T])
        values, rotation = np.linalg.eigh((projected + projected.T) / 2)
        vectors = vectors @ rotation


def largest_gap(eigenvalues: FloatArray) -> int:
    """How many groups: the n >= 2 with the largest drop from the n-th eigenvalue to the next (1 where there are fewer than three)."""
    if len(eigenvalues) < 3:
        return 1
    drops = eigenvalues[1:-1] - eigenvalues[2:]
    return int(np.argmax(np.round(drops, 9))) + 2


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Rows scaled to unit length; a row of zeros stays, and one of nothing but rounding (a component the vectors leave out) becomes zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-9, vectors, 0) / np.where(length > 1e-9, length, 1)


def kmeans(points: FloatArray, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Group of each row, by scikit-learn's k-means with 10 starts, on one thread so that sums are always taken in one order."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than groups: fewer groups come back
        return np.asarray(KMeans(n, n_init=10, random_state=seed).fit_predict(points), dtype=np.int64)


def top_confusions(counts: ConfusionCounts, n: int) -> list[tuple[int, int, int]]:
    """The n pairs (detected, annotated, count) counted most with the two labels different, largest first."""
    matrix = counts.to_scipy().tocoo()
    rows, columns = matrix.coords
    off = rows != columns
    rows, columns, data = rows[off], columns[off], matrix.data[off]
    if counts.kind == "codetections":
        upper = rows < columns
        rows, columns, data = rows[upper], columns[upper], data[upper]
    order = np.lexsort([columns, rows, -data])[:n]
    return [(int(rows[i]), int(columns[i]), int(data[i])) for i in order]


def _lanczos(multiply: object, size: int, n: int, rng: np.random.Generator, tol: float = 1e-10) -> tuple[FloatArray, FloatArray]:
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)  # type: ignore[call-overload]
    try:
        return eigsh(operator, n, which="LA", v0=rng.standard_normal(size), tol=tol, ncv=min(size, max(2 * n + 1, 40)), maxiter=200 * n + 2000)
    except ArpackError as error:
        raise SelfInformedError(f"cluster: the eigenvalues did not converge ({error}); ask for another number of groups") from None


def _diagonal(matrix: sp.csr_array) -> FloatArray:
    squares: FloatArray = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()
    return squares


def _signed(vectors: FloatArray) -> FloatArray:
    """Each column's largest entry positive, so that the result does not depend on the solver's signs."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1, 1)
