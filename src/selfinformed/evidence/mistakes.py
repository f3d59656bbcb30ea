"""Which label was taken for which on every example, and how sure the network was of its best one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.data.examples import Examples
from selfinformed.network.wrap import Output
from selfinformed.structure.detections import detections
from selfinformed.training.features import FeatureStore, Model, score_batches
from selfinformed.training.fitting import guess_output

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Labels taken for annotated ones.

    An example with n annotated labels should have just those as its n best. Each wrong one among them was taken for each annotated one that
    is missing: one row. With one label per example, counted they are the off-diagonal cells of the ordinary confusion matrix. (The counts of
    eq. 3 cannot tell this in multi-label data: there, labels annotated together are detected together.)

    Attributes:
        example, taken, annotated: int64 [M]: the example's number, the wrong label, the missing one.
        confidence: float32 [M], the probability, 0 to 1, that the network gave the wrong label.
    """

    example: IntArray
    taken: IntArray
    annotated: IntArray
    confidence: npt.NDArray[np.float32]

    def pairs(self) -> Counter[tuple[int, int]]:
        """(taken label, annotated label) to a number of examples."""
        return Counter(zip(self.taken.tolist(), self.annotated.tolist(), strict=True))

    def most_confident(self, number: int) -> Mistakes:
        """Those among the `number` most confident of the label that was taken, or of the one that was missed; the most confident first."""
        order = np.lexsort((self.annotated, self.taken, self.example, -self.confidence))
        kept = np.zeros(len(order), dtype=bool)
        for labels in (self.taken, self.annotated):
            by_label = order[np.argsort(labels[order], kind="stable")]
            own = labels[by_label]
            place = np.arange(len(own)) - np.searchsorted(own, own)
            kept[by_label[place < number]] = True
        chosen = order[kept[order]]
        return Mistakes(self.example[chosen], self.taken[chosen], self.annotated[chosen], self.confidence[chosen])


@dataclass(frozen=True)
class Calibration:
    """Whether the best label is annotated as often as its probability says (Guo et al. 2017).

    Attributes:
        rows: {low, high, n, confidence, accuracy} for each of 15 equally wide bins of the best label's probability: how many examples
            fell there, their mean probability, and the share of them annotated with that label; both None in an empty bin.
        error: expected calibration error, 0 to 1: the mean over examples of |accuracy - confidence| of their bin; NaN without an example.
    """

    rows: tuple[dict[str, Any], ...]
    error: float

    @classmethod
    def of(cls, confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], bins: int = 15) -> Calibration:
        """From the probability of each example's best label [N], and whether it is annotated [N]."""
        place = np.minimum((confidence.astype(float) * bins).astype(int), bins - 1)
        n = np.bincount(place, minlength=bins)
        sums = {name: np.bincount(place, weights=of, minlength=bins) for name, of in (("confidence", confidence), ("accuracy", right))}
        rows = [
            {"low": i / bins, "high": (i + 1) / bins, "n": int(n[i]), **{name: values[i] / n[i] if n[i] else None for name, values in sums.items()}}
            for i in range(bins)
        ]
        return cls(tuple(rows), float(np.abs(sums["accuracy"] - sums["confidence"]).sum() / n.sum()) if n.sum() else float("nan"))

    def to_dict(self) -> dict[str, Any]:
        """As evaluation.json holds it."""
        return {"bins": list(self.rows), "expected_calibration_error": self.error}


def mistakes(model: Model, data: Examples | FeatureStore) -> tuple[Mistakes, Calibration]:
    """Both over all annotated examples, in one pass. Probabilities are the sigmoid of a logit, or the softmax of all where the network's output is that."""
    output: Output = model.output or guess_output(data.targets)
    columns: list[list[npt.NDArray[Any]]] = [[], [], [], []]
    confidences, right, done = [], [], 0
    for scores, targets, name in score_batches(model, data):
        numbers = np.diff(targets.offsets)
        best = detections(scores, min(max(int(numbers.max(initial=0)), 1), scores.shape[1]), name)
        logits = scores.gather(1, best).float()
        sure = ((logits - scores.float().logsumexp(1, keepdim=True)).exp() if output == "softmax" else logits.sigmoid()).numpy()
        found = best.numpy()
        examples, labels = targets.pairs()
        hits = np.isin(np.arange(len(found))[:, None] * scores.shape[1] + found, examples * scores.shape[1] + labels)
        counted = np.arange(found.shape[1]) < numbers[:, None]
        confidences.append(sure[numbers > 0, 0])
        right.append(hits[numbers > 0, 0])
        for row in np.flatnonzero((counted & ~hits).any(1)).tolist():
            missed = np.setdiff1d(targets.of(row), found[row][counted[row]])
            for place in np.flatnonzero(counted[row] & ~hits[row]):
                for column, value in zip(columns, (done + row, found[row, place], missed, sure[row, place]), strict=True):
                    column.append(np.broadcast_to(value, missed.shape))
        done += len(found)
    example, taken, annotated, confidence = (np.concatenate([np.empty(0, np.int64), *column]) for column in columns)
    rows = Mistakes(example.astype(np.int64), taken.astype(np.int64), annotated.astype(np.int64), confidence.astype(np.float32))
    return rows, Calibration.of(np.concatenate(confidences), np.concatenate(right))
