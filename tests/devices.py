"""A second device for tests: its tensors say that they are on it, and refuse to be computed with those of the CPU, as an accelerator's do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

THERE = torch.device("cuda:1")


class There(torch.Tensor):
    """A tensor on the second device."""

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))


def device_of(tensor: torch.Tensor) -> torch.device:
    return THERE if isinstance(tensor, There) else torch.device("cpu")


class SecondDevice(TorchFunctionMode):
    """Within this context there is one; `copies` counts tensors that were moved."""

    copies = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return device_of(args[0])
        if function in (torch.Tensor.to, torch.Tensor.cpu):
            wanted = [*args[1:], *kwargs.values()] if function is torch.Tensor.to else [torch.device("cpu")]
            devices = [part if isinstance(part, torch.device) else device_of(part) for part in wanted if isinstance(part, torch.device | torch.Tensor)]
            kinds = [part if isinstance(part, torch.dtype) else part.dtype for part in wanted if isinstance(part, torch.dtype | torch.Tensor)]
            given = args[0] if not kinds else function(args[0], kinds[0])
            if not devices or devices[0] == device_of(given):
                return given
            self.copies += 1
            return given.as_subclass(There if devices[0] == THERE else torch.Tensor)
        tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor) and part.ndim]
        if function.__name__ not in ("copy_", "as_subclass", "__deepcopy__") and len({isinstance(part, There) for part in tensors}) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, in {function.__name__}")
        return function(*args, **kwargs)


def there(module: nn.Module) -> nn.Module:
    """A module whose tensors are moved to the second device."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.as_subclass(There))
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().as_subclass(There)))
    return module


class Spread(nn.Module):
    """A network whose second half is on another device: what moves its inputs there stands in the forward of each half, as with accelerate's `device_map`."""

    def __init__(self, inputs: int, n_labels: int) -> None:
        super().__init__()
        self.trunk, self.last = nn.Sequential(nn.Linear(inputs, 12), nn.ReLU()), there(nn.Linear(12, n_labels))
        forward = self.last.forward
        self.last.forward = lambda x: forward(x.to(self.last.weight))

    def forward(self, x):
        return self.last(self.trunk(x))
