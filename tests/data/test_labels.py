"""Names of output units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_every_name_finds_its_unit(names):
    space = LabelSpace(names)
    assert len(space) == len(names)
    assert space.names == tuple(names)
    assert space.indices(names) == list(range(len(names)))


def test_equality_goes_by_names():
    assert LabelSpace(["a", "b"]) == LabelSpace(iter("ab"))
    assert LabelSpace(["a", "b"]) != LabelSpace(["b", "a"])
    assert hash(LabelSpace(["a"])) == hash(LabelSpace(["a"]))


def test_numbered():
    assert LabelSpace.numbered(3).names == ("0", "1", "2")


def test_repr_shows_the_first():
    assert repr(LabelSpace(list("abcd"))) == "LabelSpace(4 labels: 'a', 'b', 'c', …)"
    assert repr(LabelSpace(list("ab"))) == "LabelSpace(2 labels: 'a', 'b')"


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one label name"), (["a", "b", "a"], "'a' stands twice"), (["a", ""], "label 1 has an empty name")],
)
def test_names_that_are_refused(names, message):
    with pytest.raises(SelfInformedError, match=message):
        LabelSpace(names)


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(SelfInformedError, match=r"no label is named 'z'; the 4 labels begin \['a', 'b', 'c'\]"):
        LabelSpace(list("abcd")).index("z")


def test_a_name_that_is_near_is_told():
    with pytest.raises(SelfInformedError, match="no label is named 'red sterne'; did you mean 'red stern'"):
        LabelSpace(["blue stern", "red stern", "zebra"]).index("red sterne")


def test_what_is_no_name_is_one_line():
    with pytest.raises(SelfInformedError, match="no label is named 3"):
        LabelSpace(["a", "b"]).index(3)


def test_the_first_name_that_stands_elsewhere():
    one = LabelSpace(["a", "b", "c"])
    assert one.first_elsewhere(one) is None
    assert one.first_elsewhere(LabelSpace(["a", "c", "b"])) == ("b", 1, 2)
    assert one.first_elsewhere(LabelSpace(["x", "a"])) == ("a", 0, 1)
    assert one.first_elsewhere(LabelSpace(["x", "y", "z"])) is None
    numbers = LabelSpace(["10", "0", "1"])
    assert LabelSpace.numbered(3).first_elsewhere(numbers) is numbers.first_elsewhere(LabelSpace.numbered(3)) is None  # numbers name nothing


@pytest.mark.parametrize("names", [{"a", "b"}, {"b": 1, "a": 0}, {0: "a", 1: "b"}, frozenset("ab")])
def test_names_without_an_order_are_refused(names):
    with pytest.raises(SelfInformedError, match=f"labels: expected a list of names in the order of the outputs.*got {type(names).__name__}"):
        LabelSpace(names)


def test_the_same_numbers_in_another_order_are_elsewhere():
    numbered = LabelSpace.numbered(12)
    by_text = LabelSpace(sorted(numbered.names))
    assert numbered.first_elsewhere(by_text) == ("2", 2, 4)
    assert numbered.first_elsewhere(LabelSpace(list("abcdefghijkl"))) is None
    assert numbered.first_elsewhere(LabelSpace.numbered(13)) is None


@pytest.mark.parametrize("names", ["labels.txt", b"abc", Path("labels.txt"), 3, None])
def test_what_is_no_list_of_names_is_refused(names):
    with pytest.raises(SelfInformedError, match=r"labels: expected a list of names; got .*read_text\(\)\.splitlines\(\)"):
        LabelSpace(names)


@pytest.mark.parametrize("name", [None, float("nan"), np.float64("nan"), b"b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(SelfInformedError, match="labels: expected names; label 1 is (None|nan|np.float64.nan.|b'b')"):
        LabelSpace(["a", name])
