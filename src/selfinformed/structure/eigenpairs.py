"""Leading eigenpairs of the labels' normalised similarity, without ever forming it, for up to millions of labels.

Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago, Chelikowsky 2006): a block of vectors is multiplied by a polynomial of the matrix
that is small where the unwanted eigenvalues lie, made orthonormal, and rotated to its best approximations (Rayleigh-Ritz). A block holds
every member of a cluster of eigenvalues, which a single Krylov sequence can miss (scipy #26112); good groups give just such clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.remarks import remark
from selfinformed.structure import kernels
from selfinformed.structure.tables import Array, in_threads

FloatArray = npt.NDArray[np.float64]

_DENSE = 400  # up to this many labels a dense eigensolver is exact and faster
_SINGLE = 5_000  # from this many labels on vectors are float32
_CANCELS = 32.0  # a product from which more of a vector is taken than this is summed in float64
_ROWS = 1024  # of a product done at a time
_COLUMNS = 32  # of a block multiplied at a time, so that they stay in cache
_DEGREE = 24  # of the polynomial at most
_ROUNDS = 60  # of filtering at most


@dataclass(frozen=True)
class Eigenpairs:
    """The n largest eigenvalues, falling, unit eigenvectors [C, n], and each label's component of the graph [C]."""

    values: FloatArray
    vectors: Array
    component: Array


def leading_eigenpairs(matrix: sp.csr_array, degree: FloatArray, n: int, needed: Callable[[FloatArray], int] | None = None) -> Eigenpairs:
    """The n largest eigenpairs of D^-1/2 W D^-1/2, where W = A^T A with a zero diagonal.

    Args:
        matrix: A, [detected, labels], counts.
        degree: row sums of W [C], all above zero.
        n: how many.
        needed: given the eigenvalues found so far, how many of the vectors have to be exact (default: all).
    """
    size = matrix.shape[1]
    similarity = Similarity(matrix, degree)
    if size <= max(_DENSE, 3 * n):
        dense = similarity.times(np.eye(size))
        np.fill_diagonal(dense, 0)  # as it is but for rounding, which counts of labels that are nearly always right make large
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        values, vectors = values[::-1][:n].copy(), vectors[:, ::-1][:, :n]
    else:
        values, vectors = _leading(similarity, n, needed or (lambda values: n))
    vectors = _signed(vectors)
    return Eigenpairs(values.astype(np.float64), vectors, similarity.component)


class Similarity:
    """D^-1/2 W D^-1/2 as two products with A D^-1/2 and its transpose, row by row: the same sums on any number of threads."""

    def __init__(self, matrix: sp.csr_array, degree: FloatArray) -> None:
        self.size = matrix.shape[1]
        self.dtype = np.dtype(np.float32 if self.size > _SINGLE else np.float64)
        scale = 1 / np.sqrt(degree)
        scaled = sp.csr_array(((matrix.data * scale[matrix.indices]).astype(self.dtype), matrix.indices, matrix.indptr), shape=matrix.shape)
        own = np.bincount(scaled.indices, np.square(scaled.data, dtype=np.float64), self.size)  # the diagonal that W leaves out
        # Of labels that are nearly always right it is thousands of times what is left, which rounding in float32 would drown.
        self._sums = np.dtype(np.float64) if own.max() > _CANCELS else self.dtype
        self.own = own.astype(self._sums)
        self._forward, self._back = scaled, scaled.T.tocsr()
        self.component = np.unique(kernels.components(matrix.indptr, matrix.indices, self.size), return_inverse=True)[1]  # of each label
        self.root_degree = np.sqrt(degree)
        self.lowest = max(-1.0, -float(self.own.max()))  # a positive semidefinite matrix less that diagonal

    def trivial(self, most: int) -> Array:
        """Eigenvectors with eigenvalue 1, one for each component of the graph, of the largest first: D^1/2 there and zero elsewhere."""
        sizes = np.bincount(self.component)
        chosen = np.argsort(-sizes, kind="stable")[:most]
        place = np.full(len(sizes), -1)
        place[chosen] = np.arange(len(chosen))
        vectors = np.zeros((self.size, len(chosen)), self.dtype)
        inside = np.flatnonzero(place[self.component] >= 0)
        vectors[inside, place[self.component[inside]]] = self.root_degree[inside]
        vectors /= np.linalg.norm(vectors, axis=0)
        return vectors

    def times(self, block: Array, shift: float = 0.0, factor: float = 1.0, before: Array | None = None, weight: float = 0.0) -> Array:
        """factor (L - shift) block + weight before, all [C, m]."""
        out = np.empty(block.shape, self.dtype)
        for column in range(0, block.shape[1], _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            self._times(block[:, columns], (shift, factor, weight), None if before is None else before[:, columns], out[:, columns])
        return out

    def _times(self, block: Array, numbers: tuple[float, float, float], before: Array | None, out: Array) -> None:
        block = np.ascontiguousarray(block, self.dtype)
        between = np.empty((self._forward.shape[0], block.shape[1]), self._sums)
        product = np.empty(block.shape, self._sums)
        forward, back, (shift, factor, weight) = self._forward, self._back, map(self._sums.type, numbers)

        def first(start: int) -> None:
            kernels.sparse_times(forward.indptr, forward.indices, forward.data, block, start, between[start : start + _ROWS])

        def second(start: int) -> None:
            rows = slice(start, start + _ROWS)
            kernels.sparse_times(back.indptr, back.indices, back.data, between, start, product[rows])
            result = factor * (product[rows] - (self.own[rows, None] + shift) * block[rows])
            out[rows] = result if before is None else result + weight * before[rows]

        in_threads(first, range(0, len(between), _ROWS))
        in_threads(second, range(0, self.size, _ROWS))


def _leading(similarity: Similarity, n: int, needed: Callable[[FloatArray], int]) -> tuple[FloatArray, Array]:
    trivial = similarity.trivial(n)
    if trivial.shape[1] == n:
        return np.ones(n), trivial
    ones = np.ones(trivial.shape[1])
    tolerance = 1e-8 if similarity.dtype == np.float64 else 1e-5
    rng = np.random.default_rng(0)
    wanted = n - len(ones)
    width = min(wanted + max(12, wanted // 4), similarity.size - len(ones))
    room = 8 * similarity.size * (width + len(ones)) * similarity.dtype.itemsize
    require_memory(room, f"cluster: {width} eigenvectors of {similarity.size:,} labels", "ask for fewer groups (--n-groups)")
    block = _orthonormal(rng.standard_normal((similarity.size, width)).astype(similarity.dtype), trivial)
    values, block, residuals = _rotated(similarity, block)
    exact, largest = wanted, 6
    for _ in range(_ROUNDS):
        low, cut = _interval(similarity, values)
        degree = _degree(values, residuals, exact, (low, cut), tolerance, largest)
        block = _orthonormal(_filtered(similarity, block, low, cut, values[0], degree, trivial), trivial)
        values, block, residuals = _rotated(similarity, block)
        exact = min(max(needed(np.concatenate([ones, values[:wanted]])) - len(ones), 0), wanted)
        if (residuals[:exact] <= tolerance).all():
            break
        largest = min(2 * largest, _DEGREE)  # the first rounds only find where the unwanted eigenvalues lie
    else:
        remark(f"cluster: of {exact} eigenvectors the least exact has a residual of {residuals[:exact].max():.1g} after {_ROUNDS} rounds, not {tolerance:g}")
    return np.concatenate([ones, values[:wanted]]), np.hstack([trivial, block[:, :wanted]])


def _degree(values: FloatArray, residuals: FloatArray, exact: int, interval: tuple[float, float], tolerance: float, largest: int) -> int:
    """Of the polynomial that should bring the residuals down to the tolerance, as far as rounding allows."""
    half, centre = (interval[1] - interval[0]) / 2, (interval[1] + interval[0]) / 2
    steepness = np.arccosh(np.maximum((values[[0, max(exact - 1, 0)]] - centre) / half, 1 + 1e-6))
    room = np.log(2e8 if tolerance < 1e-7 else 2e4) / steepness[0]  # the top must not outgrow the rest by so much that rounding drowns it
    want = np.log(4 * max(residuals[:exact].max(initial=0), tolerance) / tolerance) / steepness[1]
    return int(np.clip(min(room, want), 2, largest))


def _interval(similarity: Similarity, values: FloatArray) -> tuple[float, float]:
    """Where the unwanted eigenvalues lie: from the lowest possible to the lowest in the block."""
    cut = float(values[-1])
    return min(similarity.lowest, cut - 1e-3) - 1e-6, cut


def _filtered(similarity: Similarity, block: Array, low: float, cut: float, top: float, degree: int, trivial: Array) -> Array:
    """The Chebyshev polynomial of the matrix that is at most 1 on [low, cut], scaled to be 1 at `top`, times the block."""
    half, centre = (cut - low) / 2, (cut + low) / 2
    sigma = half / max(top - centre, half)
    first = sigma
    older, newer = block, similarity.times(block, centre, sigma / half)
    for _ in range(degree - 1):
        following = 1 / (2 / first - sigma)
        older, newer = newer, similarity.times(newer, centre, 2 * following / half, older, -sigma * following)
        newer -= trivial @ (trivial.T @ newer)  # rounding would let the known vectors grow
        sigma = following
    return newer


def _orthonormal(block: Array, against: Array) -> Array:
    for _ in range(2):
        block = block - against @ (against.T @ block)
        block, _ = np.linalg.qr(block)
    return block


def _rotated(similarity: Similarity, block: Array) -> tuple[FloatArray, Array, FloatArray]:
    """Rayleigh-Ritz: the block's best eigenvalues, falling, their vectors, and the norms of their residuals."""
    image = similarity.times(block)
    projected = (block.T @ image).astype(np.float64)
    values, rotation = np.linalg.eigh((projected + projected.T) / 2)
    values, rotation = values[::-1], rotation[:, ::-1].astype(similarity.dtype)
    block, image = block @ rotation, image @ rotation
    residuals = np.linalg.norm(image - block * values.astype(similarity.dtype), axis=0)
    return values, block, residuals.astype(np.float64)


def _signed(vectors: Array) -> Array:
    """Each column's largest entry positive, so that the result does not depend on the solver's signs."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    signed: Array = vectors * np.where(largest < 0, -1, 1).astype(vectors.dtype)
    return signed
