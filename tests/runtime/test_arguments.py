"""Numbers, seeds and types of arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from conftest import refused
from selfinformed.runtime.arguments import expect, one_of, real_number, real_numbers, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers(value):
    assert whole_number("k", value, 7) == value
    assert type(whole_number("k", np.int64(3))) is int


@pytest.mark.parametrize("value", [0, -1, 8, 2.0, "3", None, float("nan"), True])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(SelfInformedError, match=f"^k: expected a whole number from 1 to 7, the letters; got {value!r}$"):
        whole_number("k", value, 7, ", the letters")
    if value != 8:
        with pytest.raises(SelfInformedError, match=f"^k: expected a whole number of at least 1; got {value!r}$"):
            whole_number("k", value)


def test_seeds_are_what_every_generator_takes():
    assert [seed_of(seed) for seed in (0, np.uint32(3), 2**32 - 1)] == [0, 3, 2**32 - 1]
    for seed in (-1, 2**32, 1.0, None, False):
        with refused(f"chance: expected a whole number from 0 to 4294967295; got {seed}"):
            seed_of(seed, "chance")


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float16(0), np.int8(1)])
def test_real_numbers(value):
    found = real_number("share", value, least=0, most=1)
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, 10**400, "1", None, True, [0.5], 1j])
def test_what_is_no_number_of_a_range_is_refused(value):
    for bounds, words in (
        ({"least": 0, "most": 1}, "a number of at least 0 and at most 1"), ({"least": 0, "below": 1}, "a number of at least 0 and below 1"),
    ):  # fmt: skip
        with refused(f"share: expected {words}, of examples; got "):
            real_number("share", value, **bounds, what=", of examples")


def test_ends_of_ranges_and_infinity():
    assert real_number("x", math.inf, most=math.inf) == math.inf
    for value, bounds, words in ((0, {"above": 0}, "a number above 0"), (1, {"below": 1}, "a number below 1"), (math.inf, {}, "a finite number")):
        with refused(f"x: expected {words}; got {value}$"):
            real_number("x", value, **bounds)


@pytest.mark.parametrize("values", [[1, 2], (1.0, 2.0), np.array([1, 2]), {1: 0, 2: 0}.keys(), range(1, 3)])
def test_lists_of_numbers(values):
    assert real_numbers("x", values) == (1.0, 2.0)


@pytest.mark.parametrize("values", [[], "12", 1, np.array(1), {1: 2}])
def test_what_is_no_list_of_numbers_is_refused(values):
    with refused("x: expected a list of numbers, at least one; got "):
        real_numbers("x", values)


def test_types_and_choices():
    expect(1, int | None, "x", "a number")
    one_of("x", np.str_("a"), ("a", "b"))
    with refused("x: expected a number, got str; give 1$"):
        expect("1", int, "x", "a number", "give 1")
    for value in (1, "c", [True]):
        with refused("x: expected one of True, False, a; got "):
            one_of("x", value, (True, False, "a"))
