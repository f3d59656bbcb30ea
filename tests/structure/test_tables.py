"""The table against a dictionary of counts, in every form and by every way to the same counts."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.runtime.files import Chunks
from selfinformed.structure.tables import CountTable


def brute_force(examples) -> Counter:
    """(owner, detected): count."""
    return Counter((owner, label) for owners, detected in examples for owner in owners for label in detected)


def add(table, examples):
    ids = np.array([detected for _, detected in examples], table.column_type).reshape(len(examples), -1 if examples else 3)
    owners = np.array([owner for owners, _ in examples for owner in owners], table.column_type)
    table.add(owners, np.cumsum([0, *(len(owners) for owners, _ in examples)]), ids)


def table_of(n_labels, *parts) -> CountTable:
    table = CountTable(n_labels)
    for examples in parts:
        add(table, examples)
    return table


def doubled(table, times) -> CountTable:
    for _ in range(times):
        table.merge(table)
    return table


def written(table) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    arrays = {name: array if isinstance(array, Chunks) else Chunks(array.shape, array.dtype, [array]) for name, array in table.to_arrays().items()}
    return {name: np.concatenate([piece.astype(of.dtype).ravel() for piece in of.pieces]).reshape(of.shape) for name, of in arrays.items()}


def read(table) -> CountTable:
    """Written and read again."""
    return CountTable.from_arrays(table.n_labels, written(table), table._largest)


def same_file(table, other) -> bool:
    one, two = ({name: (of.dtype, of.shape, of.tobytes()) for name, of in written(each).items()} for each in (table, other))
    return one == two


def assert_counts(table, expected):
    """The matrix given out, the file and the room taken are those of the counts expected."""
    matrix, file, cells, entries = table.transposed(), written(table), table.n_labels**2, len(expected)
    assert (matrix.dtype, matrix.indices.dtype, matrix.shape, matrix.has_canonical_format) == (np.int64, np.int32, (table.n_labels,) * 2, True)
    found = matrix.tocoo()
    assert dict(zip(zip(found.col.tolist(), found.row.tolist()), found.data.tolist(), strict=True)) == expected
    if 8 * cells <= entries * (8 + table.column_type.itemsize):
        rows, columns = np.nonzero(file["rows"])
        counts = file["rows"][rows, columns]
    else:
        rows, columns, counts = np.repeat(np.arange(table.n_labels), np.diff(file["starts"])), file["columns"], file["counts"]
    assert list(zip(zip(rows.tolist(), columns.tolist()), counts.tolist(), strict=True)) == sorted(expected.items())
    assert table.matrix_bytes == min(8 * cells, 12 * (entries if table.dense is None else cells))
    assert table.nbytes <= (12 * entries + 8 * (table.n_labels + 64) if table.dense is None else 8 * cells)


def random_examples(n, n_labels, top_k, pool, seed):
    """Examples with 0 to 3 owners out of `pool`."""
    rng = random.Random(seed)
    return [(rng.sample(pool, min(rng.randrange(4), len(pool))), rng.sample(range(n_labels), top_k)) for _ in range(n)]


@st.composite
def cases(draw):
    """C and examples; half the time few owners have them all, either the rows by which the table guesses how full it gets or others."""
    n_labels = draw(st.one_of(st.integers(1, 12), st.integers(13, 80), st.integers(100, 300)))
    pool = list(range(n_labels))[draw(st.integers(0, 3)) :: draw(st.sampled_from([1, 1, 16, 32]))] or [0]
    return n_labels, random_examples(draw(st.integers(0, 40)), n_labels, draw(st.integers(1, min(n_labels, 60))), pool, draw(st.integers(0, 9999)))


@settings(max_examples=120)
@given(cases(), st.data())
def test_every_way_to_the_same_counts_gives_the_same_matrix_and_the_same_file(case, data):
    n_labels, examples = case
    once, tables = table_of(n_labels, examples), [CountTable(n_labels), CountTable(n_labels)]
    rest = data.draw(st.randoms(use_true_random=False)).sample(examples, len(examples))
    while rest:
        n, which = data.draw(st.integers(0, len(rest))) or len(rest), data.draw(st.integers(0, 1))
        add(tables[which], rest[:n])
        rest = rest[n:]
        if data.draw(st.booleans()):
            tables[which] = read(tables[which])
    tables[0].merge(tables[1])
    for table in (once, *tables[:1], read(once)):
        assert_counts(table, brute_force(examples))
        assert same_file(once, table)
        assert table._largest == len(examples)
    add(once, examples)
    tables[0].merge(tables[0])
    assert_counts(tables[0], brute_force(examples * 2))
    assert same_file(once, tables[0])


def test_dense_from_a_third_full_and_never_two_copies():
    table, cells = CountTable(9), 81
    for entries in range(1, cells + 1):
        owner, label = divmod(entries - 1, 9)
        add(table, [([owner], [label])])
        assert (table.dense is not None) == (read(table).dense is not None) == (3 * entries >= cells)
        assert not (table._blocks and table.dense is not None)
        assert_counts(table, {divmod(cell, 9): 1 for cell in range(entries)})


def test_a_sample_fuller_than_the_rest_changes_the_form_and_not_the_file():
    examples = [([owner], list(range(half, half + 25))) for half in (0, 25) for block in range(0, 64, 16) for owner in (2 * block, 2 * block + 1)]
    guessed, merged = table_of(128, examples), table_of(128, examples[:8])
    merged.merge(table_of(128, examples[8:]))
    assert (guessed.dense is None, merged.dense is None) == (False, True)
    for table in (guessed, merged, read(guessed)):
        assert_counts(table, brute_force(examples))
        assert same_file(guessed, table)
    merged.merge(guessed)
    assert_counts(merged, brute_force(examples * 2))


def test_sparse_past_32_bits_or_dense_before_gives_the_same_file():
    """30 of 81 cells are dense in 32 bits (27 would be) and sparse in 64 (54 would be dense)."""
    some, others = [([owner], [1, 2, 3, 4, 5]) for owner in range(4)], [([owner], [6, 7]) for owner in range(5)]
    dense, sparse = doubled(table_of(9, some, others), 33), doubled(table_of(9, some), 33)
    sparse.merge(doubled(table_of(9, others), 33))
    assert (dense.dense is None, sparse.dense is None) == (False, True)
    assert same_file(dense, sparse)


@pytest.mark.parametrize("n_labels", [9, 200])
def test_counts_beyond_32_bits(n_labels):
    """33 doublings of a dense table and of a sparse one; then 64 bits merged into 32 and the other way round, and both added to."""
    examples, more = random_examples(8, n_labels, 4, range(n_labels), 0), random_examples(30, n_labels, 4, range(n_labels), 1)
    wide, narrow = doubled(table_of(n_labels, examples * 2, more), 33), table_of(n_labels, more)
    assert (wide.dense is None) == (n_labels == 200)
    expected = Counter({at: count << 33 for at, count in brute_force(examples * 2 + more).items()})
    assert_counts(wide, expected)
    narrow.merge(wide)
    wide.merge(table_of(n_labels, more))
    for table in (wide, narrow, read(wide)):
        add(table, more)
        assert_counts(table, expected + brute_force(more * 2))
        assert same_file(table, wide)


@pytest.mark.parametrize(("largest", "count_type"), [(2**32 - 1, np.uint32), (2**32, np.int64)])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_32_bits_up_to_their_largest_count(largest, count_type, form):
    rows = np.full((3, 3), largest - 1) if form == "dense" else np.diag([largest - 1, 0, 0, 0])
    table = CountTable.from_arrays(len(rows), written(CountTable.from_arrays(len(rows), {"rows": rows}, largest - 1)), largest - 1)
    add(table, [([1], [1])])
    rows[1, 1] += 1
    assert (table._blocks[0][2] if form == "sparse" else table.dense).dtype == count_type
    for times in (1, 2):
        assert_counts(table, {(i, j): times * int(rows[i, j]) for i, j in np.argwhere(rows).tolist()})
        table.merge(table)


@pytest.mark.parametrize("n_labels", [65_535, 65_536, 65_537, 70_000])
def test_labels_about_16_bits(n_labels):
    edge, rng = sorted({0, 1, 32_767, 32_768, 65_534, n_labels - 2, n_labels - 1}), random.Random(0)
    examples = [(rng.sample(edge, rng.randrange(4)), rng.sample(edge, 5)) for _ in range(50)]
    table = table_of(n_labels, examples[:20], examples[20:])
    assert table.column_type == (np.uint16 if n_labels <= 65_536 else np.uint32)
    for each in (table, read(table)):
        each.merge(table_of(n_labels, examples[:9]))
        assert_counts(each, brute_force(examples + examples[:9]))


@pytest.mark.parametrize("n_labels", [1, 100])
def test_no_examples_and_examples_that_nothing_owns(n_labels):
    table = table_of(n_labels, [], [([], [0])] * 3)
    table.merge(table_of(n_labels, [([], [0])]))
    for each in (table, read(table)):
        assert_counts(each, {})
        add(each, [([0], [0])])
        assert_counts(each, {(0, 0): 1})


@pytest.mark.parametrize("n_labels", [1, 40, 150])
def test_any_number_of_threads_gives_the_same(n_labels):
    parts = [random_examples(300, n_labels, min(12, n_labels), range(n_labels), seed) for seed in range(3)]
    threads, tables = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            tables += [table_of(n_labels, *parts[:1]), table_of(n_labels, *parts)]
            tables[-1].merge(tables[-2])
            assert_counts(tables[-1], brute_force(sum(parts, []) + parts[0]))
    finally:
        torch.set_num_threads(threads)
    assert [table.dense is not None for table in tables] == [n_labels < 150, True] * 3
    assert all(same_file(tables[number % 2], table) for number, table in enumerate(tables))


SPARSE = {"starts": np.array([0, 2, 2, 2, 3]), "columns": np.array([0, 1, 3], np.uint16), "counts": np.array([1, 2, 3])}
ENTRIES = "counts are int64 from 0 to 10, the number of examples"
WRONG = [
    *[(ENTRIES, "counts", counts) for counts in ([1, 2, 11], [1, 0, 3], [1, -2, 3], [1.0, 2.0, 3.0], np.ones(3, np.int32))],
    *[(ENTRIES, "rows", rows) for rows in (np.full((4, 4), 11), np.full((4, 4), -1), np.zeros((4, 4)))],
    *[(f"expected 4 x 4 counts, found {shape}", "rows", np.zeros(shape, int)) for shape in ([4, 3], [16])],
    ("starts are int64 and columns uint16, found float64 and uint16", "starts", [0.0, 1.0, 2.0, 2.0, 3.0]),
    ("starts are int64 and columns uint16, found int64 and uint32", "columns", np.array([0, 1, 3], np.uint32)),
    ("starts end at 2, expected 3, the number of columns", "starts", [0, 1, 2, 2, 2]),
    *[("columns of a row do not ascend", "columns", np.array(columns, np.uint16)) for columns in ([1, 1, 3], [1, 0, 3])],
    *[("", "starts", starts) for starts in ([1, 1, 2, 2, 3], [0, 2, 1, 2, 3], [0, -1, 2, 2, 3], [0, 1, 2, 2, 4], [0, 3], 3, [[0, 1, 2, 2, 3]])],
    *[("", "columns", np.array(columns, np.uint16)) for columns in ([0, 4, 3], [0, 3], [[0], [1], [3]])],
    ("", "counts", 3),
]


@pytest.mark.parametrize(("message", "name", "array"), WRONG)
def test_arrays_that_are_wrong(message, name, array):
    assert_counts(CountTable.from_arrays(4, SPARSE, 10), {(0, 0): 1, (0, 1): 2, (3, 3): 3})
    with pytest.raises(ValueError, match=re.escape(message) or None):
        CountTable.from_arrays(4, {**(SPARSE if name != "rows" else {}), name: np.asarray(array)}, 10)
