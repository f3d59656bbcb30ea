"""Examples are read in batches, in order; unreadable ones are named or set aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import lists_of
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError


def damage(folder: Path, *numbers: int) -> list[str]:
    paths = sorted(folder.glob("*/*.png"))
    for number in numbers:
        paths[number].write_bytes(b"no image")
    return [str(paths[number]) for number in numbers]


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


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_batches_are_of_whole_numbers(batch_size):
    with pytest.raises(SelfInformedError, match="batch_size: expected a whole number of at least 1; got"):
        next(open_dataset((torch.zeros(2, 1), [0, 1])).batches(batch_size))


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


def test_examples_are_one_line_and_compared_as_objects():
    one, other = (open_dataset((torch.zeros(600, 1), [row % 3 for row in range(600)])) for _ in range(2))
    assert repr(one) == "Examples(600 examples, 3 labels)"
    assert one != other
    assert one.targets != other.targets
    assert len({one, other, one.targets, other.targets}) == 4


def test_example_inputs_are_the_first_readable(six_images):
    damage(six_images, 0)
    examples = open_dataset(six_images, skip_bad=6)
    assert torch.equal(examples.example_inputs(), examples.read([1]))
    damage(six_images, 1, 2, 3, 4, 5)
    with pytest.raises(SelfInformedError, match="no example that can be read"):
        open_dataset(six_images, skip_bad=6).example_inputs()


def test_names_follow_the_examples_taken(six_images):
    taken = open_dataset(six_images).take([4, 0])
    assert [Path(taken.name(i)).name for i in range(2)] == ["4.png", "0.png"]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_unreadable_images_are_set_aside_up_to_skip_bad(six_images, batch_size):
    damaged = damage(six_images, 0, 1, 4)
    examples = open_dataset(six_images, image_size=4, skip_bad=3)
    for _ in range(2):  # and not counted again in the second pass
        batches = list(examples.batches(batch_size))
        assert [row for rows, _ in batches for row in rows] == [2, 3, 5]
        assert all(len(rows) == len(inputs) > 0 for rows, inputs in batches)
    assert list(examples.skipped) == [0, 1, 4]
    assert all(name in message for name, message in zip(damaged, examples.skipped.values()))
    stricter = open_dataset(six_images, image_size=4, skip_bad=2)
    with pytest.raises(SelfInformedError, match=r"4\.png cannot be read .*raise skip_bad"):
        list(stricter.batches(batch_size))
    assert list(stricter.skipped) == [0, 1]


def test_an_unreadable_image_is_named(six_images):
    (name,) = damage(six_images, 3)
    examples = open_dataset(six_images)
    with pytest.raises(SelfInformedError, match=r"the image .*3\.png cannot be read .*set up to N aside with skip_bad") as error:
        list(examples.batches(4))
    assert name in str(error.value)
