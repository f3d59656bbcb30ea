"""Map-style data sets: whatever gives an input and its labels for a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.hub_datasets import LABELS, PADDING
from selfinformed.data.inputs import Inputs, sample_of, stacked, tensors_of
from selfinformed.data.labels import LabelSpace
from selfinformed.data.targets import Targets, as_targets
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import shown

_COMPARED = 4  # items whose labels are held against what the data set says of all


def from_map_style(dataset: Any, labels: LabelSpace | None, skip_bad: int) -> Examples:
    """Examples from what gives inputs and labels for a number; `targets` and `classes` of it are believed as far as its items agree."""
    items = _Items(dataset, skip_bad)
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [items.item(row, 1) for row in range(len(dataset))]
    classes = _classes_of(dataset)
    by_name = classes is not None and labels is not None and not labels.is_numbers and bool({*classes.names} & {*labels.names})
    numbered = classes if by_name or labels is None else labels  # what the class numbers are of
    checked = as_targets(targets, len(numbered) if numbered else None)
    if len(checked) != len(dataset):
        raise SelfInformedError(f"data: {type(dataset).__name__} has {len(dataset)} examples, and its `targets` are of {len(checked)}")
    for row in np.linspace(0, len(checked) - 1, min(len(checked), _COMPARED), dtype=np.int64).tolist():
        own: Targets | None = None
        with suppress(SelfInformedError):  # it cannot be read, or gives labels in another form
            own = as_targets([items.item(row, 1)], checked.n_labels)
        if own is not None and not own.is_same(checked.take([row])):
            said = f"has the labels {shown(own.labels.tolist())}, and its `targets` say {shown(checked.of(row).tolist())}"
            hint = "the attribute is of other examples, or before a transform: give (inputs, targets), or take it away"
            raise SelfInformedError(f"data: example {row} of {type(dataset).__name__} {said}; {hint}")

    labels = labels or numbered or LabelSpace.numbered(checked.n_labels)
    if numbered and by_name:
        checked = _renumbered(checked, numbered, labels)
    return Examples(items.read, checked, labels, skip_bad=skip_bad, content=partial(sample_of, items.read, len(checked)))


@dataclass(frozen=True)
class _Items:
    """What a map-style data set gives."""

    dataset: Any
    skip_bad: int

    def item(self, row: int, part: int) -> Any:
        who = f"example {row} of {type(self.dataset).__name__}"
        try:
            found = self.dataset[row]
            if isinstance(found, Mapping) and (column := next((name for name in LABELS if name in found), None)):
                found = {name: value for name, value in found.items() if name != column}, found[column]
            if not isinstance(found, Mapping) and len(found) != 2:
                raise ValueError(f"it has {len(found)} members, not inputs and labels")
            value = found if isinstance(found, Mapping) else found[part]
        except Exception as error:  # a data set may do anything
            aside = "; to set such examples aside give the data set an attribute `targets`" if part and self.skip_bad else ""
            raise SelfInformedError(f"data: {who} cannot be read ({type(error).__name__}: {error}){aside}") from error
        if isinstance(found, Mapping):
            names = ", ".join(map(str, found))
            raise SelfInformedError(f"data: {who} is one dictionary of {names}; give labels too, as `labels` in it or in pairs (dictionary, labels)")
        return tensors_of(value, f"the inputs of {who}") if part == 0 else value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value

    def read(self, rows: Sequence[int]) -> Inputs:
        return stacked([self.item(row, 0) for row in rows], [f"example {row}" for row in rows], PADDING)


def _classes_of(dataset: Any) -> LabelSpace | None:
    """The names that a data set, or the one of which it is a `Subset`, gives its class numbers."""
    while not getattr(dataset, "classes", None) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    return LabelSpace(found) if found else None


def _renumbered(targets: Targets, classes: LabelSpace, labels: LabelSpace) -> Targets:
    """Targets that number `classes`, as targets that number `labels`, by their names."""
    used = np.flatnonzero(targets.positives())
    place = np.full(len(classes), -1)
    place[used] = labels.indices([classes.names[label] for label in used])
    examples, numbers = targets.pairs()
    return Targets(targets.offsets, place[numbers][np.lexsort((place[numbers], examples))], len(labels))
