"""Label groups: spectral clustering after Ng, Jordan and Weiss (2002) on B = A^T A, which is never formed, or another of `groupings`."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from selfinformed.data.labels import LabelSpace, as_labels
from selfinformed.runtime.arguments import one_of, real_number, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import remark
from selfinformed.structure.counts import ConfusionCounts, Kind, check_counts
from selfinformed.structure.eigenpairs import FloatArray, leading_eigenpairs
from selfinformed.structure.groupings import Method, balanced, confusion_graph, covariance_rows, greedy, leiden, random_groups
from selfinformed.structure.groups import LabelGroups

IntArray = npt.NDArray[np.int64]
_MOST_GROUPS = 32  # how far `auto` looks for the eigengap
_FEW = 5_000  # rows up to which k-means simply starts ten times
_SAMPLED = 50_000  # rows among which k-means looks for its starts


def cluster(
    counts: ConfusionCounts,
    n_groups: int | Literal["auto"] = "auto",
    seed: int = 0,
    labels: LabelSpace | Sequence[str] | None = None,
    cover_share: float | None = None,
    method: Method = "spectral",
) -> LabelGroups:
    """Groups the labels a network mixes up.

    The paper's way: W = B with a zero diagonal, normalised to D^-1/2 W D^-1/2; rows of its n_groups leading eigenvectors, scaled to unit length, go
    to k-means. Labels that share no detection with another (degree zero) go to no group. Groups come largest first, labels within
    a group by falling degree, the most confused first. Where fewer labels have a degree than groups were asked for, or labels fall together in fewer
    places, fewer groups are returned, and a warning says so.

    Other ways, with the same order and the same labels left out: `balanced`, the same points in groups whose sizes differ by one at most; `hinton`,
    k-means on the covariance of co-detections (Hinton, Vinyals, Dean 2014); `greedy`, the two groups with most confusions between them merged
    again and again (Arnold 2016); `leiden`, communities of the confusion graph (Traag 2019), fewer where their number jumps past n_groups; `random`.

    Args:
        counts: confusion or co-detection counts.
        n_groups: how many, from 1, at most one for each label with a degree; or `auto`, the largest eigengap in 2..32
            (`leiden`: the communities at resolution 1).
        seed: of the k-means, of Leiden, of random groups, from 0 to 2^32 - 1; the same seed gives the same groups, on any number of threads.
        labels: names of the C labels; each group is named by its most confused ones.
        cover_share: from 0 to 1; makes a cover: a label joins each group in which it has more than this share of its confusions too.
        method: how.

    Raises:
        SelfInformedError: no two labels share a detection; n_groups or seed is out of range; the label names do not fit; the method is unknown, is `hinton` and
            the counts are confusions, or needs an extra that is not installed.
    """
    check_counts(counts)
    one_of("method", method, get_args(Method))
    if method == "hinton" and counts.kind != "codetections":
        raise SelfInformedError(
            f"method: hinton needs co-detection counts (eq. 4), got {counts.kind}; make them with measure(net, holdout, kind='codetections')"
        )
    seed, space = seed_of(seed), None if labels is None else as_labels(labels, counts.n_labels)
    cover_share = None if cover_share is None else real_number("cover_share", cover_share, least=0, most=1)
    groups = _grouped(counts, n_groups, seed, method)
    if n_groups != "auto":
        _remark_fewer(n_groups, len(groups), sum(groups.sizes), counts)
    if cover_share is not None:
        groups = covering(groups, counts, cover_share)
    return groups.renamed(space) if space is not None else groups


def grouping_of(name: str) -> tuple[Kind, Method]:
    """Which counts a grouping is of, and the method of `cluster` that finds it: a kind of counts, clustered spectrally, or a method by its own name."""
    kind: Kind = "codetections" if name in ("codetections", "hinton") else "confusions"
    return kind, "spectral" if name in get_args(Kind) else cast("Method", name)


def _grouped(counts: ConfusionCounts, n_groups: int | Literal["auto"], seed: int, method: Method) -> LabelGroups:
    confused, values = Confused(counts, n_groups), np.empty(0)
    n = confused.n_groups
    if n == len(confused.labels):  # each has a group of its own
        return confused.groups(np.arange(n), method, values)
    if method in ("spectral", "balanced") or (n_groups == "auto" and method != "leiden"):
        spectrum = Spectrum(confused)
        if method in ("spectral", "balanced"):
            return spectrum.groups(spectrum.n_groups, seed, balance=method == "balanced")
        n, values = spectrum.n_groups, spectrum.values
    if method == "random":
        place = random_groups(len(confused.labels), n, seed)
    elif method == "hinton":
        with threadpool_limits(1, "blas"):
            points = covariance_rows(confused.counts(), counts.n_examples, n, seed)
        place = kmeans(points, n, seed)
    elif method == "greedy":
        place = greedy(confusion_graph(confused.counts()), n)
    else:
        place = leiden(confusion_graph(confused.counts()), n or None, seed)
    return confused.groups(place, method, values)


def _remark_fewer(wanted: int, made: int, confused: int, counts: ConfusionCounts) -> None:
    """Where fewer groups were made than were asked for."""
    why = f"only {confused:,} of {counts.n_labels:,} labels are confused with another" if wanted > confused else "labels fall together in no more places"
    if made < wanted:
        remark(f"n_groups: {wanted:,} asked for, {made:,} made from {counts.kind}: {why}")


class Confused:
    """The labels that share a detection with another.

    Attributes:
        matrix: A, int64 [C, C].
        labels: which, ascending.
        degree: of each.
        n_groups: how many are to be made: no more than there are of these labels; 0 for `auto`.
    """

    def __init__(self, counts: ConfusionCounts, n_groups: int | Literal["auto"]) -> None:
        wanted = 0 if n_groups == "auto" else whole_number("n_groups", n_groups, what=", or 'auto'")
        matrix = counts.to_scipy()
        degree = similarity_degrees(matrix)
        labels = np.flatnonzero(degree > 0)
        n = len(labels)
        if n == 0 and counts.n_labels == 1:
            raise SelfInformedError("cluster: there is one label, so none can be mixed up with another; give a network with an output for each of several")
        if n == 0:
            other = "; without annotations group by co-detections (measure(..., kind='codetections'), --grouping codetections)"
            without = other if counts.kind == "confusions" else ""
            raise SelfInformedError(f"cluster: no two labels are ever detected together; measure more hold-out data, or a larger top_k{without}")
        self.matrix, self.labels, self.degree, self.n_groups = matrix, labels, degree[labels], min(wanted, n)

    def columns(self) -> sp.csr_array:
        """A with the columns of these labels only."""
        return self.matrix if len(self.labels) == self.matrix.shape[1] else self.matrix[:, self.labels]

    def counts(self) -> sp.csr_array:
        """A among these labels."""
        return self.matrix if len(self.labels) == self.matrix.shape[1] else self.matrix[self.labels][:, self.labels]

    def groups(self, place: IntArray, method: Method, eigenvalues: FloatArray) -> LabelGroups:
        """Groups from that of each label, largest first, labels by falling degree."""
        by_degree = np.argsort(-self.degree, kind="stable")
        by_group = by_degree[np.argsort(place[by_degree], kind="stable")]
        members = np.split(self.labels[by_group], np.cumsum(np.bincount(place))[:-1])
        members = sorted((m for m in members if len(m)), key=lambda m: (-len(m), m[0]))
        return LabelGroups(self.matrix.shape[1], tuple(members), (), method, tuple(eigenvalues.tolist()))


class Spectrum:
    """The leading eigenpairs of the labels' similarity, from which groups of any number up to theirs are made.

    Attributes:
        n_groups: as asked for, at most one for each confused label; or as the eigengap says.
        values: the leading eigenvalues, falling: the n_groups and some after them.
    """

    def __init__(self, confused: Confused) -> None:
        self.confused = confused
        n = len(confused.labels)
        wanted = confused.n_groups or min(_MOST_GROUPS, n - 1) + 1

        def needed(values: FloatArray) -> int:
            return confused.n_groups or largest_gap(values[:wanted])

        with threadpool_limits(1, "blas"):  # sums taken in one order
            found = leading_eigenpairs(confused.columns(), confused.degree, min(max(wanted + 4, 16), n), needed)
        self.values, self.vectors, self.n_groups, self._component = found.values, found.vectors, needed(found.values), found.component

    def groups(self, n_groups: int, seed: int, balance: bool = False) -> LabelGroups:
        """The labels in n_groups by k-means on the unit rows of as many eigenvectors: at most those asked for, or just as many of balanced sizes."""
        points = self._packed(n_groups) if self._component.max() >= n_groups else unit_rows(self.vectors[:, :n_groups])
        place = kmeans(points, n_groups, seed)
        if balance:
            with threadpool_limits(1, "blas"):
                place = balanced(points, place, n_groups)
        return self.confused.groups(place, "balanced" if balance else "spectral", self.values)

    def _packed(self, n_groups: int) -> npt.NDArray[np.float32]:
        """Points [C, n_groups] of more components than groups: a corner for each group, and components, the largest first, in what is least full yet.

        Any n_groups of the vectors, all with the eigenvalue 1, tell as many components from the rest, which would be one group.
        """
        sizes = np.bincount(self._component)
        if n_groups > 1:
            remark(f"n_groups: the labels fall into {len(sizes):,} parts never mixed up with each other; put together in {n_groups:,} groups, none divided")
        place, filled = np.empty(len(sizes), np.int64), [(0, group) for group in range(n_groups)]
        for part in np.argsort(-sizes, kind="stable"):
            size, group = filled[0]
            place[part] = group
            heapq.heapreplace(filled, (size + int(sizes[part]), group))
        return np.eye(n_groups, dtype=np.float32)[place[self._component]]


def covering(groups: LabelGroups, counts: ConfusionCounts, share: float) -> LabelGroups:
    """A cover: each group with, after its own labels, those that have more than a share (0 to 1) of their confusions with its labels.

    A label's confusions are its counts with other labels, both as detected and as annotated.
    """
    share = real_number("cover_share", share, least=0, most=1)
    matrix = counts.to_scipy()
    mass = confusion_mass(matrix, groups)
    total = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    members = []
    for group, own in enumerate(groups.members):
        joins = mass[:, group] > share * total
        joins[own] = False
        others = np.flatnonzero(joins)
        members.append(np.concatenate([own, others[np.argsort(-mass[others, group], kind="stable")]]))
    return LabelGroups(groups.n_labels, tuple(members), groups.names, f"{groups.method} cover", groups.eigenvalues)


def confusion_mass(matrix: sp.csr_array, groups: LabelGroups) -> IntArray:
    """int64 [C, groups]: each label's counts with the other labels of each group, both as detected and as annotated."""
    rows = np.concatenate(groups.members) if len(groups) else np.empty(0, np.int64)
    inside = sp.csr_array((np.ones(len(rows), np.int64), (rows, np.repeat(np.arange(len(groups)), groups.sizes))), shape=(groups.n_labels, len(groups)))
    mass: IntArray = (matrix @ inside + matrix.T @ inside).toarray()
    mass -= inside.multiply(2 * matrix.diagonal()[:, None]).toarray()
    return mass


def within_share(counts: ConfusionCounts, groups: LabelGroups) -> float:
    """The share of all confusions, counts off the diagonal, whose two labels are in one group (of a cover: in one first group)."""
    matrix = counts.to_scipy().tocoo()
    rows, columns = matrix.coords
    off, assignment = rows != columns, groups.assignment
    inside = off & (assignment[rows] == assignment[columns]) & (assignment[rows] >= 0)
    return float(matrix.data[inside].sum() / max(matrix.data[off].sum(), 1))


def sweep(counts: ConfusionCounts, numbers: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """What each number of groups would give: rows of `n_groups`, `gap` (to the next eigenvalue), `sizes`, `within_share`. No more groups than labels that
    are confused with another; a warning says where more were asked for."""
    numbers, seed = [whole_number("sweep", number) for number in numbers], seed_of(seed)
    if not numbers:
        raise SelfInformedError("sweep: expected one number of groups or more, got none")
    spectrum = Spectrum(Confused(counts, max(numbers)))
    _remark_fewer(max(numbers), spectrum.n_groups, len(spectrum.confused.labels), counts)
    rows = []
    for n in sorted({min(number, spectrum.n_groups) for number in numbers}):
        groups = spectrum.groups(n, seed)
        gap = float(spectrum.values[n - 1] - spectrum.values[n]) if n < len(spectrum.values) else float("nan")
        rows.append({"n_groups": n, "gap": gap, "sizes": groups.sizes, "within_share": within_share(counts, groups), "eigenvalues": spectrum.values})
    return rows


def similarity_degrees(matrix: sp.csr_array) -> FloatArray:
    """Row sums [C] of W = A^T A with a zero diagonal: of each count times the others of its row. Sums of what is not negative, exact below 2^53."""
    others = np.repeat(matrix.sum(axis=1), np.diff(matrix.indptr)) - matrix.data
    return np.asarray(np.bincount(matrix.indices, matrix.data * others.astype(np.float64), matrix.shape[1]), np.float64)


def largest_gap(eigenvalues: FloatArray) -> int:
    """How many groups: the n >= 2 with the largest drop from the n-th eigenvalue to the next (1 where there are fewer than three), or all where each is 1,
    of a component of its own."""
    if len(eigenvalues) < 3:
        return 1
    if eigenvalues[-1] > 1 - 1e-6:
        return len(eigenvalues) - 1
    drops = eigenvalues[1:-1] - eigenvalues[2:]
    return int(np.argmax(np.round(drops, 9))) + 2


def unit_rows(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows scaled to unit length; a row of zeros stays, and one of nothing but rounding (a component the vectors leave out) becomes zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    rounding = 1e-9 if vectors.dtype == np.float64 else 1e-6 / np.sqrt(len(vectors))
    return np.where(length > rounding, vectors, 0) / np.where(length > rounding, length, 1)


def kmeans(points: npt.NDArray[Any], n: int, seed: int) -> IntArray:
    """Group of each row: scikit-learn's k-means, on one thread so that sums are always taken in one order.

    Up to 5,000 rows the best of ten starts of k-means++. Of more rows the better of two starts: the best of twenty k-means++ among 5,000 rows or
    a hundred a group, and rows that stand at right angles to each other, as Ng, Jordan and Weiss suggest, found by a pivoted QR decomposition
    among at most 50,000 rows.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    order = np.random.default_rng(seed).permutation(len(points))
    sample = points[order[:_SAMPLED]].astype(np.float64)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than groups: fewer groups come back
        if len(points) <= _FEW:
            return np.asarray(KMeans(n, n_init=10, random_state=seed).fit_predict(points.astype(np.float64)), np.int64)
        upright = scipy.linalg.qr(sample.T, mode="r", pivoting=True)[1][:n]
        few = KMeans(n, n_init=20, random_state=seed).fit(sample[: max(_FEW, 100 * n)])
        best = min((KMeans(n, init=start, n_init=1).fit(sample) for start in (few.cluster_centers_, sample[upright])), key=lambda fit: fit.inertia_)
        if len(points) > len(sample):
            best = KMeans(n, init=best.cluster_centers_.astype(points.dtype), n_init=1, max_iter=30).fit(points)
        else:
            labels = np.empty(len(points), np.int64)
            labels[order] = best.labels_
            return labels
    return np.asarray(best.labels_, dtype=np.int64)
