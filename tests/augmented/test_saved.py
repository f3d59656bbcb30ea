"""Only what is new is saved; it comes back bit for bit, onto its own base only."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.augmented.saved import load
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.fitting import fit


@pytest.fixture(scope="module")
def trained(problem: Problem):
    aug = augment(problem.net, problem.plan((6, 4)))
    fit(aug, problem.store("train"), epochs=1)
    return aug


@pytest.fixture
def saved(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    return tmp_path


def test_saved_and_loaded_is_equal(problem: Problem, trained, saved):
    inputs = problem.test.read(range(32))
    assert torch.equal(load(saved, problem.net.model, inputs[:2])(inputs), trained(inputs))
    assert torch.equal(load(saved, problem.net)(inputs), trained(inputs))


def test_only_new_weights_are_saved(trained, saved):
    from safetensors import safe_open

    with safe_open(saved / "heads.safetensors", "np") as file:
        numbers = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert numbers == sum(p.numel() for p in trained.new_parameters())
    assert {p.name for p in saved.iterdir()} == {"heads.safetensors", "config.json"}


def test_another_base_is_refused(problem: Problem, saved):
    other = copy.deepcopy(problem.net.model)
    with torch.no_grad():
        next(other.parameters()).add_(1e-6)
    with pytest.raises(SelfInformedError, match="trained on another base: its fingerprint"):
        load(saved, other, problem.net.example_inputs)


def test_a_model_without_inputs_is_refused(problem: Problem, saved):
    with pytest.raises(SelfInformedError, match="give example_inputs"):
        load(saved, problem.net.model)


@pytest.mark.parametrize("name", ["config.json", "heads.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damaged_files_are_refused(problem: Problem, saved, name, damage):
    path = saved / name
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    with pytest.raises(SelfInformedError, match=name):
        load(saved, problem.net)


@pytest.mark.parametrize("change", [{"format": "selfinformed.heads/99"}, {"plan": {}}, {"labels": 3}, {"attach": {"no": 1}}])
def test_a_config_that_is_none_is_refused(problem: Problem, saved, change):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SelfInformedError):
        load(saved, problem.net)


def test_weights_of_another_run_are_refused(problem: Problem, saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    augment(problem.net, problem.plan((3,))).save_pretrained(other)
    (saved / "heads.safetensors").write_bytes((other / "heads.safetensors").read_bytes())
    with pytest.raises(SelfInformedError, match="does not fit its config"):
        load(saved, problem.net)
