"""Ways to group labels beside the paper's: each gives every label's group, int64 [n]. `clustering.cluster` chooses among them."""

from __future__ import annotations

import heapq
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from selfinformed.runtime.compiling import compiled
from selfinformed.runtime.extras import extra
from selfinformed.structure import kernels
from selfinformed.structure.tables import in_threads

Method = Literal["spectral", "balanced", "hinton", "greedy", "leiden", "random"]
Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_EXACT = 2_000  # labels up to which the covariance is formed
_ROWS = 1024  # of a product done at a time
_COLUMNS = 32  # of a block multiplied at a time, so that they stay in cache
_BALANCING = 20  # rounds of size-balanced k-means at most
_RESOLUTIONS = 12  # of Leiden tried at most, the first 1
_WIDEST = 16.0  # powers of two by which they go up and down


def confusion_graph(matrix: sp.csr_array) -> sp.csr_array:
    """A + A^T with a zero diagonal, int64 [n, n]: how often each two labels were mixed up, either way."""
    graph = sp.csr_array(matrix + matrix.T)
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def balanced(points: Array, start: IntArray, n_groups: int) -> IntArray:
    """K-means of points [n, d] into groups whose sizes differ by one at most, from the groups `start` of plain k-means.

    Each round assigns the points to the groups' means at the least sum of squared distances that the sizes allow, exactly; the groups that were
    largest at the start get the one more. O(n d k) a round, and O(n d + k^2) for each point that cannot go to its nearest mean.
    """
    points, n = points.astype(np.float64), len(points)
    largest = np.argsort(-np.bincount(start, minlength=n_groups), kind="stable")
    capacity = np.full(n_groups, n // n_groups)
    capacity[largest[: n % n_groups]] += 1
    place = start
    for _ in range(_BALANCING):
        inside = sp.csr_array((np.ones(n), (place, np.arange(n))), shape=(n_groups, n))
        means = (inside @ points) / np.maximum(np.bincount(place, minlength=n_groups), 1)[:, None]
        found = cheapest_assignment(np.square(means).sum(axis=1) - 2 * points @ means.T, capacity)
        if (found == place).all():
            break
        place = found
    return place


def covariance_rows(matrix: sp.csr_array, n_examples: int, n_groups: int, seed: int) -> Array:
    """Points for k-means after Hinton, Vinyals and Dean (2014), section 5: rows of the covariance of the detections, A / N - p p^T, p = diag(A) / N.

    A is that of eq. (4), `n_examples` times it `matrix` [n, n]. Of more than 2,000 labels the covariance is never formed: its rows are projected
    on about their 2 n_groups leading principal directions, found by a seeded randomised range finder (Halko, Martinsson, Tropp 2011), which keep
    k-means close to its optimum (Cohen et al. 2015): [n, 2 n_groups + 8], in four products of A with as many vectors.
    """
    share = matrix.diagonal() / n_examples
    scaled = sp.csr_array(matrix / n_examples)

    n = len(share)

    def times(block: Array) -> Array:
        product = -np.outer(share, share @ block)
        for column in range(0, block.shape[1], _COLUMNS):
            part = np.ascontiguousarray(block[:, column : column + _COLUMNS])

            def add(start: int, part: Array = part, out: Array = product[:, column : column + _COLUMNS]) -> None:
                rows = np.empty((min(_ROWS, n - start), part.shape[1]))
                kernels.sparse_times(scaled.indptr, scaled.indices, scaled.data, part, start, rows)
                out[start : start + _ROWS] += rows

            in_threads(add, range(0, n, _ROWS))
        return product

    if n <= _EXACT:
        return times(np.eye(n))
    block = np.random.default_rng(seed).standard_normal((n, min(2 * n_groups + 8, n)))
    for _ in range(3):
        block = np.linalg.qr(times(block))[0]
    return times(block)


def greedy(graph: sp.csr_array, n_groups: int) -> IntArray:
    """Greedy pairs (Arnold 2016): merges the two groups with most confusions between them, for each pair of their labels, until n_groups are left.

    His score is A + A^T averaged over labels too (summed, two large groups that share nothing but noise would merge before a label finds its own);
    his clusters grow from seeds and may overlap, which is what a cover is for. No group gets more than twice the mean size, 2 ceil(n / n_groups):
    with that, n_groups can always be reached. Of equal pairs the one with the lowest labels goes first; where no two groups that may merge were
    ever mixed up, the two smallest do. A merge looks at the partners of the two groups, and once more at those of each group whose best was one
    of them; a heap holds the pairs that are best for both: O(E log E) for E confused pairs of which no group is the best of very many.
    """
    n = graph.shape[0]
    return _merged(graph, np.ones(n, np.int64), n_groups, 2 * -(-n // n_groups))


def leiden(graph: sp.csr_array, n_groups: int | None, seed: int) -> IntArray:
    """Leiden (Traag, Waltman, van Eck 2019) for modularity with confusions as weights.

    The resolution whose number of communities is closest to n_groups is found by bisection; communities too many are merged, the two with most
    confusions for each pair of their labels first. None takes the communities at resolution 1. Takes up to 12 runs, each a few passes over E.

    Raises:
        SelfInformedError: the extra is not installed.
    """
    leiden_csr = extra("graspologic_native", "method: leiden", "leiden").leiden_csr
    n = graph.shape[0]
    (indptr, indices), data = _narrow(graph), graph.data.astype(np.float64)

    def communities(resolution: float) -> IntArray:
        if not graph.nnz:
            return np.arange(n)
        _, found = leiden_csr(indptr, indices, data, n, resolution=resolution, seed=seed)
        return np.unique([found.get(label, n + label) for label in range(n)], return_inverse=True)[1]

    if n_groups is None:
        return communities(1.0)
    tried: list[IntArray] = []
    low, high = -_WIDEST, _WIDEST  # binary logarithms
    for _ in range(_RESOLUTIONS):
        middle = (low + high) / 2
        tried.append(communities(2.0**middle))
        number = tried[-1].max() + 1
        if number == n_groups:
            break
        low, high = (middle, high) if number < n_groups else (low, middle)
    place = min(tried, key=lambda found: (abs(found.max() + 1 - n_groups), -found.max()))
    number = int(place.max()) + 1
    if number <= n_groups:
        return place
    inside = sp.csr_array((np.ones(n, np.int64), (np.arange(n), place)), shape=(n, number))
    between = sp.csr_array(inside.T @ graph @ inside)
    between.setdiag(0)
    between.eliminate_zeros()
    return _merged(between, np.bincount(place), n_groups, n)[place]


def random_groups(n: int, n_groups: int, seed: int) -> IntArray:
    """A random partition into groups whose sizes differ by one at most."""
    return np.random.default_rng(seed).permutation(np.arange(n) % n_groups)


def _merged(graph: sp.csr_array, sizes: IntArray, n_groups: int, cap: int) -> IntArray:
    """Group of each node when two groups at most `cap` large together, with most weight for each pair of labels, are merged until n_groups are left."""
    place: IntArray = np.unique(_merge(*_narrow(graph), graph.data, sizes.copy(), n_groups, cap), return_inverse=True)[1]
    return place


def _narrow(graph: sp.csr_array) -> tuple[Array, Array]:
    """Row starts int64 and columns int32, whatever scipy chose."""
    return graph.indptr.astype(np.int64), graph.indices.astype(np.int32, copy=False)


@compiled
def _merge(starts: Array, columns: Array, data: Array, sizes: Array, n_groups: int, cap: int) -> Array:  # pragma: no cover - compiled
    """Group of each node, named by its lowest node.

    The heaviest pair is the best for both its ends, so that the heap need only hold pairs that are. Sizes only grow: two groups that are
    too large to merge stay so, and forget each other.
    """
    n = left = len(sizes)
    parent, total = np.arange(n), np.zeros(n, np.int64)
    ids, masses = [columns[starts[i] : starts[i + 1]] for i in range(n)], [data[starts[i] : starts[i + 1]] for i in range(n)]
    partner, most = np.full(n, -1), np.zeros(n)
    heap = [(-most[0], 0, 0) for _ in range(0)]
    for one in range(n):
        ids[one], masses[one], partner[one], most[one] = _partners(one, ids[one], masses[one], parent, sizes, cap, total)
    for one in range(n):
        if partner[one] > one and partner[partner[one]] == one:
            heapq.heappush(heap, (-most[one], one, partner[one]))
    while left > n_groups and len(heap):
        _, low, high = heapq.heappop(heap)
        if parent[low] != low or parent[high] != high or partner[low] != high or partner[high] != low:
            continue  # one is gone, or has found a better partner since
        parent[high] = low
        sizes[low] += sizes[high]
        left -= 1
        both, both_masses = np.concatenate((ids[low], ids[high])), np.concatenate((masses[low], masses[high]))
        ids[high], masses[high] = both[:0], both_masses[:0]
        near, near_masses, _, _ = _partners(low, both, both_masses, parent, sizes, 2 * n * cap, total)
        for i in range(len(near)):
            other, before = near[i], partner[near[i]]
            mean = near_masses[i] / (sizes[low] * sizes[other])
            if before in (low, high):
                ids[other], masses[other], partner[other], most[other] = _partners(other, ids[other], masses[other], parent, sizes, cap, total)
                if partner[other] >= 0 and partner[partner[other]] == other:
                    heapq.heappush(heap, (-most[other], min(other, partner[other]), max(other, partner[other])))
            elif mean == most[other] and low < before and sizes[low] + sizes[other] <= cap:
                partner[other] = low  # a mean of two is never above both
        ids[low], masses[low], partner[low], most[low] = _partners(low, near, near_masses, parent, sizes, cap, total)
        if partner[low] >= 0 and partner[partner[low]] == low:
            heapq.heappush(heap, (-most[low], min(low, partner[low]), max(low, partner[low])))
    smallest = [(sizes[one], one) for one in range(n) if parent[one] == one]
    heapq.heapify(smallest)
    while left > n_groups:
        one, other = heapq.heappop(smallest)[1], heapq.heappop(smallest)[1]
        low, high = min(one, other), max(one, other)
        parent[high] = low
        sizes[low] += sizes[high]
        left -= 1
        heapq.heappush(smallest, (sizes[low], low))
    for one in range(n):
        parent[one] = parent[parent[one]]  # a parent is lower than its child, so its own is final
    return parent


@compiled
def _partners(
    one: int, ids: Array, masses: Array, parent: Array, sizes: Array, cap: int, total: Array
) -> tuple[Array, Array, int, float]:  # pragma: no cover - compiled
    """Groups that a group may merge with, the mass to each, the best of them (-1: none; of equal ones the lowest), and its mean. `total`: zeros."""
    found, number = np.empty(len(ids), ids.dtype), 0
    for i in range(len(ids)):
        other = ids[i]
        while parent[other] != other:
            parent[other] = parent[parent[other]]
            other = parent[other]
        if other != one and sizes[other] + sizes[one] <= cap:
            if total[other] == 0:
                found[number] = other
                number += 1
            total[other] += masses[i]
    found = found[:number].copy()
    sums, best, most = np.empty(number, masses.dtype), -1, 0.0
    for i in range(number):
        other = found[i]
        sums[i], total[other] = total[other], 0
        mean = sums[i] / (sizes[one] * sizes[other])
        if mean > most or (mean == most and other < best):
            best, most = other, mean
    return found, sums, best, most


@compiled
def cheapest_assignment(cost: Array, capacity: Array) -> Array:  # pragma: no cover - compiled
    """Group of each row of `cost` [n, k] so that exactly capacity[g] rows are in group g, which sum to n, and the costs sum to the least.

    Min-cost flow by successive shortest paths: rows start in their cheapest group; then, while a group has too many, one row moves along each
    step of the cheapest path of groups from one with too many to one with too few.
    """
    n, k = cost.shape
    place, sizes = np.empty(n, np.int64), np.zeros(k, np.int64)
    first, after, before = np.full(k, -1), np.full(n, -1), np.full(n, -1)  # the rows of each group, linked
    for row in range(n):
        group = int(np.argmin(cost[row]))
        _link(row, group, place, first, after, before)
        sizes[group] += 1
    step, mover = np.empty((k, k)), np.full((k, k), -1)  # from a group to another: the least a move costs, and the row that moves
    for group in range(k):
        _steps(group, cost, first, after, step, mover)
    while True:
        distance, source = np.where(sizes > capacity, 0.0, np.inf), np.full(k, -1)
        for _ in range(k):
            changed = False
            for a in range(k):
                for b in range(k):
                    if distance[a] + step[a, b] < distance[b] - 1e-12:
                        distance[b], source[b], changed = distance[a] + step[a, b], a, True
            if not changed:
                break
        target = int(np.argmin(np.where(sizes < capacity, distance, np.inf)))
        if sizes[target] >= capacity[target]:
            return place
        sizes[target] += 1
        while source[target] >= 0:
            group = int(source[target])
            row = int(mover[group, target])
            if before[row] >= 0:
                after[before[row]] = after[row]
            else:
                first[group] = after[row]
            if after[row] >= 0:
                before[after[row]] = before[row]
            _link(row, target, place, first, after, before)
            _steps(target, cost, first, after, step, mover)
            target = group
        sizes[target] -= 1
        _steps(target, cost, first, after, step, mover)


@compiled
def _link(row: int, group: int, place: Array, first: Array, after: Array, before: Array) -> None:  # pragma: no cover - compiled
    place[row], after[row], before[row] = group, first[group], -1
    if first[group] >= 0:
        before[first[group]] = row
    first[group] = row


@compiled
def _steps(group: int, cost: Array, first: Array, after: Array, step: Array, mover: Array) -> None:  # pragma: no cover - compiled
    step[group] = np.inf
    row = first[group]
    while row >= 0:
        for other in range(cost.shape[1]):
            more = cost[row, other] - cost[row, group]
            if more < step[group, other]:
                step[group, other], mover[group, other] = more, row
        row = after[row]
