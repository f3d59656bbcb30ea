"""The forecast takes off what choosing flatters, and the diagnosis names the first limit that holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.training.forecasting import CEILING, GAP, STEEP, WORTH_IT, Diagnosis, Forecast, Judged, foresee


def ranking(average_precision: np.ndarray) -> Ranking:
    return Ranking(nan_mean(average_precision), 0.0, 0.0, 0.0, average_precision, np.ones(len(average_precision), dtype=np.int64), 1, 50)


def judged(whole: float, first: float, second: float, n_labels: int = 40) -> Judged:
    """The same average precision for every label."""
    return Judged(ranking(np.full(n_labels, whole)), (ranking(np.full(n_labels, first)), ranking(np.full(n_labels, second))))


def test_where_both_halves_choose_alike_the_forecast_is_the_gain() -> None:
    found = foresee(judged(0.5, 0.5, 0.5), {"classifier": judged(0.52, 0.51, 0.53), "dense": judged(0.6, 0.58, 0.62)}, 0.03)
    assert (found.choice, found.optimism, found.budget) == ("dense", 0, 0.03)
    assert (found.gain, found.low, found.high) == tuple(pytest.approx(10) for _ in range(3))
    assert str(found) == "at 3% more multiply-adds about +10.0 mAP (+10.0 to +10.0)"
    assert found.to_dict() == {"gain": pytest.approx(0.1), "interval": [pytest.approx(0.1)] * 2, "choice": "dense", "optimism": 0, "budget": 0.03}


def test_luck_on_one_half_is_taken_off() -> None:
    candidates = {"one": judged(0.52, 0.56, 0.48), "other": judged(0.515, 0.48, 0.55)}  # each half likes another
    found = foresee(judged(0.5, 0.5, 0.5), candidates, 0.03)
    assert found.choice == "one"
    assert found.optimism == pytest.approx(((6 - -2) + (5 - -2)) / 2)
    assert found.gain == 0  # 2 less 7.5


def test_a_base_that_nothing_betters_is_forecast_to_be_kept() -> None:
    found = foresee(judged(0.5, 0.5, 0.5), {"classifier": judged(0.4, 0.4, 0.4)}, 0.03)
    assert (found.gain, found.low, found.high, found.optimism) == (0, 0, 0, 0)


def test_choosing_among_equals_gains_nothing_on_average() -> None:
    """Candidates that differ from the base by noise alone: the best of ten looks better than it is, the forecast hardly does."""
    rng, naive, forecasts = np.random.default_rng(0), [], []
    for _ in range(60):
        noise = 0.1 * rng.standard_normal((10, 2, 40))
        candidates = {str(i): Judged(ranking(0.5 + h.mean(0)), (ranking(0.5 + h[0]), ranking(0.5 + h[1]))) for i, h in enumerate(noise)}
        naive.append(100 * noise.mean((1, 2)).max())
        forecasts.append(foresee(judged(0.5, 0.5, 0.5), candidates, 0.03).gain)
    assert np.mean(naive) > 1.5
    assert np.mean(forecasts) < 0.4 * np.mean(naive)


def test_the_interval_is_that_of_a_mean_over_labels() -> None:
    differences = 0.1 + 0.05 * np.random.default_rng(1).standard_normal(400)
    base, better = ranking(np.full(400, 0.5)), ranking(0.5 + differences)
    found = foresee(Judged(base, (base, base)), {"dense": Judged(better, (better, better))}, 0.03)
    half_width = 1.96 * 100 * differences.std() / 20
    assert found.gain - found.low == pytest.approx(half_width, rel=0.25)
    assert found.high - found.gain == pytest.approx(half_width, rel=0.25)
    assert found == foresee(Judged(base, (base, base)), {"dense": Judged(better, (better, better))}, 0.03)


def test_labels_without_positives_count_for_nothing() -> None:
    base, better = np.array([0.5, np.nan, 0.5]), np.array([0.6, np.nan, 0.8])
    found = foresee(*(Judged(ranking(a), (ranking(a), ranking(a))) for a in (base,)), {"dense": Judged(ranking(better), (ranking(better),) * 2)}, 0.03)
    assert found.gain == pytest.approx(20)
    none = ranking(np.full(3, np.nan))
    assert foresee(Judged(none, (none, none)), {"dense": Judged(none, (none, none))}, 0.03) == Forecast(0, 0, 0, "dense", 0, 0.03)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5))
def test_a_forecast_is_never_more_than_the_best_gain(values: list[tuple[float, float, float]]) -> None:
    found = foresee(judged(0.5, 0.5, 0.5, 3), {str(i): judged(*v, n_labels=3) for i, v in enumerate(values)}, 0.03)
    assert found.optimism >= -1e-9
    assert 0 <= found.low <= found.gain + 1e-9 <= found.high + 2e-9
    assert found.gain <= max(0.0, *(100 * (v[0] - 0.5) for v in values)) + 1e-9


NEITHER = Diagnosis({"base": 50, "classifier": 50, "dense": 50.5}, {"base": 51, "classifier": 51, "dense": 52}, 50.2)


def test_limits_in_their_order() -> None:
    assert NEITHER.limited_by == "trunk"
    assert "a dense head reaches 52.0 mAP on training examples and 50.5 on held-out ones" in str(NEITHER)
    overfits = replace(NEITHER, train={"base": 51, "classifier": 51, "dense": 50.5 + GAP})
    assert overfits.limited_by == "trunk"  # more of the same examples would not help
    steep = replace(overfits, half_data=50.5 - STEEP)
    assert steep.limited_by == "data"
    assert "brought +0.5; get more of them" in str(steep)
    assert replace(steep, train=NEITHER.train).limited_by == "trunk"  # no gap
    assert replace(overfits, train={"base": 50 + GAP, "classifier": 55, "dense": 56}).limited_by == "data"  # all known by heart
    assert replace(steep, holdout={"base": CEILING, "classifier": 50, "dense": 50.5}).limited_by == "nothing"
    wider = replace(steep, holdout={"base": CEILING, "classifier": 96, "dense": 96 + WORTH_IT})
    assert wider.limited_by == "capacity"
    assert str(wider).endswith("+1.0 mAP above the retrained classifier, so plan heads.")
    by_heart = Diagnosis({"base": 82, "classifier": 82, "dense": 86}, {"base": 98, "classifier": 98, "dense": 99}, 85)
    assert by_heart.limited_by == "capacity"
    assert "It knows its training examples by heart (98.0 mAP on training examples and 82.0 on held-out ones), so more of them" in str(by_heart)


def test_evidence_is_saved_as_shares() -> None:
    content = NEITHER.to_dict()
    assert content["train"] == {"base": 0.51, "classifier": 0.51, "dense": 0.52}
    assert content["holdout"]["dense"] == pytest.approx(0.505)
    assert (content["half_data"], content["gap"], content["learning"]) == tuple(map(pytest.approx, (0.502, 0.015, 0.003)))
