"""Features to disk: shards of fixed examples in fixed batches, made by any number of processes, killed as often as may be."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.examples import Examples
from selfinformed.network.points import AttachPoint, Features
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import write_json
from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.work import do_units

FORMAT = "selfinformed.features/2"
FeatureType = Literal["float32", "float16"]
_SHARDS, _SHARD_BYTES = 64, 2**28  # of a store, where its shards are no larger than that


def part_widths(net: WrappedClassifier) -> dict[str, int]:
    """What is kept of each example: `attached` [D] and `penultimate` [P], or only the latter where heads read the classifier's own input."""
    penultimate = {"penultimate": net.classifier.in_features}
    if list(net.attach_points) == [AttachPoint(name, "input") for name in net.classifier_names]:
        return penultimate
    return {"attached": sum(shape.size for shape in net.shapes), **penultimate}


def places_read(net: WrappedClassifier) -> list[list[str]]:
    """Where in the network the features come from, as JSON values."""
    return [[point.module, point.side, point.reduce] for point in net.attach_points]


def compute(
    net: WrappedClassifier, examples: Examples, batch_size: int, dtype: FeatureType, name: Callable[[int], str], what: str | None = None
) -> tuple[npt.NDArray[np.int64], dict[str, torch.Tensor]]:
    """Runs the network once: the numbers [n] of the examples that could be read, and each part's features [n, width].

    Raises:
        SelfInformedError: features of an example, called `name(row)`, are not finite, or beyond what the type can hold.
    """
    size = np.dtype(dtype).itemsize * len(examples) * sum(part_widths(net).values())
    require_memory(size, f"features of {len(examples):,} examples", "keep them on disk (folder=), where they may take more than memory")
    made = {part: torch.empty(len(examples), width, dtype=getattr(torch, dtype), device="cpu") for part, width in part_widths(net).items()}
    rows, n = [np.empty(0, np.int64)], 0
    for batch, inputs in examples.batches(batch_size, what):
        features = net.features(inputs)
        _check_classifier(net, features, name(int(batch[0])))
        for part, whole in made.items():
            values = getattr(features, part).float().cpu()
            _check_values(values, dtype, lambda b, batch=batch: name(int(batch[b])))  # type: ignore[misc]
            whole[n : n + len(batch)] = values
        rows.append(batch)
        n += len(batch)
    return np.concatenate(rows), {part: whole[:n] for part, whole in made.items()}


def _check_classifier(net: WrappedClassifier, features: Features, name: str) -> None:
    """Stops where the classifier does not give the logits of the first example of a batch: on the example inputs it did."""
    logits, own = features.logits[:1].float(), net.classifier(features.penultimate[:1]).float()
    difference = float((own - logits).detach().abs().max())
    if difference > 0.01 * (1 + float(logits.abs().max())):
        raise SelfInformedError(
            f"features: the logits of {name} differ by {difference:.3g} from what the classifier gives: something comes after it (a clamp, a mask, a cap) that "
            "did nothing on the example inputs; leave that to what reads the logits"
        )


def write_shards(net: WrappedClassifier, examples: Examples, folder: Path, batch_size: int, dtype: FeatureType, what: str) -> None:
    """Fills a folder with the shards that it lacks, together with all processes that call this for it (see `runtime.work`)."""
    widths, item = part_widths(net), np.dtype(dtype).itemsize * sum(part_widths(net).values())
    size = batch_size * max(1, min(-(-len(examples) // _SHARDS), _SHARD_BYTES // item) // batch_size)
    origin = {"model": net.fingerprint, "data": examples.fingerprint}
    manifest = {
        "format": FORMAT, **origin, "attach": places_read(net), "n_examples": len(examples), "n_views": examples.n_views, "dtype": dtype, "widths": widths,
        "batch_size": batch_size, "unit_size": size,
    }  # fmt: skip

    def work(unit: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
        start, first = time.perf_counter(), unit * size
        part = examples.take(np.arange(first, min(first + size, len(examples))))
        rows, made = compute(net, part, batch_size, dtype, lambda row: examples.name(first + row))
        targets = part.targets.take(rows)
        arrays = {"rows": first + rows, "labels": targets.labels, "offsets": targets.offsets, **{k: values.numpy() for k, values in made.items()}}
        skipped = {first + row: reason for row, reason in part.skipped.items()}
        write_json(seconds_file(folder, unit), time.perf_counter() - start)  # not in the shard, which is the same whoever makes it
        return arrays, {"format": FORMAT, **origin, "unit": str(unit), "n_labels": str(targets.n_labels), "skipped": json.dumps(skipped)}

    n_units = -(-len(examples) // size)
    missing = [unit for unit in range(n_units) if not (folder / f"unit-{unit:06d}.safetensors").exists()]
    _check_room(folder, item * sum(min(size, len(examples) - unit * size) for unit in missing))
    do_units(folder, manifest, n_units, work, what)


def seconds_file(folder: Path, unit: int) -> Path:
    return folder / "seconds" / f"unit-{unit:06d}.json"


def _check_room(folder: Path, needed: int) -> None:
    """Stops before anything is computed where the disk cannot take it."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise SelfInformedError(
            f"features: {folder} needs {needed:,} bytes and its disk has {free:,} free; free the disk, choose another folder, or store float16"
        )


def _check_values(values: torch.Tensor, dtype: FeatureType, name: Callable[[int], str]) -> None:
    """values float32 [b, width]"""
    largest = values.abs().amax(1)  # NaN where there is one
    if bad := torch.nonzero(~largest.isfinite()).flatten().tolist():
        raise SelfInformedError(f"features: the network gives {name(bad[0])} features that are not finite; mend the example or the network")
    if dtype == "float16" and (bad := torch.nonzero(largest > torch.finfo(torch.float16).max).flatten().tolist()):
        raise SelfInformedError(f"features: {name(bad[0])} has a feature of {largest[bad[0]]:.6g}, beyond float16's 65504; store float32")
