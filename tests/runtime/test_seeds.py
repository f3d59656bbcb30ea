"""A seed gives the same whoever else draws, and takes nothing from the caller's stream."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from conftest import Problem
from selfinformed.augmented.controls import adapted, gated
from selfinformed.augmented.network import augment
from selfinformed.runtime.seeds import seeded
from selfinformed.training.fitting import fit_whole


def test_it_draws_what_pytorch_draws_from_that_seed_and_leaves_the_stream_as_it_was():
    torch.manual_seed(5)
    expected, further = torch.rand(3), torch.rand(3)
    torch.manual_seed(7)
    torch.rand(2)
    with seeded(5):
        assert torch.equal(torch.rand(3), expected)
        with seeded(6):
            torch.rand(9)
        assert torch.equal(torch.rand(3), further)
    torch.manual_seed(7)
    torch.rand(2)
    assert torch.equal(torch.rand(3), torch.manual_seed(7) and torch.rand(5)[2:])


def test_threads_draw_one_after_the_other(problem: Problem):
    def weights(seed: int) -> list[torch.Tensor]:
        return [p.detach() for p in augment(problem.net, problem.plan(), classifier="reinitialise", seed=seed).new_parameters()]

    seeds = [0, 1, 2] * 4
    expected = [weights(seed) for seed in range(3)]
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(weights, seeds))
    assert all(torch.equal(a, b) for seed, own in zip(seeds, made, strict=True) for a, b in zip(own, expected[seed], strict=True))


def test_the_streams_of_accelerators_are_left_alone(problem: Problem, monkeypatch: pytest.MonkeyPatch):
    """Where new weights are drawn on the CPU; a seed of PyTorch's whole is one of theirs too."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("it seeds every device"))
    like = problem.plan()
    for make in (augment, gated, adapted):
        make(problem.net, like, seed=3)
    fit_whole(augment(problem.net, like), problem.holdout, epochs=0.1)


def test_a_device_that_draws_is_seeded_and_given_its_stream_back(monkeypatch: pytest.MonkeyPatch):
    done: list[tuple[str, object]] = []
    device = torch.device("cuda", 1)
    accelerator = SimpleNamespace(
        get_rng_state=lambda of: done.append(("kept", of)) or "state", set_rng_state=lambda state, of: done.append((state, of)),
        manual_seed=lambda seed: done.append(("seeded", seed)),
    )  # fmt: skip
    monkeypatch.setattr(torch, "get_device_module", lambda _=None: accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: done.append(("current", index)) or nullcontext())
    with seeded(4, [device, torch.device("cpu"), device]):
        done.append(("within", None))
    assert done == [("kept", device), ("current", 1), ("seeded", 4), ("within", None), ("state", device)]
