"""What a network is called with: one tensor, or several by name, of which the first dimension counts examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from selfinformed.data.hub_datasets import as_tensor
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import reason_of

_SAMPLED = 16  # inputs that are read to tell data from other data, where reading all would take long

Inputs = torch.Tensor | dict[str, torch.Tensor]
"""What a network is called with: one tensor, or keyword arguments; the first dimension counts examples."""
InputsLike = torch.Tensor | Mapping[str, torch.Tensor]
"""The same as it may be given: in any mapping, such as a tokenizer gives."""


def take_inputs(inputs: InputsLike, rows: Any) -> Inputs:
    """Some examples of a batch of inputs; keyword arguments that are no tensors stay as they are."""
    if isinstance(inputs, Mapping):
        return {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    return inputs[rows]


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches of the same inputs as one; `KeyError` or `RuntimeError` where they are not."""
    dicts, tensors = [batch for batch in batches if isinstance(batch, dict)], [batch for batch in batches if isinstance(batch, torch.Tensor)]
    if len({named(batch) for batch in batches}) > 1:
        raise KeyError("other inputs")
    return {name: torch.cat([batch[name] for batch in dicts]) for name in dicts[0]} if dicts else torch.cat(tensors)


def named(inputs: Inputs) -> str:
    """Which inputs there are: the names of a dictionary, sorted, or that it is one tensor."""
    return ", ".join(sorted(map(str, inputs))) if isinstance(inputs, dict) else "one tensor"


def tensors_of(inputs: Any, whose: str, hint: str = "") -> Inputs:
    """Numbers in any form as one tensor, or those of a mapping each as one."""
    found = {}
    for name, values in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
        try:
            found[name] = as_tensor(values)
            if found[name].layout != torch.strided:
                raise TypeError(f"they are sparse ({found[name].layout}); give them dense")
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            who = f"{name!r} of {whose} is" if name else f"{whose} are"
            raise SelfInformedError(f"data: {who} no numbers that torch knows ({reason_of(error)}){hint}") from None
    return found if isinstance(inputs, Mapping) else found[""]


def stacked(inputs: Sequence[Inputs], names: Sequence[str], hint: str) -> Inputs:
    """Inputs of single examples as a batch."""
    first = inputs[0]
    for one, name in zip(inputs, names, strict=True):
        if named(one) != named(first):
            raise SelfInformedError(f"data: {name} has the inputs {named(one)}, {names[0]} has {named(first)}; give all the same")
    found = {}
    for key in first if isinstance(first, dict) else [""]:
        tensors = [one[key] if isinstance(one, dict) else one for one in inputs]
        for tensor, name in zip(tensors, names, strict=True):
            if tensor.shape != tensors[0].shape:
                who, other = (f"{key!r} of {name}", f"{key!r} of {names[0]}") if key else (name, names[0])
                raise SelfInformedError(f"data: {who} has shape {list(tensor.shape)}, {other} has {list(tensors[0].shape)}; {hint}")
        found[key] = torch.stack(tensors)
    return found if isinstance(first, dict) else found[""]


def sample_of(read: Callable[[Sequence[int]], Inputs], n: int) -> bytes:
    """Digests of a few of n inputs that can be read, evenly spaced; none where a second reading differs from the first, as of random distortions."""
    found = b""
    for row in np.linspace(0, n - 1, min(n, _SAMPLED), dtype=np.int64).tolist():
        with suppress(SelfInformedError):
            digest = digest_of(read([row]))
            if digest != digest_of(read([row])):
                return b""
            found += digest
    return found


def digest_of(inputs: Inputs) -> bytes:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(inputs.items()) if isinstance(inputs, dict) else [("", inputs)]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.digest()


def bytes_of(tensor: torch.Tensor) -> memoryview | bytes:
    """A tensor's values, of any type, one after another."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
