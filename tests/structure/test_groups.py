"""Partitions and covers of the labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups

COVER = LabelGroups(8, (np.array([5, 1]), np.array([1, 2, 3]), np.arange(7)), ("a", "b", "all"))


@st.composite
def groupings(draw: st.DrawFn) -> LabelGroups:
    n = draw(st.integers(1, 12))
    members = draw(st.lists(st.lists(st.integers(0, n - 1), min_size=1, unique=True), max_size=5))
    return LabelGroups(n, tuple(np.array(m) for m in members))


def test_assignment_is_the_first_group_and_minus_one_for_none():
    assert COVER.assignment.tolist() == [2, 0, 1, 1, 2, 0, 2, -1]
    assert COVER.ungrouped.tolist() == [7]
    assert COVER.sizes == [2, 3, 7]


@settings(max_examples=40, deadline=None)
@given(groupings(), st.integers(0, 2**31))
def test_randomized_keeps_sizes_overlaps_and_what_is_in_no_group(groups, seed):
    random = groups.randomized(seed)
    assert random.sizes == groups.sizes
    assert random.ungrouped.tolist() == groups.ungrouped.tolist()
    for a, b in zip(groups.members, random.members, strict=True):
        for c, d in zip(groups.members, random.members, strict=True):
            assert len(np.intersect1d(a, c)) == len(np.intersect1d(b, d))


def test_randomized_depends_on_the_seed_only():
    groups = LabelGroups(50, (np.arange(25), np.arange(25, 50)))
    assert np.array_equal(groups.randomized(3).assignment, groups.randomized(3).assignment)
    assert not np.array_equal(groups.randomized(3).assignment, groups.randomized(4).assignment)
    assert not np.array_equal(groups.randomized(3).assignment, groups.assignment)


@settings(max_examples=40, deadline=None)
@given(groups=groupings())
def test_saved_and_loaded_is_equal(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("groups") / "groups.json"
    groups.save(path)
    loaded = LabelGroups.load(path)
    assert loaded.to_dict() == groups.to_dict()


def test_groups_are_named_by_their_first_labels():
    space = LabelSpace("abcdefgh")
    assert COVER.renamed(space).names == ("f, b", "b, c, d", "a, b, c")


@pytest.mark.parametrize(
    ("members", "names", "message"),
    [
        (([],), (), "must hold at least one label"),
        (([8],), (), "each from 0 to 7"),
        (([-1],), (), "each from 0 to 7"),
        (([1, 1],), (), "names a label twice"),
        (([1],), ("a", "b"), "2 names for 1 groups"),
    ],
)
def test_what_is_no_grouping_is_refused(members, names, message):
    with pytest.raises(SelfInformedError, match=message):
        LabelGroups(8, tuple(np.array(m, dtype=np.int64) for m in members), names)


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"format": "other/1"}', json.dumps(COVER.to_dict() | {"members": [["x"]]}), "{}"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "groups.json"
    path.write_text(content)
    with pytest.raises(SelfInformedError, match="groups"):
        LabelGroups.load(path)
