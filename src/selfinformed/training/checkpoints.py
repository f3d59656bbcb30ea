"""A training's state in a file, whole or absent, from which it goes on to the same weights, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import differences, plain, read_tensors, write_tensors
from selfinformed.runtime.reading import parsed, reason_of

FORMAT = "selfinformed.training/1"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training's state is kept.

    Attributes:
        path: a safetensors file.
        about: everything the weights depend on, as JSON values; a file about something else is refused.
        every: steps between two writings, beside those after each pass and each minute.
    """

    path: Path
    about: Mapping[str, Any]
    every: int | None = None

    def due(self, step: int) -> bool:
        """Whether to write after this many steps, in the midst of a pass, whatever the time."""
        return self.every is not None and step % self.every == 0

    def write(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Puts the file in the place of the one before."""
        metadata = {"format": FORMAT, "about": json.dumps(plain(self.about), sort_keys=True), "state": json.dumps(state)}
        write_tensors(self.path, {name: _array(tensor) for name, tensor in tensors.items()}, metadata)

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What was written last; None if nothing was.

        Raises:
            SelfInformedError: the file is of another training, and in what; or it is damaged.
        """
        if not self.path.exists():
            return None
        arrays, metadata = read_tensors(self.path, FORMAT)
        try:
            found, state = parsed(metadata["about"]), parsed(metadata["state"])
            if not isinstance(found, dict) or not isinstance(state, dict):
                raise ValueError("expected two objects")
        except (KeyError, ValueError, RecursionError) as error:
            raise SelfInformedError(f"{self.path} holds no valid state of training ({reason_of(error)}); delete it to train from the start") from None
        if changes := differences(found, self.about):
            raise SelfInformedError(f"{self.path} is of another training ({changes}); delete it, or name another checkpoint")
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, state


def is_finished(path: Path) -> bool:
    """Whether a file holds the state of a training that came to its end; no for one that is damaged or not there."""
    try:
        return parsed(read_tensors(path, FORMAT)[1]["state"])["finished"] is True
    except (SelfInformedError, KeyError, ValueError, TypeError, RecursionError):
        return False


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
