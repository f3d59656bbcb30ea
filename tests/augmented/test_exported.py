"""ONNX files answer as the network does, at any batch size."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from conftest import Problem
from selfinformed.augmented.exported import export_onnx
from selfinformed.augmented.network import augment
from selfinformed.network.wrap import AttachPoint, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import plan
from selfinformed.training.fitting import fit


def test_without_the_extra_the_error_names_the_command(problem: Problem, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SelfInformedError, match=r"pip install 'selfinformed\[onnx\]'"):
        export_onnx(augment(problem.net, problem.plan()), tmp_path / "model.onnx", problem.test.read(range(4)))


@pytest.mark.filterwarnings("ignore")
def test_the_export_is_verified_and_its_batch_is_dynamic(problem: Problem, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    aug = augment(problem.net, problem.plan((6, 4)))
    fit(aug, problem.store("train"), epochs=1)
    check = export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(20)))
    assert check.max_difference < 1e-4
    assert check.top1_agreement == 1
    session = onnxruntime.InferenceSession(str(check.path))
    for n in (1, 3, 50):
        inputs = problem.test.read(range(n))
        logits = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
        np.testing.assert_allclose(logits, aug.logits(inputs).numpy(), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["labels"].split("\n") == list(problem.net.labels.names)


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_differs_is_not_written(problem: Problem, tmp_path):
    pytest.importorskip("onnxruntime")
    aug = augment(problem.net, problem.plan())
    with pytest.raises(SelfInformedError, match="nothing was written"):
        export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(4)), tolerance=-1.0)
    assert not list(tmp_path.iterdir())
    assert isinstance(aug.logits(problem.test.read(range(2))), torch.Tensor)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_each_package_of_the_extra_is_looked_for(problem: Problem, missing, monkeypatch, tmp_path):
    for name in {"onnx", "onnxscript", "onnxruntime"} - {missing}:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SelfInformedError, match=r"run: pip install 'selfinformed\[onnx\]'"):
        export_onnx(augment(problem.net, problem.plan()), tmp_path / "model.onnx", problem.test.read(range(4)))


def test_keyword_arguments_cannot_be_exported(problem: Problem, monkeypatch, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(SelfInformedError, match="networks called with keyword arguments cannot be exported yet"):
        export_onnx(augment(problem.net, problem.plan()), tmp_path / "model.onnx", {"x": problem.test.read(range(4))})


@pytest.mark.filterwarnings("ignore")
def test_a_cover_attached_to_an_input_is_exported(problem: Problem, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    net = wrap(problem.net.model, problem.net.example_inputs, attach=AttachPoint("trunk.5", "input", "mean"))
    cover = LabelGroups(net.n_labels, (range(9), range(5, 20), range(net.n_labels)))
    aug = augment(net, plan(net, cover, hidden=(4,)), classifier="reinitialise")
    assert export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(5))).max_difference < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_one_example_is_too_few_to_check_with(problem: Problem, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    with pytest.raises(SelfInformedError, match="1 input to check with; give at least two"):
        export_onnx(augment(problem.net, problem.plan()), tmp_path / "model.onnx", problem.test.read([0]))
