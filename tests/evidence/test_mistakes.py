"""Mistakes and calibration, against loops over examples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Problem
from selfinformed.data.opening import open_dataset
from selfinformed.evidence.mistakes import Calibration, Mistakes, mistakes


def test_pairs_are_the_confusion_matrix_off_its_diagonal(problem: Problem) -> None:
    taken = problem.net.classifier(problem.store("test").penultimate).argmax(1).tolist()
    expected = Counter((t, a) for t, a in zip(taken, problem.test.targets.labels.tolist(), strict=True) if t != a)
    assert mistakes(problem.net, problem.store("test"))[0].pairs() == expected


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(0, 35), max_size=5), min_size=1, max_size=8))
def test_with_several_labels_they_equal_brute_force(problem: Problem, targets: list[set[int]]) -> None:
    inputs = problem.test.read(range(len(targets)))
    data = open_dataset((inputs, [sorted(t) for t in targets]), problem.net.labels)
    probabilities = problem.net.logits(inputs).softmax(1) if data.targets.single else problem.net.logits(inputs).sigmoid()
    expected = []
    for example, (row, wanted) in enumerate(zip(probabilities, targets, strict=True)):
        found = set(torch.argsort(row, descending=True, stable=True)[: len(wanted)].tolist())
        expected += [(example, t, a, pytest.approx(row[t].item(), abs=1e-6)) for t in sorted(found - wanted) for a in sorted(wanted - found)]
    rows = mistakes(problem.net, data)[0]
    assert sorted(zip(rows.example, rows.taken, rows.annotated, rows.confidence, strict=True)) == expected


def test_calibration_is_that_of_the_best_labels(either: Problem) -> None:
    calibration = mistakes(either.net, either.store("test"))[1]
    scores = either.net.classifier(either.store("test").penultimate)
    sure, best = (scores.softmax(1) if either.test.targets.single else scores.sigmoid()).max(1)
    right = either.test.targets.multi_hot().gather(1, best[:, None])[:, 0].bool()
    error = 0.0
    for row in calibration.rows:
        inside = (sure > row["low"]) & (sure <= row["high"])
        assert row["n"] == inside.sum()
        if row["n"]:
            assert row["confidence"] == pytest.approx(sure[inside].mean().item(), abs=1e-5)
            assert row["accuracy"] == pytest.approx(right[inside].float().mean().item(), abs=1e-6)
            error += row["n"] / len(sure) * abs(row["confidence"] - row["accuracy"])
    assert calibration.error == pytest.approx(error)


def test_certainty_lies_in_the_last_bin_and_nothing_is_nan_but_the_error_of_no_example() -> None:
    rows = Calibration.of(np.array([1.0, 0.0], np.float32), np.array([True, False])).rows
    assert (rows[-1]["n"], rows[0]["n"]) == (1, 1)
    empty = Calibration.of(np.array([], np.float32), np.array([], bool))
    assert np.isnan(empty.error)
    assert all(row["accuracy"] is None for row in empty.rows)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4), st.integers(0, 4), st.floats(0, 1, width=32)), max_size=40), st.integers(1, 4))
def test_most_confident_keeps_those_of_either_label(rows: list[tuple[int, int, int, float]], number: int) -> None:
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(3)]
    kept = Mistakes(*columns, np.array([row[3] for row in rows], dtype=np.float32)).most_confident(number)
    order = sorted(rows, key=lambda row: (-row[3], row[0], row[1], row[2]))
    expected = [
        row for i, row in enumerate(order) if any(sum(other[side] == row[side] for other in order[:i]) < number for side in (1, 2))
    ]  # fmt: skip
    assert list(zip(kept.example, kept.taken, kept.annotated, kept.confidence, strict=True)) == expected
