"""What a comparison says of its rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selfinformed.evidence.comparison import Comparison
from selfinformed.structure.intervals import interval


def by_hand(values: dict[str, list[float]]) -> Comparison:
    rows = [
        {
            "arm": arm, "seed": seed, "mean_average_precision": value, "mean_average_precision_per_example": value, "top1": value, "top5": value,
            "multiply_adds": 100, "extra_computation": 1.0 if arm == "base" else 1.03, "parameters": 10, "seconds": 1.0, "head_seconds": 1.0,
        }
        for arm, column in values.items() for seed, value in enumerate(column)
    ]  # fmt: skip
    return Comparison(rows, {arm: np.array([np.mean(column)]) for arm, column in values.items()}, 50)


def test_the_verdict_says_what_won_and_what_did_better() -> None:
    verdict = by_hand({"base": [0.4, 0.4], "confusions": [0.5, 0.501], "random": [0.45, 0.451], "dense": [0.6, 0.602]}).verdict
    assert "Heads on groups from confusions raise mAP@50 by +10.05 points" in verdict
    assert "3.0% more multiply-adds" in verdict
    assert "They beat random (+5.00)" in verdict
    assert "They do not beat dense (-10.05), which did better" in verdict


@pytest.mark.parametrize(("grouping", "words"), [
    ("spectral", "from confusions"), ("spectral cover", "from confusions"), ("balanced", "of equal size from confusions"), ("random", "drawn at random"),
    ("hinton", "from the covariance of predictions"), ("codetections", "from co-detections"), ("given", "that were given"),
])  # fmt: skip
def test_the_verdict_names_the_groups_that_were_compared(grouping: str, words: str) -> None:
    found = by_hand({"base": [0.4, 0.4], "confusions": [0.5, 0.501]})
    found.about["grouping"] = grouping
    assert found.verdict.startswith(f"Heads on groups {words} raise mAP@50")
    assert f"heads on groups {words}" in found.summary()[1]["description"]


def test_the_verdict_does_not_claim_what_the_test_labels_do_not_show() -> None:
    found = by_hand({"base": [0.4, 0.4], "confusions": [0.5, 0.501]})
    change = {"base": np.zeros(6)}
    sure = replace(found, per_label=change | {"confusions": np.array([0.1, 0.1, 0.11, 0.09, 0.1, np.nan])})
    low, high = interval(np.array([0.1, 0.1, 0.11, 0.09, 0.1]))
    assert f"raise mAP@50 by +10.05 points (95% interval over seeds +9.41 to +10.69, over labels {100 * low:+.2f} to {100 * high:+.2f})" in sure.verdict
    unsure = replace(found, per_label=change | {"confusions": np.array([1.0, -0.8, 0.5, -0.4, 0.2, np.nan])})
    assert "do not surely change mAP@50 by +10.05 points" in unsure.verdict
    assert "raise mAP@50" in replace(found, per_label={}).verdict


def test_arms_of_another_cost_are_named_with_it() -> None:
    found = by_hand({"base": [0.4, 0.4], "confusions": [0.5, 0.501], "classifier": [0.45, 0.451], "random": [0.45, 0.451], "dense": [0.45, 0.451]})
    for row in found.rows:
        row["extra_computation"] = {"base": 1.0, "classifier": 1.0, "dense": 1.01}.get(row["arm"], 1.03)
    assert "They beat classifier (+5.00), random (+5.00), dense (+5.00, at 1% more multiply-adds)." in found.verdict


def test_the_verdict_does_not_claim_what_seeds_do_not_show() -> None:
    assert "do not surely change" in by_hand({"base": [0.4, 0.4], "confusions": [0.3, 0.5]}).verdict
    assert "lower mAP@50" in by_hand({"base": [0.4, 0.4], "confusions": [0.3, 0.301]}).verdict
    one = by_hand({"base": [0.4], "confusions": [0.5], "dense": [0.6]}).verdict
    assert "one seed: no interval" in one
    assert "Not told apart at this number of seeds: dense (-10.00)" in one
    assert by_hand({"base": [0.4], "dense": [0.5]}).verdict == "The comparison holds no base or no augmented network."


def test_the_verdict_speaks_of_the_searched_structure_first() -> None:
    made = by_hand({"base": [0.4, 0.4], "confusions": [0.45, 0.451], "dense": [0.6, 0.602], "searched": [0.5, 0.501]})
    assert made.method == "searched"
    assert "The structure that the search found raises mAP@50 by +10.05 points" in made.verdict
    assert "It beats confusions (+5.00)" in made.verdict
    assert "It does not beat dense (-10.05), which did better" in made.verdict
    rows = {row["arm"]: row for row in made.summary()}
    assert rows["searched"]["method_over_it"] is None
    assert rows["confusions"]["method_over_it"]["mean"] == pytest.approx(0.05)
    assert by_hand({"base": [0.4], "dense": [0.5]}).method == by_hand({"base": [0.4], "confusions": [0.5]}).method == "confusions"


def test_differences_are_paired_by_seed_in_any_order_of_rows() -> None:
    made = by_hand({"base": [0.1, 0.2], "confusions": [0.11, 0.21]})
    made.rows.reverse()
    assert made.difference("confusions", "base") == pytest.approx({"mean": 0.01, "low": 0.01, "high": 0.01})
