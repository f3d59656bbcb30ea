"""Checks of what functions are given: numbers of any library's types, seeds, and what other functions of this one gave."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import shown


def whole_number(name: str, value: Any, most: int | None = None, what: str = "", *, least: int = 1) -> int:
    """A whole number from `least` to `most`, of any type but bool; `what` says in errors what that is.

    Raises:
        SelfInformedError: it is none.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= (number if most is None else most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise SelfInformedError(f"{name}: expected a whole number {bounds}{what}; got {shown(value)}")
    return number


def seed_of(value: Any, name: str = "seed") -> int:
    """A seed, which PyTorch, NumPy and scikit-learn all take: a whole number from 0 to 2^32 - 1.

    Raises:
        SelfInformedError: it is none.
    """
    return whole_number(name, value, 2**32 - 1, least=0)


def real_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float | None = None, below: float = math.inf, what: str = ""
) -> float:
    """A number of any type but bool, of at least `least` or above `above`, and at most `most` or below `below`; `what` says in errors what else it should be.
    It is finite, unless an infinite bound is among those that it may reach.

    Raises:
        SelfInformedError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    enough = number > -math.inf and (least is None or number >= least) and (above is None or number > above)
    if not enough or not (number < below if most is None else number <= most):
        bounds = {"of at least": least, "above": above, "at most": most, "below": below}
        told = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None and math.isfinite(bound))
        raise SelfInformedError(f"{name}: expected a {f'number {told}' if told else 'finite number'}{what}; got {shown(value)}")
    return number


def real_numbers(name: str, values: Any, **bounds: Any) -> tuple[float, ...]:
    """At least one such number, in a list, a tuple, an array, or whatever else gives them one after another.

    Raises:
        SelfInformedError: there is none, or something else among them.
    """
    try:
        given = () if isinstance(values, str | Mapping) else tuple(values)
    except TypeError:  # one number, also as an array
        given = ()
    if not given:
        raise SelfInformedError(f"{name}: expected a list of numbers, at least one; got {shown(values)}")
    return tuple(real_number(name, value, **bounds) for value in given)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Stops where a value is none of those.

    Raises:
        SelfInformedError: it is not.
    """
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        raise SelfInformedError(f"{name}: expected one of {', '.join(map(str, choices))}; got {shown(value)}")


def near(name: Any, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """A hint for an error about an unknown name: the known ones, so many at most, that look most like it, else what is said otherwise."""
    found = difflib.get_close_matches(str(name), list(known), most)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else otherwise


def expect(value: Any, kind: Any, name: str, what: str, hint: str = "") -> None:
    """Stops where an argument is not of a type, or of one of several; `what` says in errors what it should be, and `hint` what to give.

    Raises:
        SelfInformedError: it is not.
    """
    if not isinstance(value, kind):
        raise SelfInformedError(f"{name}: expected {what}, got {type(value).__name__}{hint and f'; {hint}'}")
