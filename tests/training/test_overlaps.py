"""Examples that two parts of the data share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.data.opening import open_dataset
from selfinformed.data.targets import as_targets
from selfinformed.evidence.comparing import compare
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
    targets = problem.test.targets.take(rows).labels.tolist() + problem.train.targets.take(np.arange(100)).labels.tolist()
    store = FeatureStore.build(problem.net, open_dataset((torch.from_numpy(mixed), torch.tensor(targets)), problem.net.labels), batch_size, dtype=dtype)
    found = n_shared(FeatureStore.build(problem.net, problem.test, dtype=dtype), store)
    assert len(rows) - 0.02 * n <= found <= len(rows)


@pytest.mark.parametrize("times", [2, 9, 30])
def test_a_leak_is_found_where_every_training_example_stands_several_times(problem: Problem, times: int) -> None:
    train, test = problem.store("train"), problem.store("test")

    def taken(store: FeatureStore, rows: np.ndarray) -> FeatureStore:
        return replace(store, attached=store.attached[rows], penultimate=store.penultimate[rows], targets=store.targets.take(rows), examples=None)

    again = taken(train, np.tile(np.arange(500), times))
    assert n_shared(taken(train, np.arange(200)), again) >= 190
    assert n_shared(test, again) == 0


def test_what_the_trunk_cannot_tell_apart_is_not_the_same(problem: Problem) -> None:
    store, other = problem.store("test"), problem.store("train")
    alike = [replace(part, attached=torch.ones(len(part), 3), shapes=()) for part in (store, other)]
    few = [replace(part, attached=part.attached[:, :3].round(), shapes=()) for part in (store, other)]
    other_width = replace(store, attached=store.attached[:, 1:], shapes=())
    assert n_shared(*alike) == n_shared(other_width, other) == 0
    assert n_shared(*few) < 0.01 * len(store)
    assert n_shared(*(replace(part, attached=torch.zeros(len(part), 3), shapes=()) for part in (store, other))) == 0


def stores_of(problem: Problem, *parts: torch.Tensor, labels: int = 1) -> list[FeatureStore]:
    """Stores of rows of features, labelled by what the first says."""
    made = []
    for part in parts:
        targets = as_targets((part[:, 0] * 1e4).abs().round().long() % labels, problem.net.n_labels)
        made.append(FeatureStore(part, part, targets, problem.net.fingerprint, 0.0))
    return made


def draws(kind: str, n: int, generator: torch.Generator) -> torch.Tensor:
    """Independent examples, many of them alike."""
    if kind == "one feature":
        return torch.randn(n, 1, generator=generator)
    if kind == "binary":
        return torch.randint(0, 2, (n, 10), generator=generator).float()
    weights = torch.tensor([1 / (i + 1) for i in range(8)])
    columns = [torch.multinomial(weights, n, replacement=True, generator=generator) for _ in range(6)]
    spread = torch.randn(8, 20, generator=torch.Generator().manual_seed(9))
    return torch.relu(sum(spread[column] * (i + 1) for i, column in enumerate(columns)))


@pytest.mark.parametrize("kind", ["one feature", "binary", "categories"])
@pytest.mark.parametrize(("n_train", "n_test"), [(1000, 1000), (20_000, 5000)])
@pytest.mark.parametrize("seed", range(3))
def test_examples_that_are_alike_by_chance_are_none(problem: Problem, kind: str, n_train: int, n_test: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    train, test = stores_of(problem, draws(kind, n_train, generator), draws(kind, n_test, generator))
    assert n_shared(test, train) <= 0.01 * n_test


@pytest.mark.parametrize("change", ["none", "outlier", "twice", "half", "noise", "views"])
def test_a_leak_is_found_whatever_became_of_the_features(problem: Problem, change: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, leaked = torch.randn(4000, 64, generator=generator), torch.randn(1000, 64, generator=generator)
    rows[:400] = leaked[:400]
    if change == "outlier":
        rows[1000] *= 1e6
    if change in ("twice", "views"):
        rows = torch.cat([rows, rows])
    (test,), (train,) = stores_of(problem, leaked, labels=7), stores_of(problem, rows, labels=7)
    if change == "noise":
        train = replace(train, attached=rows * (1 + 1e-5 * torch.randn(rows.shape, generator=generator)))
    if change == "half":
        train = replace(train, attached=rows.half())
    assert 370 <= n_shared(test, train) <= 410
    few = FeatureStore(train.attached[:100], train.penultimate[:100], train.targets.take(np.arange(100)), train.fingerprint, 0.0)
    assert "100 of 4,000 test examples" in told(few, train) or change in ("twice", "views")  # a small part wholly within a larger one


def told(one: FeatureStore, other: FeatureStore) -> str:
    with pytest.warns(UserWarning, match="Not to be believed"):
        return told_of_shared({"training": one, "test": other})


def test_none_and_features_of_any_size(problem: Problem) -> None:
    rows = torch.randn(50, 6)
    one, empty, huge = stores_of(problem, rows, rows[:0], 3e37 * rows)
    more = replace(one, targets=as_targets(torch.full((50,), 99), 100))
    assert [n_shared(a, b) for a, b in ((one, empty), (empty, one), (one, huge), (huge, one), (one, more), (more, one))] == [0] * 6
    assert n_shared(huge, huge) == n_shared(more, more) == 50


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
