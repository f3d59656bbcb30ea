"""The processes that train together: each batch is divided among them, gradients are added up, and weights stay the same in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Processes:
    """This process among those of `torch.distributed`, which its caller has initialised; one alone otherwise.

    DistributedDataParallel is not used: gradients enter at the scores, so that one sum over all of them at the end is all there is to do.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Those of the process group, if `torch.distributed.init_process_group` was called."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch: every row goes to one process, none to two."""
        return rows if self.world == 1 else rows[self.rank :: self.world]

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Adds the gradients of all processes up, in all. A parameter without a gradient in any keeps none."""
        if self.world == 1:
            return
        has = parameters[0].new_tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*(p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters), has])
        distributed.all_reduce(flat)
        sums = flat.split([p.numel() for p in parameters] + [len(parameters)])  # type: ignore[no-untyped-call]
        for parameter, total, count in zip(parameters, sums[:-1], sums[-1].tolist(), strict=True):
            if count:
                parameter.grad = total.view_as(parameter).clone()

    def sum(self, value: float, like: torch.Tensor) -> float:
        """The sum over processes of a number; `like` says on which device they speak."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=like.device)
        distributed.all_reduce(total)
        return float(total)

    def first(self, value: float, like: torch.Tensor) -> float:
        """The first process's number, in all."""
        return self.sum(value if self.rank == 0 else 0.0, like)

    @torch.no_grad()
    def equalise(self, parameters: Sequence[torch.Tensor]) -> None:
        """Gives all processes the first one's values."""
        for parameter in parameters if self.world > 1 else ():
            value = parameter.detach().contiguous()
            distributed.broadcast(value, 0)
            parameter.copy_(value)
