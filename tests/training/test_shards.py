"""Shards hold the features of the network, byte for byte the same whoever makes them, whatever dies or is full on the way."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Problem, changed_inputs, changed_network, damaged, refused
from selfinformed.data.opening import open_dataset
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime import work
from selfinformed.training import shards as module
from selfinformed.training.features import FeatureStore, estimate
from selfinformed.training.shards import part_widths

UNITS, SIZE = 10, 64  # of 600 examples in batches of 64


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    monkeypatch.setattr(work, "ATTEMPTS", 1)
    monkeypatch.setattr(work, "_POLL", 0.01)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("unit-*"))}


@pytest.mark.parametrize("memory", [0.0, 0.5], ids=["from disk", "in memory"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shards_hold_what_is_built_in_memory(either: Problem, tmp_path, dtype, memory):
    kept = FeatureStore.build(either.net, either.holdout, 64, folder=tmp_path, dtype=dtype, memory=memory)
    once = FeatureStore.build(either.net, either.holdout, 64, dtype=dtype)
    assert len(shards(tmp_path)) == UNITS
    assert isinstance(kept.attached, torch.Tensor) == (memory > 0)
    for part in ("attached", "penultimate"):
        assert getattr(kept, part)[:].dtype == getattr(torch, dtype)
        assert torch.equal(getattr(kept, part)[:], getattr(once, part))
    assert np.array_equal(kept.targets.offsets, either.holdout.targets.offsets)
    assert np.array_equal(kept.targets.labels, either.holdout.targets.labels)
    assert kept.examples is either.holdout
    assert kept.seconds > 0


def build_in_a_process(problem: Problem, folder: Path, dies_after: int | None) -> None:
    features, seen = problem.net.features, []

    def counted(inputs):
        seen.append(None)
        if len(seen) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return features(inputs)

    problem.net.features = counted
    FeatureStore.build(problem.net, problem.holdout, 64, folder=folder)


def started(*arguments):
    process = multiprocessing.get_context("fork").Process(target=build_in_a_process, args=arguments)
    process.start()
    return process


@pytest.fixture
def expected(problem, tmp_path) -> dict[str, bytes]:
    """The shards as one process makes them in one go."""
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "expected")
    return shards(tmp_path / "expected")


def test_several_processes_make_the_same_bytes(problem, tmp_path, expected):
    processes = [started(problem, tmp_path / "shared", None) for _ in range(2)]
    assert [process.join(30) or process.exitcode for process in processes] == [0, 0]
    assert shards(tmp_path / "shared") == expected


def test_killed_and_called_again_it_goes_on(problem, tmp_path, expected, monkeypatch):
    process = started(problem, tmp_path / "killed", 4)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    kept = shards(tmp_path / "killed")
    assert len(kept) == 3
    with refused("unit-000003.safetensors is missing"):
        FeatureStore.load(tmp_path / "killed", problem.net)
    features, seen = problem.net.features, []
    monkeypatch.setattr(problem.net, "features", lambda inputs: seen.append(None) or features(inputs))
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "killed")
    assert shards(tmp_path / "killed") == expected
    assert len(seen) == UNITS - 3


def test_a_disk_that_fills_up_stops_in_one_line_and_keeps_what_is_done(problem, tmp_path, expected):
    resource = pytest.importorskip("resource")
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "full")
    for unit in range(3, UNITS):
        (tmp_path / "full" / f"unit-{unit:06d}.safetensors").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with refused(r"unit-000003\.safetensors cannot be written: ", "free the disk"):
            FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(shards(tmp_path / "full").items()) == list(expected.items())[:3]
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "full")
    assert shards(tmp_path / "full") == expected


def test_a_disk_too_small_is_refused_before_anything_is_computed(problem, tmp_path, monkeypatch):
    needed = 4 * 600 * (144 + 16)
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free) if Path(path) == tmp_path else pytest.fail(path))
    with monkeypatch.context() as patched:
        patched.setattr(problem.net, "features", lambda _: pytest.fail("computed"))
        with refused("needs 384,000 bytes and its disk has 383,999 free"):
            FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "not" / "there")
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "not" / "there", dtype="float16")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(0))
    FeatureStore.build(problem.net, problem.holdout, 64, folder=tmp_path / "not" / "there", dtype="float16")  # nothing is missing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda p: {"net": changed_network(p)}, "model '"), (lambda p: {"examples": changed_inputs(p)}, "data '"),
        (lambda _: {"batch_size": 32}, "batch_size 64, now 32"),
        (lambda _: {"dtype": "float16"}, "dtype 'float32', now 'float16'"), (lambda p: {"examples": [p.holdout] * 2}, "n_views 1, now 2"),
    ],
    ids=["network", "inputs", "batch size", "type", "views"],
)  # fmt: skip
def test_what_was_computed_otherwise_is_refused_by_what_differs(problem, tmp_path, changes, said):
    given = {"net": problem.net, "examples": problem.holdout, "batch_size": 64}
    FeatureStore.build(**given, folder=tmp_path)
    before = shards(tmp_path)
    with refused(r"holds work of another run \(", said):
        FeatureStore.build(**given | changes(problem), folder=tmp_path)
    assert shards(tmp_path) == before


def test_features_read_at_another_place_are_refused(problem, tmp_path):
    at = [wrap(problem.net.model, problem.test.example_inputs(), labels=problem.net.labels, attach=place) for place in ("trunk.5", "trunk.6")]
    FeatureStore.build(at[0], problem.test, folder=tmp_path)
    with refused("holds features of another network, or of another place in it"):
        FeatureStore.load(tmp_path, at[1])
    with refused("holds work of another run", "attach .*trunk.5.*, now .*trunk.6"):
        FeatureStore.build(at[1], problem.test, folder=tmp_path)


def test_where_nothing_can_be_read_there_are_no_features(problem, tmp_path):
    for examples in (problem.test.take([]), damaged(problem.test.take(range(9)), [*range(9)], 9)):
        for folder in (None, tmp_path / str(len(examples))):
            with refused("features: there is no example to read"):
                FeatureStore.build(problem.net, examples, folder=folder)
        with refused("features: there is no example to read"):
            estimate(problem.net, examples)


def test_loaded_for_another_network_or_other_data_they_are_refused(problem, several, tmp_path):
    FeatureStore.build(problem.net, problem.holdout, folder=tmp_path)
    with refused("holds features of another network"):
        FeatureStore.load(tmp_path, several.net)
    with refused("holds features of other data"):
        FeatureStore.load(tmp_path, problem.net, problem.test)
    with refused("manifest.json does not exist"):
        FeatureStore.load(tmp_path / "seconds", problem.net)


@pytest.mark.parametrize("folder", [None, "kept"])
def test_values_that_cannot_be_held_name_the_example(problem, tmp_path, folder):
    given = {"folder": folder and tmp_path / folder}
    for scale, dtype, said in (
        (np.nan, "float32", ["gives example 200 features that are not finite"]),
        (1e6, "float16", ["example 200 has a feature of", "beyond float16's 65504; store float32"]),
    ):
        inputs = problem.holdout.read(range(600)).clone()
        inputs[200] *= scale
        with refused(*said):
            FeatureStore.build(problem.net, open_dataset((inputs, problem.holdout.targets), problem.holdout.labels), dtype=dtype, **given)
        given = {"folder": folder and tmp_path / f"{folder} again"}
    with refused("dtype: expected one of float32, float16; got 'bfloat16'"):
        FeatureStore.build(problem.net, problem.holdout, dtype="bfloat16")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_float16_rounds_to_11_bits_or_refuses(values):
    given = torch.tensor([values], dtype=torch.float32)
    largest = given.abs().max()
    if largest > 65504:
        with refused("example 7 has a feature of", "store float32"):
            module._check_values(given, "float16", lambda row: f"example {row + 7}")
        return
    module._check_values(given, "float16", str)
    kept = given.half()
    assert kept.isfinite().all()
    assert ((kept.double() - given.double()).abs() <= (2.0**-11 * given.double().abs()).clamp(min=2.0**-25)).all()


def test_unreadable_examples_are_left_out_of_their_shard(several, tmp_path):
    bad = [0, 70, *range(128, 192), 599]  # all of the third shard
    kept = np.delete(np.arange(600), bad)
    whole = FeatureStore.build(several.net, several.holdout)
    for memory in (0.0, 0.5):
        examples = damaged(several.holdout, bad, len(bad))
        store = FeatureStore.build(several.net, examples, 64, folder=tmp_path, memory=memory)
        assert examples.skipped == {row: f"data: picture {row} cannot be read" for row in bad}
        torch.testing.assert_close(store.attached[:], whole.attached[kept], rtol=1e-5, atol=1e-5)
        assert np.array_equal(store.targets.labels, whole.targets.take(kept).labels)
        assert np.array_equal(store.targets.offsets, whole.targets.take(kept).offsets)
        assert torch.equal(store.examples.read(range(len(kept))), several.holdout.read(kept))
        assert torch.equal(store.permutation(torch.Generator().manual_seed(0)).sort().values, torch.arange(len(kept)))


def test_more_unreadable_examples_than_allowed_are_refused(problem, tmp_path):
    with refused("data: picture 70 cannot be read; 3 examples cannot be read", r"--skip-bad N\)"):  # one in each shard, which alone is allowed
        FeatureStore.build(problem.net, damaged(problem.holdout, [130, 70, 599], 2), 64, folder=tmp_path)
    assert len(FeatureStore.build(problem.net, damaged(problem.holdout, [130, 70, 599], 3), 64, folder=tmp_path)) == 597


@pytest.mark.parametrize("folder", [None, "kept"])
def test_views_follow_one_another(several, tmp_path, folder):
    pictures = several.holdout.read(range(600))
    other = open_dataset((pictures.flip(3), several.holdout.targets), several.holdout.labels)
    store = FeatureStore.build(several.net, [several.holdout, other], 64, folder=folder and tmp_path / folder)
    assert (len(store), store.n_views, len(store.targets)) == (1200, 2, 1200)
    for number, view in enumerate((several.holdout, other)):
        rows = slice(600 * number, 600 * number + 600)
        torch.testing.assert_close(store.attached[rows], FeatureStore.build(several.net, view).attached, rtol=1e-5, atol=1e-5)
        assert torch.equal(store.examples.read([*range(600)[::-1]][:5] + [600 * number]), torch.cat([pictures[[599, 598, 597, 596, 595]], view.read([0])]))
        assert np.array_equal(store.targets.take(range(1200)[rows]).labels, several.holdout.targets.labels)
    assert torch.equal(store.permutation(torch.Generator()).sort().values, torch.arange(1200))
    with refused("view 1 has other targets than view 0"):
        FeatureStore.build(several.net, [several.holdout, several.test])
    with refused("there is no view"):
        FeatureStore.build(several.net, [])


def test_where_heads_read_the_classifiers_input_it_is_kept_once(problem, tmp_path):
    attach = AttachPoint("classifier", "input")
    net = wrap(problem.net.model, problem.test.example_inputs(), labels=problem.net.labels, attach=attach)
    assert part_widths(net) == {"penultimate": 16}
    assert part_widths(problem.net) == {"attached": 144, "penultimate": 16}
    for memory in (0.0, 0.5):
        store = FeatureStore.build(net, problem.test, folder=tmp_path, memory=memory)
        attached, penultimate = store.batch(torch.tensor([3, 599]))
        assert torch.equal(attached, penultimate)
        torch.testing.assert_close(attached, problem.store("test").penultimate[[3, 599]])
        transform = store.input_transform("whitened")
        assert not torch.equal(*store.transformed(transform).batch(torch.tensor([3])))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2)])
def test_the_estimate_is_what_the_features_then_take(problem, tmp_path, dtype, size):
    about = estimate(problem.net, [problem.holdout] * 3, 64, dtype)
    assert about["bytes"] == 3 * 600 * 160 * size
    assert about["seconds"] >= about["forward_seconds"] > 0
    FeatureStore.build(problem.net, [problem.holdout] * 3, folder=tmp_path, dtype=dtype)
    files = sum(map(len, shards(tmp_path).values()))
    assert about["bytes"] < files < about["bytes"] + 3 * 600 * 24 + 2000 * len(shards(tmp_path))  # with targets, numbers and headers


class Capped(torch.nn.Module):
    """Its logits are cut at 3, which those of its example inputs do not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.classifier = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.trunk(x)).clamp(-3, 3)


def test_what_follows_the_classifier_for_some_examples_only_is_noticed():
    net, inputs = wrap(Capped(), torch.zeros(2, 4)), torch.randn(8, 4)
    assert len(FeatureStore.build(net, open_dataset((inputs, [0] * 8), net.labels)))
    with refused("features: the logits of example 0 differ by", "from what the classifier gives: something comes after it"):
        FeatureStore.build(net, open_dataset((100 * inputs, [0] * 8), net.labels))
