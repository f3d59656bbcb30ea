"""Examples come from anywhere, in order; unreadable ones are named or set aside."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from selfinformed.data.examples import Examples, open_dataset, take_inputs
from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError

CLASSES = [0, 2, 1, 2, 0, 1]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six images of three labels, each with a grey of its own."""
    for i, label in enumerate(sorted(CLASSES)):
        (tmp_path / "abc"[label]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (40 * i, 40 * i, 40 * i)).save(tmp_path / "abc"[label] / f"{i}.png")
    return tmp_path


def damage(folder: Path, *numbers: int) -> list[str]:
    paths = sorted(folder.glob("*/*.png"))
    for number in numbers:
        paths[number].write_bytes(b"no image")
    return [str(paths[number]) for number in numbers]


def lists_of(examples: Examples) -> list[list[int]]:
    return [examples.targets.of(i).tolist() for i in range(len(examples))]


class Squares(Dataset):
    def __init__(self, broken: int | None = None, **attributes: object) -> None:
        self.broken = broken
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(CLASSES)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if row == self.broken:
            raise OSError("torn page")
        return torch.full((2, 2), float(row)), CLASSES[row]


def test_a_folder(folder):
    examples = open_dataset(folder, image_size=4)
    assert len(examples) == 6
    assert examples.labels.names == ("a", "b", "c")
    assert lists_of(examples) == [[0], [0], [1], [1], [2], [2]]
    assert examples.name(3) == str(folder / "b" / "3.png")
    assert examples.read([5, 0]).shape == (2, 3, 4, 4)
    assert examples.read([5])[0, 0, 0, 0] > examples.read([0])[0, 0, 0, 0]
    assert examples.example_inputs().shape == (1, 3, 4, 4)


def test_a_transform_of_ones_own(folder):
    examples = open_dataset(folder, transform=lambda image: torch.tensor(image.size))
    assert examples.read([0, 1]).tolist() == [[8, 6], [8, 6]]


def test_labels_given_set_the_order(folder):
    assert lists_of(open_dataset(folder, ["c", "b", "a", "d"])) == [[2], [2], [1], [1], [0], [0]]
    with pytest.raises(SelfInformedError, match="no label is named 'b'"):
        open_dataset(folder, ["a", "c"])


def test_manifests(folder):
    (folder / "m.csv").write_text("path,labels\na/0.png,a;c\nc/5.png,\n")
    examples = open_dataset(folder / "m.csv", ["c", "a"])
    assert lists_of(examples) == [[0, 1], []]
    assert examples.read([0, 1]).shape == (2, 3, 6, 8)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["a/0.png", "c/5.png"], "labels": [["a", "c"], []]}), folder / "m.parquet")
    again = open_dataset(folder / "m.parquet", ["c", "a"])
    assert lists_of(again) == lists_of(examples)
    assert torch.equal(again.read([0, 1]), examples.read([0, 1]))
    pq.write_table(pa.table({"input_ids": [[5, 6]], "labels": [0]}), folder / "m.parquet")
    with pytest.raises(SelfInformedError, match=r"no 'path' in row 1; .* are \['input_ids', 'labels'\]: parquet is read as a manifest of images; other data"):
        open_dataset(folder / "m.parquet")


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


@pytest.mark.parametrize("source", [Squares(), Squares(targets=CLASSES), TensorDataset(torch.arange(6.0), torch.tensor(CLASSES)), [(0.0, c) for c in CLASSES]])
def test_map_style_datasets(source):
    examples = open_dataset(source)
    assert examples.labels.names == ("0", "1", "2")
    assert lists_of(examples) == [[c] for c in CLASSES]
    assert torch.equal(examples.read([3, 1]), torch.stack([torch.as_tensor(source[i][0]) for i in (3, 1)]))


def test_mappings_are_keyword_inputs():
    inputs = {"ids": torch.arange(12).reshape(6, 2), "mask": np.ones((6, 2))}
    rows = [{name: values[row] for name, values in inputs.items()} for row in range(6)]
    lists = {name: list(values) for name, values in inputs.items()}
    pairs = list(zip(rows, CLASSES))
    for source in ((UserDict(inputs), CLASSES), (lists, CLASSES), (rows, CLASSES), ([*map(UserDict, rows)], CLASSES), pairs):
        examples = open_dataset(source, list("abc"))
        read = examples.read([5, 1])
        assert type(read) is dict
        assert {name: tensor.tolist() for name, tensor in read.items()} == {"ids": [[10, 11], [2, 3]], "mask": [[1, 1], [1, 1]]}
        assert lists_of(examples) == [[c] for c in CLASSES]
        assert examples.fingerprint == open_dataset(source, list("abc")).fingerprint
    changed = [*pairs[:5], ({"ids": rows[4]["ids"], "mask": rows[4]["mask"]}, CLASSES[5])]
    assert open_dataset(changed).fingerprint != open_dataset(pairs).fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([{"ids": [1, 2], "y": 0}], r"example 0 of list is one dictionary of ids, y; give labels too, as `labels` in it or in pairs"),
        (({"ids": [[1, 2], [3]]}, [0, 1]), r"'ids' of the inputs is no numbers .*; give all rows one length, with padding='max_length'"),
        (([[1, 2], [3]], [0, 1]), r"the inputs are no numbers .*; give all rows one length, with padding='max_length'"),
        (({"ids": [torch.zeros(2), torch.zeros(1)]}, [0, 1]), r"'ids' of the inputs is no numbers .*; give all rows one length, with padding='max_length'"),
        (([{"ids": [1, 2]}, {"ids": [3]}], [0, 1]), r"'ids' of example 1 has shape \[1\], 'ids' of example 0 has \[2\]; give all rows one length"),
        (([{"ids": [1, 2]}, {"mask": [3]}], [0, 1]), r"example 1 has the inputs mask, example 0 has ids; give all the same"),
        (({"text": ["a"]}, [0]), r"'text' of the inputs is no numbers that torch knows"),
        ({"ids": [[1, 2]], "labels": [0]}, r"cannot read dict; expected .*\(inputs, targets\)"),
    ],
)
def test_mappings_that_are_refused(source, message):
    with pytest.raises(SelfInformedError, match=rf"^data: {message}[^\n]*$"):
        open_dataset(source)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([([1, 2], 0), ([3], 1)], r"example 1 has shape \[1\], example 0 has \[2\]; give all rows one length, with padding='max_length'"),
        ([({"ids": [1, 2]}, 0), ({"ids": [3]}, 1)], r"'ids' of example 1 has shape .*; give all rows one length"),
        ([({"ids": [1]}, 0), ([3], 1)], r"example 1 has the inputs one tensor, example 0 has ids; give all the same"),
        ([({"text": "a"}, 0), ({"text": "b"}, 1)], r"'text' of the inputs of example 0 of list is no numbers that torch knows"),
    ],
)
def test_items_that_make_no_batch_are_refused(items, message):
    with pytest.raises(SelfInformedError, match=rf"^data: {message}[^\n]*$"):
        list(open_dataset(items).batches())


def test_a_dataset_names_its_classes():
    assert open_dataset(Squares(classes=["x", "y", "z"])).labels.names == ("x", "y", "z")
    assert open_dataset(Squares(classes=["x", "y", "z"]), list("abc")).labels.names == ("a", "b", "c")


def test_classes_of_a_dataset_find_their_outputs_by_name():
    """Taken by their numbers, a network that is always right would be always wrong, and nobody told."""
    data = Squares(classes=["b", "c", "a"])
    for data_set in (data, Subset(Subset(data, range(len(CLASSES))), range(len(CLASSES)))):
        examples = open_dataset(data_set, ["a", "c", "d", "b"])
        assert examples.labels.names == ("a", "c", "d", "b")
        assert [examples.targets.of(row).tolist() for row in range(len(CLASSES))] == [[[3], [1], [0]][label] for label in CLASSES]
    several = Several([[0, 2], [0], [], [1, 2], [0, 1, 2], [2]], ["b", "c", "a"])
    assert lists_of(open_dataset(several, ["a", "c", "d", "b"])) == [[0, 3], [3], [], [0, 1], [0, 1, 3], [0]]
    with pytest.raises(SelfInformedError, match="no label is named 'b'"):
        open_dataset(data, ["a", "c", "d"])
    assert lists_of(open_dataset(Squares(classes=["b", "c", "a", "unused"]), ["a", "c", "d", "b"])) == [[[3], [1], [0]][label] for label in CLASSES]
    for names in ("012", "xyz"):  # which say nothing of the data's
        assert [open_dataset(data, list(names)).targets.of(row).tolist() for row in range(len(CLASSES))] == [[label] for label in CLASSES]


def test_items_may_hold_their_labels_beside_the_inputs():
    examples = open_dataset([{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor(1)}, {"input_ids": torch.tensor([3, 4]), "labels": torch.tensor(0)}])
    assert lists_of(examples) == [[1], [0]]
    assert {name: values.tolist() for name, values in examples.read([1]).items()} == {"input_ids": [[3, 4]]}


def test_a_dataset_that_fails_names_the_example():
    examples = open_dataset(Squares(broken=4, targets=CLASSES))
    with pytest.raises(SelfInformedError, match=r"example 4 of Squares cannot be read \(OSError: torn page\)"):
        examples.read([4])
    with pytest.raises(SelfInformedError, match="example 4 of Squares"):
        open_dataset(Squares(broken=4))
    with pytest.raises(SelfInformedError, match="torn page.*; to set such examples aside give the data set an attribute `targets`$"):
        open_dataset(Squares(broken=4), skip_bad=1)
    lenient = open_dataset(Squares(broken=4, targets=CLASSES), skip_bad=1)
    assert [row for rows, _ in lenient.batches(4) for row in rows] == [0, 1, 2, 3, 5]


class Several(list):
    """Items with the labels given."""

    def __init__(self, labels: list[list[int]], classes: list[str]) -> None:
        super().__init__((torch.zeros(2), row) for row in labels)
        self.classes = classes


class Transformed(Squares):
    """Forty squares, of which it counts those that are read."""

    def __init__(self, change, **attributes: object) -> None:
        super().__init__(targets=[0, 1] * 20, **attributes)
        self.change, self.seen = change, []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.seen.append(row)
        if row == self.broken:
            raise OSError("torn page")
        return self.change(torch.full((2, 2), float(row))), row % 2


def fingerprint_of(change, **attributes: object) -> str:
    return open_dataset(Transformed(change, **attributes)).fingerprint


def test_a_dataset_whose_inputs_change_is_another():
    same = fingerprint_of(lambda x: x)
    assert same == fingerprint_of(lambda x: x)
    changes = [lambda x: 2 * x, lambda x: x[:1], lambda x: x.double(), lambda x: x + (x == 39), lambda x: x + (x == 0)]
    assert len({same, *map(fingerprint_of, changes), fingerprint_of(lambda x: x, broken=0)}) == 7
    dataset = Transformed(lambda x: x)
    examples = open_dataset(dataset)
    assert dataset.seen == [0, 13, 26, 39]  # whose labels are held against `targets`
    assert examples.fingerprint
    assert len(dataset.seen) == 4 + 32
    assert {0, 39} < {*dataset.seen}
    assert open_dataset(Transformed(lambda x: x)).take([3, 4]).fingerprint != open_dataset(Transformed(lambda x: 2 * x)).take([3, 4]).fingerprint


def test_a_dataset_that_reads_otherwise_each_time_is_the_same():
    assert fingerprint_of(lambda x: x + torch.rand(1)) == fingerprint_of(lambda x: x + torch.rand(1))


def test_images_transformed_otherwise_are_others(folder):
    options = [{}, {"image_size": 4}, {"image_size": 5}, {"transform": lambda _: torch.zeros(1)}, {"transform": lambda image: torch.tensor(image.size)}]
    prints = [open_dataset(folder, **given).fingerprint for given in options]
    assert len({*prints}) == 5
    assert prints == [open_dataset(folder, **given).fingerprint for given in options]


def test_examples_are_returned_as_they_are():
    examples = open_dataset((torch.zeros(2, 1), [0, 1]))
    assert open_dataset(examples) is examples


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


def test_sources_that_are_refused(tmp_path):
    with pytest.raises(SelfInformedError, match=r"nowhere does not exist; expected a folder of images"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(SelfInformedError, match=r"x\.txt is no folder, \.csv, \.parquet, \.tar or \.npz file"):
        open_dataset(tmp_path / "x.txt")
    with pytest.raises(SelfInformedError, match="cannot read int; expected a folder"):
        open_dataset(3)


@settings(max_examples=40)
@given(st.integers(0, 20), st.integers(1, 9), st.data())
def test_batches_and_take_keep_the_order(n, batch_size, data):
    examples = open_dataset((torch.arange(float(n)), [i % 3 for i in range(n)]), LabelSpace.numbered(3))
    batches = list(examples.batches(batch_size))
    assert [row for rows, _ in batches for row in rows] == list(range(n))
    assert [x for _, inputs in batches for x in inputs.tolist()] == list(range(n))
    assert all(len(rows) == len(inputs) <= batch_size for rows, inputs in batches)
    chosen = data.draw(st.lists(st.integers(0, n - 1))) if n else []
    taken = examples.take(chosen)
    assert [x for _, inputs in taken.batches(batch_size) for x in inputs.tolist()] == chosen
    assert lists_of(taken) == [[i % 3] for i in chosen]


def test_distorted_views_follow_the_images(folder):
    plain, seen = open_dataset(folder, image_size=8), open_dataset(folder, image_size=8, views=3, augmentation="crop")
    n = len(plain)
    assert len(seen) == 3 * n
    assert lists_of(seen) == 3 * lists_of(plain)
    assert torch.equal(seen.read(range(n)), plain.read(range(n)))
    assert torch.equal(seen.read([n + 1, 2])[1], plain.read([2])[0])
    assert list(seen.names or ()) == [plain.name(i) + (f" (view {view})" if view else "") for view in range(3) for i in range(n)]
    assert (seen.names or ())[-1:] == [f"{plain.name(n - 1)} (view 2)"]
    assert (plain.n_views, seen.n_views) == (1, 3)
    others = [open_dataset(folder, image_size=8, views=views, augmentation=how) for views, how in ((2, "crop"), (3, "crop_mirror"))]
    assert len({examples.fingerprint for examples in (plain, seen, *others)}) == 4


def test_a_transform_of_ones_own_makes_all_views(folder):
    seen = open_dataset(folder, transform=lambda image: torch.tensor([*image.size, 7]), views=2, augmentation="crop")
    whole, part = seen.read(range(len(seen))).chunk(2)
    assert torch.equal(whole, part)


@pytest.mark.parametrize(
    "options",
    [{"views": 2}, {"views": 0}, {"views": 2.5, "augmentation": "crop"}, {"views": 1, "augmentation": "crop"}, {"views": 2, "augmentation": "rotate"}],
)
def test_distorted_views_that_are_refused(folder, options):
    with pytest.raises(SelfInformedError, match="(want augmentation crop or crop_mirror and at least 2 views|views: expected a whole number .*); got"):
        open_dataset(folder, **options)


def test_only_images_have_distorted_views(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.zeros((2, 1)), targets=np.zeros(2, np.int64))
    arrays = (torch.zeros(2, 1), [0, 1])
    for source in (arrays, open_dataset(arrays), tmp_path / "x.npz"):
        with pytest.raises(SelfInformedError, match="only images, in a folder, manifest, tar shards or a column, have distorted views"):
            open_dataset(source, views=2, augmentation="crop")


def test_an_unreadable_image_is_named(folder):
    (name,) = damage(folder, 3)
    examples = open_dataset(folder)
    with pytest.raises(SelfInformedError, match=r"the image .*3\.png cannot be read .*set up to N aside with skip_bad") as error:
        list(examples.batches(4))
    assert name in str(error.value)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_unreadable_images_are_set_aside_up_to_skip_bad(folder, batch_size):
    damaged = damage(folder, 0, 1, 4)
    examples = open_dataset(folder, image_size=4, skip_bad=3)
    for _ in range(2):  # and not counted again in the second pass
        batches = list(examples.batches(batch_size))
        assert [row for rows, _ in batches for row in rows] == [2, 3, 5]
        assert all(len(rows) == len(inputs) > 0 for rows, inputs in batches)
    assert list(examples.skipped) == [0, 1, 4]
    assert all(name in message for name, message in zip(damaged, examples.skipped.values()))
    stricter = open_dataset(folder, image_size=4, skip_bad=2)
    with pytest.raises(SelfInformedError, match=r"4\.png cannot be read .*raise skip_bad"):
        list(stricter.batches(batch_size))
    assert list(stricter.skipped) == [0, 1]


def test_example_inputs_are_the_first_readable(folder):
    damage(folder, 0)
    examples = open_dataset(folder, skip_bad=6)
    assert torch.equal(examples.example_inputs(), examples.read([1]))
    damage(folder, 1, 2, 3, 4, 5)
    with pytest.raises(SelfInformedError, match="no example that can be read"):
        open_dataset(folder, skip_bad=6).example_inputs()


def test_names_follow_the_examples_taken(folder):
    taken = open_dataset(folder).take([4, 0])
    assert [Path(taken.name(i)).name for i in range(2)] == ["4.png", "0.png"]


def test_images_of_several_sizes_need_image_size(folder):
    Image.new("RGB", (9, 9)).save(folder / "b" / "2.png")
    with pytest.raises(SelfInformedError, match=r"2\.png has shape \[3, 9, 9\], .*0\.png has \[3, 6, 8\]; give all one size, e\.g\. with image_size"):
        list(open_dataset(folder).batches())
    assert len(list(open_dataset(folder, image_size=5).batches())) == 1


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_batches_are_of_whole_numbers(batch_size):
    with pytest.raises(SelfInformedError, match="batch_size: expected a whole number of at least 1; got"):
        next(open_dataset((torch.zeros(2, 1), [0, 1])).batches(batch_size))


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


def test_examples_are_taken_by_number_or_by_a_mask():
    classes = np.arange(10) % 5
    examples = open_dataset((torch.arange(10.0)[:, None], classes))
    for rows in (classes == 3, (classes == 3).tolist(), np.array([3, 8], np.uint8), [3, 8]):
        part = examples.take(rows)
        assert part.read(range(2)).flatten().tolist() == [3, 8]
        assert part.targets.labels.tolist() == [3, 3]
    assert len(examples.take([])) == 0
    for rows in ([-1], [10], [1.5], np.array([True, False]), [[1]]):
        with pytest.raises(SelfInformedError, match="^examples: expected numbers from 0 to 9, or True or False for each of 10"):
            examples.take(rows)


class Labelled(Dataset):
    """Ten items and an attribute that should say their labels."""

    def __init__(self, targets: list[int], item=lambda row: (torch.zeros(2), row % 3)) -> None:
        self.targets, self.item = targets, item

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int):
        return self.item(row)


def test_what_a_data_set_says_of_its_labels_is_held_against_some_items():
    own = [row % 3 for row in range(10)]
    assert open_dataset(Labelled(own)).targets.labels.tolist() == own
    for targets, said in ((own[:9], "10 examples, and its `targets` are of 9"), ([2 - label for label in own], r"example 0 .* labels \[0\], .* say \[2\]")):
        with pytest.raises(SelfInformedError, match=said):
            open_dataset(Labelled(targets))
    with pytest.raises(SelfInformedError, match="it has 3 members, not inputs and labels"):
        open_dataset([(torch.zeros(2), torch.ones(2), 1)] * 4)


def test_an_example_that_fails_once_is_read_again():
    reads: list[int] = []

    def item(row: int):
        reads.append(row)
        if row == 5 and reads.count(5) == 1:
            raise OSError("timeout")
        return torch.full((2,), float(row)), 0

    examples = open_dataset(Labelled([0] * 10, item), skip_bad=1)
    reads.clear()
    [(rows, inputs)] = examples.batches(16)
    assert rows.tolist() == inputs[:, 0].tolist() == list(range(10))
    assert not examples.skipped
    assert reads.count(3) == 2  # with the batch, and alone


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ((torch.zeros(4, 1).to_sparse(), [0, 1, 0, 1]), {}, "they are sparse .*; give them dense"),
        ((np.arange(4.0)[::-1, None], [0, 1, 0, 1]), {}, r"give an array in memory order, as by \.copy\(\)"),
        ((torch.zeros(2, 1), np.array([2**63, 0], np.uint64)), {}, "example 0 has label 9223372036854775807"),
        (DataLoader(TensorDataset(torch.zeros(4, 1))), {}, "cannot read DataLoader; give its `dataset`"),
        (Labelled([row % 3 for row in range(10)]), {"image_size": 8}, "image_size is of images; Labelled gives its inputs"),
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


def test_examples_are_one_line_and_compared_as_objects():
    one, other = (open_dataset((torch.zeros(600, 1), [row % 3 for row in range(600)])) for _ in range(2))
    assert repr(one) == "Examples(600 examples, 3 labels)"
    assert one != other
    assert one.targets != other.targets
    assert len({one, other, one.targets, other.targets}) == 4
