"""The table against a dictionary of counts, in every form and by every way to the same counts."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.runtime.files import Chunks
from selfinformed.structure.tables import CountTable, narrowest


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
    arrays = table.to_arrays()
    for name, array in arrays.items():
        if isinstance(array, Chunks):
            arrays[name] = np.concatenate([np.ascontiguousarray(piece, array.dtype).ravel() for piece in array.pieces]).reshape(array.shape)
    return arrays


def read(table) -> CountTable:
    """Written and read again."""
    return CountTable.from_arrays(table.n_labels, written(table), table._largest)


def assert_same_file(table, other):
    one, two = written(table), written(other)
    assert {name: (array.dtype, array.shape) for name, array in one.items()} == {name: (array.dtype, array.shape) for name, array in two.items()}
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def assert_counts(table, expected):
    """The matrix given out, the file and the room taken are those of the counts expected."""
    matrix, file = table.transposed(), written(table)
    assert (matrix.dtype, matrix.indices.dtype, matrix.shape) == (np.int64, np.int32, (table.n_labels,) * 2)
    assert all((np.diff(matrix.indices[a:b]) > 0).all() for a, b in zip(matrix.indptr, matrix.indptr[1:]) if b > a)
    found = matrix.tocoo()
    assert dict(zip(zip(found.col.tolist(), found.row.tolist()), found.data.tolist(), strict=True)) == expected
    cells, entries, column = table.n_labels**2, len(expected), table.column_type.itemsize
    assert list(file) == (["rows"] if 8 * cells <= entries * (8 + column) else ["starts", "columns", "counts"])
    if "rows" in file:
        assert {(*at,): count for at, count in zip(np.argwhere(file["rows"]).tolist(), file["rows"][file["rows"] > 0].tolist()) for at in [tuple(at)]} == expected
    else:
        rows = np.repeat(np.arange(table.n_labels), np.diff(file["starts"]))
        assert list(zip(zip(rows.tolist(), file["columns"].tolist()), file["counts"].tolist(), strict=True)) == sorted(expected.items())
    assert table.matrix_bytes == min(8 * cells, 12 * (entries if table.dense is None else cells))
    if table.dense is None:
        assert table.nbytes <= 12 * entries + 8 * (table.n_labels + 64)


def random_examples(n, n_labels, top_k, pool, seed):
    """Examples with 0 to 3 owners out of `pool`."""
    rng = random.Random(seed)
    return [(rng.sample(pool, min(rng.randrange(4), len(pool))), rng.sample(range(n_labels), top_k)) for _ in range(n)]


@st.composite
def cases(draw):
    """C and examples; half the time few owners have them all, those by which the table guesses how full it gets or others."""
    n_labels = draw(st.one_of(st.integers(1, 12), st.integers(13, 80), st.integers(100, 300)))
    pool = list(range(n_labels))[:: draw(st.sampled_from([1, 1, 16, 32]))][draw(st.integers(0, 1)) :] or [0]
    return n_labels, random_examples(draw(st.integers(0, 40)), n_labels, draw(st.integers(1, min(n_labels, 60))), pool, draw(st.integers(0, 9999)))


@settings(max_examples=120, deadline=None)
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
        assert_same_file(once, table)
        assert table._largest == len(examples)
    add(once, examples)
    tables[0].merge(tables[0])
    assert_counts(tables[0], brute_force(examples * 2))
    assert_same_file(once, tables[0])


def test_dense_from_a_third_full_and_never_two_copies():
    table, cells = CountTable(9), 81
    for entries in range(1, cells + 1):
        owner, label = divmod(entries - 1, 9)
        add(table, [([owner], [label])])
        assert (table.dense is not None) == (3 * entries >= cells)
        assert not (table._blocks and table.dense is not None)
        assert_counts(table, {divmod(cell, 9): 1 for cell in range(entries)})


def test_a_sample_fuller_than_the_rest_changes_the_form_and_not_the_file():
    examples = [([owner], list(range(half, half + 25))) for half in (0, 25) for block in range(0, 64, 16) for owner in (2 * block, 2 * block + 1)]
    guessed, merged = table_of(128, examples), table_of(128, examples[:8])
    merged.merge(table_of(128, examples[8:]))
    assert guessed.dense is not None and merged.dense is None
    assert_same_file(guessed, merged)
    for table in (guessed, merged, read(guessed)):
        assert_counts(table, brute_force(examples))
    late = table_of(128, examples[:8])
    late.merge(guessed)
    assert late.dense is not None
    assert_counts(late, brute_force(examples + examples[:8]))


@pytest.mark.parametrize("n_labels", [9, 200])
def test_counts_beyond_32_bits(n_labels):
    """33 doublings of a sparse table and of a dense one, then both merged into narrow ones and added to."""
    examples, more = random_examples(8, n_labels, 4, range(n_labels), 0), random_examples(30, n_labels, 4, range(n_labels), 1)
    table = doubled(table_of(n_labels, examples * 2, more), 33)
    assert (table.dense is not None) == (n_labels == 9)
    expected = Counter({at: count << 33 for at, count in brute_force(examples * 2 + more).items()})
    assert_counts(table, expected)
    assert_counts(read(table), expected)
    narrow = table_of(n_labels, more)
    narrow.merge(table)
    table.merge(table_of(n_labels, more))
    add(table, more)
    add(narrow, more)
    for each in (table, narrow, read(table)):
        assert_counts(each, expected + brute_force(more * 2))
        assert_same_file(each, table)


def test_32_bits_hold_up_to_their_largest_count():
    for largest, count_type in ((2**32 - 1, np.uint32), (2**32, np.int64)):
        for rows in (np.full((3, 3), largest - 1), np.eye(3, dtype=np.int64) * (largest - 1)):
            table = CountTable.from_arrays(3, {"rows": rows}, largest - 1)
            add(table, [([1], [1, 2])])
            expected = Counter({(i, j): int(rows[i, j]) for i in range(3) for j in range(3)}) + Counter([(1, 1), (1, 2)])
            assert_counts(table, expected)
            assert table.dense.dtype == count_type
    assert CountTable.from_arrays(3, written(CountTable(3)), 2**32)._blocks[0][2].dtype == np.int64


def test_sparse_past_32_bits_or_dense_before_gives_the_same_file():
    """30 of 81 cells are dense in 32 bits (27 are) and sparse in 64 (54 are dense)."""
    some, others = ([([owner], list(range(9))[:width]) for owner in owners] for owners, width in ((range(4), 5), (range(4, 9), 2)))
    dense, sparse = doubled(table_of(9, some + others[:0]), 0), doubled(table_of(9, some), 33)
    add(dense, [([owner], [label]) for owner in (4, 5, 6, 7, 8) for label in (0, 1)])
    dense = doubled(dense, 33)
    sparse.merge(doubled(table_of(9, [([owner], [label]) for owner in (4, 5, 6, 7, 8) for label in (0, 1)]), 33))
    assert dense.dense is not None and sparse.dense is None
    assert_same_file(dense, sparse)


@pytest.mark.parametrize("n_labels", [65_535, 65_536, 65_537, 70_000])
def test_labels_about_16_bits(n_labels):
    edge = [0, 1, 32_767, 32_768, 65_534, n_labels - 1, n_labels - 2, n_labels // 2]
    rng = random.Random(0)
    examples = [(rng.sample(sorted({*edge}), rng.randrange(4)), rng.sample(sorted({*edge}), 5)) for _ in range(50)]
    table, other = table_of(n_labels, examples[:20]), table_of(n_labels, examples[20:40], examples[40:])
    assert table.column_type == narrowest(n_labels) == (np.uint16 if n_labels <= 65_536 else np.uint32)
    table.merge(other)
    for each in (table, read(table)):
        assert_counts(each, brute_force(examples))
    assert_same_file(table, table_of(n_labels, examples))


@pytest.mark.parametrize("n_labels", [1, 5, 100])
def test_nothing_to_count(n_labels):
    """No examples, then examples that have no owner; owners that no example has are in every other test."""
    table = CountTable(n_labels)
    add(table, [])
    assert table._largest == 0
    add(table, [([], [0])] * 3)
    table.merge(table_of(n_labels, [([], [0])]))
    assert table._largest == 4
    for each in (table, read(table)):
        assert_counts(each, {})
    add(table, [([0], [0])])
    assert_counts(table, {(0, 0): 1})


@pytest.mark.parametrize("n_labels", [1, 40, 250])
def test_any_number_of_threads_gives_the_same(n_labels):
    parts = [random_examples(150, n_labels, min(20, n_labels), range(n_labels), seed) for seed in range(5)]
    threads, tables, forms = torch.get_num_threads(), [], []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            tables.append(CountTable(n_labels))
            for examples in parts:
                add(tables[-1], examples)
                forms.append(tables[-1].dense is not None)
            tables[-1].merge(table_of(n_labels, parts[0]))
            assert_counts(tables[-1], brute_force(sum(parts, []) + parts[0]))
    finally:
        torch.set_num_threads(threads)
    assert forms[:5] == forms[5:10] == forms[10:]
    assert (forms[0], forms[-1]) == (n_labels < 250, True)
    for table in tables[1:]:
        assert_same_file(table, tables[0])


SPARSE = {"starts": np.array([0, 1, 2, 2, 3]), "columns": np.array([0, 1, 3], np.uint16), "counts": np.array([1, 2, 3])}
WRONG = {
    "counts are int64 from 0 to 10, the number of examples": [
        {"counts": np.array([1, 2, 11])}, {"counts": np.array([1, 0, 3])}, {"counts": np.array([1, -2, 3])}, {"counts": np.ones(3)},
        {"counts": np.ones(3, np.int32)}, {"rows": np.full((4, 4), 11)}, {"rows": np.full((4, 4), -1)}, {"rows": np.zeros((4, 4), np.uint64)},
    ],
    "expected 4 x 4 counts, found [4, 3]": [{"rows": np.zeros((4, 3), int)}],
    "expected 4 x 4 counts, found [16]": [{"rows": np.zeros(16, int)}],
    "starts are int64 and columns uint16, found float64 and uint16": [{"starts": SPARSE["starts"].astype(float)}],
    "starts are int64 and columns uint16, found int64 and uint32": [{"columns": np.array([0, 1, 3], np.uint32)}],
    "starts end at 2, expected 3, the number of columns": [{"starts": np.array([0, 1, 2, 2, 2])}],
    "columns of a row do not ascend": [{"columns": np.array([1, 1, 3], np.uint16), "starts": np.array([0, 2, 2, 2, 3])}, {"columns": np.array([1, 0, 3], np.uint16), "starts": np.array([0, 2, 2, 2, 3])}],
    "": [{"starts": np.array(starts)} for starts in ([1, 1, 2, 2, 3], [0, 2, 1, 2, 3], [0, -1, 2, 2, 3], [0, 1, 2, 2, 4], [0, 3], [], 3, [[0, 1, 2, 2, 3]])]
    + [{"columns": np.array(columns, np.uint16)} for columns in ([0, 4, 3], [0, 1], [[0], [1], [3]])] + [{"counts": np.array(3)}],
}  # fmt: skip


@pytest.mark.parametrize(("message", "change"), [(message, change) for message, changes in WRONG.items() for change in changes])
def test_arrays_that_are_wrong(message, change):
    assert_counts(CountTable.from_arrays(4, SPARSE, 10), {(0, 0): 1, (1, 1): 2, (3, 3): 3})
    with pytest.raises(ValueError) as caught:
        CountTable.from_arrays(4, change if "rows" in change else {**SPARSE, **change}, 10)
    assert message in str(caught.value)
