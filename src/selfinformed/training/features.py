"""The feature store: what heads and classifier read, computed once by the frozen network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.augmented.readers import InputTransform
from selfinformed.data.examples import Examples
from selfinformed.data.targets import Targets
from selfinformed.network.wrap import FeatureShape, WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.structure.average_precision import Ranking, RankingMetrics
from selfinformed.structure.measuring import check_labels

FORMAT = "selfinformed.features/1"
_FEATURES_AT_ONCE = 512
HeadInput = Literal["whitened", "standardised", "raw"]


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Cached features of N examples.

    Attributes:
        attached: float32 [N, D], the attach point.
        penultimate: float32 [N, P], the classifier's input.
        targets: annotations.
        fingerprint: of the network that computed them.
        seconds: how long that took.
        examples: what they were computed from, where that is at hand.
        shapes: of the attach points, whose features stand side by side.
    """

    attached: torch.Tensor
    penultimate: torch.Tensor
    targets: Targets
    fingerprint: str
    seconds: float
    examples: Examples | None = None
    shapes: tuple[FeatureShape, ...] = ()

    def __post_init__(self) -> None:
        if not self.shapes:
            object.__setattr__(self, "shapes", (FeatureShape(self.attached.shape[1]),))
        bad = torch.nonzero(~(self.attached.sum(1) + self.penultimate.sum(1)).isfinite()).flatten()
        if len(bad):
            who = self.examples.name(int(bad[0])) if self.examples is not None else f"example {int(bad[0])}"
            raise SelfInformedError(f"features: the network gives {who} features that are not finite; mend the example or the network")

    def __len__(self) -> int:
        return len(self.attached)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What heads and classifier read of some examples: float32 [b, D] and [b, P]."""
        return self.attached[rows].float(), self.penultimate[rows].float()

    def permutation(self, generator: torch.Generator) -> torch.Tensor:
        """All example numbers in a random order that can be read fast."""
        return torch.randperm(len(self), generator=generator)

    def transformed(self, transform: InputTransform) -> FeatureStore:
        """The same examples as heads see them behind a transform."""
        return replace(self, attached=transform(self.attached))

    @classmethod
    def build(cls, net: WrappedClassifier, examples: Examples, batch_size: int = 64, what: str = "caching features") -> FeatureStore:
        """Runs the network once over the examples; unreadable ones that may be skipped are left out."""
        check_labels(net, examples)
        start = time.perf_counter()
        kept, attached, penultimate = [], [], []
        for rows, inputs in examples.batches(batch_size, what):
            features = net.features(inputs)
            kept.append(rows)
            attached.append(features.attached.float().cpu())
            penultimate.append(features.penultimate.float().cpu())
        if not kept:
            raise SelfInformedError("features: there is no example to read")
        source = examples.take(np.concatenate(kept)) if examples.skipped else examples
        seconds = time.perf_counter() - start
        return cls(torch.cat(attached), torch.cat(penultimate), source.targets, net.fingerprint, seconds, source, net.shapes)

    def save(self, path: str | Path) -> None:
        """Writes safetensors, atomically."""
        arrays = {
            "attached": self.attached.numpy(), "penultimate": self.penultimate.numpy(),
            "offsets": self.targets.offsets, "labels": self.targets.labels,
        }  # fmt: skip
        numbers = {"n_labels": str(self.targets.n_labels), "fingerprint": self.fingerprint, "seconds": str(self.seconds)}
        write_tensors(path, arrays, {"format": FORMAT, **numbers})

    @classmethod
    def load(cls, path: str | Path, net: WrappedClassifier, examples: Examples | None = None) -> FeatureStore:
        """Reads what `save` wrote, for the same network only; `examples` are those it was built from."""
        arrays, metadata = read_tensors(path, FORMAT)
        if metadata.get("fingerprint") != net.fingerprint:
            raise SelfInformedError(f"{path} holds features of another network; delete it to have them computed again")
        try:
            targets = Targets(arrays["offsets"], arrays["labels"], int(metadata["n_labels"]))
            attached, penultimate = torch.from_numpy(arrays["attached"]), torch.from_numpy(arrays["penultimate"])
            return cls(attached, penultimate, targets, metadata["fingerprint"], float(metadata["seconds"]), examples, net.shapes)
        except (KeyError, ValueError) as error:
            raise SelfInformedError(f"{path} holds no valid features ({error!r}); delete it to have them computed again") from None

    def input_transform(self, kind: HeadInput) -> InputTransform:
        """What gives each attach point, over these examples (and the positions of a map), zero mean and unit deviations (`standardised`)
        or also no correlations (`whitened`, symmetric, shrunk by a hundredth of the mean variance).
        """
        if kind not in get_args(HeadInput):
            raise SelfInformedError(f"head_input: expected {', '.join(get_args(HeadInput))}; got {kind!r}")
        shifts, matrices = [], []
        for part, shape in zip(torch.split(self.attached, [s.size for s in self.shapes], 1), self.shapes, strict=True):
            seen = part if shape.map is None else part.unflatten(1, (shape.map[0], -1)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-untyped-call]
            shift, matrix = _transform(seen, kind)
            shifts.append(shift)
            matrices.append(matrix)
        return InputTransform(self.shapes, tuple(shifts), tuple(matrices))


def _transform(seen: torch.Tensor, kind: HeadInput) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift [D] and matrix [D, D] for features [N, D]."""
    features = seen.double()
    size = features.shape[1]
    if kind == "raw":
        return torch.zeros(size), torch.eye(size)
    shift, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > 1e-6 * deviation.max().clamp(min=1e-12), 1 / deviation, 0.0)  # constant features are left out
    transform = torch.diag(scale)
    if kind == "whitened":
        standard = (features - shift) * scale
        if len(features) < size:  # the covariance has few eigenvectors; the rest of the space has variance zero
            values, left = torch.linalg.eigh(standard @ standard.T / len(features))
            kept = values > 1e-10 * values[-1].clamp(min=1e-12)
            values = values[kept]
            vectors = standard.T @ left[:, kept] / (len(features) * values).sqrt()
        else:
            values, vectors = torch.linalg.eigh(standard.T @ standard / len(features))
        floor = 0.01 * (values.clamp(min=0).sum() / size).clamp(min=1e-12)
        weights = 1 / (values.clamp(min=0) + floor).sqrt() - 1 / floor.sqrt()
        transform = scale[:, None] * (torch.eye(size).to(scale) / floor.sqrt() + (vectors * weights) @ vectors.T)
    return shift.float(), transform.float()


Model = WrappedClassifier | AugmentedClassifier


def rank(model: Model, data: Examples | FeatureStore, top_k: int = 50, what: str | None = None) -> Ranking:
    """mAP@K and top-1/5 of a model over examples, or over the cached features of its frozen part.

    A network wrapped with `output="softmax"` is judged by its probabilities, others by their logits.
    """
    net = model if isinstance(model, WrappedClassifier) else model.net
    metrics = RankingMetrics(model.n_labels, top_k, "probabilities" if net.output == "softmax" else "logits")
    for scores, targets, name in score_batches(model, data, what=what):
        metrics.update(scores, targets, name)
    return metrics.compute()


def score_batches(
    model: Model, data: Examples | FeatureStore, what: str | None = None
) -> Iterator[tuple[torch.Tensor, Targets, Callable[[int], str]]]:
    """Logits [b, C], targets and a name for row b of errors, batch by batch, in order."""
    net = model if isinstance(model, WrappedClassifier) else model.net
    if isinstance(data, FeatureStore):
        if data.fingerprint != net.fingerprint:
            raise SelfInformedError("features: these are of another network; cache them again with the one to judge")
        for start in range(0, len(data), _FEATURES_AT_ONCE):
            stop = min(start + _FEATURES_AT_ONCE, len(data))
            with torch.no_grad():
                scores = scores_from_features(model, *data.batch(torch.arange(start, stop))).cpu()
            yield scores, data.targets.take(np.arange(start, stop)), lambda b, start=start: f"example {start + b}"  # type: ignore[misc]
        return
    check_labels(net, data)
    for rows, inputs in data.batches(what=what):
        yield model.logits(inputs).cpu(), data.targets.take(rows), lambda b, rows=rows: data.name(int(rows[b]))  # type: ignore[misc]


def scores_from_features(model: Model, attached: torch.Tensor, penultimate: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] from cached features, with gradients for an augmented network."""
    if isinstance(model, AugmentedClassifier) and model.base_was_tuned:
        raise SelfInformedError("features: the whole network was trained on since they were cached; give examples instead")
    classifier = model.classifier
    attached, penultimate = attached.to(classifier.weight), penultimate.to(classifier.weight)
    return classifier(penultimate) if isinstance(model, WrappedClassifier) else model.from_features(attached, penultimate)
