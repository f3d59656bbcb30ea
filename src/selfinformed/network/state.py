"""What a module's parameters and persistent buffers are: whether they have changed, and which network they make."""

from __future__ import annotations

import zlib
from collections.abc import Set

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from selfinformed.data.inputs import bytes_of, digest_of


def state_of(model: nn.Module, changing: Set[str] = frozenset()) -> dict[str, tuple[int, int]]:
    """Another one whenever a parameter or a persistent buffer was written to or replaced, told without a look at their values; but for the buffers
    `changing`, in which a model keeps something of each call."""
    return {name: (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for name, tensor in _lasting(model, changing).items()}


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers themselves, by name; not what else a module may keep in its state."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def glance(model: nn.Module, changing: Set[str]) -> int:
    """A checksum over some values of each tensor of `state_of`, since what is written through `.data`, as some optimisers do, leaves no other trace."""
    checksum = 0
    for tensor in _lasting(model, changing).values():
        flat = tensor.detach().flatten()
        checksum = zlib.crc32(bytes_of(flat[:: flat.numel() // 64 | 1]), checksum)
    return checksum


def _lasting(model: nn.Module, changing: Set[str]) -> dict[str, torch.Tensor]:
    """The tensors that have values, and the same from call to call."""
    return {name: tensor for name, tensor in tensors_of(model).items() if name not in changing and not is_lazy(tensor)}


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's parameters and persistent buffers."""
    return digest_of(tensors_of(model)).hex()
