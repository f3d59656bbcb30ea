"""mAP@K against a loop that follows its definition word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.average_precision import RankingMetrics, mean_average_precision


def best(row: list[float], k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda label: (-row[label], label))[:k]


def oracle_per_label(scores: list[list[float]], targets: list[set[int]], k: int) -> list[float]:
    result = []
    for label in range(len(scores[0])):
        positives = sum(label in t for t in targets)
        kept = [e for e in range(len(scores)) if label in best(scores[e], k)]
        total = 0.0
        for example in kept:
            if label in targets[example]:
                above = [e for e in kept if scores[e][label] >= scores[example][label]]
                total += sum(label in targets[e] for e in above) / len(above)
        result.append(total / positives if positives else math.nan)
    return result


def oracle_per_example(scores: list[list[float]], targets: list[set[int]], k: int) -> list[float]:
    result = []
    for row, wanted in zip(scores, targets, strict=True):
        hits, total = 0, 0.0
        for rank, label in enumerate(best(row, k), 1):
            if label in wanted:
                hits += 1
                total += hits / rank
        if wanted:
            result.append(total / len(wanted))
    return result


@st.composite
def problems(draw: st.DrawFn):
    n, c = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    value = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # few values: many ties
    scores = [[draw(value) for _ in range(c)] for _ in range(n)]
    targets = [draw(st.sets(st.integers(0, c - 1))) for _ in range(n)]
    return scores, targets, draw(st.integers(1, c + 3)), draw(st.integers(1, n))


@settings(max_examples=150)
@given(problems())
def test_equals_the_oracle_whatever_the_batches(problem):
    scores, targets, k, batch = problem
    metrics = RankingMetrics(len(scores[0]), k)
    for start in range(0, len(scores), batch):
        metrics.update(torch.tensor(scores[start : start + batch]), [sorted(t) for t in targets[start : start + batch]] or [[]])
    ranking = metrics.compute()
    expected = oracle_per_label(scores, targets, k)
    np.testing.assert_allclose(ranking.average_precision, expected)
    np.testing.assert_allclose(ranking.mean_average_precision, np.nanmean(expected) if any(targets) else math.nan)
    each = oracle_per_example(scores, targets, k)
    np.testing.assert_allclose(ranking.mean_average_precision_per_example, np.mean(each) if each else math.nan)
    annotated = [(row, t) for row, t in zip(scores, targets, strict=True) if t]
    for name, k_best in (("top1", 1), ("top5", 5)):
        hits = [bool(t & set(best(row, k_best))) for row, t in annotated]
        np.testing.assert_allclose(getattr(ranking, name), np.mean(hits) if hits else math.nan)


def test_a_perfect_ranking_is_one_and_a_missing_positive_counts_as_missed():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    assert mean_average_precision(scores, [[0], [1]], top_k=1) == 1
    assert mean_average_precision(scores, [[0, 2], [1]], top_k=1) == pytest.approx(2 / 3)  # label 2 has a positive and is kept nowhere


def test_all_forms_of_targets_agree():
    scores, classes = torch.randn(20, 6), torch.arange(20) % 6
    expected = mean_average_precision(scores, classes)
    assert mean_average_precision(scores, torch.nn.functional.one_hot(classes, 6)) == expected
    assert mean_average_precision(scores, [[int(c)] for c in classes]) == expected


@pytest.mark.parametrize(
    ("scores", "targets", "k", "message"),
    [
        (torch.tensor([[math.nan, 0.0]]), [[0]], 1, "example 0 has the score nan"),
        (torch.zeros(1, 2), [[2]], 1, "has label 2"),
        (torch.zeros(2, 2), [[1]], 1, "expected shape"),
        (torch.zeros(1, 2), [[1]], 0, "top_k: expected a whole number of at least 1; got 0"),
        (torch.zeros(1, 2), [[1]], 1.5, r"top_k: expected a whole number of at least 1; got 1\.5"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, targets, k, message):
    with pytest.raises(SelfInformedError, match=message):
        mean_average_precision(scores, targets, k)


@settings(max_examples=50)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(problem, random):
    scores, targets, k, _ = problem
    order = list(range(len(scores)))
    random.shuffle(order)
    given, shuffled = (mean_average_precision(torch.tensor([scores[e] for e in of]), [sorted(targets[e]) for e in of], k) for of in (range(len(scores)), order))
    np.testing.assert_allclose(given, shuffled)


@pytest.mark.parametrize("several", [False, True])
def test_equals_what_scikit_learn_says_also_of_ties(several):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (200, 7)).astype(np.float32)
    truth = rng.random((200, 7)) < 0.3 if several else np.eye(7, dtype=bool)[rng.integers(0, 7, 200)]
    expected = np.mean([average_precision_score(truth[:, label], scores[:, label]) for label in range(7)])
    assert mean_average_precision(scores, truth, top_k=7) == pytest.approx(expected)


def test_probabilities_that_round_to_one_are_ranked_nevertheless():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 500)
    scores = (rng.normal(0, 4, (500, 10)) + 30 * np.eye(10)[truth]).astype(np.float32)
    scores += rng.normal(0, 50, (500, 1)).astype(np.float32)  # a softmax network's logits may be shifted
    scores[::5] = scores[::5, rng.permutation(10)]  # some are sure and wrong
    exact = scores.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    above, total = np.exp(exact), np.exp(exact).sum(1, keepdims=True)
    exact = np.log(above) - np.log(total)
    best = exact.argmax(1)
    rest = total[:, 0] - above[np.arange(500), best]
    exact[np.arange(500), best] = -np.log1p([sum(sorted(np.delete(row, b))) for row, b in zip(above, best, strict=True)])
    assert (rest < 1e-8).mean() > 0.8
    expected = np.mean([average_precision_score(truth == label, exact[:, label]) for label in range(10)])
    assert mean_average_precision(scores, truth, 10, "probabilities") == pytest.approx(expected, abs=1e-6)
    one = mean_average_precision(np.zeros((3, 1), np.float32), [0, 0, 0], 1, "probabilities")  # a single label is certain
    assert one == 1


@pytest.mark.parametrize("margin", [90, 110, 1e4])
def test_examples_of_which_a_network_is_quite_sure_are_ranked(margin: float):
    scores = torch.zeros(4, 3)
    scores[:, 0] = margin - torch.arange(4)
    assert mean_average_precision(scores, [0, 0, 1, 2], 50, "probabilities") == pytest.approx(5 / 6)


def test_scores_may_ask_for_gradients():
    metrics = RankingMetrics(3)
    metrics.update(torch.eye(3, requires_grad=True), [0, 1, 2])
    assert metrics.compute().mean_average_precision == 1


def test_no_examples_are_refused():
    with pytest.raises(SelfInformedError, match="no examples"):
        RankingMetrics(3).compute()


def test_by_hand():
    scores = torch.tensor([[3.0, 1, 0], [2, 3, 0], [1, 3, 2], [3, 2, 1]])
    metrics = RankingMetrics(3, top_k=2)
    metrics.update(scores, [[0], [0], [1, 2], []])
    ranking = metrics.compute()
    # Label 0 is kept by examples 0 and 3 (a tie), then 1; its positives are 0 and 1: (1/2 + 2/3) / 2.
    # Label 1: examples 1 and 2 (a tie), 3, 0; the positive is 2: one of the first two. Label 2: only example 2.
    np.testing.assert_allclose(ranking.average_precision, [7 / 12, 1 / 2, 1])
    # Example 0: 1. Example 1: second place, 1/2. Example 2: both labels in front, 1. Example 3 is not annotated.
    assert ranking.mean_average_precision_per_example == pytest.approx(2.5 / 3)
    assert ranking.top1 == pytest.approx(2 / 3)
    assert ranking.top5 == 1
    assert ranking.positives.tolist() == [2, 1, 1]


def test_scores_as_arrays_or_with_gradients():
    scores = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    expected = mean_average_precision(scores, [0] * 9)
    assert mean_average_precision(scores.numpy(), [0] * 9) == expected
    assert mean_average_precision(scores.clone().requires_grad_(), [0] * 9) == expected


def test_a_refused_batch_is_not_half_added():
    metrics, scores = RankingMetrics(4, 2), torch.eye(4)
    metrics.update(scores, [0, 1, 2, 3])
    bad = scores.clone()
    bad[2, 3] = float("inf")
    for wrong, targets, message in (
        (bad, [0, 1, 2, 3], "example 2 has the score inf for label 3"),
        (scores, [0, 1, 2, 4], "targets: example 7 has label 4"),
        (scores, [0, 1, 2], r"scores: expected shape \[3, 4\], got \[4, 4\]"),
        (scores[:, :3], [0, 1, 2, 3], r"scores: expected shape \[4, 4\], got \[4, 3\]"),
    ):
        with pytest.raises(SelfInformedError, match=message):
            metrics.update(wrong, targets)
    ranking = metrics.compute()
    assert (ranking.n_examples, ranking.mean_average_precision, ranking.top1) == (4, 1, 1)


def test_scores_must_be_a_batch():
    with pytest.raises(SelfInformedError, match=r"expected logits \[examples, labels\], got a tensor of shape \[3\]"):
        mean_average_precision(torch.zeros(3), [0, 1, 2])


def test_probabilities_do_not_depend_on_a_shift_of_each_examples_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(60, 9, generator=generator), torch.randint(0, 9, (60,), generator=generator)
    shifted = scores + 10 * torch.randn(60, 1, generator=generator)
    plain = mean_average_precision(scores, targets, 5, "probabilities")
    assert plain == pytest.approx(mean_average_precision(shifted, targets, 5, "probabilities"))
    assert plain == mean_average_precision(scores.log_softmax(1), targets, 5)
    assert plain != mean_average_precision(shifted, targets, 5)


def test_scores_in_double_precision_are_ranked_as_they_are():
    rng = np.random.default_rng(0)
    logits = rng.normal(12, 4, (200, 5))
    truth = rng.random((200, 5)) < 1 / (1 + np.exp(14 - logits))
    probabilities = torch.from_numpy(1 / (1 + np.exp(-logits)))  # of which many are equal in single precision
    expected = np.mean([average_precision_score(truth[:, c], probabilities[:, c]) for c in range(5)])
    assert mean_average_precision(probabilities, truth.astype(int), 5) == pytest.approx(expected, abs=1e-12)


def test_what_to_rank_by_is_checked():
    with pytest.raises(SelfInformedError, match="ranked_by: expected one of logits, probabilities; got 'softmax'"):
        mean_average_precision(torch.eye(3), [0, 1, 2], ranked_by="softmax")
