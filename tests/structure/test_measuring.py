"""Measuring in units that are kept gives the counts of measuring at once, and what is kept is checked before it is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import Problem, changed_inputs, changed_network, damaged, refused
from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.data.predictions import open_predictions
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime import work
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.detections import detections
from selfinformed.structure.measuring import FORMAT, count, detect, measure
from selfinformed.training.features import FeatureStore, rank

UNITS, SIZE = 10, 64  # of 600 examples in batches of 64


@pytest.fixture
def run(problem: Problem, tmp_path, monkeypatch):
    """Measures the problem's hold-out set in a folder, each unit tried once; `run.seen` has the batches its network has seen."""
    logits, seen = problem.net.logits, []

    def run(net: WrappedClassifier = problem.net, holdout: Examples = problem.holdout, **options) -> ConfusionCounts:
        return measure(net, holdout, folder=tmp_path, **options)

    monkeypatch.setattr(problem.net, "logits", lambda inputs: seen.append(len(inputs)) or logits(inputs))
    monkeypatch.setattr(work, "ATTEMPTS", 1)
    run.seen = seen
    return run


def same(one: ConfusionCounts, other: ConfusionCounts, tmp_path) -> bool:
    """Whether two counts are equal, file by file too."""
    one.save(tmp_path / "one.counts")
    other.save(tmp_path / "other.counts")
    return (one.to_scipy() != other.to_scipy()).nnz == 0 and (tmp_path / "one.counts").read_bytes() == (tmp_path / "other.counts").read_bytes()


def unit(folder, number: int):
    return folder / f"unit-{number:06d}.safetensors"


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
@pytest.mark.parametrize(("top_k", "batch_size"), [(None, 64), (7, 11)])
def test_counts_are_those_of_measuring_at_once(either, tmp_path, kind, top_k, batch_size):
    kept = measure(either.net, either.holdout, top_k, kind, batch_size, tmp_path / "kept")
    assert same(kept, measure(either.net, either.holdout, top_k, kind, batch_size), tmp_path)
    assert (kept.n_examples, kept.kind) == (600, kind)


def test_one_folder_serves_both_kinds_and_the_network_runs_once(run, problem, tmp_path):
    first = run()
    assert len(run.seen) == UNITS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims", "manifest.json", *(unit(tmp_path, n).name for n in range(UNITS))]
    assert same(run(), first, tmp_path)
    assert same(run(kind="codetections"), measure(problem.net, problem.holdout, kind="codetections"), tmp_path)
    assert len(run.seen) == 2 * UNITS  # the last line's comparison ran it once more, without a folder


def test_units_hold_what_is_detected_in_the_order_of_the_examples(problem, tmp_path):
    found = detect(problem.net, problem.holdout, tmp_path)
    expected = detections(problem.net.logits(problem.holdout.read(range(600))), found.top_k)
    assert (found.n_examples, found.n_labels, found.top_k) == (600, 36, 5)
    ids, targets = zip(*found.batches())
    assert [len(rows) for rows in ids] == [SIZE] * (UNITS - 1) + [600 - SIZE * (UNITS - 1)]
    np.testing.assert_array_equal(np.concatenate(ids), expected)
    np.testing.assert_array_equal(np.concatenate([rows.labels for rows in targets]), problem.holdout.targets.labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda p: {"net": changed_network(p)}, ["model '", "', now '"]), (lambda p: {"holdout": changed_inputs(p)}, ["data '", "', now '"]),
        (lambda _: {"batch_size": 32}, ["batch_size 64, now 32"]),
        (lambda _: {"top_k": 6}, ["top_k 5, now 6"]), (lambda p: {"holdout": p.holdout.take(range(512))}, ["n_examples 600, now 512"]),
    ],
    ids=["network", "inputs", "batch size", "top_k", "fewer examples"],
)  # fmt: skip
def test_what_was_measured_otherwise_is_refused_by_what_differs(run, problem, tmp_path, changes, said):
    first = run()
    with refused(r"holds work of another run \(", *said, "choose another --output, or delete"):
        run(**changes(problem))
    assert same(run(), first, tmp_path)
    assert len(run.seen) == UNITS


def rewritten(path, *, metadata: dict[str, str] | None = None, **arrays) -> None:
    held, about = read_tensors(path, FORMAT)
    path.unlink()
    write_tensors(path, held | arrays, about | (metadata or {}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: unit(f, 3).write_bytes(unit(f, 3).read_bytes()[:-9]), ["is not a whole safetensors file"]),
        (lambda f: rewritten(unit(f, 3), metadata={"model": "abc"}), [r"is of another model \(abc\)"]),
        (lambda f: rewritten(unit(f, 3), metadata={"data": "abc"}), [r"is of another data \(abc\)"]),
        (lambda f: unit(f, 3).write_bytes(unit(f, 4).read_bytes()), [r"is of another unit \(4\)"]),
        (lambda f: rewritten(unit(f, 3), rows=np.arange(64)), ["is not a whole unit", "its examples are not 192 to 255"]),
        (lambda f: rewritten(unit(f, 3), ids=np.zeros((63, 5), np.uint8)), ["is not a whole unit"]),
        (lambda f: rewritten(unit(f, 3), metadata={"skipped": "[]"}), ["is not a whole unit"]),
    ],
    ids=["truncated", "another model", "other data", "copied", "other rows", "too few ids", "no list of skipped"],
)  # fmt: skip
def test_a_damaged_unit_is_named_and_made_again_once_deleted(run, tmp_path, damage, said):
    first = run()
    damage(tmp_path)
    with refused(r"unit-000003\.safetensors", *said):
        run()
    unit(tmp_path, 3).unlink()
    assert same(run(), first, tmp_path)
    assert len(run.seen) == UNITS + 1


def test_what_another_run_of_the_heads_detects_is_not_taken(problem, tmp_path):
    aug = augment(problem.net, problem.plan())
    with torch.no_grad():
        for parameter in aug.new_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    few = problem.holdout.take(range(40))
    measure(problem.net, few, folder=tmp_path / "base")
    with aug.heads_disabled():
        measure(aug, few, folder=tmp_path / "base")  # the same network
    measure(aug, few, folder=tmp_path / "heads")
    runs = (aug.heads_disabled, lambda: aug.conditional(1), lambda: aug.conditional(2))
    for number, run in enumerate(runs):
        with run():
            with refused("holds work of another run"):
                measure(aug, few, folder=tmp_path / "heads")
            if number:
                measure(aug, few, folder=tmp_path / str(number))
    with refused("holds work of another run"), aug.conditional(1):
        measure(aug, few, folder=tmp_path / "2")


def test_a_file_that_is_no_unit_is_not_counted(run, tmp_path):
    first = run()
    unit(tmp_path, UNITS).write_bytes(unit(tmp_path, 0).read_bytes())
    with refused(r"unit-000010\.safetensors is none of the 10 units of this run; delete it"):
        run()
    unit(tmp_path, UNITS).unlink()
    assert same(run(), first, tmp_path)


def test_an_example_whose_scores_are_nan_is_named(run, problem):
    inputs = problem.holdout.read(range(600)).clone()
    inputs[200] = np.nan
    with refused("measuring: unit 3 of 10 failed", "example 200 has the score nan for label 0", "the 9 others are kept"):
        run(holdout=open_dataset((inputs, problem.holdout.targets), problem.holdout.labels))
    assert len(run.seen) == UNITS


def test_unreadable_examples_are_set_aside_and_counted_once(run, problem, tmp_path):
    bad = [0, 70, 71, 128, 599]
    holdout = damaged(problem.holdout, bad, 5)
    rest = measure(problem.net, problem.holdout.take(np.delete(np.arange(600), bad)))
    for examples in (holdout, holdout, damaged(problem.holdout, bad, 5)):
        assert same(run(holdout=examples), rest, tmp_path)
        assert examples.skipped == {row: f"data: picture {row} cannot be read" for row in bad}


def test_more_unreadable_examples_than_allowed_are_refused(run, problem, tmp_path):
    bad = [130, 70, 599]
    with refused("data: picture 70 cannot be read; 3 examples cannot be read", r"--skip-bad N\)"):  # one in each unit, which alone is allowed
        run(holdout=damaged(problem.holdout, bad, 2))
    assert run(holdout=damaged(problem.holdout, bad, 3)).n_examples == 597
    before = len(run.seen)
    with refused("data: picture 70 cannot be read; 3 examples"):
        run(holdout=damaged(problem.holdout, bad, 0))
    assert len(run.seen) == before
    with refused("unit 1 of 10 failed", "picture 66 cannot be read", r"--skip-bad N\)"):
        measure(problem.net, damaged(problem.holdout, range(64, 67), 2), folder=tmp_path / "in one unit")


def test_a_unit_of_which_nothing_can_be_read_is_empty(run, problem, tmp_path):
    rest = measure(problem.net, problem.holdout.take(np.delete(np.arange(600), range(64, 128))))
    assert same(run(holdout=damaged(problem.holdout, range(64, 128), 64)), rest, tmp_path)


def test_of_no_examples_there_is_nothing_to_measure(run, problem):
    with refused("data: there are no examples to measure"):
        run(holdout=problem.holdout.take([]))


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
def test_saved_predictions_count_like_the_arrays_in_memory(either, tmp_path, kind):
    ids, targets = detections(either.net.logits(either.holdout.read(range(600))), 6).numpy(), either.holdout.targets
    np.savez(tmp_path / "saved.npz", ids=ids, labels=targets.labels, offsets=targets.offsets)
    expected = ConfusionCounts(36, 6, kind)
    expected.update_detections(ids, targets)
    assert same(count(open_predictions(tmp_path / "saved.npz", 36), kind), expected, tmp_path)


def test_the_same_names_in_another_order_are_refused(problem: Problem):
    names = [f"label {i}" for i in range(problem.net.n_labels)]
    net = wrap(problem.net.model, problem.net.example_inputs, labels=names)

    def labelled(names: list[str]) -> Examples:
        return replace(problem.holdout, labels=LabelSpace(names))

    for fine in (names, [name.upper() for name in names], list(map(str, range(len(names))))):  # other names may be the same labels
        assert measure(net, labelled(fine)).n_examples == len(problem.holdout)
    swapped = [*names[:4], names[5], names[4], *names[6:]]
    for use in (measure, FeatureStore.build, rank):
        with refused("the label 'label 4' is output 4 of the network and label 5 of the data; open the data with labels=net.labels"):
            use(net, labelled(swapped))
    numbered = wrap(problem.net.model, problem.net.example_inputs)
    assert measure(numbered, labelled(swapped)).n_examples == len(problem.holdout)  # a network that knows no names


class Tokens(nn.Module):
    """Token numbers [B, T] and their mask to logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.classifier((self.embedding(input_ids) * mask[..., None]).mean(1))


ids, mask = torch.arange(12).reshape(4, 3) % 9, torch.ones(4, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("wrapped", "given", "said"),
    [
        ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids}, "attention_mask, input_ids, as the network was wrapped with, got input_ids"),
        ({"input_ids": ids, "attention_mask": mask}, ids, "attention_mask, input_ids, as the network was wrapped with, got one tensor"),
        ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}, "input_ids, as the network was wrapped with, got attention_mask, input_ids"),
        ({"input_ids": ids}, {"ids": ids}, "input_ids, as the network was wrapped with, got ids"),
        (ids, {"input_ids": ids}, "one tensor, as the network was wrapped with, got input_ids"),
    ],
)
def test_inputs_of_other_names_are_refused(wrapped, given, said):
    net, holdout = wrap(Tokens(), wrapped), open_dataset((given, [0, 1, 2, 0]))
    for use in (measure, FeatureStore.build, rank):
        with refused(f"data: expected inputs {said}; open the data with just these"):
            use(net, holdout)


@pytest.mark.parametrize(("wrapped", "given"), [({"input_ids": ids}, {"input_ids": ids}), ({"input_ids": ids}, ids), (ids, ids)])
def test_inputs_of_the_same_names_are_measured(wrapped, given):
    assert measure(wrap(Tokens(), wrapped), open_dataset((given, [0, 1, 2, 0])), top_k=1).n_examples == 4


def test_inputs_that_cannot_be_read_have_no_names(problem):
    for nothing in (problem.holdout.take([]), damaged(problem.holdout.take(range(3)), range(3), 3)):
        assert measure(problem.net, nothing).n_examples == 0


def test_what_is_no_data_and_what_is_no_network_is_refused(problem):
    pictures, holdout = problem.holdout.read([0, 1]), problem.holdout
    pairs = (pictures, [0, 1])
    for use in (measure, rank):
        for data in (pairs, DataLoader(TensorDataset(pictures, torch.tensor([0, 1]))), None):
            with refused(f"data: expected data from open_dataset, got {type(data).__name__}; give si.open_dataset"):
                use(problem.net, data)
    with refused("network: expected one from wrap or augment, got SmallNet; give si.wrap"):
        measure(problem.net.model, holdout)


@pytest.mark.parametrize("options", [{"top_k": 5.0}, {"top_k": 2.5}, {"top_k": 37}, {"batch_size": 0}, {"batch_size": 1.5}])
def test_numbers_that_are_not_whole_are_refused(problem, tmp_path, options):
    for folder in (None, tmp_path / "kept"):
        with refused(f"{next(iter(options))}: expected a whole number .*; got {next(iter(options.values()))}"):
            measure(problem.net, problem.holdout, folder=folder, **options)
    assert measure(problem.net, problem.holdout, np.int64(5), folder=tmp_path).top_k == 5


def test_numbers_sorted_as_text_are_not_taken_for_output_numbers():
    net = wrap(nn.Sequential(nn.Identity(), nn.Linear(1, 12)), torch.zeros(2, 1))
    data = open_dataset((torch.zeros(12, 1), range(12)), sorted(map(str, range(12))))  # as folders called 0 to 11 are
    with refused("the label '2' is output 2 of the network and label 4 of the data; open the data with labels=net.labels, or, where", "labels=data.labels"):
        measure(net, data)
    assert measure(wrap(net.model, torch.zeros(2, 1), labels=data.labels), data).n_examples == 12
