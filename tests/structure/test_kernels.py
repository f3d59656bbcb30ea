"""Every compiled loop against the same in numpy or plain Python, with guards behind what it writes."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.structure import kernels

few = settings(max_examples=50)
TYPES = st.sampled_from([(np.uint16, np.uint32), (np.uint32, np.int64)])  # of columns and counts
GUARD = 7


@st.composite
def matrices(draw):
    """Counts [R, C], about half of them 0, and the same as (starts, columns, counts) with the columns of a row in any order."""
    column_type, count_type = draw(TYPES)
    n_rows, n_labels, rng = draw(st.integers(0, 6)), draw(st.integers(1, 12)), np.random.default_rng(draw(st.integers(0, 9999)))
    rows = rng.integers(1, np.iinfo(count_type).max - 50, (n_rows, n_labels), count_type) * (rng.random((n_rows, n_labels)) < 0.5)
    order = [rng.permutation(np.flatnonzero(row)) for row in rows]
    columns = np.array([column for row in order for column in row], column_type)
    counts = np.array([row[column] for row, some in zip(rows, order) for column in some], count_type)
    return rows.astype(count_type), (np.cumsum([0, *map(len, order)]), columns, counts)


def guarded(room, dtype):
    """An array of `room`, and what lies behind it."""
    space = np.full(room + 3, GUARD, dtype)
    return space[:room], space[room:]


def plain(starts, columns, counts):
    return [list(zip(columns[a:b].tolist(), counts[a:b].tolist())) for a, b in itertools.pairwise(starts)]


@few
@given(st.data(), st.integers(1, 6), st.sampled_from([np.int64, np.uint64]), TYPES)
def test_admit_finds_the_first_wrong_entry(data, n_labels, dtype, types):
    beyond = [2**63 - 1, -1, -(2**63)] if dtype is np.int64 else [2**63, 2**64 - 1]
    entry = st.integers(0, n_labels) | st.sampled_from(beyond) if data.draw(st.booleans()) else st.integers(0, n_labels - 1)
    top_k = data.draw(st.integers(1, 3))
    ids = np.array(data.draw(st.lists(st.lists(entry, min_size=top_k, max_size=top_k), max_size=6)), dtype).reshape(-1, top_k)
    wrong = [(r, k) for r, row in enumerate(ids.tolist()) for k, label in enumerate(row) if not 0 <= label < n_labels or label in row[:k]]
    out = np.full(ids.shape, GUARD, types[0])
    assert kernels.admit(ids, n_labels, out) == (*wrong, (-1, -1))[0]
    if not wrong:
        np.testing.assert_array_equal(out, ids)


def test_admit_takes_the_last_label_that_fits_16_bits():
    out = np.zeros((1, 2), np.uint16)
    assert kernels.admit(np.array([[65_535, 0]]), 65_536, out) == (-1, -1)
    assert out.tolist() == [[65_535, 0]]
    assert kernels.admit(np.array([[0, 65_536]]), 65_536, out) == (0, 1)


@few
@given(matrices(), st.integers(0, 4), st.integers(0, 3), st.integers(0, 9999))
def test_gathering_and_adding_to_a_block_of_rows(drawn, first, after, seed):
    """Rows first, first + 1, ... of more; sparse columns stay in the order seen, and need room for one entry more than there will be."""
    rows, old = drawn
    rng, n_labels = np.random.default_rng(seed), max(rows.shape[1], first + len(rows) + after)
    rows = np.pad(rows, ((0, 0), (0, n_labels - rows.shape[1])))
    top_k = rng.integers(1, n_labels + 1)
    lists = [(rng.permutation(n_labels)[: rng.integers(0, 4)].tolist(), rng.permutation(n_labels)[:top_k].tolist()) for _ in range(rng.integers(0, 20))]
    owners = np.array([owner for some, _ in lists for owner in some], old[1].dtype)
    ids = np.array([detected for _, detected in lists], old[1].dtype).reshape(-1, top_k)
    starts, examples = kernels.gather(owners, np.cumsum([0, *(len(some) for some, _ in lists)]), n_labels)
    of_owner = [[n for n, (some, _) in enumerate(lists) if owner in some] for owner in range(n_labels)]
    assert [examples[a:b].tolist() for a, b in itertools.pairwise(starts)] == of_owner

    expected = [dict(row) for row in plain(*old)]
    for row, some in zip(expected, of_owner[first:]):
        for label in (label for n in some for label in lists[n][1]):
            row[label] = row.get(label, 0) + 1
    room = sum(map(len, expected)) + 1
    (columns, behind), (counts, behind_too) = guarded(room, old[1].dtype), guarded(room, rows.dtype)
    fresh = kernels.add_sparse(first, starts, examples, ids, old, columns, counts, n_labels)
    assert plain(fresh, columns, counts) == [list(row.items()) for row in expected]
    assert {*behind, *behind_too} == {GUARD}
    kernels.add_dense(rows, first, starts, examples, ids)
    assert rows.tolist() == [[row.get(label, 0) for label in range(n_labels)] for row in expected]


@few
@given(matrices())
def test_from_sparse_to_dense_and_back_and_sorted(drawn):
    expected, block = drawn
    rows = np.zeros_like(expected)
    kernels.fill_dense(*block, rows)
    np.testing.assert_array_equal(rows, expected)
    (columns, behind), (counts, behind_too) = (guarded(len(array) + 1, array.dtype) for array in block[1:])
    starts = kernels.sparse_rows(expected, columns, counts)
    assert plain(starts, columns, counts) == [[(column, row[column]) for column in np.flatnonzero(row)] for row in expected]
    assert {*behind, *behind_too} == {GUARD}
    kernels.sort_rows(*block, rows.shape[1])
    assert plain(*block) == plain(starts, columns, counts)


@few
@given(matrices(), st.integers(0, 6))
def test_transposing_block_after_block(drawn, cut):
    """Two blocks of rows, the first row being row 2: each column's entries come out in the order of the rows."""
    rows, (starts, columns, counts) = drawn
    number = np.full(rows.shape[1], GUARD)
    kernels.count_columns(columns, number)
    np.testing.assert_array_equal(number - GUARD, np.count_nonzero(rows, axis=0))
    ends = np.cumsum(number - GUARD)
    place, out_rows, out_counts = ends - (number - GUARD), np.zeros(len(columns), np.int32), np.zeros(len(columns), np.int64)
    cut = min(cut, len(rows))
    for first, part in ((2, starts[: cut + 1]), (2 + cut, starts[cut:])):
        inside = slice(part[0], part[-1])
        kernels.transpose_into(first, part - part[0], columns[inside], counts[inside], place, out_rows, out_counts)
    np.testing.assert_array_equal(place, ends)
    where = np.nonzero(rows.T)
    np.testing.assert_array_equal((out_rows - 2, out_counts), (where[1], rows.T[where]))


@few
@given(st.integers(0, 6), st.integers(1, 14), st.integers(1, 3), st.integers(0, 9999))
def test_sparse_rows_times_a_block(n_rows, n_labels, width, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 5, (n_rows, n_labels)) * (rng.random((n_rows, n_labels)) < rng.random())
    columns, starts = np.concatenate([np.flatnonzero(row) for row in rows] or [np.zeros(0, int)]), np.cumsum([0, *(rows != 0).sum(axis=1)])
    block, first = rng.integers(-9, 9, (n_labels, width)).astype(float), int(rng.integers(0, n_rows + 1))
    out = np.full((n_rows - first, width), 99.0)
    kernels.sparse_times(starts, columns, rows[rows != 0].astype(float), block, first, out)
    np.testing.assert_array_equal(out, rows[first:] @ block)


@few
@given(st.integers(0, 8), st.integers(1, 10), st.integers(0, 9999))
def test_labels_that_share_a_row_are_of_one_component(n_rows, n_labels, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n_labels, rng.integers(0, min(n_labels, 3) + 1), replace=False) for _ in range(n_rows)]
    starts, columns = np.cumsum([0, *map(len, rows)]), np.concatenate([*rows, np.zeros(0, int)]).astype(int)
    parts = [{label} for label in range(n_labels)]
    for row in rows:
        joined = [part for part in parts if part & {*row.tolist()}]
        parts = [part for part in parts if part not in joined] + ([set.union(*joined)] if joined else [])
    found = kernels.components(starts, columns, n_labels)
    assert sorted(sorted(part) for part in parts) == sorted(np.flatnonzero(found == one).tolist() for one in np.unique(found))
    assert all(found[one] == one for one in found)
