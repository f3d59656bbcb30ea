from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups

COVER = LabelGroups(8, ([1, 0, 5], [5, 2], [0, 5, 6, 2]), ("a", "b", "c"), "spectral", (1.0, 0.5))

some_groups = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, n - 1), min_size=1, unique=True), max_size=5).map(lambda members: LabelGroups(n, tuple(members)))
)


def overlaps(groups: LabelGroups) -> list[list[int]]:
    return [[len(set(a.tolist()) & set(b.tolist())) for a in groups.members] for b in groups.members]


def test_what_is_derived_from_members() -> None:
    assert COVER.assignment.tolist() == [0, 0, 1, -1, -1, 0, 2, -1]  # a cover: the first group
    assert COVER.assignment.dtype == np.int64
    assert COVER.ungrouped.tolist() == [3, 4, 7]
    assert COVER.sizes == [3, 2, 4]
    assert len(COVER) == 3


def test_names_by_default_and_after_labels() -> None:
    assert LabelGroups(4, ([0], [2])).names == ("group 0", "group 1")
    renamed = COVER.renamed(LabelSpace(list("abcdefgh")))
    assert renamed.names == ("b, a, f", "f, c", "a, f, g")
    assert (renamed.method, renamed.eigenvalues) == (COVER.method, COVER.eigenvalues)


def test_everything_is_one_group_of_all_labels() -> None:
    groups = LabelGroups.everything(5)
    assert groups.sizes == [5]
    assert groups.assignment.tolist() == [0] * 5


def test_no_groups_at_all() -> None:
    groups = LabelGroups(3, ())
    assert len(groups) == 0
    assert groups.ungrouped.tolist() == [0, 1, 2]
    assert len(groups.randomized(0)) == 0


@settings(max_examples=40)
@given(some_groups, st.integers(0, 99))
def test_assignment_equals_brute_force_and_randomized_keeps_the_topology(groups: LabelGroups, seed: int) -> None:
    first = [next((g for g, m in enumerate(groups.members) if label in m), -1) for label in range(groups.n_labels)]
    assert groups.assignment.tolist() == first
    shuffled = groups.randomized(seed)
    assert shuffled.sizes == groups.sizes
    assert overlaps(shuffled) == overlaps(groups)
    assert shuffled.ungrouped.tolist() == groups.ungrouped.tolist()
    assert [m.tolist() for m in shuffled.members] == [m.tolist() for m in groups.randomized(seed).members]


def test_randomized_moves_labels_and_seeds_differ() -> None:
    groups = LabelGroups(60, tuple(np.arange(60).reshape(6, 10)))
    assert (groups.randomized(0).assignment != groups.assignment).any()
    assert (groups.randomized(0).assignment != groups.randomized(1).assignment).any()
    assert groups.randomized(0).method == "randomized"


@pytest.mark.parametrize(
    ("members", "names", "message"),
    [
        (([0, 1], []), (), "'group 1' must hold at least one label, each a whole number from 0 to 3"),
        (([0, 4],), (), "'group 0' must hold at least one label, each a whole number from 0 to 3"),
        (([-1],), ("birds",), "'birds' must hold at least one label, each a whole number from 0 to 3"),
        (([[0, 1]],), (), "must hold at least one label"),
        (([0, 1, 0],), (), "'group 0' names a label twice"),
        (([0],), ("a", "b"), "2 names for 1 groups"),
    ],
)
def test_refused(members: Any, names: Any, message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        LabelGroups(4, members, names)


@pytest.mark.parametrize("groups", [COVER, LabelGroups(3, ()), LabelGroups.everything(4), COVER.randomized(3)])
def test_saved_and_loaded(groups: LabelGroups, tmp_path: Path) -> None:
    groups.save(tmp_path / "groups.json")
    loaded = LabelGroups.load(tmp_path / "groups.json")
    assert loaded.to_dict() == groups.to_dict()
    assert all(m.dtype == np.int64 for m in loaded.members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "selfinformed.groups/9"}, "expected selfinformed.groups/1, found 'selfinformed.groups/9'"),
        ({"format": None}, "expected selfinformed.groups/1"),
        ({"members": [[1, 99]]}, "1 groups"),
        ({"members": [[1, 0, 99], [5], [0]]}, "each a whole number from 0 to 7"),
        ({"members": [[1, 0.5], [5], [0]]}, "each a whole number from 0 to 7"),
        ({"members": [["x"], [5], [0]]}, "each a whole number from 0 to 7"),
        ({"members": [[1], 5, [0]]}, "must hold at least one label"),
        ({"members": [[1], None, [0]]}, "each a whole number from 0 to 7"),
        ({"members": None}, "not a valid groups file"),
        ({"members": [[1], [2**70], [0]]}, "each a whole number from 0 to 7"),
        ({"n_labels": "many"}, "not a valid groups file"),
        ({"n_labels": float("inf")}, "not a valid groups file"),
        ({"eigenvalues": [None]}, "not a valid groups file"),
        ({"names": 3}, "not a valid groups file"),
    ],
    ids=str,
)
def test_invalid_files_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(COVER.to_dict() | change))
    with pytest.raises(SelfInformedError, match=message):
        LabelGroups.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"groups"', "{}"])
def test_files_that_hold_no_groups_are_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(SelfInformedError, match=r"groups\.json"):
        LabelGroups.load(tmp_path / "groups.json")
    with pytest.raises(SelfInformedError, match=r"none\.json does not exist"):
        LabelGroups.load(tmp_path / "none.json")


def test_groups_of_both_in_order_and_only_of_as_many_labels() -> None:
    both = COVER + LabelGroups(8, ([3],), ("d",))
    assert [m.tolist() for m in both.members] == [[1, 0, 5], [5, 2], [0, 5, 6, 2], [3]]
    assert both.names == ("a", "b", "c", "d")
    assert (both.method, both.eigenvalues) == (COVER.method, COVER.eigenvalues)
    with pytest.raises(SelfInformedError, match="groups: made for 8 and for 7 labels"):
        COVER + LabelGroups(7, ([3],))


def test_the_first_control_has_seed_0_and_what_is_printed_leaves_eigenvalues_out() -> None:
    assert [m.tolist() for m in COVER.randomized().members] == [m.tolist() for m in COVER.randomized(0).members]
    assert "eigenvalues" not in repr(COVER)


@settings(max_examples=50)
@given(st.integers(2, 12), st.integers(1, 11), st.integers(0, 100))
def test_groups_of_all_labels_stay_and_make_no_label_a_grouped_one(n_labels: int, n_grouped: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(n_labels)[: min(n_grouped, n_labels - 1)]
    specialists, dense = LabelGroups(n_labels, tuple(np.array_split(labels, min(2, len(labels))))), LabelGroups.everything(n_labels)
    for groups in (specialists + dense, dense + specialists):
        alone, drawn = specialists.randomized(seed), groups.randomized(seed)
        parts = [(name, m.tolist()) for name, m in zip(drawn.names, drawn.members, strict=True)]
        assert ("all labels", list(range(n_labels))) in parts
        assert [m for name, m in parts if name != "all labels"] == [m.tolist() for m in alone.members]
        assert {label for name, m in parts if name != "all labels" for label in m} == {*labels.tolist()}
    only = (dense + dense).randomized(seed)
    assert [m.tolist() for m in only.members] == [list(range(n_labels))] * 2


@pytest.mark.parametrize("seed", [-1, 0.5, "x", None])
def test_a_seed_that_is_none(seed: Any) -> None:
    with pytest.raises(SelfInformedError, match=f"^seed: expected a whole number from 0 to 4294967295; got {seed!r}$"):
        COVER.randomized(seed)


def test_labels_of_every_group_are_permuted_the_first_too() -> None:
    groups = LabelGroups(41, tuple(np.arange(40).reshape(2, 20)))
    for own, drawn in zip(groups.members, groups.randomized(0).members, strict=True):
        assert set(own.tolist()) != set(drawn.tolist())


def test_as_a_frame_and_as_a_table() -> None:
    frame = LabelGroups(4, ([2, 0], [2]), ("x", "y")).to_frame()
    assert frame.values.tolist() == [[2, 0, "x"], [0, 0, "x"], [2, 1, "y"], [1, -1, ""], [3, -1, ""]]
    assert list(frame.columns) == ["label", "group", "group_name"]
    named = LabelGroups(4, ([2, 0], [2]), ("x", "y")).to_frame(LabelSpace(list("abcd")))
    assert named["name"].tolist() == ["c", "a", "c", "b", "d"]
    html = LabelGroups(4, ([2, 0], [2]), ("x", "y"))._repr_html_()
    assert "2 groups of 4 labels; 1 in none" not in html
    assert "2 groups of 4 labels; 2 in none" in html
    assert re.findall(r"<td[^>]*>([^<]+)</td>", html) == ["1", "x", "2", "2", "y", "1"]
