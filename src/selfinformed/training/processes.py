"""The processes that train together: each batch is divided among them, gradients are added up, and weights stay the same in all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from selfinformed.runtime.device import choose_device, world_size
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import first_line

_BACKENDS = {"cuda": "nccl", "xpu": "xccl"}  # where each process has a device of its own
_PATIENCE = timedelta(days=7)  # while one process works alone; one that ends takes the others with it, by torchrun


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
    def whole(self, values: torch.Tensor) -> torch.Tensor:
        """Of each process's part of a batch [b] as `share` gave it, in all of them: those of the whole batch [B]."""
        sizes = torch.zeros(self.world, dtype=torch.int64, device=values.device)
        sizes[self.rank] = len(values)
        distributed.all_reduce(sizes)
        batch = values.new_zeros(int(sizes.sum()))
        batch[self.rank :: self.world] = values
        distributed.all_reduce(batch)
        return batch

    def own(self, numbers: torch.Tensor) -> torch.Tensor:
        """Of numbers of examples in a batch, those of this process's part, as numbers in that part."""
        return numbers[numbers % self.world == self.rank] // self.world

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

    @contextmanager
    def first_alone(self, like: torch.Tensor) -> Iterator[None]:
        """The first process runs the block, then the others do, and find what it has written.

        Raises:
            SelfInformedError: in the others, where it fails in the first.
        """
        done = False
        if self.rank and not self.first(0.0, like):
            raise SelfInformedError("stopped with the first process, whose message says why")
        try:
            yield
            done = True
        finally:
            if not self.rank:
                self.first(float(done), like)

    @torch.no_grad()
    def equalise(self, parameters: Sequence[torch.Tensor]) -> None:
        """Gives all processes the first one's values."""
        for parameter in parameters if self.world > 1 else ():
            value = parameter.detach().contiguous()
            distributed.broadcast(value, 0)
            parameter.copy_(value)


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Within this context the processes that torchrun started are one group of `torch.distributed`; nothing where there is only one.

    They speak by NCCL on CUDA devices (XCCL on Intel's), of which each takes its own unless `device` names one, otherwise by Gloo.

    Raises:
        SelfInformedError: they cannot be joined, there are fewer such devices than processes on this host, or another of them ended.
    """
    if world_size() < 2:
        yield
        return
    own = choose_device(device)
    named = device != "auto" and torch.device(device).index is not None  # and so the same for all of them
    backend = "gloo" if named else _BACKENDS.get(own.type, "gloo")
    if backend == "gloo" and own.type not in ("cpu", "cuda"):
        raise SelfInformedError(f"torchrun: processes cannot train together on {own}, where Gloo adds up no gradients; give --device cpu")
    try:
        told = None if backend == "gloo" or own.index is None else own  # by which they find out at once whether two of them have the same
        distributed.init_process_group(backend, timeout=_PATIENCE, device_id=told)
    except (RuntimeError, ValueError) as error:  # a variable of torchrun's is missing, or nobody answers at its address
        if "Duplicate GPU" in str(error):
            raise SelfInformedError(f"torchrun: there are more processes on this host than {own.type} devices; start fewer, or give --device cpu") from None
        said = f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes cannot be joined ({first_line(error)})"
        raise SelfInformedError(f"torchrun: {said}; start them with torchrun, or unset WORLD_SIZE") from None
    try:
        yield
        distributed.barrier()  # so that none leaves while another still speaks
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise SelfInformedError("torchrun: stopped with another process, whose message says why, or which was killed; run again to go on") from None
        raise
    finally:
        distributed.destroy_process_group()
