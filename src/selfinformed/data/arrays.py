"""Examples from arrays: of NumPy, torch or another library, or in an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.hub_datasets import PADDING
from selfinformed.data.inputs import Inputs, digest_of, stacked, take_inputs, tensors_of
from selfinformed.data.labels import LabelSpace, checked_labels, resolved
from selfinformed.data.targets import Targets, as_targets
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import free_memory
from selfinformed.runtime.reading import opened, reason_of, shown


def from_arrays(inputs: Any, targets: Any, labels: LabelSpace | None) -> Examples:
    """Examples from inputs, an array or several by name, or a list of what a network is called with for each, and targets in any form."""
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], Mapping):
        rows = [f"example {row}" for row in range(len(inputs))]
        tensors = stacked([tensors_of(given, f"the inputs of {row}") for given, row in zip(inputs, rows, strict=True)], rows, PADDING)
    else:
        tensors = tensors_of(inputs, "the inputs", f"; {PADDING}" if isinstance(inputs, Mapping | list) else "; give an array in memory order, as by .copy()")
    if any(tensor.ndim == 0 for tensor in (tensors.values() if isinstance(tensors, dict) else [tensors])):
        raise SelfInformedError("data: the inputs are a single number; their first dimension should count examples")
    checked = as_targets(_numbered(targets, labels), None if labels is None else len(labels))
    for n in [len(t) for t in tensors.values()] if isinstance(tensors, dict) else [len(tensors)]:
        if n != len(checked):
            raise SelfInformedError(f"data: {n} inputs but targets for {len(checked)} examples; give one target per input")
    labels = labels or LabelSpace.numbered(checked.n_labels)
    return Examples(partial(_rows_of, tensors), checked, labels, content=partial(digest_of, tensors))


def _rows_of(tensors: Inputs, rows: Sequence[int]) -> Inputs:
    return take_inputs(tensors, torch.as_tensor(rows, device="cpu"))


def _numbered(targets: Any, labels: LabelSpace | None) -> Any:
    """Targets as they are, or where they are names, one or a list of them for each example, as label lists."""
    numbers = getattr(getattr(targets, "dtype", None), "kind", "O") not in "OUST"  # of an array, of which some types hold text
    if isinstance(targets, torch.Tensor | Targets | Iterator) or numbers or getattr(targets, "ndim", 1) != 1:
        return targets
    rows = targets.tolist() if hasattr(targets, "tolist") else targets
    lists = [row if isinstance(row, list | tuple | set) else [row] for row in rows]
    if (name := next((label for row in lists for label in row if isinstance(label, str)), None)) is None:
        return targets
    if labels is None:
        raise SelfInformedError(f"targets: label names, such as {shown(name)}, want all names in their order beside them; give labels=")
    try:
        return resolved([checked_labels(list(row)) for row in lists], labels, lambda row: f"example {row}")[0]
    except ValueError as error:
        raise SelfInformedError(f"targets: {error}") from None


def read_npz(path: Path) -> tuple[Any, Any]:
    """Inputs and targets of an .npz file, in which nothing is pickled."""
    with opened(path, "data") as content:
        try:
            with np.lib.npyio.NpzFile(content, allow_pickle=False) as file:
                missing = {"inputs", "targets"} - set(file.files)
                if missing:
                    more = "; several inputs by name are given from Python, as ({name: array}, targets)" if "inputs" in missing and file.files else ""
                    found = f"expected `inputs` and `targets`, got {shown(file.files)}{more}"
                    raise SelfInformedError(f"data: {path} has no array {sorted(missing)[0]!r}; {found}")
                _check_room(file.zip)
                if "offsets" in file.files:
                    return file["inputs"], _lists(file["targets"], file["offsets"])
                return file["inputs"], file["targets"]
        except SelfInformedError:
            raise
        except Exception as error:  # decoders raise many kinds on damaged bytes
            raise SelfInformedError(f"data: {path} cannot be read as .npz ({reason_of(error)})") from None


def _lists(labels: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The labels of each example from those of all, one after another."""
    whole = labels.ndim == offsets.ndim == 1 and labels.dtype.kind in "iu" and offsets.dtype.kind in "iu"
    if not whole or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(labels) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise ValueError(f"offsets: expected whole numbers [N + 1] that rise from 0 to the {len(labels):,} targets; targets are then class numbers")
    return np.split(labels, offsets[1:-1].astype(np.int64)) if len(offsets) > 1 else []


def _check_room(archive: zipfile.ZipFile | None) -> None:
    """Stops before arrays are unpacked that the memory has no room for, or that are not as long as their headers say."""
    needed = 0
    assert archive is not None  # it is open
    if bare := {"inputs", "targets", "offsets"} & {*archive.namelist()}:  # which NumPy would read in place of NAME.npy
        raise ValueError(f"it has a member {min(bare)!r} without .npy, which np.savez does not write")
    for name in [name for name in ("inputs.npy", "targets.npy", "offsets.npy") if name in archive.namelist()]:
        member = archive.getinfo(name)
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
            if not dtype.hasobject and (min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size):
                raise ValueError(f"{name} has {member.file_size:,} bytes, which is not {list(shape)} of {dtype}")
        needed += member.file_size
    if needed > (free := free_memory()):
        raise ValueError(f"its arrays take {needed:,} bytes, {free:,} are free")
