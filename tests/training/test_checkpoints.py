"""A training's state comes back as it was written, and a file of something else is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import refused
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.training.checkpoints import FORMAT, Checkpoint

ABOUT = {"seed": 3, "rate": 0.5, "shape": (2, 3), "data": "abc"}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", ABOUT)
    assert checkpoint.read() is None
    weights = torch.randn(3, 2, requires_grad=True)
    tensors = {"weights": weights, "step": torch.tensor([7]), "narrow": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "half": torch.ones(2).half()}
    checkpoint.write(tensors, {"pass": 2, "losses": [0.1, 0.2]})
    read = Checkpoint(tmp_path / "state.safetensors", dict(reversed(ABOUT.items()))).read()  # whatever the order of the keys
    assert read is not None
    found, state = read
    assert state == {"pass": 2, "losses": [0.1, 0.2]}
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        wanted = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted.detach())
    found["weights"] += 1  # a copy of its own, which may be written to
    assert json.loads(read_tensors(checkpoint.path, FORMAT)[1]["about"]) == {**ABOUT, "shape": [2, 3]}


def test_the_last_writing_counts(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", ABOUT)
    for step in range(3):
        checkpoint.write({"step": torch.tensor(step)}, {"step": step})
    read = checkpoint.read()
    assert read is not None
    assert read[0]["step"].item() == read[1]["step"] == 2


@pytest.mark.parametrize(("every", "due"), [(None, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_when_it_is_due(every: int | None, due: list[int]) -> None:
    assert [step for step in range(1, 7) if Checkpoint(Path("nowhere"), {}, every).due(step)] == due


def test_another_training_is_refused_and_says_in_what(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "state.safetensors", ABOUT).write({"step": torch.tensor(1)}, {})
    other = {"seed": 4, "rate": 0.5, "shape": [2, 3], "mixed": True}
    with refused(r"state\.safetensors is of another training \(data 'abc', now None, mixed None, now True, seed 3, now 4\); delete it"):
        Checkpoint(tmp_path / "state.safetensors", other).read()


@pytest.mark.parametrize("metadata", [{}, {"about": "{}"}, {"state": "{}"}, {"about": "{", "state": "{}"}, {"about": "{}", "state": "nonsense"}])
def test_a_file_without_a_valid_state_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"step": np.array([1])}, {"format": FORMAT, **metadata})
    with refused(r"state\.safetensors holds no valid state of training \(", "; delete it to train from the start"):
        Checkpoint(path, {}).read()
