from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from selfinformed.data.examples import Examples, open_dataset
from selfinformed.data.predictions import open_predictions
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.measuring import count, detect, measure

N, C = 203, 12


def network(seed: int = 0) -> WrappedClassifier:
    torch.manual_seed(seed)
    return wrap(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, C)), torch.randn(2, 5))


def holdout(seed: int = 0, **changes: Any) -> Examples:
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.standard_normal((N, 5), np.float32))
    for row, value in changes.get("inputs", {}).items():
        inputs[row] = value
    return open_dataset((inputs, [[int(a), int(a + b) % C] for a, b in np.random.default_rng(1).integers(0, C, (N, 2))]), [str(i) for i in range(C)])


def unreadable(bad: set[int], skip_bad: int) -> Examples:
    good = holdout()

    def read(rows: Any) -> Any:
        for row in rows:
            if row in bad:
                raise SelfInformedError(f"example {row} cannot be read")
        return good.read(rows)

    return Examples(read, good.targets, good.labels, skip_bad=skip_bad)


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
def test_with_a_folder_the_counts_are_the_same(kind: Any, tmp_path: Path) -> None:
    expected = measure(network(), holdout(), 3, kind).to_scipy()
    found = measure(network(), holdout(), 3, kind, batch_size=4, folder=tmp_path)
    assert found.n_examples == N
    assert (found.to_scipy() != expected).nnz == 0
    assert len(list(tmp_path.glob("unit-*.safetensors"))) > 20


def test_measured_again_the_network_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(network(), holdout(), 3, batch_size=8, folder=tmp_path)
    net = network()
    monkeypatch.setattr(net, "logits", lambda inputs: pytest.fail("the network was run again"))
    assert (measure(net, holdout(), 3, batch_size=8, folder=tmp_path).to_scipy() != first.to_scipy()).nnz == 0


@pytest.mark.parametrize(
    ("net", "data", "top_k", "batch_size", "named"),
    [(1, 0, 3, 8, "model"), (0, 5, 3, 8, "data"), (0, 0, 4, 8, "top_k 3, now 4"), (0, 0, 3, 16, "batch_size 8, now 16")],
)
def test_a_folder_of_other_work_is_refused(net: int, data: int, top_k: int, batch_size: int, named: str, tmp_path: Path) -> None:
    detect(network(), holdout(), tmp_path, 3, 8)
    with pytest.raises(SelfInformedError, match=f"holds work of another run .*{named}.*; choose another --output"):
        detect(network(net), holdout(data), tmp_path, top_k, batch_size)


def test_a_damaged_or_foreign_unit_is_named_and_made_again_when_deleted(tmp_path: Path) -> None:
    expected = count(detect(network(), holdout(), tmp_path, 3, 8)).to_scipy()
    unit = tmp_path / "unit-000002.safetensors"
    whole = unit.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(SelfInformedError, match=f"unit-000002.safetensors {message}"):
            detect(network(), holdout(), tmp_path, 3, 8)

    unit.write_bytes(whole[:-30])
    refused("is not a whole safetensors file")
    shutil.copy(tmp_path / "unit-000001.safetensors", unit)
    refused(r"is of another unit \(1\); delete it")
    unit.write_bytes(whole)
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    save_file(load_file(unit), unit, {**metadata, "model": "f00d"})
    refused(r"is of another model \(f00d\); delete it")
    arrays = load_file(unit)
    save_file({**arrays, "rows": arrays["rows"] + 1}, unit, metadata)
    refused("is not a whole unit")
    unit.unlink()
    assert (count(detect(network(), holdout(), tmp_path, 3, 8)).to_scipy() != expected).nnz == 0


def test_an_example_with_scores_that_are_not_finite_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(SelfInformedError, match=r"measuring: unit \d+ of \d+ failed 3 times: scores: example 77 has the score nan.*run again to resume"):
        detect(network(), holdout(inputs={77: float("nan")}), tmp_path, 3, 8)
    units = len(list(tmp_path.glob("unit-*.safetensors")))
    assert units == json.loads((tmp_path / "manifest.json").read_text())["n_units"] - 1


def test_unreadable_examples_are_left_out_up_to_the_number_allowed(tmp_path: Path) -> None:
    bad = {3, 90, 91, 202}
    data = unreadable(bad, 4)
    predictions = detect(network(), data, tmp_path / "a", 3, 8)
    assert predictions.n_examples == N - 4
    assert set(data.skipped) == bad
    left = np.delete(np.arange(N), list(bad))
    assert (count(predictions).to_scipy() != measure(network(), holdout().take(left), 3).to_scipy()).nnz == 0
    with pytest.raises(SelfInformedError, match="4 examples cannot be read, raise skip_bad"):
        detect(network(), unreadable(bad, 3), tmp_path / "b", 3, 8)


def test_saved_predictions_count_like_the_arrays_they_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, labels = np.argsort(rng.random((500, C)), axis=1)[:, :4], rng.integers(0, C, 500)
    np.savez(tmp_path / "p.npz", ids=ids, labels=labels)
    for kind in ("confusions", "codetections"):
        expected = ConfusionCounts(C, 4, kind)
        expected.update_detections(ids, labels)
        found = count(open_predictions(tmp_path / "p.npz", C), kind)
        assert (found.to_scipy() != expected.to_scipy()).nnz == 0
    ids[321, 2] = ids[321, 0]
    np.savez(tmp_path / "p.npz", ids=ids, labels=labels)
    with pytest.raises(SelfInformedError, match=r"p\.npz: row 321 names label \d+ twice"):
        count(open_predictions(tmp_path / "p.npz", C))
