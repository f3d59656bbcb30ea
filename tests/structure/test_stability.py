from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfinformed.data.predictions import Predictions, open_predictions
from selfinformed.structure.clustering import cluster
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import count
from selfinformed.structure.stability import Stability, agreement, stability

C, K = 60, 4


def saved(folder: Path, inside: float, n: int = 4000) -> Predictions:
    """Predictions in four groups of labels: a detection comes from the example's own group with probability `inside`."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 4, n)
    scores = rng.random((n, C)) + inside * (np.arange(C) % 4 == own[:, None])
    ids = np.argsort(-scores, axis=1)[:, :K]
    np.savez(folder / "p.npz", ids=ids, labels=4 * rng.integers(0, C // 4, n) + own)
    return open_predictions(folder / "p.npz", C)


def test_real_groups_are_found_again_and_noise_is_not(tmp_path: Path) -> None:
    real = saved(tmp_path, 1.0)
    found = stability(real, cluster(count(real), 4))
    assert found.n_groups == 4
    assert found.halves == 1
    assert found.bootstraps == (1, 1, 1)
    noise = saved(tmp_path, 0.0)
    lost = stability(noise, cluster(count(noise), 4), bootstraps=2)
    assert abs(lost.halves) < 0.2
    assert len(lost.bootstraps) == 2


def test_it_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    predictions = saved(tmp_path, 0.0)
    groups = cluster(count(predictions), 4)
    one, again, other = (stability(predictions, groups, bootstraps=1, seed=seed) for seed in (0, 0, 1))
    assert one == again != other


def test_the_halves_are_disjoint_and_a_bootstrap_draws_as_many_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfinformed.structure import stability as module

    sizes = []

    def counted(counts, *rest, **options):
        sizes.append(counts.n_examples)
        return cluster(counts, *rest, **options)

    monkeypatch.setattr(module, "cluster", counted)
    predictions = saved(tmp_path, 1.0)
    stability(predictions, cluster(count(predictions), 4), bootstraps=1)
    assert sizes[0] + sizes[1] == 4000
    assert abs(sizes[0] - 2000) < 150
    assert abs(sizes[2] - 4000) < 300


def test_agreement_looks_at_labels_that_both_have_grouped() -> None:
    one = LabelGroups(6, (np.array([0, 1, 2]), np.array([3, 4])))
    other = LabelGroups(6, (np.array([3, 4, 5]), np.array([0, 1])))
    assert agreement(one, other) == 1
    assert np.isnan(agreement(one, None))
    assert np.isnan(agreement(LabelGroups(6, (np.array([5]),)), LabelGroups(6, (np.array([0]),))))


def test_a_bootstrap_without_such_groups_is_said() -> None:
    assert str(Stability(4, 0.5, (0.5, float("nan"), 0.4))).startswith(
        "groups from two halves of the examples agree 0.50; 2 bootstraps agree with them 0.40 to 0.50; 1 of 3 bootstraps have no such groups (adjusted"
    )
    assert "nan" not in str(Stability(4, 0.5, (float("nan"),)))


def test_it_says_what_it_found() -> None:
    assert str(Stability(4, 0.5, (0.61, 0.7))).startswith("groups from two halves of the examples agree 0.50; 2 bootstraps agree with them 0.61 to 0.70")
    assert str(Stability(4, 0.5, ())) == "groups from two halves of the examples agree 0.50 (adjusted Rand index: 1 the same, 0 chance)"


def test_halves_that_have_not_as_many_labels_agree_in_nothing_and_say_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    predictions = saved(tmp_path, 1.0, 20)
    confused = sum(cluster(count(predictions), 1).sizes)
    assert np.isnan(stability(predictions, cluster(count(predictions), confused, method="random"), bootstraps=0).halves)
    assert not recwarn.list


def test_random_groups_are_not_stable(tmp_path: Path) -> None:
    predictions = saved(tmp_path, 1.0)
    found = stability(predictions, cluster(count(predictions), 4, method="random"), method="random")
    assert all(abs(agreed) < 0.3 for agreed in (found.halves, *found.bootstraps))
