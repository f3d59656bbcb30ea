"""Which examples a pass reads, and in which order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from selfinformed.data.targets import Targets

Draw = Callable[[torch.Generator], torch.Tensor]


def draw_of(permutation: Draw, targets: Targets, power: float = 0.0) -> Draw:
    """What gives the example numbers of a pass: a permutation of all, or at a power above 0 a sample in proportion to `sampling_weights`.

    The sample is systematic: an example expected m times a pass is in it floor(m) or ceil(m) times.
    """
    if not power:
        return permutation
    weights = sampling_weights(targets, power)

    def draw(generator: torch.Generator) -> torch.Tensor:
        order = permutation(generator)
        ends = weights[order].cumsum(0)
        steps = torch.arange(len(order), dtype=torch.float64, device="cpu") + torch.rand(1, generator=generator, dtype=torch.float64, device="cpu")
        places = torch.searchsorted(ends, steps * (ends[-1] / len(order)), right=True).clamp(max=len(order) - 1)
        return order[places][torch.randperm(len(order), generator=generator, device="cpu")]  # so that copies of an example do not share a batch

    return draw


def sampling_weights(targets: Targets, power: float) -> torch.Tensor:
    """float64 [N]: the mean over an example's labels of n^-power, n being how many examples carry the label; without labels, the others' mean."""
    inverse = np.maximum(targets.positives(), 1).astype(np.float64) ** -power
    examples, labels = targets.pairs()
    sizes = np.diff(targets.offsets)
    weights = np.bincount(examples, inverse[labels], len(targets)) / np.maximum(sizes, 1)
    weights[sizes == 0] = weights[sizes > 0].mean() if (sizes > 0).any() else 1.0
    return torch.from_numpy(weights)
