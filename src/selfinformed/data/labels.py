"""The names of a network's output units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import shown


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
        object.__setattr__(self, "names", tuple(str(name) for name in names))
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
        """The output unit of a label name."""
        try:
            return self._index[name]
        except KeyError:
            raise SelfInformedError(
                f"labels: no label is named {shown(name)}; the {len(self)} labels begin {shown(list(self.names[:3]))}"
            ) from None

    def indices(self, names: Sequence[str]) -> list[int]:
        """The output units of several label names."""
        return [self.index(name) for name in names]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}
