"""Wall-clock of base and augmented network, measured in alternation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Examples
from selfinformed.data.inputs import take_inputs
from selfinformed.network.timing import paired_seconds
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.versions import machine, versions

_DIFFERENT = 10


def latency(aug: AugmentedClassifier, examples: Examples, batch_sizes: Sequence[int] = (1, 8, 32), repeats: int = 100) -> dict[str, Any]:
    """Times base and augmented network in turn, so that a drift of the machine's speed meets both. Where an example runs only some heads, on ten
    different batches of each size, from all over the examples, since one may happen to run none.

    Returns:
        rows {batch_size, base_p50, base_p95, augmented_p50, augmented_p95 (milliseconds), ratio (median of the pairs' ratios)}, the ratio
        of multiply-adds, executed on these examples on average, machine and versions.
    """
    rows = []
    n_batches = 1 if aug.dispatch is None else _DIFFERENT
    if not len(examples):
        raise SelfInformedError("latency: there is no example to time; give some")
    spread = np.unique(np.linspace(0, len(examples) - 1, n_batches * max(batch_sizes)).astype(np.int64))  # data may be sorted by label
    readable, first = next(examples.take(spread).batches(len(spread)))
    if aug.dispatch is not None:
        aug.dispatch.reset()
    for size in batch_sizes:
        batches = [take_inputs(first, [(start * size + i) % len(readable) for i in range(size)]) for start in range(n_batches)]
        timed = [paired_seconds(aug.net.logits, aug.logits, inputs, max(1, repeats // n_batches)) for inputs in batches]
        base, augmented = (np.concatenate([pair[which] for pair in timed]) for which in (0, 1))
        ratio = float(np.median(augmented / base))
        p50, p95 = 1000 * np.percentile([base, augmented], [50, 95], axis=1)
        rows.append(
            {
                "batch_size": size, "base_p50": p50[0], "base_p95": p95[0], "augmented_p50": p50[1], "augmented_p95": p95[1],
                "ratio": ratio,
            }
        )  # fmt: skip
    about = {"machine": machine() | {"threads": torch.get_num_threads()}, "versions": versions()}
    executed = aug.plan.multiply_adds if aug.dispatch is None else aug.dispatch.multiply_adds
    return {"rows": rows, "extra_computation": executed / aug.plan.base_multiply_adds, **about}

