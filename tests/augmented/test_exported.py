"""ONNX files answer as the network does, at any batch size."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections import UserDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from conftest import Problem, refused
from selfinformed.augmented.exported import export_onnx, export_program, is_export_of
from selfinformed.augmented.network import augment
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
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


class TwoInputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.classifier = torch.nn.Linear(6, 16), torch.nn.Linear(16, 36)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.mix(left * right).relu())}


@pytest.mark.filterwarnings("ignore")
def test_keyword_arguments_are_the_inputs_names(problem: Problem, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = {"right": torch.randn(9, 6), "left": torch.randn(9, 6)}
    net = wrap(TwoInputs(), inputs)
    aug = augment(net, plan(net, problem.groups, hidden=(12, 7)), classifier="reinitialise")
    check = export_onnx(aug, tmp_path / "model.onnx", inputs)
    assert check.n_inputs == 9
    session = onnxruntime.InferenceSession(str(check.path))
    five = {name: tensor[:5] for name, tensor in inputs.items()}
    got = session.run(["logits"], {name: tensor.numpy() for name, tensor in five.items()})[0]
    torch.testing.assert_close(torch.from_numpy(got), aug.logits(five), rtol=1e-4, atol=1e-4)
    torch.export.save(export_program(aug, inputs), tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(program(*five.values()), aug.logits(five), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_is_compared_with_logits_in_full_precision(problem: Problem, tmp_path):
    pytest.importorskip("onnxruntime")
    seen = []
    aug = augment(problem.net, problem.plan())
    aug.base.register_forward_pre_hook(lambda *_: None if torch.compiler.is_exporting() else seen.append(torch.backends.cudnn.conv.fp32_precision))
    export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(4)))
    assert set(seen[-2:]) == {"ieee"}


RUN = [{"top_groups": 2}, {"top_groups": 2, "above": 0.5}, {"above": 0.5}, {"top_groups": 0}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("run", "cover"), [*((run, False) for run in RUN), (RUN[1], True)], ids=str)
def test_what_runs_conditionally_is_exported_with_the_same_logits(problem: Problem, tmp_path, run, cover):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    members = [*np.array_split(rng.permutation(36)[:34], 5), *([np.arange(36)] if cover else [])]
    if cover:  # labels of several groups, one head over all of them
        members = [np.unique([*labels, 0, 1]) for labels in members]
    aug = augment(problem.net, plan(problem.net, LabelGroups(36, tuple(members)), hidden=(6,)), classifier="reinitialise")
    aug.output = "softmax"
    aug.run_conditionally(**run)
    inputs = problem.test.read(range(80))
    check = export_onnx(aug, tmp_path / "model.onnx", inputs)
    assert check.top1_agreement == 1
    got = onnxruntime.InferenceSession(str(check.path)).run(["logits"], {"inputs": inputs[:7].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), aug.logits(inputs[:7]), rtol=1e-4, atol=1e-4)
    torch.export.save(export_program(aug, inputs), tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(program(inputs[:9]), aug.logits(inputs[:9]), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_names_in_the_metadata_are_a_line_each(problem: Problem, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    names = [f"label {i}" for i in range(35)] + ["a\nline\r\nbreak"]
    net = wrap(problem.net.model, problem.test.example_inputs(), labels=names)
    check = export_onnx(augment(net, plan(net, problem.groups, hidden=(3,))), tmp_path / "model.onnx", problem.test.read(range(4)))
    told = onnxruntime.InferenceSession(str(check.path)).get_modelmeta().custom_metadata_map["labels"].split("\n")
    assert told == [*names[:35], "a line  break"]


def test_what_depends_on_the_batch_is_not_exported(problem: Problem):
    aug = augment(problem.net, problem.plan())
    aug.output = "softmax"
    with aug.conditional(2, share=0.5), pytest.raises(SelfInformedError, match=r"export: with conditional\(share=...\) which heads run depends on the rest"):
        export_program(aug, problem.test.read(range(4)))


@pytest.mark.parametrize("groups", [6, 30])
def test_compiled_in_one_graph(problem: Problem, groups):
    """Traced by dynamo without a break, whatever the number of groups; the graph's size does not depend on it."""
    members = tuple(np.array_split(np.random.default_rng(0).permutation(36), groups))
    aug = augment(problem.net, plan(problem.net, LabelGroups(36, members), hidden=(12, 7)), classifier="reinitialise")
    sizes = []

    def backend(graph, _):
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    inputs = problem.test.read(range(8))
    with torch.no_grad():
        got = torch.compile(aug.eval(), backend=backend, fullgraph=True)(inputs)
    torch.testing.assert_close(got, aug.logits(inputs))
    assert len(sizes) == 1
    assert sizes[0] < 60


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


def test_an_export_knows_its_heads_by_their_content(problem: Problem, tmp_path) -> None:
    path, heads = tmp_path / "model.onnx", tmp_path / "heads.safetensors"
    aug = augment(problem.net, problem.plan())
    aug.save_pretrained(tmp_path)
    assert not is_export_of(path, heads)
    export_onnx(aug, path, problem.test.read(range(4)), heads=heads)
    os.utime(path, (1, 1))  # copied in another order
    assert is_export_of(path, heads)
    with torch.no_grad():
        next(aug.classifier.parameters()).add_(1)
    aug.save_pretrained(tmp_path)
    assert not is_export_of(path, heads)
    export_onnx(aug, path, problem.test.read(range(4)))  # as an older version did: does not say
    assert is_export_of(path, heads)
    os.utime(path, (1, 1))
    assert not is_export_of(path, heads)
    path.write_bytes(b"\x00\xff damaged")
    assert not is_export_of(path, heads)
    heads.unlink()
    assert not is_export_of(path, heads)


def test_half_precision_is_refused_with_what_to_do(problem: Problem, tmp_path) -> None:
    inputs = problem.test.read(range(4))
    net = wrap(copy.deepcopy(problem.net.model).bfloat16(), inputs.bfloat16())
    aug = augment(net, plan(net, problem.groups, hidden=(4,)))
    with refused("export: the network is in bfloat16", r"aug\.float\(\)"):
        export_onnx(aug, tmp_path / "model.onnx", inputs.bfloat16())
    assert export_onnx(aug.float(), tmp_path / "model.onnx", inputs).top1_agreement == 1


def test_an_export_leaves_the_network_in_training(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan()).requires_grad_(True).train()
    before = [module.training for module in aug.modules()]
    program = export_program(aug, problem.test.read(range(4)))
    assert [module.training for module in aug.modules()] == before
    inputs = problem.test.read(range(3))
    torch.testing.assert_close(program.module()(inputs), aug.logits(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_without_heads_an_export_claims_none(problem: Problem, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    aug.save_pretrained(tmp_path)
    with aug.heads_disabled():
        check = export_onnx(aug, tmp_path / "model.onnx", problem.test.read(range(4)), heads=tmp_path / "heads.safetensors")
    assert check.extra_computation == 1
    metadata = onnxruntime.InferenceSession(str(check.path)).get_modelmeta().custom_metadata_map
    assert (metadata["extra_computation"], metadata["heads"]) == ("1.0", "")
    assert not is_export_of(check.path, tmp_path / "heads.safetensors")


class Hard(torch.nn.Module):
    def __init__(self, between) -> None:
        super().__init__()
        self.mix, self.classifier, self.between = torch.nn.Linear(6, 16), torch.nn.Linear(16, 36), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.between(self.mix(x)))


UNTRACEABLE = [
    lambda h: h * 2 if h.sum() > 1e9 else h,
    lambda h: torch.from_numpy(h.numpy() + 1),
    lambda h: h * torch.linalg.svdvals(h.reshape(-1, 4, 4))[:, :1],
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("between", "reason"), [*zip(UNTRACEABLE, ["data-dependent expression", "numpy", "svd"], strict=True)], ids=["branch", "numpy", "svd"])
def test_what_cannot_be_traced_is_one_line_with_its_place(problem: Problem, tmp_path, capfd, between, reason) -> None:
    pytest.importorskip("onnxruntime")
    inputs = torch.randn(4, 6)
    net = wrap(Hard(between), inputs)
    aug = augment(net, plan(net, problem.groups, hidden=(3,)))
    place = "" if reason == "svd" else rf", at {Path(__file__)}:{between.__code__.co_firstlineno}"
    with refused("export: the network cannot be traced", rf"{reason}.*{place}\); its forward may take torch's operators alone"):
        export_onnx(aug, tmp_path / "model.onnx", inputs)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch").isEnabledFor(logging.WARNING)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_any_mapping_is_exported_with_what_is_no_tensor_in_it(problem: Problem, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    class Named(Hard):
        def forward(self, x: torch.Tensor, return_dict: bool = False) -> dict[str, torch.Tensor] | tuple[torch.Tensor]:  # type: ignore[override]
            logits = super().forward(x)
            return {"logits": logits} if return_dict else (logits,)

    inputs: dict = UserDict(return_dict=True, x=torch.randn(4, 6))  # type: ignore[assignment]
    net = wrap(Named(torch.relu), inputs)
    aug = augment(net, plan(net, problem.groups, hidden=(3,)), classifier="reinitialise")
    check = export_onnx(aug, tmp_path / "model.onnx", inputs)
    assert check.n_inputs == 4
    session = onnxruntime.InferenceSession(str(check.path))
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, output.shape) == ("x", ["batch", 6], ["batch", 36])
    with refused("export: 1 input to check with"):
        export_program(aug, UserDict(return_dict=True, x=torch.randn(1, 6)))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_what_wrap_gave_is_exported_as_the_base(problem: Problem, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = problem.test.read(range(4))
    check = export_onnx(problem.net, tmp_path / "model.onnx", inputs)
    got = onnxruntime.InferenceSession(str(check.path)).run(["logits"], {"inputs": inputs.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), problem.net.logits(inputs), rtol=1e-4, atol=1e-4)
    assert check.extra_computation == 1
    with refused("export: expected what augment gave, or wrap, got Linear"):
        export_program(torch.nn.Linear(2, 2), inputs)  # type: ignore[arg-type]


def test_inputs_that_the_network_cannot_take_are_told(problem: Problem) -> None:
    inputs, aug = problem.test.read(range(4)), augment(problem.net, problem.plan())
    for other in (inputs[:, :, :4], inputs.double(), {"other": inputs}):
        with refused("model: it does not run on these inputs", "it was wrapped with"):
            export_program(aug, other)
    with refused("model: expected a tensor or a mapping of tensors by name, got ndarray"):
        aug.logits(inputs.numpy())
    with refused("export: expected a tensor, or a mapping with tensors", r"got ndarray; torch\.as_tensor"):
        export_program(aug, inputs.numpy())
    with refused("export: the network is on the device meta"):
        export_program(aug.to("meta"), inputs)


@pytest.mark.filterwarnings("ignore")
def test_what_the_runtime_cannot_run_is_one_line(problem: Problem, tmp_path, monkeypatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def refuse(*_, **__):
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Conv(11)")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(4))
    with refused("export: onnxruntime cannot run the network", r"Conv\(11\)\); nothing was written"):
        export_onnx(aug, tmp_path / "model.onnx", inputs)
    with refused("export: onnxruntime cannot run the network", r"the network is in float64; export it in float32: aug\.float\(\)"):
        export_onnx(aug.double(), tmp_path / "model.onnx", inputs.double())
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_no_code_is_in_what_is_exported_and_more_than_a_file_holds_is_refused(problem: Problem, tmp_path, monkeypatch, capfd) -> None:
    pytest.importorskip("onnxruntime")
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 10)  # beyond it torch writes weights beside the file
    aug, inputs = augment(problem.net, problem.plan(), classifier="reinitialise"), problem.test.read(range(4))
    export_onnx(aug, tmp_path / "model.onnx", inputs)
    assert capfd.readouterr().err == ""
    assert os.listdir(tmp_path) == ["model.onnx"]
    written = (tmp_path / "model.onnx").read_bytes()
    assert b"stack_trace" not in written
    assert b".py" not in written
    assert not any("stack_trace" in node.meta for node in export_program(aug, inputs).graph.nodes)
    monkeypatch.setattr("selfinformed.augmented.exported._MOST_BYTES", 1000)
    with refused("export: the network's weights take", "an ONNX file holds 1,000; take export_program"):
        export_onnx(aug, tmp_path / "other.onnx", inputs)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_program_holds_the_weights_it_reads(problem: Problem, tmp_path) -> None:
    aug, inputs = augment(problem.net, problem.plan(), classifier="reinitialise"), problem.test.read(range(4))
    aug.output = "softmax"
    aug.run_conditionally(1, 0.5)
    torch.export.save(export_program(aug, inputs), tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2")
    assert {name for name in aug.base.state_dict() if "original" not in name and "num_batches" not in name} == {name[5:] for name in program.state_dict}
    torch.testing.assert_close(program.module()(inputs), aug.logits(inputs), rtol=1e-4, atol=1e-4)
    with aug.heads_disabled():
        program = export_program(aug, inputs)
        torch.testing.assert_close(program.module()(inputs), aug.logits(inputs), rtol=1e-4, atol=1e-4)
    assert not any("heads" in name for name in (*program.state_dict, *program.constants))


@pytest.mark.filterwarnings("ignore")
def test_the_opset_can_be_chosen(problem: Problem, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(4))
    check = export_onnx(aug, tmp_path / "model.onnx", inputs, opset=18)
    assert onnx.load(str(check.path)).opset_import[0].version == 18
    for wrong in (17, 24, True, "18"):
        with refused("opset: expected a whole number from 18 to 23; got"):
            export_onnx(aug, tmp_path / "model.onnx", inputs, opset=wrong)  # type: ignore[arg-type]
