"""Examples that two parts of the data share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.evidence.comparison import compare
from selfinformed.training.features import FeatureStore
from selfinformed.training.headroom import probe
from selfinformed.training.overlaps import n_shared, told_of_shared
from selfinformed.training.searching import search
from selfinformed.training.spaces import Space


def test_parts_of_a_split_share_nothing(problem: Problem) -> None:
    train, holdout, test = map(problem.store, ("train", "holdout", "test"))
    for one, other in ((holdout, train), (test, train), (test, holdout), (train, test)):
        assert n_shared(one, other) == 0
    assert told_of_shared({"training": train, "hold-out": holdout, "test": test, "views of the test": None}) == ""


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_the_same_inputs_are_counted_in_any_order_batch_and_type(problem: Problem, tmp_path, share: float, dtype: str, batch_size: int) -> None:
    n = len(problem.test)
    rows = np.random.default_rng(0).permutation(n)[: round(share * n)]
    mixed = np.concatenate([problem.test.read(rows.tolist()).numpy(), problem.train.read(range(100)).numpy()])
    from selfinformed.data.examples import open_dataset

    targets = problem.test.targets.take(rows).labels.tolist() + problem.train.targets.take(np.arange(100)).labels.tolist()
    store = FeatureStore.build(problem.net, open_dataset((torch.from_numpy(mixed), torch.tensor(targets)), problem.net.labels), batch_size, dtype=dtype)
    found = n_shared(FeatureStore.build(problem.net, problem.test, dtype=dtype), store)
    assert len(rows) - 0.02 * n <= found <= len(rows)


def test_what_the_trunk_cannot_tell_apart_is_not_the_same(problem: Problem) -> None:
    store, other = problem.store("test"), problem.store("train")
    alike = [replace(part, attached=torch.ones(len(part), 3), shapes=()) for part in (store, other)]
    few = [replace(part, attached=part.attached[:, :3].round(), shapes=()) for part in (store, other)]
    other_width = replace(store, attached=store.attached[:, 1:], shapes=())
    assert n_shared(*alike) == n_shared(other_width, other) == 0
    assert n_shared(*few) < 0.01 * len(store)
    assert n_shared(*(replace(part, attached=torch.zeros(len(part), 3), shapes=()) for part in (store, other))) == 0


@pytest.mark.filterwarnings("ignore:Not to be believed")
def test_verdicts_begin_with_it(problem: Problem) -> None:
    train, few = problem.store("train"), Space(grouping=("confusions",), n_groups=(3,), depth=(1,), rate=(1.0,), residual=(1.0,))
    compared = compare(problem.net, problem.plan(), train, train, holdout=problem.store("holdout"), seeds=1, epochs=0.1, arms=("base", "confusions"))
    n = len(train)
    assert compared.verdict.startswith(f"Not to be believed: {n:,} of {n:,} test examples are training examples too. Heads on groups")
    found = search(problem.net, train, train, budget=0.25, space=few, candidates=3, rounds=1, epochs=0.1)
    assert found.verdict.startswith(f"Not to be believed: {n:,} of {n:,} hold-out examples are training examples too. Of ")
    room = probe(problem.net, train, train, epochs=0.1)
    assert room.verdict.startswith("Not to be believed")
    for result in (found, room):
        assert result.to_dict()["shared"] == result.shared
    assert compared.about["shared"] in compared.verdict


def test_it_is_a_warning_where_the_function_was_called(problem: Problem) -> None:
    with pytest.warns(UserWarning, match="Not to be believed") as caught:
        probe(problem.net, problem.store("holdout"), problem.store("holdout"), epochs=0)
    assert any(warning.filename == __file__ for warning in caught)
