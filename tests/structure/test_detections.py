from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.detections import default_top_k, detections

# Few distinct values, so that nearly every row has ties, some of them across the K-th place.
tied_scores = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1.0, 3.0]))


def brute_force(scores: np.ndarray, top_k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda label: (-row[label], label))[:top_k] for row in scores.tolist()]


@settings(max_examples=40)
@given(tied_scores, st.data())
def test_best_first_and_ties_go_to_the_lower_label(scores: np.ndarray, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, scores.shape[1]))
    assert detections(torch.from_numpy(scores), top_k).tolist() == brute_force(scores, top_k)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_ties_in_other_types(dtype: torch.dtype) -> None:
    scores = torch.randint(0, 4, (20, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert detections(scores, 80).tolist() == brute_force(scores.float().numpy(), 80)


def test_an_empty_batch_has_no_detections() -> None:
    assert detections(torch.empty(0, 5), 3).shape == (0, 3)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_scores_that_are_not_finite_are_refused_by_example_and_label(value: float, said: str) -> None:
    scores = torch.zeros(4, 6)
    scores[2, 5] = value
    with pytest.raises(SelfInformedError, match=f"example 2 has the score {said} for label 5; scores must be finite"):
        detections(scores, 1)
    with pytest.raises(SelfInformedError, match=r"cat\.png has the score"):
        detections(scores, 1, name=["a.png", "b.png", "cat.png", "d.png"].__getitem__)


@pytest.mark.parametrize("top_k", [-1, 0, 7, 2.5, 5.0])
def test_top_k_out_of_range(top_k: float) -> None:
    with pytest.raises(SelfInformedError, match=f"top_k: expected a whole number from 1 to 6, the number of labels; got {top_k}"):
        detections(torch.zeros(2, 6), top_k)


def test_scores_must_be_a_batch() -> None:
    with pytest.raises(SelfInformedError, match=r"expected logits \[batch, labels\], got a tensor of shape \[6\]"):
        detections(torch.zeros(6), 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_scores_are_real_numbers(dtype: torch.dtype) -> None:
    with pytest.raises(SelfInformedError, match=f"^scores: expected logits, real numbers; got {str(dtype)[6:]}$"):
        detections(torch.eye(3).to(dtype), 1)


@pytest.mark.parametrize(("n_labels", "expected"), [(1, 1), (4, 4), (5, 5), (750, 5), (900, 6), (2965, 19), (15_000, 100), (17_000, 100)])
def test_default_top_k_keeps_the_papers_ratio(n_labels: int, expected: int) -> None:
    assert default_top_k(n_labels) == expected
