"""The three forms of targets are one, and wrong ones are refused by example."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.data.targets import Targets, as_targets
from selfinformed.runtime.errors import SelfInformedError

C = 7
label_lists = st.lists(st.lists(st.integers(0, C - 1), max_size=5, unique=True), max_size=8)
properties = settings(max_examples=40)


def equal(one: Targets, other: Targets) -> bool:
    return one.n_labels == other.n_labels and np.array_equal(one.offsets, other.offsets) and np.array_equal(one.labels, other.labels)


def hot_by_loop(lists: list[list[int]]) -> np.ndarray:
    hot = np.zeros((len(lists), C), np.int64)
    for row, labels in enumerate(lists):
        for label in labels:
            hot[row, label] = 1
    return hot


@properties
@given(label_lists, st.sampled_from([np.int64, np.uint8, np.bool_, np.float32]))
def test_lists_equal_multi_hot(lists, dtype):
    hot = hot_by_loop(lists)
    targets = as_targets([[], *lists], C)  # one list more, so that there is at least one
    assert equal(targets.take(range(1, len(lists) + 1)), as_targets(hot.astype(dtype), C))
    assert equal(as_targets(hot.astype(dtype), C), as_targets(torch.from_numpy(hot.astype(dtype)), C))
    assert targets.labels.dtype == targets.offsets.dtype == np.int64


@properties
@given(st.lists(st.integers(0, C - 1)))
def test_class_numbers_equal_one_label_lists(classes):
    expected = as_targets(hot_by_loop([[c] for c in classes]), C)
    forms = [classes, tuple(classes), np.array(classes, np.int32), torch.tensor(classes, dtype=torch.long), [torch.tensor(c) for c in classes]]
    for form in forms:
        targets = as_targets(form, C)
        assert equal(targets, expected)
        assert targets.single
    if classes:
        assert equal(as_targets([[c] for c in classes], C), expected)


@properties
@given(label_lists)
def test_the_order_in_lists_is_normalised(lists):
    for row, labels in enumerate(lists):
        assert as_targets(lists, C).of(row).tolist() == sorted(labels)


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, torch.tensor])
def test_rows_may_be_any_collection(kind):
    rows = [kind([2, 5]), kind([1, 3])]
    assert equal(as_targets(rows, C), as_targets([[2, 5], [1, 3]], C))
    assert equal(as_targets([*rows, kind([4])], C), as_targets([[2, 5], [1, 3], [4]], C))


@properties
@given(label_lists, st.data())
def test_views_equal_loops(lists, data):
    targets = as_targets([[], *lists], C)
    lists = [[], *(sorted(set(labels)) for labels in lists)]
    assert len(targets) == len(lists)
    assert list(zip(*targets.pairs())) == [(row, label) for row, labels in enumerate(lists) for label in labels]
    np.testing.assert_array_equal(targets.multi_hot().numpy(), hot_by_loop(lists))
    assert targets.multi_hot().dtype == torch.float32
    assert targets.positives().tolist() == [sum(label in labels for labels in lists) for label in range(C)]
    assert targets.single == all(len(labels) == 1 for labels in lists)
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1)))
    assert [targets.take(rows).of(i).tolist() for i in range(len(rows))] == [lists[row] for row in rows]
    assert equal(as_targets(targets, C), targets)


def test_no_examples_and_no_labels_are_ordinary():
    assert len(as_targets([], C)) == 0
    empty = as_targets([[], []], C)
    assert len(empty) == 2
    assert empty.positives().sum() == 0
    assert not empty.single


@pytest.mark.parametrize(("targets", "n_labels"), [([3, 1], 4), ([[2], [0, 5]], 6), (np.zeros((2, 9)), 9), ([[], []], 1), ([], 1)])
def test_labels_are_counted_when_their_number_is_not_given(targets, n_labels):
    assert as_targets(targets).n_labels == n_labels


@pytest.mark.parametrize("targets", [[0, 1, 7], [0, 1, -1], [[0], [], [3, 7]], [[0], [1, 2], [-1]], torch.tensor([0, 1, 9])])
def test_a_label_out_of_range_names_the_example(targets):
    with pytest.raises(SelfInformedError, match=r"example 2 has label -?\d; labels go from 0 to 6"):
        as_targets(targets, C)
    with pytest.raises(SelfInformedError, match="example 102 has label"):
        as_targets(targets, C, first_example=100)


@pytest.mark.parametrize("entry", [0.5, -1.0, 2.0, float("nan")])
def test_multi_hot_is_zero_or_one(entry):
    hot = torch.zeros(3, C)
    hot[1, 4] = entry
    with pytest.raises(SelfInformedError, match=rf"example 1 has {entry} for label 4; multi-hot targets are 0 or 1"):
        as_targets(hot, C)


@pytest.mark.parametrize("row", [["cat"], "12", [0.5], [None], [[1]], 3, [2**70], [True, False], [0, 1, 0], [0.0, 1.0]])
def test_lists_hold_label_numbers_only_and_each_once(row):
    with pytest.raises(SelfInformedError, match=r"example 1 has .*; expected a list of label numbers, each once, not one 0 or 1 for each label"):
        as_targets([[0], row], C)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float32])
@pytest.mark.parametrize("rows", [lambda hot: hot.tolist(), list, lambda hot: list(torch.tensor(hot)), lambda hot: [list(row) for row in hot]])
@pytest.mark.parametrize("n_labels", [2, 3])
def test_multi_hot_row_by_row_is_no_list_of_labels(rows, dtype, n_labels):
    for hot in (np.eye(n_labels)[[0, 1]], np.eye(n_labels)[[1, 0]]):
        for given_labels in (None, n_labels):
            with pytest.raises(SelfInformedError, match=r"example [01] has .* as one array or tensor \[N, C\]"):
                as_targets(rows(hot.astype(dtype)), given_labels)


@pytest.mark.parametrize("lists", [[[2, 0], [5], []], [[1, 3], [2, 4], [0, 6]], [[3], [1], [2]]])
def test_columns_and_generators_of_label_lists(lists):
    pd = pytest.importorskip("pandas")
    column = np.empty(3, object)
    column[:] = lists
    arrays = pd.Series([np.array(labels) for labels in lists], index=[7, 5, 9])
    for form in (column, pd.Series(lists, index=[7, 5, 9]), arrays, (labels for labels in lists), iter(lists)):
        assert equal(as_targets(form, C), as_targets(lists, C))


def test_columns_of_class_numbers():
    pd = pytest.importorskip("pandas")
    for form in (pd.Series([2, 0, 1], index=[7, 5, 9]), pd.Series([2, 0, 1], dtype="Int64"), np.array([2, 0, 1], object), iter([2, 0, 1])):
        assert as_targets(form, C).labels.tolist() == [2, 0, 1]
    with pytest.raises(SelfInformedError, match="example 0 has 'a'; expected a list of label numbers"):
        as_targets(pd.Series(["a", "b"]), C)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8"])
def test_class_numbers_of_any_integer_type(dtype: str):
    for form in (np.array([2, 0, 1], dtype), torch.from_numpy(np.array([2, 0, 1], dtype))):
        assert as_targets(form, C).labels.tolist() == [2, 0, 1]


def test_multi_hot_in_bfloat16():
    for form in (torch.eye(C, dtype=torch.bfloat16), torch.eye(C, dtype=torch.bfloat16).to_sparse()):
        assert as_targets(form, C).labels.tolist() == list(range(C))


@properties
@given(label_lists, st.sampled_from([sp.csr_array, sp.csc_matrix, sp.coo_array]), st.sampled_from([np.int8, np.bool_, np.float64]))
def test_sparse_multi_hot(lists, kind, dtype):
    hot = hot_by_loop([[], *lists]).astype(dtype)
    assert equal(as_targets(kind(hot), C), as_targets(hot, C))


@properties
@given(label_lists, st.sampled_from([torch.Tensor.to_sparse_coo, torch.Tensor.to_sparse_csr]), st.sampled_from([torch.int64, torch.bool, torch.float32]))
def test_sparse_tensors(lists, kind, dtype):
    hot = torch.from_numpy(hot_by_loop([[], *lists])).to(dtype)
    assert equal(as_targets(kind(hot), C), as_targets(hot, C))


def test_sparse_multi_hot_that_is_refused():
    twice = sp.csr_array((np.ones(3), np.array([4, 1, 1]), np.array([0, 1, 3])), (2, C))
    with pytest.raises(SelfInformedError, match=r"example 1 has 2\.0 for label 1; multi-hot targets are 0 or 1"):
        as_targets(twice, C)
    assert twice.nnz == 3
    with pytest.raises(SelfInformedError, match="have 7 columns, expected 8"):
        as_targets(twice, 8)


def test_a_long_row_is_told_in_one_line():
    for kind in (list, np.array, torch.tensor):
        with pytest.raises(SelfInformedError, match=r"^targets: example 0 has list of 200; expected [^\n]*$"):
            as_targets([kind([0, 1] * 100)], 200)


def test_both_of_two_labels_are_ordinary():
    assert as_targets([[0, 1], [0, 1]], 2).labels.tolist() == [0, 1, 0, 1]
    assert as_targets([[1, 0], [1]], 2).labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("targets", [np.zeros((2, C - 1)), torch.zeros(2, C + 1, dtype=torch.bool)])
def test_multi_hot_of_another_width_is_refused(targets):
    with pytest.raises(SelfInformedError, match=r"have \d columns, expected 7"):
        as_targets(targets, C)


@pytest.mark.parametrize("targets", [torch.rand(3), np.zeros((2, 2, C)), 3, np.array(["a", "b"]), None])
def test_other_shapes_and_types_are_refused(targets):
    with pytest.raises(SelfInformedError, match=r"expected class numbers \[B\], multi-hot \[B, 7\] or a list of label lists"):
        as_targets(targets, C)


def test_targets_of_another_label_set_are_refused():
    with pytest.raises(SelfInformedError, match="made for 7 labels, expected 8"):
        as_targets(as_targets([1], C), C + 1)
