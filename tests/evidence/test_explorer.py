"""What the page knows of labels and matrices, against dense arithmetic."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinformed.evidence.explorer import embedded_json, explored, labels_of, matrices, mistakes_of, neighbours
from selfinformed.evidence.figures import confusion_figure
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups


def unpacked(part: dict) -> np.ndarray:
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(part["data"])), "<u4").reshape(2, -1).astype(np.int64)
    cells = np.zeros(part["cells"] ** 2, np.int64)
    cells[numbers[0]] = numbers[1]
    return cells.reshape(part["cells"], part["cells"])


@pytest.mark.parametrize("most", [1000, 7])
def test_matrices_hold_every_count_in_the_order_of_the_groups(counts: ConfusionCounts, monkeypatch, most: int) -> None:
    monkeypatch.setattr("selfinformed.evidence.explorer.MOST_CELLS", most)
    groups = LabelGroups(36, (np.arange(12, 20), np.arange(5), np.arange(20, 36)), ("a", "b", "c"))
    position = np.arange(36)[::-1]
    whole, *parts = matrices(counts, groups, position)
    dense = counts.to_scipy().toarray()
    for part, members in zip((whole, *parts), (35 - np.array(whole["order"]), *groups.members), strict=True):
        size = min(most, len(members))
        cell = np.arange(len(members)) * size // len(members)
        expected = np.zeros((size, size), np.int64)
        np.add.at(expected, np.ix_(cell, cell), dense[np.ix_(members, members)])
        np.testing.assert_array_equal(unpacked(part), expected)
        assert part["largest"] == expected.max()
        start = part["order"]
        assert (whole["order"][start : start + len(members)] if isinstance(start, int) else start) == position[members].tolist()
        first = [-(-i * len(members) // size) for i in range(size)]  # where the page's script takes cell i to begin
        assert first == [np.flatnonzero(cell == i)[0] for i in range(size)]
    assert sorted(whole["order"]) == list(range(36))
    assert whole["order"][:8] == position[12:20].tolist()
    assert whole["edges"] == pytest.approx(np.array([8, 13, 29]) * whole["cells"] / 36)


def test_matrices_shrink_until_they_fit(counts: ConfusionCounts, monkeypatch) -> None:
    monkeypatch.setattr("selfinformed.evidence.explorer.MOST_CELLS", 150)
    monkeypatch.setattr("selfinformed.evidence.explorer._MOST_BYTES", 10)
    assert unpacked(matrices(counts, LabelGroups.everything(36), np.arange(36))[0]).sum() == counts.to_scipy().sum()


def test_neighbours_are_the_largest_sums_of_both_directions(counts: ConfusionCounts) -> None:
    dense, found = counts.to_scipy().toarray(), neighbours(counts, np.arange(36), 4)
    for label in range(36):
        both = dense[:, label] + dense[label]
        expected = sorted((other for other in range(36) if other != label and both[other]), key=lambda other: (-both[other], other))[:4]
        own = slice(found["first"][label], found["first"][label + 1])
        assert found["label"][own] == expected
        assert found["detected_for_it"][own] == dense[expected, label].tolist()
        assert found["it_for_them"][own] == dense[label, expected].tolist()


def test_a_cover_has_orders_of_its_own(counts: ConfusionCounts) -> None:
    cover = LabelGroups(36, (np.arange(10), np.arange(5, 36)), ("a", "b"))
    parts = matrices(counts, cover, np.arange(36))
    assert parts[1]["order"] == 0
    assert parts[2]["order"] == list(range(5, 36))


def test_labels_in_several_groups_name_them_all() -> None:
    cover = LabelGroups(6, (np.arange(3), np.array([2, 4]), np.array([4, 2, 5])), ("a", "b", "c"))
    columns = labels_of(["name"] * 6, cover, {}, "", {}, np.array([1, 2, 3, 4]))
    assert columns["group"] == [0, 0, -1, 1]
    assert columns["several"] == {1: [0, 1, 2], 3: [1, 2]}


@pytest.mark.parametrize(("n_groups", "lines"), [(3, 2), (2, 2), (0, 0)])
def test_a_line_parts_the_labels_in_no_group_from_the_last(counts: ConfusionCounts, n_groups: int, lines: int) -> None:
    groups = LabelGroups(36, tuple(np.arange(36).reshape(3, 12)[:n_groups]))
    drawn = confusion_figure(counts, groups).axes[0].lines
    assert sorted({float(line.get_ydata()[0]) for line in drawn[::2]}) == [11.5, 23.5][:lines]


def test_of_very_many_labels_those_counted_most_are_shown(counts: ConfusionCounts, monkeypatch) -> None:
    monkeypatch.setattr("selfinformed.evidence.explorer.MOST_LABELS", 12)
    shown, dense = explored(counts), counts.to_scipy().toarray()
    often = dense.sum(0) + dense.sum(1)
    assert len(shown) == 12
    assert shown.tolist() == sorted(shown)
    assert often[shown].min() >= np.delete(often, shown).max()
    found = neighbours(counts, shown, 3)
    for place, label in enumerate(shown):
        own = slice(found["first"][place], found["first"][place + 1])
        others = shown[found["label"][own]]
        assert found["detected_for_it"][own] == dense[others, label].tolist()
    position = np.full(36, -1)
    position[shown] = np.arange(12)
    rows = {"example": [1, 2], "name": ["a", "b"], "taken": [shown[0], shown[1]], "annotated": [shown[2], np.setdiff1d(np.arange(36), shown)[0]]}
    assert mistakes_of({**rows, "confidence": [0.5, 0.75]}, position) == {
        "example": [1], "name": ["a"], "taken": [0], "annotated": [2], "confidence": [0.5],
    }  # fmt: skip


@given(st.text())
def test_no_text_ends_the_script_element(text: str) -> None:
    written = embedded_json([text, "</script><!--", "\u2028"])
    assert "<" not in written
    assert json.loads(written)[0] == text
