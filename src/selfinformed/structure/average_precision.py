"""mAP@K, top-1 and top-5, streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.targets import as_targets
from selfinformed.runtime.arguments import one_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.detections import detections

FloatArray = npt.NDArray[np.float64]
RankedBy = Literal["logits", "probabilities"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well scores rank the annotated labels; shares from 0 to 1.

    Attributes:
        mean_average_precision: mean over labels with a positive of `average_precision`.
        mean_average_precision_per_example: mean over annotated examples of the average precision of their own top-K list.
        top1: share of annotated examples whose best label is annotated.
        top5: share of annotated examples with an annotated label among the best five.
        average_precision: float64 [C], NaN for labels without a positive.
        positives: int64 [C], examples annotated with each label.
        n_examples: examples seen.
        top_k: K.
    """

    mean_average_precision: float
    mean_average_precision_per_example: float
    top1: float
    top5: float
    average_precision: FloatArray
    positives: npt.NDArray[np.int64]
    n_examples: int
    top_k: int


def mean_average_precision(scores: Any, targets: Any, top_k: int = 50, ranked_by: RankedBy = "logits") -> float:
    """mAP@K over labels, as Google's published evaluation code computes it.

    Each example keeps its K best labels (ties to the lower label). For each label, the examples that kept it are ranked by score; its average
    precision is the sum of the precision at each hit, over the number of all its positives, kept or not. Examples of equal scores all stand in the
    place of the last of them, so that the order in which examples come does not matter. The mean is over labels with a positive.

    Args:
        scores: logits [N, C], finite.
        targets: classes [N], multi-hot [N, C], or a list of label lists.
        top_k: K; more than C means all labels.
        ranked_by: `probabilities` for a softmax network: its logits may be shifted by any number for each example, so that those of two
            examples cannot be compared.

    Returns:
        0 to 1; NaN where no label has a positive.
    """
    scores = torch.as_tensor(scores, device="cpu").detach()
    if scores.ndim != 2:
        raise SelfInformedError(f"scores: expected logits [examples, labels], got a tensor of shape {list(scores.shape)}")
    ranking = RankingMetrics(scores.shape[1], top_k, ranked_by)
    ranking.update(scores, targets)
    return ranking.compute().mean_average_precision


class RankingMetrics:
    """Gathers each example's K best labels, batch by batch; memory is N x K, whatever C is. For `ranked_by` see `mean_average_precision`."""

    def __init__(self, n_labels: int, top_k: int = 50, ranked_by: RankedBy = "logits") -> None:
        one_of("ranked_by", ranked_by, get_args(RankedBy))
        self.n_labels, self.top_k, self.ranked_by = n_labels, whole_number("top_k", top_k), ranked_by
        self.n_examples = 0
        self._ids: list[npt.NDArray[np.int64]] = []
        self._scores: list[npt.NDArray[np.floating[Any]]] = []
        self._hits: list[npt.NDArray[np.bool_]] = []
        self._annotations: list[npt.NDArray[np.int64]] = []  # how many labels each example carries
        self._positives = np.zeros(n_labels, dtype=np.int64)
        self._top1 = self._top5 = 0

    def update(self, scores: torch.Tensor, targets: Any, name: Callable[[int], str] | None = None) -> None:
        """Adds a batch: logits [B, C] and targets in any form; `name` says how errors call row b."""
        annotated, scores = as_targets(targets, self.n_labels, self.n_examples), scores.detach().cpu()
        if scores.shape != (len(annotated), self.n_labels):
            raise SelfInformedError(f"scores: expected shape [{len(annotated)}, {self.n_labels}], got {list(scores.shape)}")
        ids = detections(scores, min(max(self.top_k, 5), self.n_labels), name)
        scores = scores if scores.dtype == torch.float64 else scores.float()  # rounded, different ones could be equal
        kept = (_log_odds(scores, ids) if self.ranked_by == "probabilities" else scores.gather(1, ids)).numpy()
        labels = ids.numpy()
        examples, truth = annotated.pairs()
        keys = np.arange(len(labels))[:, None] * self.n_labels + labels
        hits = np.isin(keys, examples * self.n_labels + truth)
        self._top1 += int(hits[:, 0].sum())
        self._top5 += int(hits[:, :5].any(axis=1).sum())
        k = min(self.top_k, self.n_labels)
        self._ids.append(labels[:, :k])
        self._scores.append(kept[:, :k])
        self._hits.append(hits[:, :k])
        self._annotations.append(np.diff(annotated.offsets))
        self._positives += annotated.positives()
        self.n_examples += len(labels)

    def compute(self) -> Ranking:
        """The figures over everything added so far."""
        if not self.n_examples:
            raise SelfInformedError("evaluate: no examples; expected at least one")
        ids, scores, hits = np.concatenate(self._ids), np.concatenate(self._scores), np.concatenate(self._hits)
        per_label = self._per_label(ids, scores, hits)
        annotations = np.concatenate(self._annotations)
        n_annotated = int((annotations > 0).sum())
        precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
        per_example = (precision * hits).sum(axis=1)[annotations > 0] / annotations[annotations > 0]
        return Ranking(
            nan_mean(per_label), nan_mean(per_example),
            self._top1 / n_annotated if n_annotated else float("nan"), self._top5 / n_annotated if n_annotated else float("nan"),
            per_label, self._positives.copy(), self.n_examples, self.top_k,
        )  # fmt: skip

    def _per_label(self, ids: npt.NDArray[np.int64], scores: npt.NDArray[np.floating[Any]], hits: npt.NDArray[np.bool_]) -> FloatArray:
        labels = ids.ravel()
        order = np.lexsort((-scores.ravel(), labels))
        labels, hit, scores = labels[order], hits.ravel()[order], scores.ravel()[order]
        starts = np.searchsorted(labels, np.arange(self.n_labels))
        lasts = np.flatnonzero(np.append((labels[1:] != labels[:-1]) | (scores[1:] != scores[:-1]), True))  # of equal scores
        found, at = labels[hit], lasts[np.searchsorted(lasts, np.flatnonzero(hit))]
        total = np.concatenate([[0], np.cumsum(hit)])
        before = starts[found]
        sums = np.bincount(found, weights=(total[at + 1] - total[before]) / (at + 1 - before), minlength=self.n_labels)
        with np.errstate(invalid="ignore"):
            return np.where(self._positives > 0, sums / self._positives, np.nan)


def _log_odds(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p / (1 - p) of the labels `ids` [B, K], best first, which rank as the probabilities p do. That of the best is its difference to the others:
    the probability, and its logarithm, are the same number for every example of which a network is sure."""
    logits = scores.gather(1, ids)
    others = scores.scatter(1, ids[:, :1], -torch.inf).logsumexp(1)
    logs = (logits - scores.logsumexp(1, keepdim=True)).clamp_(max=0)
    found = logs - torch.log1p(-logs.exp())
    found[:, 0] = logits[:, 0] - others
    return found


def nan_mean(values: FloatArray) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
