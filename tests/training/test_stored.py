"""Features on disk are read as if they were in memory, and what is damaged is named when it is opened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.training import features as module
from selfinformed.training import stored
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit
from selfinformed.training.shards import FORMAT
from selfinformed.training.stored import Shards, TransformedRows


@pytest.fixture(scope="module", params=["float32", "float16"])
def stores(request, problem: Problem, tmp_path_factory) -> tuple[FeatureStore, FeatureStore]:
    """The same features of 600 examples, from ten shards and in memory."""
    folder = tmp_path_factory.mktemp(request.param)
    lazy = FeatureStore.build(problem.net, problem.holdout, 64, folder=folder, dtype=request.param, memory=0)
    return lazy, FeatureStore.load(folder, problem.net, problem.holdout)


def windowed(store: FeatureStore, window: int) -> FeatureStore:
    shards = replace(store.attached.shards, window=window)
    return replace(store, attached=replace(store.attached, shards=shards), penultimate=replace(store.penultimate, shards=shards), shards=shards)


def equal(one: FeatureStore, other: FeatureStore, rows: torch.Tensor) -> bool:
    return all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(one.batch(rows), other.batch(rows), strict=True))


@given(rows=st.lists(st.integers(0, 599), max_size=70), window=st.integers(0, 700))
def test_any_rows_are_those_in_memory(stores, rows, window):
    lazy, resident = stores
    assert equal(windowed(lazy, window), resident, torch.tensor(rows, dtype=torch.int64))


@pytest.mark.parametrize("rows", [slice(None), slice(60, 200), slice(5, 5), slice(599, 700), slice(-3, None), slice(0, 600, 77)])
def test_slices_are_those_in_memory(stores, rows):
    lazy, resident = stores
    assert lazy.attached.shape == tuple(resident.attached.shape) == (600, 144)
    assert lazy.penultimate.shape == tuple(resident.penultimate.shape)
    assert torch.equal(lazy.attached[rows], resident.attached[rows])
    assert torch.equal(lazy.penultimate[rows], resident.penultimate[rows])


@pytest.mark.parametrize("row", [600, -1])
def test_a_row_that_is_not_there_is_an_error(stores, row):
    with pytest.raises(IndexError):
        stores[0].batch(torch.tensor([3, row]))


@given(window=st.integers(0, 700), seed=st.integers(0, 2**31))
def test_a_permutation_has_every_row_once_and_few_shards_in_use(stores, window, seed):
    shards = windowed(stores[0], window).attached.shards
    order = shards.permutation(torch.Generator().manual_seed(seed))
    assert torch.equal(order.sort().values, torch.arange(600))
    assert torch.equal(order, shards.permutation(torch.Generator().manual_seed(seed)))
    shard = torch.bucketize(order, shards.starts[1:], right=True)
    used = [set(part.tolist()) for part in shard.split(32)]
    assert window >= 600 or max(map(len, used)) <= max(window, 128) / 64 + 4  # parts of one at both ends, and the short last one
    assert max(map(len, used)) <= 10


def test_each_shard_is_mapped_once_in_a_pass_and_a_second_time_at_its_end(stores, monkeypatch):
    store, mapped = windowed(stores[0], 128), []
    shards = store.attached.shards
    original = Shards._map
    monkeypatch.setattr(Shards, "_map", lambda self, number, ahead: mapped.append((number, ahead)) or original(self, number, ahead))
    shards = replace(shards)  # takes in the changed method
    order = shards.permutation(torch.Generator().manual_seed(0))
    for rows in order.split(16):
        shards.read("attached", rows)
    assert {number for number, _ in mapped} == set(range(10))
    assert all(ahead for _, ahead in mapped)
    assert len(mapped) <= 10 + 3  # the window lies around the end


def test_a_window_of_everything_is_a_full_shuffle(stores):
    shards = windowed(stores[0], 600).attached.shards
    orders = torch.stack([shards.permutation(torch.Generator().manual_seed(seed)) for seed in range(400)])
    means = orders.double().mean(0)  # of what stands at each place: 299.5, with a deviation of 173 / 20
    assert (means - 299.5).abs().max() < 5 * 173 / 20


def test_the_order_of_a_pass_is_the_same_whatever_memory_is_free(problem, tmp_path, monkeypatch):
    row_bytes = FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path).shards.row_bytes
    orders = []
    for window in (2**30, 600 * row_bytes, 599 * row_bytes, 200 * row_bytes):
        monkeypatch.setattr(stored, "_WINDOW", window)
        seen = []
        for free in (2**30, 1200 * row_bytes - 1, 300 * row_bytes, 0):
            monkeypatch.setattr(module, "free_memory", lambda free=free: free)
            store = FeatureStore.load(tmp_path, problem.net, problem.holdout)
            assert isinstance(store.attached, torch.Tensor) == (free >= 1200 * row_bytes)
            seen.append(store.permutation(torch.Generator().manual_seed(5)))
        assert all(torch.equal(order, seen[0]) for order in seen)
        orders.append(seen[0])
    assert torch.equal(orders[0], torch.randperm(600, generator=torch.Generator().manual_seed(5)))  # what the window holds: as in memory
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
    assert not torch.equal(orders[2], orders[3])


def test_a_checkpoint_knows_the_order_of_its_passes(stores, problem, tmp_path):
    def trained(store: FeatureStore) -> None:
        fit(augment(problem.net, problem.plan(), seed=0), store, epochs=0.2, checkpoint=tmp_path / "training.safetensors")

    trained(stores[0])
    trained(stores[1])
    with pytest.raises(SelfInformedError, match="order None, now '10 shards, 128 rows at a time'"):
        trained(windowed(stores[0], 128))


def test_statistics_and_transforms_are_those_in_memory(stores):
    lazy, resident = stores
    for kind in ("whitened", "standardised", "raw"):
        ours, theirs = lazy.input_transform(kind), resident.input_transform(kind)
        assert torch.equal(ours.shifts[0], theirs.shifts[0])
        assert torch.equal(ours.matrices[0], theirs.matrices[0])
        seen = lazy.transformed(ours), resident.transformed(ours)
        assert isinstance(seen[0].attached, TransformedRows)
        assert isinstance(seen[1].attached, torch.Tensor)
        rows = torch.tensor([599, 0, 64, 63, 3, 3])
        for one, other in zip(seen[0].batch(rows), seen[1].batch(rows), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen[0].attached[:], ours(resident.attached.float()), rtol=1e-4, atol=1e-4)
        assert seen[0].attached.shape == tuple(seen[1].attached.shape)
        assert torch.equal(seen[0].permutation(torch.Generator().manual_seed(1)), lazy.permutation(torch.Generator().manual_seed(1)))


def test_a_transform_that_memory_cannot_hold_is_applied_to_what_is_read(stores, monkeypatch):
    _, resident = stores
    transform = resident.input_transform("whitened")
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 600 * 144 * 4 - 1)
    seen = resident.transformed(transform)
    assert isinstance(seen.attached, TransformedRows)
    torch.testing.assert_close(seen.batch(torch.arange(600))[0], transform(resident.attached.float()), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 600 * 144 * 4)
    assert replace(resident).transformed(transform).attached is not seen.attached  # a store keeps the last transform it was asked for
    assert isinstance(replace(resident).transformed(transform).attached, torch.Tensor)
    assert resident.transformed(transform) is seen


def test_ranking_and_training_are_those_in_memory(stores, problem):
    lazy, resident = stores
    ours, theirs = rank(problem.net, lazy), rank(problem.net, resident)
    assert ours.mean_average_precision == theirs.mean_average_precision
    assert np.array_equal(ours.average_precision, theirs.average_precision, equal_nan=True)
    trained = []
    for store in (lazy, resident):
        aug = augment(problem.net, problem.plan(), seed=0)
        fit(aug, store, epochs=1, seed=0)
        trained.append(aug)
    assert rank(trained[0], lazy).mean_average_precision > ours.mean_average_precision + 0.02
    inputs = problem.test.read(range(50))
    torch.testing.assert_close(trained[0].logits(inputs), trained[1].logits(inputs), rtol=1e-3, atol=1e-3)


def test_training_in_the_order_of_the_shards_gains_as_much(stores, problem):
    gains = []
    for store in (windowed(stores[0], 128), stores[1]):
        aug = augment(problem.net, problem.plan(), seed=0)
        fit(aug, store, epochs=2, seed=0)
        gains.append(rank(aug, problem.store("test")).mean_average_precision)
    assert abs(gains[0] - gains[1]) < 0.05
    assert min(gains) > rank(problem.net, problem.store("test")).mean_average_precision + 0.02


def test_some_rows_taken_into_memory_are_a_store_of_their_own(stores):
    lazy, _ = stores
    rows = torch.arange(5, 505, 5)
    attached, penultimate = lazy.batch(rows)
    part = replace(lazy, attached=attached, penultimate=penultimate, targets=lazy.targets.take(rows.numpy()), examples=None, shards=None)
    assert torch.equal(part.permutation(torch.Generator()).sort().values, torch.arange(100))


def test_saved_in_one_file_and_loaded_they_are_the_same(stores, problem, tmp_path):
    lazy, resident = stores
    lazy.save(tmp_path / "one.safetensors")
    again = FeatureStore.load(tmp_path / "one.safetensors", problem.net)
    assert again.attached.dtype == resident.attached.dtype
    assert equal(again, resident, torch.arange(600))
    assert (again.seconds, again.n_views) == (lazy.seconds, 1)


def rewritten(path: Path, *, metadata: dict[str, str] | None = None, **arrays) -> None:
    held, about = read_tensors(path, FORMAT)
    path.unlink()
    write_tensors(path, held | arrays, about | (metadata or {}))


def unit(folder: Path, number: int) -> Path:
    return folder / f"unit-{number:06d}.safetensors"


def test_hidden_files_of_another_system_are_no_shards(problem, tmp_path):
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path)
    (tmp_path / "._unit-000000.safetensors").write_bytes(b"of another system")
    assert len(FeatureStore.load(tmp_path, problem.net, problem.holdout)) == len(problem.holdout)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: unit(f, 3).write_bytes(unit(f, 3).read_bytes()[:-9]), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 3).write_bytes(unit(f, 3).read_bytes() + b"9"), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 3).write_bytes(unit(f, 3).read_bytes()[:100]), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 3).write_bytes(b""), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 3).write_bytes(b"\2\0\0\0\0\0\0\0{}"), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 3).unlink(), "unit-000003.safetensors is missing"),
        (lambda f: rewritten(unit(f, 3), metadata={"model": "abc"}), r"unit-000003.safetensors is of another model \(abc\)"),
        (lambda f: rewritten(unit(f, 3), metadata={"data": "abc"}), r"unit-000003.safetensors is of another data \(abc\)"),
        (lambda f: unit(f, 3).write_bytes(unit(f, 4).read_bytes()), r"unit-000003.safetensors is of another unit \(4\)"),
        (lambda f: rewritten(unit(f, 3), rows=np.arange(64)), "unit-000003.safetensors is not a whole shard .*examples are not 192 to 255"),
        (lambda f: rewritten(unit(f, 3), attached=np.zeros((64, 143), np.float32)), r"unit-000003.safetensors is not a whole shard .*not F32 \[64, 144\]"),
        (lambda f: rewritten(unit(f, 3), attached=np.zeros((64, 144), np.float16)), "unit-000003.safetensors is not a whole shard .*F16"),
        (lambda f: rewritten(unit(f, 3), labels=np.zeros(63, np.int64)), "unit-000003.safetensors is not a whole shard .*targets"),
        (lambda f: rewritten(unit(f, 3), labels=np.zeros(64, np.float64)), "unit-000003.safetensors is not a whole shard .*labels"),
        (lambda f: rewritten(unit(f, 3), metadata={"skipped": "[]"}), "unit-000003.safetensors is not a whole shard"),
        (lambda f: unit(f, 10).write_bytes(unit(f, 0).read_bytes()), "unit-000010.safetensors is none of the 10 shards"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text(json.dumps({"format": FORMAT})), "holds no features of format"),
    ],
    ids=[
        "truncated", "longer", "cut in the header", "empty", "no arrays", "missing", "another model", "other data", "copied", "other rows", "narrower",
        "another type", "too few labels", "labels of another type", "no list of skipped", "one too many", "manifest cut", "no manifest of ours",
    ],
)  # fmt: skip
@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_a_damaged_shard_is_named(problem, tmp_path, damage, said, memory):
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path)
    damage(tmp_path)
    with pytest.raises(SelfInformedError, match=f"^[^\n]*{said}[^\n]*$"):
        FeatureStore.load(tmp_path, problem.net, problem.holdout, memory)
