"""Examples come from anywhere, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from conftest import lists_of
from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError


def test_a_folder(six_images):
    examples = open_dataset(six_images, image_size=4)
    assert len(examples) == 6
    assert examples.labels.names == ("a", "b", "c")
    assert lists_of(examples) == [[0], [0], [1], [1], [2], [2]]
    assert examples.name(3) == str(six_images / "b" / "3.png")
    assert examples.read([5, 0]).shape == (2, 3, 4, 4)
    assert examples.read([5])[0, 0, 0, 0] > examples.read([0])[0, 0, 0, 0]
    assert examples.example_inputs().shape == (1, 3, 4, 4)


def test_a_transform_of_ones_own(six_images):
    examples = open_dataset(six_images, transform=lambda image: torch.tensor(image.size))
    assert examples.read([0, 1]).tolist() == [[8, 6], [8, 6]]


def test_labels_given_set_the_order(six_images):
    assert lists_of(open_dataset(six_images, ["c", "b", "a", "d"])) == [[2], [2], [1], [1], [0], [0]]
    with pytest.raises(SelfInformedError, match="no label is named 'b'"):
        open_dataset(six_images, ["a", "c"])


def test_manifests(six_images):
    (six_images / "m.csv").write_text("path,labels\na/0.png,a;c\nc/5.png,\n")
    examples = open_dataset(six_images / "m.csv", ["c", "a"])
    assert lists_of(examples) == [[0, 1], []]
    assert examples.read([0, 1]).shape == (2, 3, 6, 8)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["a/0.png", "c/5.png"], "labels": [["a", "c"], []]}), six_images / "m.parquet")
    again = open_dataset(six_images / "m.parquet", ["c", "a"])
    assert lists_of(again) == lists_of(examples)
    assert torch.equal(again.read([0, 1]), examples.read([0, 1]))
    pq.write_table(pa.table({"input_ids": [[5, 6]], "labels": [0]}), six_images / "m.parquet")
    with pytest.raises(SelfInformedError, match=r"no 'path' in row 1; .* are \['input_ids', 'labels'\]: parquet is read as a manifest of images; other data"):
        open_dataset(six_images / "m.parquet")


def test_images_transformed_otherwise_are_others(six_images):
    options = [{}, {"image_size": 4}, {"image_size": 5}, {"transform": lambda _: torch.zeros(1)}, {"transform": lambda image: torch.tensor(image.size)}]
    prints = [open_dataset(six_images, **given).fingerprint for given in options]
    assert len({*prints}) == 5
    assert prints == [open_dataset(six_images, **given).fingerprint for given in options]


def test_examples_are_returned_as_they_are():
    examples = open_dataset((torch.zeros(2, 1), [0, 1]))
    assert open_dataset(examples) is examples


def test_sources_that_are_refused(tmp_path):
    with pytest.raises(SelfInformedError, match=r"nowhere does not exist; expected a folder of images"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(SelfInformedError, match=r"x\.txt is no folder, \.csv, \.parquet, \.tar or \.npz file"):
        open_dataset(tmp_path / "x.txt")
    with pytest.raises(SelfInformedError, match="cannot read int; expected a folder"):
        open_dataset(3)


def test_distorted_views_follow_the_images(six_images):
    plain, seen = open_dataset(six_images, image_size=8), open_dataset(six_images, image_size=8, views=3, augmentation="crop")
    n = len(plain)
    assert len(seen) == 3 * n
    assert lists_of(seen) == 3 * lists_of(plain)
    assert torch.equal(seen.read(range(n)), plain.read(range(n)))
    assert torch.equal(seen.read([n + 1, 2])[1], plain.read([2])[0])
    assert list(seen.names or ()) == [plain.name(i) + (f" (view {view})" if view else "") for view in range(3) for i in range(n)]
    assert (seen.names or ())[-1:] == [f"{plain.name(n - 1)} (view 2)"]
    assert (plain.n_views, seen.n_views) == (1, 3)
    others = [open_dataset(six_images, image_size=8, views=views, augmentation=how) for views, how in ((2, "crop"), (3, "crop_mirror"))]
    assert len({examples.fingerprint for examples in (plain, seen, *others)}) == 4


def test_a_transform_of_ones_own_makes_all_views(six_images):
    seen = open_dataset(six_images, transform=lambda image: torch.tensor([*image.size, 7]), views=2, augmentation="crop")
    whole, part = seen.read(range(len(seen))).chunk(2)
    assert torch.equal(whole, part)


@pytest.mark.parametrize(
    "options",
    [{"views": 2}, {"views": 0}, {"views": 2.5, "augmentation": "crop"}, {"views": 1, "augmentation": "crop"}, {"views": 2, "augmentation": "rotate"}],
)
def test_distorted_views_that_are_refused(six_images, options):
    with pytest.raises(SelfInformedError, match="(want augmentation crop or crop_mirror and at least 2 views|views: expected a whole number .*); got"):
        open_dataset(six_images, **options)


def test_only_images_have_distorted_views(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.zeros((2, 1)), targets=np.zeros(2, np.int64))
    arrays = (torch.zeros(2, 1), [0, 1])
    for source in (arrays, open_dataset(arrays), tmp_path / "x.npz"):
        with pytest.raises(SelfInformedError, match="only images, in a folder, manifest, tar shards or a column, have distorted views"):
            open_dataset(source, views=2, augmentation="crop")


def test_images_of_several_sizes_need_image_size(six_images):
    Image.new("RGB", (9, 9)).save(six_images / "b" / "2.png")
    with pytest.raises(SelfInformedError, match=r"2\.png has shape \[3, 9, 9\], .*0\.png has \[3, 6, 8\]; give all one size, e\.g\. with image_size"):
        list(open_dataset(six_images).batches())
    assert len(list(open_dataset(six_images, image_size=5).batches())) == 1


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ((torch.zeros(4, 1).to_sparse(), [0, 1, 0, 1]), {}, "they are sparse .*; give them dense"),
        ((np.arange(4.0)[::-1, None], [0, 1, 0, 1]), {}, r"give an array in memory order, as by \.copy\(\)"),
        ((torch.zeros(2, 1), np.array([2**63, 0], np.uint64)), {}, "example 0 has label 9223372036854775807"),
        (DataLoader(TensorDataset(torch.zeros(4, 1))), {}, "cannot read DataLoader; give its `dataset`"),
        ([(torch.zeros(1), row % 3) for row in range(10)], {"image_size": 8}, "image_size is of images; list gives its inputs"),
        ((torch.zeros(2, 1), [0, 1]), {"pixels": ((0, 0, 0), (1, 1, 1))}, "pixels is of images; tuple gives its inputs"),
        (open_dataset((torch.zeros(2, 1), [0, 1])), {"transform": torch.zeros}, "transform is of images; Examples gives"),
        (Path("a.npz"), {"image_size": 8}, "image_size is of images; a.npz gives"),
        (Path("a"), {"image_size": 8, "transform": torch.zeros}, "a transform gives the inputs by itself"),
        (Path("a"), {"skip_bad": "a"}, "skip_bad: expected a whole number of at least 0; got 'a'"),
        (Path("a"), {"skip_bad": -1}, "skip_bad: expected a whole number of at least 0; got -1"),
        (open_dataset((torch.zeros(2, 1), [0, 1]), ["a", "b"]), {"labels": ["b", "a"]}, "labels: these examples have others already"),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(source, options, message):
    with pytest.raises(SelfInformedError, match=message):
        open_dataset(source, **options)
