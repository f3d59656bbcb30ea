"""Every compiled loop against the same in numpy or plain Python, with guards behind what it writes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.structure import kernels

few = settings(max_examples=40, deadline=None)
TYPES = st.sampled_from([(np.uint16, np.uint32), (np.uint32, np.int64)])  # of columns and counts
GUARD = 7


@st.composite
def example_lists(draw):
    """C; owners, offsets, ids as `CountTable.add` takes them; and (owners, detections) of each example."""
    n_labels, column_type = draw(st.integers(1, 12)), draw(TYPES)[0]
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    n, top_k = draw(st.integers(0, 20)), draw(st.integers(1, n_labels))
    lists = [(rng.permutation(n_labels)[: rng.integers(0, 4)].tolist(), rng.permutation(n_labels)[:top_k].tolist()) for _ in range(n)]
    owners = np.array([owner for some, _ in lists for owner in some], column_type)
    ids = np.array([detected for _, detected in lists], column_type).reshape(n, top_k)
    return n_labels, owners, np.cumsum([0, *(len(some) for some, _ in lists)]), ids, lists


@st.composite
def matrices(draw):
    """Counts [R, C], half of them or more 0, and the same as (starts, columns, counts) with the columns of a row in any order."""
    column_type, count_type = draw(TYPES)
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    n_rows, n_labels = draw(st.integers(0, 6)), draw(st.integers(1, 12))
    rows = rng.integers(1, np.iinfo(count_type).max, (n_rows, n_labels), count_type) * (rng.random((n_rows, n_labels)) < 0.5)
    order = [rng.permutation(np.flatnonzero(row)) for row in rows]
    columns = np.array([column for row in order for column in row], column_type)
    counts = np.array([rows[r, column] for r, row in enumerate(order) for column in row], count_type)
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
@given(example_lists())
def test_gather_lists_the_examples_of_each_owner(drawn):
    n_labels, owners, offsets, _, lists = drawn
    starts, examples = kernels.gather(owners, offsets, n_labels)
    assert [examples[starts[j] : starts[j + 1]].tolist() for j in range(n_labels)] == [
        [n for n, (some, _) in enumerate(lists) if j in some] for j in range(n_labels)
    ]


@few
@given(example_lists(), st.data(), st.sampled_from([np.uint32, np.int64]))
def test_add_dense_adds_to_what_is_there(drawn, data, count_type):
    n_labels, owners, offsets, ids, lists = drawn
    first, last = sorted(data.draw(st.tuples(st.integers(0, n_labels), st.integers(0, n_labels))))
    before = np.random.default_rng(0).integers(0, 2**32 - 100, (n_labels, n_labels)).astype(count_type)
    expected, rows = before.copy(), before.copy()
    for some, detected in lists:
        for owner in some:
            expected[owner, detected] += first <= owner < last
    kernels.add_dense(rows[first:last], first, *kernels.gather(owners, offsets, n_labels), ids)
    np.testing.assert_array_equal(rows, expected)


@few
@given(example_lists(), st.data(), st.sampled_from([np.uint32, np.int64]))
def test_add_sparse_keeps_columns_in_the_order_seen_and_needs_room_for_one_more(drawn, data, count_type):
    n_labels, owners, offsets, ids, lists = drawn
    first, last = sorted(data.draw(st.tuples(st.integers(0, n_labels), st.integers(0, n_labels))))
    some_columns = st.lists(st.integers(0, n_labels - 1), unique=True, max_size=4)
    expected = [dict.fromkeys(data.draw(some_columns), 2**32 - 100) for _ in range(first, last)]
    old = (
        np.cumsum([0, *map(len, expected)]),
        np.array([column for row in expected for column in row], ids.dtype),
        np.array([count for row in expected for count in row.values()], count_type),
    )
    for some, detected in lists:
        for row in [expected[owner - first] for owner in some if first <= owner < last]:
            row.update({label: row.get(label, 0) + 1 for label in detected})
    room = sum(map(len, expected)) + 1
    (columns, behind), (counts, after) = guarded(room, ids.dtype), guarded(room, count_type)
    starts = kernels.add_sparse(first, *kernels.gather(owners, offsets, n_labels), ids, old, columns, counts, n_labels)
    assert plain(starts, columns, counts) == [list(row.items()) for row in expected]
    assert {*behind, *after} == {GUARD}


@few
@given(matrices())
def test_fill_dense_and_sparse_rows_undo_each_other(drawn):
    expected, block = drawn
    rows = np.zeros_like(expected)
    kernels.fill_dense(*block, rows)
    np.testing.assert_array_equal(rows, expected)
    (columns, behind), (counts, after) = (guarded(len(array) + 1, array.dtype) for array in block[1:])
    starts = kernels.sparse_rows(expected, columns, counts)
    assert plain(starts, columns, counts) == [[(column, row[column]) for column in np.flatnonzero(row)] for row in expected]
    assert {*behind, *after} == {GUARD}


@few
@given(matrices())
def test_sort_rows(drawn):
    rows, block = drawn
    expected = [sorted(row) for row in plain(*block)]
    kernels.sort_rows(*block, rows.shape[1])
    assert plain(*block) == expected


@few
@given(matrices(), st.integers(0, 5))
def test_transposing_block_after_block(drawn, cut):
    """Two blocks of rows, the first row of all being row 2: each column's entries come out in the order of the rows."""
    rows, (starts, columns, counts) = drawn
    number = np.full(rows.shape[1], GUARD)
    kernels.count_columns(columns, number)
    np.testing.assert_array_equal(number - GUARD, np.count_nonzero(rows, axis=0))
    ends = np.cumsum(number - GUARD)
    place = ends - (number - GUARD)
    (out_rows, behind), (out_counts, after) = guarded(len(columns), np.int32), guarded(len(columns), np.int64)
    cut = min(cut, len(rows))
    for first, part in ((2, starts[: cut + 1]), (2 + cut, starts[cut:])):
        inside = slice(part[0], part[-1])
        kernels.transpose_into(first, part - part[0], columns[inside], counts[inside], place, out_rows, out_counts)
    np.testing.assert_array_equal(place, ends)
    where = np.nonzero(rows.T)
    np.testing.assert_array_equal(out_rows - 2, where[1])
    np.testing.assert_array_equal(out_counts, rows.T[where])
    assert {*behind, *after} <= {GUARD}


@pytest.mark.parametrize("n_labels", [65_535, 65_536, 65_537])
def test_gather_with_an_owner_at_the_limit_of_16_bits(n_labels):
    owners = np.array([n_labels - 1, 0, n_labels - 1], np.uint16 if n_labels <= 65_536 else np.uint32)
    starts, examples = kernels.gather(owners, np.array([0, 1, 1, 3]), n_labels)
    assert (starts[[0, 1, -2, -1]].tolist(), examples.tolist()) == ([0, 1, 1, 3], [2, 0, 2])
