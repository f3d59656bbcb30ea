"""Label groups: a partition of the labels, or a cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from selfinformed.data.labels import LabelSpace, as_labels
from selfinformed.runtime.arguments import expect, seed_of
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, write_json
from selfinformed.runtime.reading import MOST_LABELS, naming, reason_of, shown
from selfinformed.runtime.tabular import Table, frame

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "selfinformed.groups/1"
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelGroups:
    """Groups of labels, each served by one head.

    Attributes:
        n_labels: C.
        members: for each group its labels, int64, the most confused first where they come from clustering.
        names: for each group a short name.
        method: how they were found ("spectral", "randomized", ...).
        eigenvalues: the leading eigenvalues seen in clustering, largest first; empty otherwise.
    """

    n_labels: int
    members: tuple[IntArray, ...]
    names: tuple[str, ...] = ()
    method: str = "given"
    eigenvalues: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        members = tuple(np.asarray(m) for m in self.members)
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"group {i}" for i in range(len(members))))
        if len(self.names) != len(members):
            raise SelfInformedError(f"groups: {len(self.names)} names for {len(members)} groups")
        for name, labels in zip(self.names, members, strict=True):
            if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.n_labels:
                raise SelfInformedError(f"groups: {name!r} must hold at least one label, each a whole number from 0 to {self.n_labels - 1}")
            if len(np.unique(labels)) != len(labels):
                raise SelfInformedError(f"groups: {name!r} names a label twice")
        object.__setattr__(self, "members", tuple(m.astype(np.int64) for m in members))

    @classmethod
    def everything(cls, n_labels: int) -> LabelGroups:
        """One group of all labels: its head is a dense head."""
        return cls(n_labels, (np.arange(n_labels),), ("all labels",), "dense")

    def __len__(self) -> int:
        return len(self.members)

    def __add__(self, other: LabelGroups) -> LabelGroups:
        """The groups of both, those of `self` first: in general a cover."""
        if self.n_labels != other.n_labels:
            raise SelfInformedError(f"groups: made for {self.n_labels} and for {other.n_labels} labels")
        return LabelGroups(self.n_labels, self.members + other.members, self.names + other.names, self.method, self.eigenvalues)

    @property
    def assignment(self) -> IntArray:
        """int64 [C]: each label's group, the first one for a cover, -1 for none."""
        assigned = np.full(self.n_labels, -1, dtype=np.int64)
        for group in reversed(range(len(self))):
            assigned[self.members[group]] = group
        return assigned

    @property
    def ungrouped(self) -> IntArray:
        """Labels in no group."""
        return np.flatnonzero(self.assignment < 0)

    @property
    def sizes(self) -> list[int]:
        """How many labels each group has."""
        return [len(m) for m in self.members]

    def randomized(self, seed: int = 0) -> LabelGroups:
        """The paper's control: the same group sizes and overlaps, the grouped labels randomly permuted among themselves. Groups of all labels (a dense
        head's) stay as they are, and do not make a label a grouped one."""
        partial = [size < self.n_labels for size in self.sizes]
        grouped = np.unique(np.concatenate([np.empty(0, np.int64), *compress(self.members, partial)]))
        permutation = np.arange(self.n_labels)
        permutation[grouped] = np.random.default_rng(seed_of(seed)).permutation(grouped)
        members = tuple(permutation[m] if moved else m for m, moved in zip(self.members, partial, strict=True))
        names = tuple(f"random {i}" if moved else self.names[i] for i, moved in enumerate(partial))
        return LabelGroups(self.n_labels, members, names, "randomized")

    def renamed(self, labels: LabelSpace | Sequence[str]) -> LabelGroups:
        """Names each group by its first three labels."""
        named = as_labels(labels, self.n_labels).names
        names = tuple(", ".join(named[i] for i in m[:3]) for m in self.members)
        return LabelGroups(self.n_labels, self.members, names, self.method, self.eigenvalues)

    def to_frame(self, labels: LabelSpace | Sequence[str] | None = None) -> pd.DataFrame:
        """A row {label, name (where `labels` are given), group, group_name} per label and group that it is in, by group; labels in none come
        last, with group -1. Needs the extra `pandas`."""
        names = None if labels is None else as_labels(labels, self.n_labels).names
        rows = [(label, i, self.names[i]) for i, members in enumerate(self.members) for label in members.tolist()]
        rows += [(label, -1, "") for label in self.ungrouped.tolist()]
        return frame(
            {"label": label, **({"name": names[label]} if names else {}), "group": group, "group_name": name} for label, group, name in rows
        )

    def _repr_html_(self) -> str:
        rows = [{"group": i + 1, "name": name, "labels": size} for i, (name, size) in enumerate(zip(self.names, self.sizes, strict=True))]
        return Table.of(f"{len(self)} groups of {self.n_labels:,} labels; {len(self.ungrouped):,} in none", rows, ("name",)).to_html()

    def to_dict(self) -> dict[str, Any]:
        """As groups.json holds it: plain lists, numbers and texts."""
        return {
            "format": FORMAT, "n_labels": self.n_labels, "method": self.method, "names": list(self.names),
            "members": [m.tolist() for m in self.members], "eigenvalues": list(self.eigenvalues),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Any, where: str = "groups") -> LabelGroups:
        """Reads what `to_dict` gave; `where` is named in errors."""
        try:
            if content["format"] != FORMAT:
                raise SelfInformedError(f"{where}: expected {FORMAT}, found {shown(content['format'])}")
            if not 1 <= int(content["n_labels"]) <= MOST_LABELS:
                raise ValueError(f"n_labels: expected 1 to {MOST_LABELS}, found {shown(content['n_labels'])}")
            with naming(where):
                return cls(
                    int(content["n_labels"]), tuple(content["members"]), tuple(map(str, content["names"])),
                    str(content["method"]), tuple(map(float, content["eigenvalues"])),
                )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SelfInformedError(f"{where}: not a valid groups file ({reason_of(error)}); delete it to have it made again") from None

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> LabelGroups:
        """Reads what `save` wrote."""
        return cls.from_dict(read_json(path, "groups"), str(path))


def check_groups(groups: Any, n_labels: int) -> None:
    """That these are groups of so many labels."""
    expect(groups, LabelGroups, "groups", "what cluster gave", "give LabelGroups(n_labels, members) for your own, and of a plan plan.groups")
    if groups.n_labels != n_labels:
        raise SelfInformedError(f"groups: made for {groups.n_labels} labels, the network has {n_labels}")
