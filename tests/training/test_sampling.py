"""Balanced sampling draws what its weights say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Problem
from selfinformed.data.targets import as_targets
from selfinformed.training.sampling import draw_of, sampling_weights

lists = st.lists(st.lists(st.integers(0, 5), unique=True, max_size=3), min_size=1, max_size=40)


@given(lists, st.sampled_from([0.3, 1.0]))
def test_weights_are_means_over_labels(labels, power: float) -> None:
    targets = as_targets(labels, 6)
    n = [sum(label in row for row in labels) for label in range(6)]
    plain = [np.mean([n[label] ** -power for label in row]) if row else None for row in labels]
    known = [weight for weight in plain if weight is not None]
    expected = [weight if weight is not None else (np.mean(known) if known else 1.0) for weight in plain]
    np.testing.assert_allclose(sampling_weights(targets, power).numpy(), expected)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 1.0]))
def test_an_example_is_drawn_as_often_as_expected_up_to_one(skewed, seed: int, power: float) -> None:
    store, weights = skewed, sampling_weights(skewed.targets, power)
    expected = (weights * len(store) / weights.sum()).numpy()
    drawn = draw_of(store.permutation, store.targets, power)(torch.Generator().manual_seed(seed))
    assert len(drawn) == len(store)
    counts = np.bincount(drawn, minlength=len(store))
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()


def test_at_power_one_labels_come_equally_often_and_copies_apart(skewed) -> None:
    drawn = draw_of(skewed.permutation, skewed.targets, 1.0)(torch.Generator().manual_seed(0))
    positives = skewed.targets.take(drawn.numpy()).positives()
    assert positives.min() == pytest.approx(100, abs=8)
    assert positives.max() == pytest.approx(100, abs=8)
    assert (drawn[1:] == drawn[:-1]).float().mean() < 0.1


def test_same_seed_same_sample_next_pass_another(skewed) -> None:
    one, two = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    draw = draw_of(skewed.permutation, skewed.targets, 0.7)
    first = draw(one)
    assert torch.equal(first, draw(two))
    assert not torch.equal(first, draw(one))


def test_without_it_the_order_is_the_stores(skewed) -> None:
    assert torch.equal(draw_of(skewed.permutation, skewed.targets)(torch.Generator().manual_seed(3)), skewed.permutation(torch.Generator().manual_seed(3)))


@pytest.fixture(scope="module")
def skewed(problem: Problem):
    """300 examples of three labels: 200, 90 and 10."""
    store = problem.store("train")
    return replace(
        store, attached=store.attached[:300], penultimate=store.penultimate[:300], targets=as_targets([0] * 200 + [1] * 90 + [2] * 10, 3), examples=None
    )
