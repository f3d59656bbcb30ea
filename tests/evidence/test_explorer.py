"""What the page knows of labels and matrices, against dense arithmetic."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinformed.evidence.explorer import embedded_json, matrices, neighbours
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
    whole, *parts = matrices(counts, groups)
    dense = counts.to_scipy().toarray()
    for part, members in zip((whole, *parts), (np.array(whole["order"]), *groups.members), strict=True):
        size = min(most, len(members))
        cell = np.arange(len(members)) * size // len(members)
        expected = np.zeros((size, size), np.int64)
        np.add.at(expected, np.ix_(cell, cell), dense[np.ix_(members, members)])
        np.testing.assert_array_equal(unpacked(part), expected)
        assert part["largest"] == expected.max()
        assert part["order"] == members.tolist()
        first = [-(-i * len(members) // size) for i in range(size)]  # where the page's script takes cell i to begin
        assert first == [np.flatnonzero(cell == i)[0] for i in range(size)]
    assert sorted(whole["order"]) == list(range(36))
    assert whole["order"][:8] == list(range(12, 20))
    assert whole["edges"] == pytest.approx(np.array([8, 13, 29]) * whole["cells"] / 36)


def test_matrices_shrink_until_they_fit(counts: ConfusionCounts, monkeypatch) -> None:
    monkeypatch.setattr("selfinformed.evidence.explorer.MOST_CELLS", 150)
    monkeypatch.setattr("selfinformed.evidence.explorer._MOST_BYTES", 10)
    assert unpacked(matrices(counts, LabelGroups.everything(36))[0]).sum() == counts.to_scipy().sum()


def test_neighbours_are_the_largest_sums_of_both_directions(counts: ConfusionCounts) -> None:
    dense, found = counts.to_scipy().toarray(), neighbours(counts, 4)
    for label in range(36):
        both = dense[:, label] + dense[label]
        expected = sorted((other for other in range(36) if other != label and both[other]), key=lambda other: (-both[other], other))[:4]
        own = slice(found["first"][label], found["first"][label + 1])
        assert found["label"][own] == expected
        assert found["detected_for_it"][own] == dense[expected, label].tolist()
        assert found["it_for_them"][own] == dense[label, expected].tolist()


@given(st.text())
def test_no_text_ends_the_script_element(text: str) -> None:
    written = embedded_json([text, "</script><!--", "\u2028"])
    assert "<" not in written
    assert json.loads(written)[0] == text
