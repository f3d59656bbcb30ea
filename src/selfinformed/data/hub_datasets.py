"""Data sets of Hugging Face's `datasets`, as objects: whoever made one has said where it comes from."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.images import Transform
from selfinformed.data.labels import LabelSpace, checked_labels, resolved
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import reason_of, shown

LABELS = ("labels", "label", "fine_label")  # columns that are taken for the labels, the first that is there
_MASKS = ("attention_mask", "token_type_ids", "pixel_mask")  # which are input beside another one only
_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features", *_MASKS)  # what tokenizers and processors leave
PADDING = "give all rows one length, with padding='max_length' of the tokenizer"


@dataclass(frozen=True)
class HubDataset:
    """The rows of a data set, and what of them is input.

    Attributes:
        rows: a `datasets.Dataset` that gives the inputs.
        image: the column of images; None where `inputs` are what the network is called with.
        inputs: further columns.
        targets: the output units of each row's labels.
        labels: the label set.
    """

    rows: Any
    image: str | None
    inputs: tuple[str, ...]
    targets: list[list[int]]
    labels: LabelSpace

    @staticmethod
    def is_one(source: Any) -> bool:
        """Whether it is a `datasets.Dataset` or several; does not import the package."""
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(source).mro()}
        return not kinds.isdisjoint(("datasets.arrow_dataset.Dataset", "datasets.dataset_dict.DatasetDict"))

    @classmethod
    def of(cls, dataset: Any, labels: LabelSpace | None) -> HubDataset:
        """Its format is kept: columns that it leaves out are not read, and a transform of its own gives the inputs.

        Raises:
            SelfInformedError: it is several splits or empty, or has no labels or inputs that are known.
        """
        datasets = importlib.import_module("datasets")  # which made it
        if isinstance(dataset, dict):
            raise SelfInformedError(f"data: the data set has the splits {shown(list(dataset))}; give one of them")
        if not len(dataset):
            raise SelfInformedError("data: the data set has no rows")
        kinds = {name: dataset.features[name] for name in dataset.format["columns"]}
        classes = [name for name, kind in kinds.items() if isinstance(getattr(kind, "feature", kind), datasets.ClassLabel)]
        column = next((name for name in LABELS if name in kinds), classes[0] if len(classes) == 1 else None)
        if column is None:
            raise SelfInformedError(f"data: the data set has no column `labels` or `label`; its columns are {shown(list(kinds))}")
        if dataset.format["type"] == "custom":
            first, rows = _first_of(dataset), dataset
            inputs, images = [name for name in _INPUTS if name in first], [name for name, value in first.items() if hasattr(value, "convert")]
        else:
            inputs, images = [name for name in _INPUTS if name in kinds], [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
            rows = dataset.with_format("torch", columns=inputs) if inputs else dataset.with_format(None, columns=images)
        if set(inputs) <= set(_MASKS) and len(images) != 1:
            several = f"several columns of images ({', '.join(images)}); remove all but one" if images else (
                f"no column of images, nor one of {', '.join(_INPUTS[: -len(_MASKS)])}; its columns are {shown(list(kinds))}. Map a tokenizer (with "
                "padding='max_length') or an image processor over it first"
            )  # fmt: skip
            raise SelfInformedError(f"data: the data set has {several}")
        targets, space = cls._targets(dataset, column, kinds[column], labels)
        return cls(rows, None if inputs else images[0], tuple(inputs), targets, space)

    @staticmethod
    def _targets(dataset: Any, column: str, kind: Any, labels: LabelSpace | None) -> tuple[list[list[int]], LabelSpace]:
        names = getattr(getattr(kind, "feature", kind), "names", None)
        try:
            values = dataset.with_format(None, columns=[column])[:][column]
        except Exception as error:  # a column may be decoded by anything
            raise SelfInformedError(f"data: the column {column!r} of the data set cannot be read ({type(error).__name__}: {reason_of(error)})") from None
        if (hot := _multi_hot(values)) is not None and (labels is None or len(labels) == len(hot.T)):
            return [np.flatnonzero(row).tolist() for row in hot], labels or LabelSpace(names or LabelSpace.numbered(len(hot.T)).names)
        annotated = []
        for row, value in enumerate(values):
            try:
                numbers = checked_labels(value)
                annotated.append([names[number] for number in numbers] if names else numbers)
            except (ValueError, IndexError, TypeError) as error:
                raise SelfInformedError(f"data: row {row} of the data set: {reason_of(error)}") from None
        return resolved(annotated, labels or (LabelSpace(names) if names else None), lambda row: f"row {row} of the data set")

    @cached_property
    def names(self) -> list[str]:
        return [f"row {row} of the data set" for row in range(len(self.targets))]

    def read(self, row: int, transform: Transform) -> torch.Tensor:
        """One image as a tensor."""
        picture = self._rows([row])[self.image or ""][0]
        if picture is None:
            raise SelfInformedError(f"data: row {row} of the data set has no image")
        try:
            return transform(picture)
        except (OSError, ValueError) as error:
            raise SelfInformedError(f"data: the image in row {row} of the data set cannot be used ({reason_of(error)})") from None

    def read_inputs(self, rows: Sequence[int]) -> torch.Tensor | dict[str, torch.Tensor]:
        """What the network is called with: one tensor, or tokens and whatever has a mask beside it by name."""
        batch = self._rows(rows)
        found = {name: _tensor(name, batch[name], rows[0]) for name in self.inputs}
        return found if len(found) > 1 or "input_ids" in found else found[self.inputs[0]]

    def content(self) -> bytes:
        """The fingerprint that the package keeps of what was done to it; files that it only names are not looked at."""
        return str(getattr(self.rows, "_fingerprint", "")).encode()

    def _rows(self, rows: Sequence[int]) -> dict[str, Any]:
        try:
            return dict(self.rows[list(map(int, rows))])
        except Exception as error:  # a column may be decoded by anything
            raise SelfInformedError(f"data: row {rows[0]} of the data set cannot be read ({type(error).__name__}: {reason_of(error)})") from None


def _first_of(dataset: Any) -> dict[str, Any]:
    """What the transform of a data set makes of its first row."""
    try:
        return {name: values[0] for name, values in dataset[[0]].items()}
    except Exception as error:  # it is the user's
        raise SelfInformedError(f"data: row 0 of the data set cannot be read ({type(error).__name__}: {reason_of(error)})") from None


def as_tensor(values: Any) -> torch.Tensor:
    """Numbers in any form, or a list of tensors or arrays of one shape."""
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, torch.Tensor):
        return torch.stack(values)
    return torch.as_tensor(np.stack(values) if isinstance(first, np.ndarray) else values, device="cpu")


def _tensor(name: str, values: Any, row: int) -> torch.Tensor:
    try:
        return as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        hint = f"; {PADDING}" if name == "input_ids" else ""
        raise SelfInformedError(f"data: {name} of row {row} of the data set makes no tensor with others of its batch ({reason_of(error)}){hint}") from None


def _multi_hot(values: Sequence[Any]) -> npt.NDArray[Any] | None:
    """Rows of one 0 or 1 for each label as an array [N, C], if that is what they are: of one length, and either no whole numbers, or with some twice."""
    width = len(values[0]) if len(values) and isinstance(values[0], list) else 0
    if width < 2 or not all(isinstance(row, list) and len(row) == width for row in values):
        return None
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        return None
    return None if array.dtype.kind in "iu" and width == 2 and (array.sum(1) == 1).all() else array
