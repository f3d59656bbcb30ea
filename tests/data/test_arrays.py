"""Inputs and targets in arrays, or in an .npz file."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from conftest import CLASSES, lists_of
from selfinformed.data.inputs import take_inputs
from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError


@pytest.mark.parametrize("targets", [np.array(CLASSES), np.eye(3)[CLASSES]])
def test_npz(tmp_path, targets):
    inputs = np.random.default_rng(0).random((6, 4), np.float32)
    np.savez(tmp_path / "x.npz", inputs=inputs, targets=targets)
    examples = open_dataset(str(tmp_path / "x.npz"))
    assert lists_of(examples) == [[c] for c in CLASSES]
    assert examples.labels.names == ("0", "1", "2")
    np.testing.assert_array_equal(examples.read([4, 1]), inputs[[4, 1]])


def test_npz_that_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, inputs=np.zeros(3))
    with pytest.raises(SelfInformedError, match=r"x\.npz has no array 'targets'; expected `inputs` and `targets`, got \['inputs'\]$"):
        open_dataset(path)
    np.savez(path, input_ids=np.zeros((3, 2)), targets=np.zeros(3, int))
    with pytest.raises(SelfInformedError, match=r"no array 'inputs'; .* got \['input_ids', 'targets'\]; several inputs by name are given from Python"):
        open_dataset(path)
    np.savez(path, inputs=np.array([{}], object), targets=np.zeros(1, int))
    with pytest.raises(SelfInformedError, match=r"x\.npz cannot be read as \.npz"):
        open_dataset(path)
    np.savez(path, inputs=np.zeros(3), targets=np.zeros(3, int))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(other := tmp_path / "bare.npz", "w") as bare:  # NumPy reads these too, and reads them first
        for member in whole.namelist():
            bare.writestr(member.removesuffix(".npy"), whole.read(member))
    with pytest.raises(SelfInformedError, match=r"bare\.npz cannot be read as \.npz \(it has a member 'inputs' without \.npy"):
        open_dataset(other)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(SelfInformedError, match=r"x\.npz cannot be read as \.npz"):
        open_dataset(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_npz_is_named(tmp_path, save, share):
    path = tmp_path / "x.npz"
    save(path, inputs=np.random.default_rng(0).random(500), targets=np.zeros(500, int))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SelfInformedError, match=r"x\.npz cannot be read as \.npz"):
        open_dataset(path)


@pytest.mark.parametrize("targets", [CLASSES, torch.tensor(CLASSES), [[c] for c in CLASSES], [{c} for c in CLASSES], torch.eye(3)[CLASSES]])
def test_inputs_and_targets(targets):
    inputs = torch.arange(12.0).reshape(6, 2)
    for given_inputs in (inputs, inputs.numpy(), inputs.tolist()):
        examples = open_dataset((given_inputs, targets))
        assert len(examples.labels) == 3
        assert lists_of(examples) == [[c] for c in CLASSES]
        assert torch.equal(examples.read([5, 2]), inputs[[5, 2]])
    assert examples.name(2) == "example 2"


def test_keyword_inputs():
    inputs = {"ids": torch.arange(12).reshape(6, 2), "mask": np.ones((6, 2))}
    examples = open_dataset((inputs, CLASSES), list("abc"))
    read = examples.read([5, 1])
    assert read["ids"].tolist() == [[10, 11], [2, 3]]
    assert read["mask"].shape == (2, 2)
    assert take_inputs(read, slice(0, 1))["ids"].tolist() == [[10, 11]]
    with pytest.raises(SelfInformedError, match="3 inputs but targets for 6 examples"):
        open_dataset((inputs | {"mask": torch.ones(3, 2)}, CLASSES))


@pytest.mark.parametrize("targets", [[0, 1], [[0], [1]], torch.eye(2)])
def test_another_number_of_targets_is_refused(targets):
    with pytest.raises(SelfInformedError, match="3 inputs but targets for 2 examples"):
        open_dataset((torch.zeros(3, 1), targets))


def test_targets_and_labels_have_to_agree():
    with pytest.raises(SelfInformedError, match="example 1 has label 2"):
        open_dataset((torch.zeros(2, 1), [0, 2]), ["a", "b"])
    with pytest.raises(SelfInformedError, match="have 3 columns, expected 2"):
        open_dataset((torch.zeros(2, 1), torch.zeros(2, 3)), ["a", "b"])
    with pytest.raises(SelfInformedError, match="targets: label names, such as 'cat', want all names .* give labels="):
        open_dataset((torch.zeros(2, 1), [["cat"], ["dog"]]))


def test_arrays_with_labels_in_a_row_and_offsets(tmp_path):
    inputs = np.zeros((3, 4), np.float32)
    np.savez(tmp_path / "u.npz", inputs=inputs, targets=np.array([1, 2, 3]), offsets=np.array([0, 2, 3, 3]))
    targets = open_dataset(tmp_path / "u.npz").targets
    assert (targets.labels.tolist(), targets.offsets.tolist()) == ([1, 2, 3], [0, 2, 3, 3])
    for wrong in ([0, 2, 1, 3], [1, 2, 3, 3], [0, 2, 3, 4], [0.0, 2.0, 3.0, 3.0], []):
        np.savez(tmp_path / "u.npz", inputs=inputs, targets=np.array([1, 2, 3]), offsets=np.array(wrong))
        with pytest.raises(SelfInformedError, match=r"u\.npz cannot be read as \.npz \(offsets: expected whole numbers"):
            open_dataset(tmp_path / "u.npz")
    np.savez(tmp_path / "u.npz", inputs=inputs, targets=np.array([1, 2, 3]), offsets=np.array([0, 2, 3]))
    with pytest.raises(SelfInformedError, match="3 inputs but targets for 2 examples"):
        open_dataset(tmp_path / "u.npz")
