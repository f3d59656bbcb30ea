"""Data sets of Hugging Face's `datasets`."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError

datasets = pytest.importorskip("datasets")

GREYS = [0, 51, 102, 255]


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), (grey, grey, grey)) for grey in GREYS]


def images(labels, kind):
    return datasets.Dataset.from_dict({"picture": pictures(), "label": labels}, features=datasets.Features({"picture": datasets.Image(), "label": kind}))


@pytest.fixture
def classes():
    return datasets.ClassLabel(names=["cat", "dog", "cow"])


def lists_of(examples) -> list[list[int]]:
    return [examples.targets.of(i).tolist() for i in range(len(examples))]


def test_images(classes):
    dataset = images([2, 0, None, 1], classes)
    for source in (dataset, dataset.with_format("torch"), dataset.with_format("numpy"), datasets.concatenate_datasets([dataset])):
        examples = open_dataset(source)
        assert examples.labels.names == ("cat", "dog", "cow")
        assert lists_of(examples) == [[2], [0], [], [1]]
        seen = examples.read([3, 1])[:, 0, 0, 0]
        torch.testing.assert_close(seen, (torch.tensor([255.0, 51.0]) / 255 - 0.485) / 0.229)
    assert open_dataset(dataset, image_size=2).read([0]).shape == (1, 3, 2, 2)
    assert open_dataset(dataset, transform=lambda image: torch.tensor(image.size)).read([0]).tolist() == [[4, 4]]
    assert lists_of(open_dataset(dataset.select([3, 0]))) == [[1], [2]]


def test_class_labels_go_by_their_names(classes):
    assert lists_of(open_dataset(images([2, 0, 0, 1], classes), ["cow", "x", "dog", "cat"])) == [[0], [3], [3], [2]]
    with pytest.raises(SelfInformedError, match="row 0 of the data set: labels: no label is named 'cow'"):
        open_dataset(images([2, 0, 0, 1], classes), ["cat", "dog"])


def test_numbers_names_and_several_labels(classes):
    values = np.eye(4, dtype=np.float32)
    numbers = datasets.Dataset.from_dict({"pixel_values": values, "labels": [[0, 2], [], [1], [2]]})
    assert lists_of(open_dataset(numbers)) == [[0, 2], [], [1], [2]]
    assert open_dataset(numbers).read([2]).tolist() == [[0, 0, 1, 0]]
    names = datasets.Dataset.from_dict({"pixel_values": values[:2], "label": ["b", "a"]})
    assert open_dataset(names).labels.names == ("a", "b")
    several = datasets.Features({"pixel_values": datasets.List(datasets.Value("float32")), "animals": datasets.List(classes)})
    assert lists_of(open_dataset(datasets.Dataset.from_dict({"pixel_values": values[:2], "animals": [[1, 0], []]}, features=several))) == [[0, 1], []]
    with pytest.raises(SelfInformedError, match="row 0 of the data set: labels: there is no label 2; there are 2"):
        open_dataset(numbers, ["x", "y"])


def test_tokens_are_keyword_arguments():
    dataset = datasets.Dataset.from_dict({"input_ids": [[5, 6], [7, 0]], "attention_mask": [[1, 1], [1, 0]], "text": ["a", "b"], "label": [1, 0]})
    batch = open_dataset(dataset).read([1, 0])
    assert isinstance(batch, dict)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {"input_ids": [[7, 0], [5, 6]], "attention_mask": [[1, 0], [1, 1]]}
    alone = open_dataset(dataset.with_format("torch", columns=["input_ids", "label"])).read([0])
    assert {name: tensor.tolist() for name, tensor in alone.items()} == {"input_ids": [[5, 6]]}  # a column that the format leaves out is no input
    ragged = datasets.Dataset.from_dict({"input_ids": [[5, 6], [7]], "label": [1, 0]})
    with pytest.raises(SelfInformedError, match="padding='max_length'"):
        open_dataset(ragged).read([0, 1])


def test_what_has_a_mask_beside_it_goes_by_name():
    dataset = datasets.Dataset.from_dict({"attention_mask": [[1, 1], [1, 0]], "input_values": [[0.1, 0.2], [0.3, 0.4]], "label": [0, 1]})
    batch = open_dataset(dataset).read([1])
    assert {name: list(tensor.shape) for name, tensor in batch.items()} == {"input_values": [1, 2], "attention_mask": [1, 2]}
    with pytest.raises(SelfInformedError, match="Map a tokenizer"):
        open_dataset(dataset.remove_columns("input_values"))


def test_a_transform_of_its_own_gives_the_inputs(classes):
    dataset = images([2, 0, 0, 1], classes)

    def twice(batch):
        return {"pixel_values": [torch.full((2,), 2.0 * picture.getpixel((0, 0))[0]) for picture in batch["picture"]], "label": batch["label"]}

    assert open_dataset(dataset.with_transform(twice)).read([1, 3]).tolist() == [[102, 102], [510, 510]]
    grey = dataset.with_transform(lambda batch: {"picture": [picture.convert("L") for picture in batch["picture"]]})
    assert open_dataset(grey, transform=lambda image: torch.tensor(len(image.mode))).read([1, 3]).tolist() == [1, 1]
    with pytest.raises(SelfInformedError, match="row 0 of the data set cannot be read"):
        open_dataset(dataset.with_transform(lambda batch: 1 / 0))


def test_the_fingerprint_is_that_of_the_data_set(classes):
    dataset = images([2, 0, 0, 1], classes)
    assert open_dataset(dataset).fingerprint == open_dataset(dataset).fingerprint
    assert open_dataset(dataset).fingerprint != open_dataset(images([2, 0, 0, 0], classes)).fingerprint


def test_a_damaged_image_is_named_and_can_be_set_aside():
    good = io.BytesIO()
    Image.new("RGB", (4, 4)).save(good, "png")
    stored = [{"bytes": good.getvalue(), "path": None}, {"bytes": b"no image", "path": None}, {"bytes": None, "path": "nowhere.png"}, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": stored, "label": [0, 1, 0, 1]}, features=features)
    examples = open_dataset(dataset, skip_bad=3)
    assert [rows.tolist() for rows, _ in examples.batches(4)] == [[0]]
    assert all(f"row {row} of the data set" in examples.skipped[row] for row in (1, 2, 3))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "no column of images, nor one of input_ids, .*Map a tokenizer"),
        ({"pixel_values": [[1.0]]}, "no column `labels` or `label`"),
        ({"pixel_values": [[1.0], [2.0]], "label": [0, 0.5]}, r"row 0 of the data set: 0\.0 is no label"),
        ({"pixel_values": [[1.0]], "label": [-1]}, "-1 is no label"),
        ({"pixel_values": [[1.0]], "label": [""]}, "'' is no label"),
        ({"pixel_values": [[1.0]], "label": [None]}, "row 0 of the data set and all others have no label"),
        ({"pixel_values": [[1.0], [2.0]], "label": [[0, 1, 0], [1]]}, r"\[0, 1, 0\] names a label twice; expected class numbers, not one 0"),
        ({"pixel_values": [[1.0]], "label": [2**40]}, "the class number 1099511627776; expected less than"),
        ({"pixel_values": [], "label": []}, "has no rows"),
    ],
)
def test_what_has_no_known_labels_or_inputs_is_refused(columns, message):
    with pytest.raises(SelfInformedError, match=message):
        open_dataset(datasets.Dataset.from_dict(columns))


def test_several_splits_or_columns_of_images_are_refused(classes):
    dataset = images([2, 0, 0, 1], classes)
    with pytest.raises(SelfInformedError, match=r"has the splits \['train'\]; give one of them"):
        open_dataset(datasets.DatasetDict({"train": dataset}))
    with pytest.raises(SelfInformedError, match=r"several columns of images \(picture, other\); remove all but one"):
        open_dataset(datasets.concatenate_datasets([dataset, dataset.remove_columns("label").rename_column("picture", "other")], axis=1))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_rows_of_one_number_for_each_label_are_multi_hot(kind):
    datasets = pytest.importorskip("datasets")
    hot = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    made = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, 4], [5, 6]], "labels": hot.astype(kind).tolist()})
    for labels in (None, ["a", "b", "c", "d"]):
        targets = open_dataset(made, labels).targets
        assert (targets.labels.tolist(), targets.offsets.tolist(), targets.n_labels) == ([1, 2, 0], [0, 2, 2, 3], 4)
