"""More than two hundred matrices of counts that nobody would wish for, each by name, and what groups of their labels have to hold."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.groupings import Method
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.tables import CountTable

IntArray = npt.NDArray[np.int64]
SIZES = (1, 2, 3, 5, 11, 24)
LARGE = 405  # labels, more than a dense eigensolver is used for


def blocks(sizes: list[int], n: int, inside: Callable[[int], IntArray]) -> IntArray:
    """Blocks along the diagonal as far as there is room; the labels after them were never seen."""
    matrix, at = np.zeros((n, n), np.int64), 0
    for size in sizes:
        if at + size <= n:
            matrix[at : at + size, at : at + size] = inside(size)
            at += size
    return matrix


def only(n: int, *cells: tuple[int, int, int]) -> IntArray:
    matrix = np.zeros((n, n), np.int64)
    for row, column, count in cells:
        matrix[row % n, column % n] = count
    return matrix


def ones(n: int) -> IntArray:
    return np.ones((n, n), np.int64)


def identity(n: int) -> IntArray:
    return np.eye(n, dtype=np.int64)


def shifted(n: int, by: int = 1) -> IntArray:
    return np.roll(identity(n), by, axis=1)


def drawn(n: int, share: float, most: int = 4) -> IntArray:
    rng = np.random.default_rng(n)
    return rng.integers(1, most + 1, (n, n)) * (rng.random((n, n)) < share)


FAMILIES: dict[str, Callable[[int], IntArray]] = {
    "nothing was ever detected": lambda n: np.zeros((n, n), np.int64),
    "identity": identity,
    "never confused, unequally often": lambda n: np.diag(np.arange(1, n + 1)),
    "each taken for the next, always": shifted,
    "all confused alike": ones,
    "all confused alike, often": lambda n: 1_000_003 * ones(n),
    "all confused alike, never right": lambda n: ones(n) - identity(n),
    "almost never right, all alike": lambda n: 1000 * ones(n) - 999 * identity(n),
    "almost always right, all alike": lambda n: ones(n) + 10**6 * identity(n),
    "one label is detected for all": lambda n: np.pad(np.ones((1, n), np.int64), ((0, n - 1), (0, 0))),
    "one label is all that is annotated": lambda n: np.pad(np.ones((n, 1), np.int64), ((0, 0), (0, n - 1))),
    "one label is detected for all others, which are right too": lambda n: identity(n) + np.pad(np.ones((1, n), np.int64), ((0, n - 1), (0, 0))),
    "one label is taken for every other": lambda n: identity(n) + np.pad(np.ones((n, 1), np.int64), ((0, 0), (0, n - 1))),
    "star": lambda n: np.maximum(only(n, *((0, i, 1) for i in range(n))), only(n, *((i, 0, 1) for i in range(n)))),
    "one pair": lambda n: only(n, (0, 0, 1), (0, 1, 1)),
    "one pair among labels that are right": lambda n: identity(n) + only(n, (n - 1, 0, 1)),
    "two pairs that share a detection nobody was annotated with": lambda n: only(n, (0, 1, 1), (0, 2, 1), (3, 4, 2), (3, 5, 2)),
    "pairs": lambda n: blocks([2] * (n // 2), n, ones),
    "pairs and one label alone": lambda n: blocks([2] * ((n - 1) // 2) + [1], n, ones),
    "threes, some seen more often": lambda n: blocks([3] * (n // 3), n, lambda size: ones(size) * (1 + n % 7)),
    "equal blocks": lambda n: blocks([max(n // 4, 1)] * 4, n, ones),
    "equal rings": lambda n: blocks([max(n // 3, 1)] * 3, n, lambda size: identity(size) + shifted(size)),
    "blocks of every size": lambda n: blocks(list(range(1, n)), n, ones),
    "one large block and labels alone": lambda n: blocks([max(n - 3, 1), 1, 1, 1], n, ones),
    "half the labels were never seen": lambda n: blocks([max(n // 2, 1)], n, ones),
    "half the labels were never annotated": lambda n: ones(n) * (np.arange(n) < n / 2),
    "half the labels were never detected": lambda n: ones(n) * (np.arange(n) < n / 2)[:, None],
    "two halves confused one way only": lambda n: ones(n) * (np.arange(n) < n / 2)[:, None] * (np.arange(n) >= n / 2),
    "two halves that are confused only with each other": lambda n: ones(n) * ((np.arange(n) < n / 2)[:, None] != (np.arange(n) < n / 2)),
    "chain": lambda n: identity(n) + np.eye(n, k=1, dtype=np.int64),
    "ring": lambda n: identity(n) + shifted(n),
    "ring of both neighbours": lambda n: identity(n) + shifted(n) + shifted(n, -1),
    "two blocks and one count between them": lambda n: blocks([n // 2, n - n // 2], n, lambda size: 50 * ones(size)) + only(n, (0, n - 1, 1)),
    "triangle": lambda n: np.triu(ones(n)),
    "counts double from label to label": lambda n: np.outer(2 ** (np.arange(n) % 20), np.ones(n, np.int64)),
    "counts double both ways": lambda n: np.outer(2 ** (np.arange(n) % 20), 2 ** (np.arange(n) % 20)),
    "one count of 2^40": lambda n: ones(n) + only(n, (0, 0, 2**40)),
    "counts of 2^31 on the diagonal": lambda n: (2**31 - 1) * identity(n) + ones(n),
    "counts near 2^33 and one apart": lambda n: 2**33 + np.add.outer(np.arange(n), np.arange(n)),
    "two labels that cannot be told apart": lambda n: drawn(n, 0.5)[np.r_[0, 0, 2:n][:n]][:, np.r_[0, 0, 2:n][:n]],
    "every label twice": lambda n: np.repeat(np.repeat(drawn(-(-n // 2), 0.6), 2, 0), 2, 1)[:n, :n],
    "hardly anything": lambda n: drawn(n, 1.5 / n, 1),
    "one confusion each": lambda n: identity(n) + np.random.default_rng(n).permutation(identity(n)),
}  # fmt: skip
WIDE = (
    "all confused alike", "one label is detected for all others, which are right too", "equal blocks", "equal rings", "chain", "every label twice",
    "half the labels were never annotated", "counts double from label to label", "counts of 2^31 on the diagonal",
)  # fmt: skip


def _distinct(matrices: dict[str, IntArray]) -> dict[str, IntArray]:
    seen: dict[tuple[int, bytes], str] = {}
    return {name: matrix for name, matrix in matrices.items() if seen.setdefault((len(matrix), matrix.tobytes()), name) == name}


MATRICES = _distinct(
    {f"{family}, {n}": np.ascontiguousarray(build(n), np.int64) for family, build in FAMILIES.items() for n in SIZES}
    | {f"{family}, {LARGE}": FAMILIES[family](LARGE) for family in WIDE}
)


@functools.cache
def counts_of(name: str, kind: Kind = "confusions") -> ConfusionCounts:
    """Counts that equal a matrix, however large they are; of co-detections its sum with its transpose, each label detected as often as with any other."""
    matrix = MATRICES[name]
    if kind == "codetections":
        matrix = matrix + matrix.T
        matrix[np.diag_indices(len(matrix))] = matrix.max(axis=1)
    counts = ConfusionCounts(len(matrix), 1, kind)
    counts.n_examples = int(matrix.sum()) if kind == "confusions" else int(matrix.diagonal().sum())
    counts._table = CountTable.from_arrays(len(matrix), {"rows": matrix}, counts.n_examples)
    return counts


@functools.cache
def parts(counts: ConfusionCounts) -> IntArray:
    """Each label's component of W, the labels that share a detection; -1 for one that shares none."""
    matrix = (counts.to_scipy() > 0).astype(np.int64)
    shared = sp.csr_array(matrix.T @ matrix)
    shared.setdiag(0)
    shared.eliminate_zeros()
    return np.where(np.diff(shared.indptr) > 0, connected_components(shared)[1], -1)


def numbers_of_groups(counts: ConfusionCounts) -> list[Any]:
    """What may be asked for: auto, one, two, half as many as labels, as many as labels (or 20), and three more; auto alone where nothing can be grouped."""
    n = int((parts(counts) >= 0).sum())
    return ["auto", *sorted({number for number in (1, 2, min(n // 2, 20), min(n, 20), min(n, 20) + 3) if number and n})]


def outcome(counts: ConfusionCounts, n_groups: Any, method: Method, seed: int = 0) -> LabelGroups | str:
    """The groups, which hold what groups have to hold, or the error in words."""
    if method == "hinton" and counts.kind == "confusions":
        raise ValueError("hinton needs co-detections")
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise", over="raise"):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Remark)  # of fewer groups than were asked for
        try:
            groups = cluster(counts, n_groups, seed=seed, method=method)
        except SelfInformedError as error:
            assert (parts(counts) < 0).all(), error
            return str(error)
    check(groups, counts, n_groups, method)
    return groups


def check(groups: LabelGroups, counts: ConfusionCounts, n_groups: Any, method: str) -> None:
    """What holds for groups of any counts: every label that shares a detection is in one group, the others in none, nothing is NaN."""
    part = parts(counts)
    assert (groups.assignment >= 0).tolist() == (part >= 0).tolist()
    assert sum(groups.sizes) == (part >= 0).sum()
    assert groups.sizes == sorted(groups.sizes, reverse=True)
    assert 1 <= len(groups) <= (counts.n_labels if n_groups == "auto" else n_groups)
    if n_groups != "auto" and method in ("greedy", "random", "balanced"):
        assert len(groups) == min(n_groups, sum(groups.sizes))
    if method in ("balanced", "random"):
        assert max(groups.sizes) - min(groups.sizes) <= 1
    values = np.array(groups.eigenvalues)
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 1 + 1e-6).all()
    assert (np.diff(values) <= 1e-6).all()
    n_parts = len(np.unique(part[part >= 0]))
    if method == "spectral":
        assert (np.abs(values[:n_parts] - 1) <= 1e-6).all()  # an eigenvalue of 1 for each component
        if n_groups != "auto" and n_groups <= n_parts:
            assert all(len(np.unique(groups.assignment[part == one])) == 1 for one in np.unique(part[part >= 0]))  # none is torn
