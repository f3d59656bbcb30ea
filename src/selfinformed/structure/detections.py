"""The top-K predicted labels of each example: M_{i,K}(x) of eq. (2)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from selfinformed.runtime.arguments import whole_number
from selfinformed.runtime.errors import SelfInformedError


def default_top_k(n_labels: int) -> int:
    """The paper's ratio of K = 100 to 17,000 labels, between 5 and 100, and at most C."""
    return min(100, max(5, n_labels // 150), n_labels)


def detections(scores: torch.Tensor, top_k: int, name: Callable[[int], str] | None = None) -> torch.Tensor:
    """The K best-scored labels of each example, best first; ties go to the lower label.

    Args:
        scores: logits [B, C], finite.
        top_k: K, from 1 to C.
        name: how the error calls the example in row b; by default "example b".

    Returns:
        int64 [B, K].

    Raises:
        SelfInformedError: a score is NaN or infinite (`torch.topk` would rank NaN highest), or K is not in 1..C.
    """
    if scores.ndim != 2:
        raise SelfInformedError(f"scores: expected logits [batch, labels], got a tensor of shape {list(scores.shape)}")
    if scores.dtype == torch.bool or scores.is_complex():
        raise SelfInformedError(f"scores: expected logits, real numbers; got {str(scores.dtype).removeprefix('torch.')}")
    n_labels = scores.shape[1]
    top_k = whole_number("top_k", top_k, n_labels, ", the number of labels")
    if not torch.isfinite(scores.sum()) and not (finite := torch.isfinite(scores)).all():  # a sum of finite scores can overflow
        row, label = torch.nonzero(~finite)[0].tolist()
        who = name(row) if name else f"example {row}"
        value = scores[row, label].item()
        raise SelfInformedError(f"scores: {who} has the score {value} for label {label}; scores must be finite: look at the network's weights, or that example")
    values, ids = scores.topk(min(top_k + 1, n_labels))
    tied = values[:, -1] == values[:, top_k - 1]  # the best score left out is as good as the lowest kept
    ids = ids[:, :top_k]
    if top_k < n_labels and tied.any():
        ids[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    ids = ids.sort(dim=1).values
    order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order)
