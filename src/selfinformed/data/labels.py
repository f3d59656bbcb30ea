"""The names of a network's output units."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_LABELS, shown

_MISSING = {"None", "nan", "NaT", "<NA>"}
_SEARCHED = 10_000  # names, for one that is near


def composed(name: Any) -> str:
    """A name with each accent in one character with its letter (NFC), where there is such a one."""
    return unicodedata.normalize("NFC", str(name))


@dataclass(frozen=True)
class LabelSpace:
    """Names of the C labels, in the order of the network's output units.

    Args:
        names: one distinct, non-empty string per label. `LabelSpace.numbered(C)` names them "0" to "C-1".

    Raises:
        SelfInformedError: names are empty, repeated, or there are none.
    """

    names: tuple[str, ...] = field(repr=False)

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, Mapping | Set):
            what = "a list of names in the order of the outputs, such as [names[i] for i in range(C)]"
            raise SelfInformedError(f"labels: expected {what}; got {type(names).__name__}, which has no such order")
        given: Any = names
        if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
            raise SelfInformedError(f"labels: expected a list of names; got {shown(names)}; of a file give its lines: Path(...).read_text().splitlines()")
        given = list(given)
        if wrong := [i for i, name in enumerate(given) if isinstance(name, bytes) or (not isinstance(name, str) and str(name) in _MISSING)]:
            raise SelfInformedError(f"labels: expected names; label {wrong[0]} is {shown(given[wrong[0]])}")
        object.__setattr__(self, "names", tuple(map(str, given)))
        if not self.names:
            raise SelfInformedError("labels: expected at least one label name, got none")
        if len(self._index) != len(self.names):
            seen: set[str] = set()
            twice = next(n for n in self.names if n in seen or seen.add(n))  # type: ignore[func-returns-value]
            raise SelfInformedError(f"labels: the name {shown(twice)} stands twice; give each label a name of its own")
        if "" in self._index:
            raise SelfInformedError(f"labels: label {self._index['']} has an empty name; give every label a name")

    @classmethod
    def numbered(cls, n_labels: int) -> LabelSpace:
        """Labels named by their numbers."""
        return cls(str(i) for i in range(n_labels))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.names[:3]))
        return f"LabelSpace({len(self)} labels: {shown}{', …' if len(self) > 3 else ''})"

    def index(self, name: str) -> int:
        """The output unit of a label name; letters with accents may be composed or not, as some file systems have them."""
        try:
            return self._index[name] if name in self._index else self._composed[composed(name)]
        except KeyError:
            near = difflib.get_close_matches(str(name), self.names[:_SEARCHED], 1)
            hint = f"did you mean {shown(near[0])}? The" if near else "the"
            raise SelfInformedError(f"labels: no label is named {shown(name)}; {hint} {len(self)} labels begin {shown(list(self.names[:3]))}") from None

    def indices(self, names: Sequence[str]) -> list[int]:
        """The output units of several label names."""
        return [self.index(name) for name in names]

    def first_elsewhere(self, other: LabelSpace) -> tuple[str, int, int] | None:
        """A name that stands at another place in another set of names, with both its places; None where there is none, or where one set is numbers and the
        other is of other names."""
        if self is other or self.names == other.names:
            return None
        if (self.is_numbers or other.is_numbers) and self._index.keys() != other._index.keys():
            return None
        both = ((name, i, other._index.get(name, i)) for name, i in self._index.items())
        return next((found for found in both if found[1] != found[2]), None)

    def first_other(self, other: LabelSpace) -> int | None:
        """The first label that is named otherwise in another set of names, or is not in one of them; None where there is none, or one set is numbers."""
        if self.names == other.names or self.is_numbers or other.is_numbers:
            return None
        return next((i for i, (own, its) in enumerate(zip(self.names, other.names, strict=False)) if own != its), min(len(self), len(other)))

    @cached_property
    def is_numbers(self) -> bool:
        """Whether each label is named by its number, which says nothing of what it is."""
        return self.names == tuple(map(str, range(len(self))))

    @cached_property
    def _composed(self) -> dict[str, int]:
        return {composed(name): i for i, name in enumerate(self.names)}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}


def as_labels(names: LabelSpace | Iterable[str], n_labels: int | None = None) -> LabelSpace:
    """Label names in either form, and so many, where that is known.

    Raises:
        SelfInformedError: as `LabelSpace`, or they are fewer or more.
    """
    space = names if isinstance(names, LabelSpace) else LabelSpace(names)
    if n_labels not in (None, len(space)):
        raise SelfInformedError(f"labels: {len(space)} label names for {n_labels} labels; give one per label")
    return space


def checked_labels(value: Any) -> list[str | int]:
    """One example's labels: a class number, a name, a list of them, or None for none.

    Raises:
        ValueError: it is none of these, or looks multi-hot.
    """
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    for label in values:
        if not isinstance(label, str | int) or isinstance(label, bool) or label == "" or (isinstance(label, int) and label < 0):
            raise ValueError(f"{shown(label)} is no label; expected a class number from 0 on, or a name")
    if len(set(values)) < len(values):
        raise ValueError(f"{shown(values)} names a label twice; expected class numbers, not one 0 or 1 for each label")
    return list(values)


def resolved(
    annotated: Sequence[Sequence[str | int]], labels: LabelSpace | None, where: Callable[[int], str]
) -> tuple[list[list[int]], LabelSpace]:
    """Output units for each example's class numbers (0 or more) and names, and the label set: by default numbers up to the largest, or names sorted.

    `where` is how errors call an example.

    Raises:
        SelfInformedError: a label is not among those given; without these: there are none, or numbers and names are mixed.
    """
    if labels is None:
        found = {label: row for row, given in enumerate(annotated) for label in given}
        numbers, names = [label for label in found if isinstance(label, int)], [label for label in found if isinstance(label, str)]
        if not found:
            raise SelfInformedError(f"data: {where(0)} and all others have no label")
        if numbers and names:
            some = f"some labels are class numbers and some names ({shown(numbers[0])} and {shown(names[0])})"
            raise SelfInformedError(f"data: {where(found[names[0]])}: {some}; give all label names with `labels`")
        if numbers and (largest := max(numbers)) >= MOST_LABELS:
            raise SelfInformedError(f"data: {where(found[largest])}: the class number {shown(largest)}; expected less than {MOST_LABELS:,}")
        labels = LabelSpace(sorted(names)) if names else LabelSpace.numbered(1 + max(numbers))
    targets = []
    for row, given in enumerate(annotated):
        try:
            targets.append([labels.index(label) if isinstance(label, str) else label for label in given])
            if len(set(given)) < len(given):
                twice = next(label for place, label in enumerate(given) if label in given[:place])
                raise SelfInformedError(f"the label {shown(twice)} twice; expected each once")
            if too_large := [label for label in given if isinstance(label, int) and label >= len(labels)]:
                raise SelfInformedError(f"labels: there is no label {shown(too_large[0])}; there are {len(labels)}, numbered from 0")
        except SelfInformedError as error:
            raise SelfInformedError(f"data: {where(row)}: {error}") from None
    return targets, labels
