"""From held-out examples, or from predictions somebody saved, to counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.inputs import named
from selfinformed.data.predictions import Predictions, open_predictions
from selfinformed.network.calls import Classifies
from selfinformed.runtime.arguments import expect, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors
from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import parsed, reason_of, shown
from selfinformed.runtime.work import do_units
from selfinformed.structure.counts import ConfusionCounts, Kind
from selfinformed.structure.detections import default_top_k, detections
from selfinformed.structure.tables import narrowest

FORMAT = "selfinformed.detections/1"


def measure(
    net: Classifies,
    holdout: Examples,
    top_k: int | None = None,
    kind: Kind = "confusions",
    batch_size: int = 64,
    folder: str | Path | None = None,
) -> ConfusionCounts:
    """Runs a network over held-out examples and counts what it detects (eqs. 2 to 4).

    Args:
        net: the wrapped network, or an augmented one.
        holdout: examples not used in training, with the network's labels.
        top_k: K; by default min(100, max(5, C // 150)), the paper's ratio.
        kind: `confusions` (eq. 3) or `codetections` (eq. 4).
        batch_size: examples per forward pass.
        folder: keeps the detections there, unit by unit. Then this can be killed and called again, and any number of processes that share
            the folder (torchrun, several hosts) divide the work: see `detect`.
    """
    check_labels(net, holdout)
    top_k = default_top_k(net.n_labels) if top_k is None else top_k
    counts = ConfusionCounts(net.n_labels, top_k, kind)
    if folder is not None:
        return count(detect(net, holdout, folder, top_k, batch_size), kind)
    batch_size = _fitting(net, batch_size)
    for rows, inputs in holdout.batches(batch_size, "measuring"):
        counts.update(net.logits(inputs), holdout.targets.take(rows), lambda b, rows=rows: holdout.name(int(rows[b])))  # type: ignore[misc]
    return counts


def count(predictions: Predictions, kind: Kind = "confusions") -> ConfusionCounts:
    """Counts saved predictions, read as a stream."""
    counts = ConfusionCounts(predictions.n_labels, predictions.top_k, kind)
    size = max(1, 4_000_000 // predictions.top_k)
    for ids, targets in progress(predictions.batches(size), predictions.n_batches(size), "counting"):
        first = counts.n_examples
        counts.update_detections(ids, targets, lambda row, first=first: predictions.name(first + row))  # type: ignore[misc]
    return counts


def detect(net: Classifies, holdout: Examples, folder: str | Path, top_k: int | None = None, batch_size: int = 64) -> Predictions:
    """Runs a network over held-out examples and keeps what it detects on each, in units of fixed examples and fixed batches.

    Any number of processes may call this for one folder at once, as torchrun's do: each unit is done by one of them. Killed at any time
    and called again, it goes on with the units that are missing. What it detects does not depend on how many processes there are.

    Raises:
        SelfInformedError: the folder holds detections of another network, other data or another batch size; a unit cannot be done or
            read; more examples are unreadable than `skip_bad` allows.
    """
    check_labels(net, holdout)
    batch_size = _fitting(net, batch_size)
    if not len(holdout):
        raise SelfInformedError("data: there are no examples to measure; give at least one")
    folder, top_k = Path(folder), default_top_k(net.n_labels) if top_k is None else top_k
    top_k = whole_number("top_k", top_k, net.n_labels, ", the number of labels")
    size = _unit_size(len(holdout), batch_size)
    origin = {"model": net.fingerprint, "data": holdout.fingerprint}
    manifest = {
        "format": FORMAT, **origin, "n_examples": len(holdout), "n_labels": net.n_labels, "top_k": top_k, "batch_size": batch_size, "unit_size": size,
    }  # fmt: skip

    def work(unit: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
        first = unit * size
        examples = holdout.take(np.arange(first, min(first + size, len(holdout))))
        ids, rows = [np.empty((0, top_k), np.int64)], [np.empty(0, np.int64)]
        for batch, inputs in examples.batches(batch_size):
            found = detections(net.logits(inputs), top_k, lambda b, batch=batch: holdout.name(first + int(batch[b])))  # type: ignore[misc]
            ids.append(found.cpu().numpy())
            rows.append(batch)
        targets = examples.targets.take(np.concatenate(rows))
        arrays = {
            "ids": np.concatenate(ids).astype(narrowest(net.n_labels)), "labels": targets.labels, "offsets": targets.offsets,
            "rows": first + np.concatenate(rows),
        }  # fmt: skip
        skipped = {first + row: reason for row, reason in examples.skipped.items()}
        about = {"n_labels": net.n_labels, "unit": unit, "threads": torch.get_num_threads()}
        return arrays, {"format": FORMAT, **origin, **{k: str(v) for k, v in about.items()}, "skipped": json.dumps(skipped)}

    results = do_units(folder, manifest, -(-len(holdout) // size), work, "measuring")
    _check_units(folder, results, origin, holdout, size)
    return open_predictions(folder, net.n_labels)


def check_labels(net: Classifies, examples: Examples) -> None:
    """Stops where these are no network and no examples, the labels of examples are others than the network's or in another order, or the inputs are."""
    expect(examples, Examples, "data", "data from open_dataset", "give si.open_dataset((inputs, targets), labels), of a loader its dataset")
    if not hasattr(net, "logits") or not hasattr(net, "labels"):
        raise SelfInformedError(f"network: expected one from wrap or augment, got {type(net).__name__}; give si.wrap(model, example_inputs)")
    if len(examples.labels) != net.n_labels:
        raise SelfInformedError(
            f"data: examples with {len(examples.labels)} labels for a network with {net.n_labels} outputs; "
            "open the data with the network's own label names, in the order of its outputs"
        )
    if (elsewhere := net.labels.first_elsewhere(examples.labels)) is not None:
        name, own, other = elsewhere
        hint = "open the data with labels=net.labels"
        if net.labels.is_numbers:  # nobody may have said what its outputs are
            hint += ", or, where its outputs are in the data's order (as of torchvision's ImageFolder), wrap the network with labels=data.labels"
        raise SelfInformedError(f"data: the label {shown(name)} is output {own} of the network and label {other} of the data; {hint}")
    wrapped = getattr(getattr(net, "net", net), "example_inputs", None)  # of an augmented network its base's
    if wrapped is not None:
        expected, given = named(wrapped), examples.input_names  # None where nothing can be read, of which nothing is said
        one = given == "one tensor" and isinstance(wrapped, dict) and len(wrapped) == 1
        if given not in (None, expected) and not one:
            raise SelfInformedError(f"data: expected inputs {expected}, as the network was wrapped with, got {given}; open the data with just these")


def _fitting(net: Classifies, batch_size: int) -> int:
    """A batch size at which memory has room for logits, and their best few beside them."""
    batch_size = whole_number("batch_size", batch_size)
    require_memory(3 * 4 * batch_size * net.n_labels, f"measure: a batch of {batch_size} x {net.n_labels:,} logits", "give a smaller --forward-batch-size")
    return batch_size


def _unit_size(n_examples: int, batch_size: int) -> int:
    """Examples per unit, the same however many processes there are: a 32nd of them in whole batches, about 16,384 at most."""
    return batch_size * max(1, min(16_384, -(-n_examples // 32)) // batch_size)


def _check_units(folder: Path, results: list[Path], origin: dict[str, str], holdout: Examples, size: int) -> None:
    """Stops unless every unit is there once, whole, of this model and data, with no more left out than allowed."""
    for path in sorted(set(folder.glob("[!.]*.safetensors")) - set(results)):
        raise SelfInformedError(f"{path} is none of the {len(results)} units of this run; delete it, or what it holds would be counted too")
    for unit, path in enumerate(results):
        arrays, metadata = read_tensors(path, FORMAT)
        found = {key: metadata.get(key) for key in (*origin, "unit")}
        if found != {**origin, "unit": str(unit)}:
            wrong = next(key for key in found if found[key] != {**origin, "unit": str(unit)}[key])
            raise SelfInformedError(f"{path} is of another {wrong} ({str(found[wrong])[:80]}); delete it to have it made again")
        try:
            skipped = {int(row): str(reason) for row, reason in parsed(metadata["skipped"]).items()}
            rows, first = arrays["rows"], unit * size
            expected = np.setdiff1d(np.arange(first, min(first + size, len(holdout))), list(skipped))
            if not np.array_equal(rows, expected) or len(arrays["ids"]) != len(rows):
                raise ValueError(f"its examples are not {first} to {first + size - 1}")
        except (KeyError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise SelfInformedError(f"{path} is not a whole unit ({reason_of(error)}); delete it to have it made again") from None
        holdout.skipped.update(skipped)
    if len(holdout.skipped) > holdout.skip_bad:
        _, reason = min(holdout.skipped.items())
        raise SelfInformedError(f"{reason}; {len(holdout.skipped)} examples cannot be read, raise skip_bad (--skip-bad N)")
