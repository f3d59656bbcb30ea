"""Reading cached features in shuffled batches, from memory and from shards on disk, against a copy of memory in the same run.

    make bench-features

Nothing is dropped from the system's cache of files before a pass: what was just written is read from there, as in every pass but the first over
features that memory can hold. Bytes are those read and, as float32, written, like those of the copy.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import bandwidth, median_seconds, save
from torch import nn

from selfinformed.data.examples import Examples
from selfinformed.data.opening import open_dataset
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.training.features import FeatureStore
from selfinformed.training.stored import StoredRows

N, ATTACHED, PENULTIMATE, C, BATCH = 50_000, 768, 256, 100, 256
RUNS = 3


def main() -> None:
    copy = bandwidth()
    net, examples = problem()
    folder = Path(tempfile.mkdtemp())
    try:
        rows = [row for dtype in ("float32", "float16") for row in measured(net, examples, folder / dtype, dtype, copy)]
    finally:
        shutil.rmtree(folder)
    save("features", {"examples": N, "widths": [ATTACHED, PENULTIMATE], "batch": BATCH, "copy_bandwidth": copy, "rows": rows})


def measured(net: WrappedClassifier, examples: Examples, folder: Path, dtype: Any, copy: float) -> list[dict[str, Any]]:
    """A row for each way to keep the same features."""
    stores = {"disk": FeatureStore.build(net, examples, 500, folder=folder, dtype=dtype, memory=0)}
    assert isinstance(stores["disk"].attached, StoredRows)
    shards = stores["disk"].attached.shards
    for name, window in (("two shards", 0), ("a quarter", N // 4)):
        narrow = replace(shards, window=window)
        parts = {part: replace(getattr(stores["disk"], part), shards=narrow) for part in ("attached", "penultimate")}
        stores[f"disk, a window of {name}"] = replace(stores["disk"], shards=narrow, **parts)
    stores["memory"] = FeatureStore.load(folder, net, examples, memory=1)
    rows = torch.randint(N, (BATCH,), generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(stores["disk"].batch(rows), stores["memory"].batch(rows), strict=True))
    result = []
    for where, store in stores.items():
        seconds = median_seconds(lambda store=store: one_pass(store), RUNS)
        rate = N * (shards.row_bytes + 4 * (ATTACHED + PENULTIMATE)) / seconds
        result.append(
            {
                "features": where, "dtype": dtype, "bytes": N * shards.row_bytes, "shards": len(shards.paths), "examples_per_second": N / seconds,
                "share_of_copy_bandwidth": rate / copy,
            }
        )  # fmt: skip
    loading = median_seconds(lambda: FeatureStore.load(folder, net, memory=1), RUNS)
    share = 2 * N * shards.row_bytes / loading / copy
    return [*result, {"features": "all of disk into memory", "dtype": dtype, "examples_per_second": N / loading, "share_of_copy_bandwidth": share}]


def one_pass(store: FeatureStore) -> None:
    for rows in store.permutation(torch.Generator().manual_seed(0)).split(BATCH):
        store.batch(rows)


def problem() -> tuple[WrappedClassifier, Examples]:
    """A network that costs nothing beside its features."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, 8, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, ATTACHED), nn.ReLU(), nn.Linear(ATTACHED, PENULTIMATE), nn.ReLU(), nn.Linear(PENULTIMATE, C)).eval()
    return wrap(model, inputs[:2], attach="1"), open_dataset((inputs, torch.randint(C, (N,), generator=generator)), [str(i) for i in range(C)])


if __name__ == "__main__":
    sys.exit(main())
