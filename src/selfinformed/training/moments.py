"""Zero mean, unit deviations, no correlations: the transform of the heads' input, from features that pass by once in chunks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, get_args

import torch

from selfinformed.augmented.readers import InputTransform
from selfinformed.network.points import FeatureShape
from selfinformed.runtime.arguments import one_of

HeadInput = Literal["whitened", "standardised", "raw"]


def transform_of(
    chunks: Iterable[torch.Tensor], shapes: Sequence[FeatureShape], kind: HeadInput, untouched: Collection[int] = ()
) -> InputTransform:
    """What gives each attach point, over all features (and the positions of a map), zero mean and unit deviations (`standardised`) or also no
    correlations (`whitened`, symmetric, shrunk by a hundredth of the mean variance).

    Args:
        chunks: features float32 [n, D], read once; not at all for `raw`.
        shapes: of the attach points that stand side by side in D.
        kind: `whitened`, `standardised` or `raw`.
        untouched: numbers of attach points that stay as they are.
    """
    one_of("head_input", kind, get_args(HeadInput))
    sizes = [shape.map[0] if shape.map else shape.size for shape in shapes]
    sizes = [0 if place in untouched else size for place, size in enumerate(sizes)]
    if kind == "raw":
        return InputTransform(tuple(shapes), tuple(torch.zeros(size, device="cpu") for size in sizes), tuple(torch.eye(size, device="cpu") for size in sizes))
    moments = [_Moments(size, kind == "whitened") if size else None for size in sizes]
    for chunk in chunks if any(moments) else ():
        for part, shape, seen in zip(torch.split(chunk, [s.size for s in shapes], 1), shapes, moments, strict=True):
            if seen is not None:
                seen.add(part if shape.map is None else part.unflatten(1, (shape.map[0], -1)).transpose(1, 2).flatten(0, 1))  # type: ignore[no-untyped-call]
    shifts, matrices = zip(*((torch.zeros(0, device="cpu"), torch.eye(0, device="cpu")) if seen is None else _transform(seen) for seen in moments), strict=True)
    return InputTransform(tuple(shapes), shifts, matrices)


class _Moments:
    """Mean [D] and second moments about it, in float64, of features that come in chunks [n, D]: no cancellation, however far from zero they lie.

    Merged by Chan, Golub and LeVeque (1979) in blocks of at least D. Fewer than D in all are kept instead: their covariance has few eigenvectors.
    """

    def __init__(self, size: int, full: bool) -> None:
        self.size, self.full, self.n = size, full, 0
        self.mean = torch.zeros(size, dtype=torch.float64, device="cpu")
        self.scatter = torch.zeros((size, size if full else 1), dtype=torch.float64, device="cpu")
        self.waiting: list[torch.Tensor] = []

    def add(self, features: torch.Tensor) -> None:
        self.waiting.append(features.double())
        if sum(map(len, self.waiting)) >= self.size:
            self.merge()

    def merge(self) -> None:
        """Takes in the features that wait."""
        if not self.waiting:
            return
        x = torch.cat(self.waiting)
        n, mean = len(x), x.mean(0)
        x, apart, share = x - mean, mean - self.mean, n / (self.n + n)
        if self.full:
            self.scatter.addmm_(x.T, x).addr_(apart, apart, alpha=self.n * share)
        else:
            self.scatter += (x.square().sum(0) + self.n * share * apart.square())[:, None]
        self.mean += share * apart
        self.n, self.waiting = self.n + n, []


def _transform(seen: _Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift [D] and matrix [D, D]."""
    few = torch.cat(seen.waiting) if seen.full and not seen.n else None
    if few is None:
        seen.merge()
        shift, variance = seen.mean, (seen.scatter.diagonal() if seen.full else seen.scatter[:, 0]) / seen.n
    else:
        shift, variance = few.mean(0), few.var(0, correction=0)
    deviation = variance.sqrt()
    noise = torch.maximum(1e-6 * shift.abs(), 1e-9 * deviation.max().clamp(min=1e-12))  # of a constant feature, which is left out
    scale = torch.where(deviation > noise, 1 / deviation, 0.0)
    transform = torch.diag(scale)
    if seen.full:
        if few is None:
            values, vectors = torch.linalg.eigh(scale[:, None] * (seen.scatter / seen.n) * scale)
        else:
            values, vectors = _few_eigenpairs((few - shift) * scale)
        floor = 0.01 * (values.clamp(min=0).sum() / seen.size).clamp(min=1e-12)
        weights = 1 / (values.clamp(min=0) + floor).sqrt() - 1 / floor.sqrt()
        transform = scale[:, None] * (torch.eye(seen.size, device="cpu").to(scale) / floor.sqrt() + (vectors * weights) @ vectors.T)
    return shift.float(), transform.float()


def _few_eigenpairs(standard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and vectors of the covariance of fewer examples than features [n, D]; the rest of the space has variance zero."""
    values, left = torch.linalg.eigh(standard @ standard.T / len(standard))
    kept = values > 1e-10 * values[-1].clamp(min=1e-12)
    values = values[kept]
    return values, standard.T @ left[:, kept] / (len(standard) * values).sqrt()
