"""Counting on an accelerator: detections that are there already are added to a dense matrix beside them."""

from __future__ import annotations

import torch

from selfinformed.data.targets import Targets
from selfinformed.runtime.memory import free_on
from selfinformed.structure.tables import CountTable

_AT_A_TIME = 16_000_000  # cells added in one step


class DeviceCounts:
    """Counts [owner, detected] as int64 on a device, taken over by a `CountTable` when all is counted."""

    def __init__(self, n_labels: int, device: torch.device) -> None:
        self.n_labels, self.n_examples = n_labels, 0
        self._cells = torch.zeros(n_labels * n_labels, dtype=torch.int64, device=device)

    def add(self, ids: torch.Tensor, annotated: Targets | None) -> None:
        """Adds detections [B, K] to the rows of the annotated labels (eq. 3), or of the detected ones (eq. 4) where `annotated` is None."""
        ids = ids.to(self._cells.device, torch.int64)
        if annotated is None:
            examples, owners = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1]), ids.reshape(-1)
        else:
            examples, owners = (torch.from_numpy(array).to(ids.device) for array in annotated.pairs())
        size = max(1, _AT_A_TIME // ids.shape[1])
        for some, of in zip(torch.split(examples, size), torch.split(owners, size), strict=True):
            cells = (of[:, None] * self.n_labels + ids[some]).reshape(-1)
            self._cells.index_add_(0, cells, torch.ones_like(cells))  # integers: exact in any order
        self.n_examples += len(ids)

    def to_table(self) -> CountTable:
        """The counts on the CPU."""
        rows = self._cells.view(self.n_labels, self.n_labels).cpu().numpy()
        return CountTable.from_arrays(self.n_labels, {"rows": rows}, self.n_examples)


def fits(n_labels: int, device: torch.device) -> bool:
    """Whether a device is of CUDA, which adds up 64-bit integers wherever they are, and has room for the matrix twice over."""
    return device.type == "cuda" and 2 * 8 * n_labels**2 <= free_on(device)


def sound(ids: torch.Tensor, n_labels: int) -> bool:
    """Whether detections [B, K] are labels, none named twice in a row."""
    if ids.numel() == 0:
        return True
    ordered = ids.sort(dim=1).values
    inside = (ordered[:, 0] >= 0).all() & (ordered[:, -1] < n_labels).all()
    return bool(inside & (ordered[:, 1:] != ordered[:, :-1]).all())
