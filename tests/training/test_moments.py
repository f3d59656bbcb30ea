"""The transform of the heads' input, from chunks of any size, against its formula on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfinformed.network.points import FeatureShape
from selfinformed.training.moments import transform_of


def by_formula(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Shift and matrix for features [n, D], all in memory, in numpy."""
    mean, deviation = x.mean(0), x.std(0)
    noise = np.maximum(1e-6 * abs(mean), 1e-9 * max(deviation.max(), 1e-12))
    scale = np.where(deviation > noise, 1 / np.where(deviation > 0, deviation, 1), 0)
    if kind == "standardised":
        return mean, np.diag(scale)
    z = (x - mean) * scale
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    values = values.clip(0)
    floor = 0.01 * max(values.sum() / len(values), 1e-12)
    return mean, scale[:, None] * (vectors / np.sqrt(values + floor)) @ vectors.T


@given(
    n=st.integers(1, 60), size=st.integers(1, 12), chunk=st.integers(1, 61), seed=st.integers(0, 2**31), far=st.sampled_from([0, 1000]),
    kind=st.sampled_from(["whitened", "standardised"]), sorted_too=st.booleans(),
)  # fmt: skip
def test_any_chunks_give_what_the_formula_gives(n, size, chunk, seed, far, kind, sorted_too):
    x = np.random.default_rng(seed).standard_normal((n, size)).astype(np.float32) + np.float32(far)
    x[:, 0] = 7  # constant
    x = np.sort(x, 0) if sorted_too else x
    made = transform_of(torch.from_numpy(x).split(chunk), [FeatureShape(size)], kind)
    shift, matrix = by_formula(x.astype(np.float64), kind)
    np.testing.assert_allclose(made.shifts[0], shift, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(made.matrices[0], matrix, rtol=1e-4, atol=1e-4 * np.abs(matrix).max())


@pytest.mark.parametrize("kind", ["whitened", "standardised"])
def test_a_small_feature_beside_a_large_one_is_none_that_is_constant(kind):
    x = torch.randn(500, 3) * torch.tensor([1.0, 5e6, 1e-1]) + torch.tensor([0.0, 1e7, 0.0])
    made = transform_of([x, x], [FeatureShape(3)], kind)
    np.testing.assert_allclose(made(x).std(0, correction=0), np.ones(3), rtol=0.05)


@pytest.mark.parametrize("kind", ["whitened", "standardised"])
def test_attach_points_are_apart_and_positions_of_a_map_are_seen_alike(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5 + 3 * 4, generator=generator)
    made = transform_of(x.split(7), [FeatureShape(5), FeatureShape(12, (3, 2, 2))], kind)
    parts = x[:, :5], x[:, 5:].reshape(40, 3, 4).permute(0, 2, 1).reshape(160, 3)
    for shift, matrix, part in zip(made.shifts, made.matrices, parts, strict=True):
        expected = by_formula(part.double().numpy(), kind)
        np.testing.assert_allclose(shift, expected[0], atol=1e-5)
        np.testing.assert_allclose(matrix, expected[1], atol=1e-4)


def test_raw_features_are_not_even_read():
    made = transform_of((pytest.fail("read") for _ in range(1)), [FeatureShape(4), FeatureShape(12, (3, 2, 2))], "raw")
    assert [shift.tolist() for shift in made.shifts] == [[0] * 4, [0] * 3]
    assert [torch.equal(matrix, torch.eye(len(matrix))) for matrix in made.matrices] == [True, True]
