"""What gives an input and its labels for a number."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from conftest import CLASSES, lists_of
from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError


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
