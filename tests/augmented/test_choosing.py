"""The compiled loops against what one would write first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.augmented import choosing

SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(1, 6), st.integers(0, 9999))


@settings(max_examples=200)
@given(SHAPES, st.sampled_from([np.float32, np.float64]), st.sampled_from(["ties", "any", "infinite", "nan"]), st.data())
def test_the_best_groups_of_each_example(shape, dtype, kind: str, data) -> None:
    n, n_labels, n_groups, seed = shape
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 3, (n, n_labels)) if kind == "ties" else rng.normal(size=(n, n_labels))).astype(dtype)
    if kind in ("infinite", "nan"):
        scores[rng.random(scores.shape) < 0.3] = -np.inf if kind == "infinite" else np.nan
    members = [rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)] for _ in range(n_groups)]
    always = rng.random(n_groups) < 0.2
    top = data.draw(st.integers(1, n_groups))
    starts = np.concatenate([[0], np.cumsum([len(m) for m in members])])
    chosen = choosing.best_groups(scores, np.concatenate(members), starts, always, top)
    assert chosen.shape == (n, top)
    assert all(len(set(row)) == top and min(row) >= 0 and max(row) < n_groups for row in chosen.tolist())
    if kind == "nan":  # such logits are refused elsewhere; here it must only choose groups that are there
        return
    for row, own in enumerate(scores):
        best = [np.inf if every else own[m].max() for m, every in zip(members, always, strict=True)]
        assert chosen[row].tolist() == sorted(range(n_groups), key=lambda group: (-best[group], group))[:top]


@settings(max_examples=200)
@given(SHAPES)
def test_examples_group_by_group(shape) -> None:
    n, top, more, seed = shape
    n_groups = top + more
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(n_groups)[:top] for _ in range(n)]) if n else np.empty((0, top), np.int64)
    counts, examples = choosing.by_group(chosen, n_groups)
    expected = [[row for row in range(n) if group in chosen[row]] for group in range(n_groups)]
    assert counts.tolist() == [len(rows) for rows in expected]
    assert examples.tolist() == sum(expected, [])


@settings(max_examples=200)
@given(SHAPES, st.sampled_from([np.float32, np.float64]))
def test_what_heads_give_is_added_in_its_places_and_taken_from_there(shape, dtype) -> None:
    n, n_labels, n_groups, seed = shape
    rng = np.random.default_rng(seed)
    members = [rng.permutation(n_labels)[: rng.integers(1, n_labels + 1)] for _ in range(n_groups)]
    rows = [np.flatnonzero(rng.random(n) < 0.5) for _ in members]
    given = [rng.integers(-9, 9, (len(of), len(labels))).astype(dtype) for of, labels in zip(rows, members, strict=True)]
    total = rng.integers(-9, 9, (n, n_labels)).astype(dtype)
    expected = total.copy()
    for of, labels, values in zip(rows, members, given, strict=True):
        expected[np.ix_(of, labels)] += values
    where = (
        np.array([len(of) for of in rows]), np.concatenate(rows), np.concatenate(members), np.concatenate([[0], np.cumsum([len(m) for m in members])]),
    )  # fmt: skip
    flat = np.concatenate([values.ravel() for values in given])
    choosing.add_at(total, *where, flat)
    np.testing.assert_array_equal(total, expected)
    taken = np.empty_like(flat)
    choosing.taken_at(total, *where, taken)
    np.testing.assert_array_equal(taken, np.concatenate([total[np.ix_(of, labels)].ravel() for of, labels in zip(rows, members, strict=True)]))
