"""Only what is new is saved; it comes back bit for bit, onto its own base only."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.augmented.readers import InputTransform
from selfinformed.augmented.saved import load
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.features import rank
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


@pytest.mark.parametrize("output", ["softmax", "logistic", None])
@pytest.mark.filterwarnings("ignore:mAP@50 ranks the logits")
def test_a_loaded_network_is_ranked_as_the_saved_one(problem: Problem, tmp_path, output):
    net = wrap(problem.net.model, problem.net.example_inputs, labels=problem.net.labels, output=output)
    aug = augment(net, plan(net, problem.groups, hidden=(6,)))
    fit(aug, problem.store("train"), epochs=0.5)
    aug.save_pretrained(tmp_path)
    figures = rank(aug, problem.test).mean_average_precision
    loaded = load(tmp_path, problem.net.model, problem.net.example_inputs)
    assert (loaded.net.output, loaded.output) == (output, aug.output)
    assert rank(loaded, problem.test).mean_average_precision == figures
    config = json.loads((tmp_path / "config.json").read_text())  # as an earlier version wrote it
    del config["checksum"], config["wrapped_output"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path, problem.net.model, problem.net.example_inputs).net.output == aug.output


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


def test_loading_leaves_the_wrapped_model_alone_and_the_output_comes_back(problem: Problem, trained, saved):
    before = problem.net.output
    loaded = load(saved, problem.net)
    assert problem.net.output == before
    assert loaded.output == trained.output == "softmax"


def test_loaded_heads_can_be_trained_on_in_another_input_transform(problem: Problem, trained, saved):
    loaded, attached = load(saved, problem.net), problem.store("test").attached[:32]
    expected, size = trained.heads(attached), attached.shape[1]
    matrix = torch.randn(size, size) / size**0.5 + torch.eye(size)
    transform = InputTransform(problem.net.shapes, (torch.randn(size),), (matrix,))
    loaded.heads.unfold(transform)
    torch.testing.assert_close(loaded.heads(transform(attached)), expected, rtol=1e-3, atol=1e-3)


def test_heads_of_a_cover_attached_elsewhere(problem: Problem, tmp_path):
    net = wrap(problem.net.model, problem.net.example_inputs, attach=AttachPoint("trunk.5", "input", "mean"))
    aug = augment(net, plan(net, LabelGroups(net.n_labels, (range(9), range(5, 20))), hidden=(4,)), classifier="reinitialise")
    aug.save_pretrained(tmp_path)
    inputs = problem.test.read(range(16))
    assert torch.equal(load(tmp_path, net.model, inputs[:2])(inputs), aug(inputs))
    with pytest.raises(SelfInformedError, match="config.json: .*the model is wrapped otherwise"):
        load(tmp_path, problem.net)


def test_a_tuned_base_comes_back_with_the_original_classifier(problem: Problem, tmp_path):
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(16))
    with torch.no_grad():
        for parameter in aug.all_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    aug.base_was_tuned = True
    aug.save_pretrained(tmp_path)
    loaded = load(tmp_path, problem.net)
    assert torch.equal(loaded(inputs), aug(inputs))
    assert torch.equal(loaded.own_classifier.weight, problem.net.classifier.weight)


def test_half_precision_comes_back(problem: Problem, tmp_path):
    inputs = problem.test.read(range(16)).bfloat16()
    net = wrap(copy.deepcopy(problem.net.model).bfloat16(), inputs)
    aug = augment(net, plan(net, problem.groups, hidden=(4,)), classifier="reinitialise")
    aug.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, net)(inputs), aug(inputs))


def test_a_classifier_alone_comes_back(problem: Problem, tmp_path):
    aug = augment(problem.net, plan(problem.net, LabelGroups(problem.net.n_labels, ())), classifier="reinitialise")
    aug.save_pretrained(tmp_path)
    inputs = problem.test.read(range(4))
    assert torch.equal(load(tmp_path, problem.net)(inputs), aug(inputs))


def test_how_heads_are_run_comes_back_and_is_part_of_what_the_network_is(problem: Problem, tmp_path):
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    aug.output = "softmax"
    inputs, plain, seen = problem.test.read(range(30)), aug.fingerprint, set()
    for number, run in enumerate(({}, {"top_groups": 2}, {"top_groups": 2, "above": 0.9}, {"above": 0.9})):
        aug.run_conditionally(**run)
        aug.save_pretrained(tmp_path / str(number))
        again = load(tmp_path / str(number), problem.net)
        assert (again.top_groups, again.above) == (run.get("top_groups"), run.get("above"))
        assert torch.equal(again.logits(inputs), aug.logits(inputs))
        seen |= {aug.fingerprint, (tmp_path / str(number) / "heads.safetensors").read_bytes()}
        config = json.loads((tmp_path / str(number) / "config.json").read_text())
        assert config["format"] == f"selfinformed.heads/{2 if run else 1}"
    assert len(seen) == 8
    aug.run_conditionally()
    assert aug.fingerprint == plain
    assert aug.dispatch is None


def test_a_threshold_of_the_first_format_is_kept_for_evaluating_and_runs_all_heads(problem: Problem, tmp_path):
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    aug.output = "softmax"
    aug.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["checksum"], config["top_groups"]
    path.write_text(json.dumps(config | {"above": 0.5}))
    again = load(tmp_path, problem.net)
    assert (again.above, again.top_groups, again.dispatch) == (0.5, None, None)


@pytest.mark.parametrize("wrong", [{"top_groups": 7}, {"top_groups": -1}, {"top_groups": True}, {"top_groups": 2.0}, {"top_groups": "2"},
    {"above": float("inf")}, {"above": float("nan")}, {"above": "0.5"}, {"above": True}])  # fmt: skip
def test_what_cannot_be_run_is_neither_set_nor_loaded(problem: Problem, tmp_path, wrong):
    aug = augment(problem.net, problem.plan())
    aug.output = "softmax"
    name = next(iter(wrong))
    with pytest.raises(SelfInformedError, match=f"{name}: expected"):
        aug.run_conditionally(**wrong)
    assert (aug.top_groups, aug.above, aug.dispatch) == (None, None, None)
    aug.run_conditionally(1)
    aug.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["checksum"]
    path.write_text(json.dumps(config | wrong))
    with pytest.raises(SelfInformedError, match=r"config\.json"):
        load(tmp_path, problem.net)


def test_nothing_is_put_onto_a_network_that_runs_some_heads_only(problem: Problem):
    aug = augment(problem.net, problem.plan())
    aug.run_conditionally(1)
    with pytest.raises(SelfInformedError, match=r"onto: there each example runs some heads only.*run_conditionally\(\) on it first"):
        augment(problem.net, problem.plan(), onto=aug)


@pytest.mark.parametrize(("options", "message"), [
    ({"labels": [f"no {i}" for i in range(36)]}, "label 0 was 'name 0' where these heads were trained, and is 'no 0' in the wrapped network"),
    ({"output": "logistic"}, "trained on the network wrapped with output='softmax', and it is wrapped with output='logistic'; wrap it alike"),
    ({}, None),
])  # fmt: skip
def test_a_network_wrapped_with_other_names_or_another_output_is_told(problem: Problem, tmp_path, options, message):
    own = {"labels": [f"name {i}" for i in range(36)], "output": "softmax"}
    inputs = problem.test.example_inputs()
    net = wrap(problem.net.model, inputs, **own)
    augment(net, plan(net, problem.groups, hidden=(6,))).save_pretrained(tmp_path)
    if message is None:
        assert load(tmp_path, wrap(problem.net.model, inputs, output="softmax")).labels.is_numbers
        return
    with pytest.raises(SelfInformedError, match=message):
        load(tmp_path, wrap(problem.net.model, inputs, **own | options))
