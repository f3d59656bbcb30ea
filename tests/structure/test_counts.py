from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn

from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure import counts as counts_module
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.measuring import measure

KINDS = ["confusions", "codetections"]


def brute_force(scores: torch.Tensor, label_lists: list[list[int]], top_k: int, kind: str) -> np.ndarray:
    n_labels = scores.shape[1]
    matrix = np.zeros((n_labels, n_labels), dtype=np.int64)
    for row, annotated in zip(scores.tolist(), label_lists, strict=True):
        detected = sorted(range(n_labels), key=lambda label: (-row[label], label))[:top_k]
        for i in detected:
            for j in set(annotated) if kind == "confusions" else detected:
                matrix[i, j] += 1
    return matrix


def batches(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def example_batch(n: int = 40, n_labels: int = 7, seed: int = 0, single: bool = False) -> tuple[torch.Tensor, list[list[int]]]:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(-3, 4, (n, n_labels)).astype(np.float32))
    return scores, [rng.choice(n_labels, 1 if single else rng.integers(0, 4), replace=False).tolist() for _ in range(n)]


def in_form(form: str, lists: list[list[int]], n_labels: int) -> Any:
    if form == "classes":
        return torch.tensor([labels[0] for labels in lists])
    if form == "lists":
        return lists
    hot = torch.zeros(len(lists), n_labels, dtype=torch.bool if form == "boolean multi-hot" else torch.float32)
    for row, labels in enumerate(lists):
        hot[row, labels] = 1
    return hot


def filled(kind: Any = "confusions", seed: int = 0) -> ConfusionCounts:
    counts = ConfusionCounts(7, 3, kind)
    counts.update(*example_batch(seed=seed))
    return counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["classes", "lists", "multi-hot", "boolean multi-hot"])
def test_equals_brute_force_for_every_form_of_targets(kind: Any, form: str) -> None:
    scores, lists = example_batch(single=form == "classes")
    counts = ConfusionCounts(7, 3, kind)
    counts.update(scores, in_form(form, lists, 7))
    matrix = counts.to_scipy()
    assert matrix.dtype == np.int64
    assert counts.n_examples == 40
    np.testing.assert_array_equal(matrix.toarray(), brute_force(scores, lists, 3, kind))


@settings(max_examples=40)
@given(st.data(), st.sampled_from(KINDS))
def test_batches_their_order_and_merging_do_not_matter(data: st.DataObject, kind: Any) -> None:
    n, n_labels = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 8))
    top_k, size = data.draw(st.integers(1, n_labels)), data.draw(st.integers(1, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    scores = torch.from_numpy(rng.integers(0, 3, (n, n_labels)).astype(np.float32))
    lists = [sorted(rng.choice(n_labels, rng.integers(0, n_labels + 1), replace=False).tolist()) for _ in range(n)]
    one, other = ConfusionCounts(n_labels, top_k, kind), ConfusionCounts(n_labels, top_k, kind)
    for batch in data.draw(st.permutations(list(batches(n, size)))):
        data.draw(st.sampled_from([one, other])).update(scores[batch], lists[batch])
    one.merge(other)
    assert one.n_examples == n
    np.testing.assert_array_equal(one.to_scipy().toarray(), brute_force(scores, lists, top_k, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_summing_early_does_not_matter(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "_WAITING", 20)
    scores, lists = example_batch()
    counts = ConfusionCounts(7, 3, kind)
    for batch in batches(40, 6):
        counts.update(scores[batch], lists[batch])
    np.testing.assert_array_equal(counts.to_scipy().toarray(), brute_force(scores, lists, 3, kind))


def test_codetections_are_symmetric_and_confusions_of_one_label_sum_to_its_examples_times_k() -> None:
    matrix = filled("codetections").to_scipy().toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    _, lists = example_batch()
    np.testing.assert_array_equal(filled().to_scipy().sum(axis=0), 3 * np.bincount(sum(lists, []), minlength=7))


def test_the_matrix_given_out_is_a_copy() -> None:
    counts = filled()
    counts.to_scipy().data[:] = 0
    assert counts.to_scipy().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_and_counted_on(kind: Any, tmp_path: Path) -> None:
    counts = filled(kind)
    counts.save(tmp_path / "counts.safetensors")
    loaded = ConfusionCounts.load(tmp_path / "counts.safetensors")
    assert (loaded.n_labels, loaded.top_k, loaded.kind, loaded.n_examples) == (7, 3, kind, 40)
    np.testing.assert_array_equal(loaded.to_scipy().toarray(), counts.to_scipy().toarray())
    for each in (counts, loaded):
        each.update(*example_batch(seed=1))
    np.testing.assert_array_equal(loaded.to_scipy().toarray(), counts.to_scipy().toarray())


def test_empty_counts_survive_saving(tmp_path: Path) -> None:
    ConfusionCounts(5, 2).save(tmp_path / "c")
    loaded = ConfusionCounts.load(tmp_path / "c")
    assert loaded.n_examples == loaded.to_scipy().nnz == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": np.full(3, 99, np.uint16)}, "no valid counts"),
        ({"starts": np.arange(3)}, "no valid counts"),
        ({"counts": np.array([1.5, 2.5, 3.5])}, "no valid counts"),
        ({"counts": np.array([1, -2, 3])}, "counts are int64 from 0 to 3, the number of examples"),
        ({"n_examples": "0"}, "counts are int64 from 0 to 0"),
        ({"counts": None}, "no valid counts"),
        ({"kind": "confusion"}, "kind: expected one of confusions, codetections"),
        ({"top_k": "many"}, "no valid counts"),
        ({"top_k": "90"}, "top_k: expected a whole number from 1 to 40"),
        ({"format": "selfinformed.counts/9"}, "expected a file of format selfinformed.counts/2"),
    ],
    ids=str,
)
def test_damaged_counts_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    counts = ConfusionCounts(40, 1)
    counts.update_detections([[0], [1], [2]], [0, 1, 3])
    path = tmp_path / "counts.safetensors"
    counts.save(path)
    metadata = {"format": "selfinformed.counts/2", "kind": "confusions", "n_labels": "40", "top_k": "1", "n_examples": "3"}
    arrays = {k: change.get(k, v) for k, v in load_file(path).items()}
    save_file({k: v for k, v in arrays.items() if v is not None}, path, {k: change.get(k, v) for k, v in metadata.items()})
    with pytest.raises(SelfInformedError, match=message):
        ConfusionCounts.load(path)


def test_half_a_file_and_no_file_are_refused(tmp_path: Path) -> None:
    filled().save(tmp_path / "counts")
    (tmp_path / "half").write_bytes((tmp_path / "counts").read_bytes()[:-20])
    with pytest.raises(SelfInformedError, match="half is not a whole safetensors file"):
        ConfusionCounts.load(tmp_path / "half")
    with pytest.raises(SelfInformedError, match="does not exist"):
        ConfusionCounts.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "n_labels: expected a whole number of at least 1; got 0"),
        (("5", 1), "n_labels: expected a whole number of at least 1; got '5'"),
        ((5, 0), "top_k: expected a whole number from 1 to 5, the number of labels; got 0"),
        ((5, 6), "top_k: expected a whole number from 1 to 5, the number of labels; got 6"),
        ((5, 2.5), r"top_k: expected a whole number from 1 to 5, the number of labels; got 2\.5"),
        ((5, 2, "confusion"), "kind: expected one of confusions, codetections; got 'confusion'"),
    ],
)
def test_bad_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(SelfInformedError, match=message):
        ConfusionCounts(*arguments)


nan = torch.zeros(2, 7)
nan[1, 4] = float("nan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "scores", "targets", "message"),
    [
        ("update", torch.zeros(2, 6), [0, 1], "scores: 6 columns, expected 7, one per label"),
        ("update", torch.zeros(7), [0, 1], r"expected logits \[batch, labels\]"),
        ("update", nan, [0, 1], "scores: example 41 has the score nan for label 4"),
        ("update", torch.zeros(2, 7), [0, 7], r"targets: example 41 has label 7; labels go from 0 to 6 \(7 labels\)"),
        ("update", torch.zeros(2, 7), [[0], [1, -1]], "targets: example 41 has label -1; labels go from 0 to 6"),
        ("update", torch.zeros(2, 7), [0, 1, 2], "targets: 3 examples, but detections for 2"),
        ("update", torch.zeros(2, 7), np.zeros((2, 6)), "multi-hot targets have 6 columns, expected 7"),
        ("update", torch.zeros(2, 7), np.full((2, 7), 0.5), "example 40 has 0.5 for label 0; multi-hot targets are 0 or 1"),
        ("update", torch.zeros(2, 7), [0.5, 1.0], "expected class numbers"),
        ("update_detections", [[0, 1, 2], [3, 4, 7]], [0, 1], "detections: example 41 has label 7; labels go from 0 to 6"),
        ("update_detections", [[0, 1, 2], [3, -4, 5]], [0, 1], "detections: example 41 has label -4"),
        ("update_detections", [[0, 1, 2], [3, 4, 3]], [0, 1], "detections: example 41 names label 3 twice; its top 3 must be distinct"),
        ("update_detections", [[0, 1], [2, 3]], [0, 1], r"detections: expected integers \[batch, 3\], got int64 \[2, 2\]"),
        ("update_detections", [[0.0, 1.0, 2.0]], [0], r"detections: expected integers \[batch, 3\], got float64"),
    ],
)
def test_a_refused_batch_leaves_the_counts_alone(kind: Any, method: str, scores: Any, targets: Any, message: str) -> None:
    counts = filled(kind)
    before = counts.to_scipy().toarray()
    with pytest.raises(SelfInformedError, match=message):
        getattr(counts, method)(scores, targets)
    assert counts.n_examples == 40
    np.testing.assert_array_equal(counts.to_scipy().toarray(), before)


@pytest.mark.parametrize("other", [ConfusionCounts(8, 3), ConfusionCounts(7, 2), ConfusionCounts(7, 3, "codetections")])
def test_other_counts_cannot_be_merged(other: ConfusionCounts) -> None:
    counts = filled()
    with pytest.raises(SelfInformedError, match="cannot merge counts"):
        counts.merge(other)
    assert counts.n_examples == 40


@pytest.mark.parametrize("kind", KINDS)
def test_measure_counts_what_the_network_detects(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.9), nn.ReLU(), nn.Linear(6, 8)).train()
    net = wrap(model, torch.randn(2, 4))
    inputs, (_, lists) = torch.randn(25, 4), example_batch(25, 8)
    measured = measure(net, open_dataset((inputs, lists), net.labels), top_k=3, kind=kind, batch_size=4)
    np.testing.assert_array_equal(measured.to_scipy().toarray(), brute_force(net.logits(inputs), lists, 3, kind))
    assert measure(net, open_dataset((inputs, lists), net.labels)).top_k == 5
    assert model.training


def test_measure_names_the_example_and_checks_the_labels() -> None:
    net = wrap(nn.Sequential(nn.Linear(4, 8)), torch.randn(2, 4))
    inputs = torch.zeros(10, 4)
    inputs[7] = float("nan")
    examples = open_dataset((inputs, [0] * 10), net.labels)
    with pytest.raises(SelfInformedError, match="example 7 has the score nan for label 0"):
        measure(net, examples, batch_size=3)
    with pytest.raises(SelfInformedError, match="examples with 2 labels for a network with 8 outputs"):
        measure(net, open_dataset((inputs, [0, 1] * 5)))


def test_the_most_confused_pairs_come_first() -> None:
    counts = ConfusionCounts(3, 1)
    for detected, annotated, n in [(0, 0, 9), (0, 1, 4), (1, 0, 4), (1, 2, 1), (2, 0, 7)]:
        counts.update_detections([[detected]] * n, [annotated] * n)
    assert [tuple(pair.values()) for pair in counts.most_confused(3)] == [(2, 0, 7), (0, 1, 4), (1, 0, 4)]
    assert counts.most_confused(1, LabelSpace(list("abc"))) == [{"detected": "c", "annotated": "a", "examples": 7}]
    assert len(counts.most_confused()) == 4
    counts = ConfusionCounts(3, 2, "codetections")
    counts.update_detections([[0, 1], [1, 0], [2, 1]], [0, 0, 0])
    assert counts.most_confused(9) == [{"detected": 0, "also_detected": 1, "examples": 2}, {"detected": 1, "also_detected": 2, "examples": 1}]


@pytest.mark.parametrize("kind", ["confusions", "codetections"])
def test_labels_that_no_example_was_annotated_with(kind: Any) -> None:
    counts = ConfusionCounts(5, 2, kind)
    counts.update_detections(np.array([[0, 1], [3, 4], [1, 4]]), [[0], [3, 1], []])
    assert counts.never_annotated.tolist() == ([2, 4] if kind == "confusions" else [])
    assert ConfusionCounts(3, 2).never_annotated.tolist() == [0, 1, 2]


def test_counts_are_told_on_one_line() -> None:
    assert repr(ConfusionCounts(24, 5)) == "ConfusionCounts(confusions of 24 labels, 0 examples, top_k 5)"
