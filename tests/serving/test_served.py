"""An exported network answers as the one in memory does."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from conftest import Problem, refused
from selfinformed.augmented.exported import export_onnx
from selfinformed.augmented.network import augment
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.serving.served import ServedNetwork
from selfinformed.structure.detections import detections
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.fitting import fit

pytestmark = pytest.mark.filterwarnings("ignore")


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


@pytest.fixture(scope="module")
def exported(problem: Problem, tmp_path_factory):
    """A folder with an export, and the network."""
    folder = tmp_path_factory.mktemp("served")
    aug = augment(problem.net, problem.plan((6, 4)))
    fit(aug, problem.store("train"), epochs=1)
    aug.save_pretrained(folder)
    export_onnx(aug, folder / "model.onnx", problem.test.read(range(8)))
    return folder, aug


def test_answers_are_the_networks_best_labels_whatever_the_batch(exported, problem: Problem):
    folder, aug = exported
    network = ServedNetwork(folder, top_k=4)
    network.warm_up(8)
    inputs = problem.test.read(range(7))
    logits = aug.logits(inputs)
    together = network([npy(one) for one in inputs])
    for i, best in enumerate(detections(logits, 4).tolist()):
        for answer in (together[i], network([npy(inputs[i : i + 1])])[0]):
            rows = json.loads(answer)["labels"]
            assert [row["index"] for row in rows] == best
            for row in rows:
                label = row["index"]
                assert set(row) == {"label", "index", "groups", "score", "probability"}
                assert row["label"] == problem.net.labels.names[label]
                assert row["groups"] == [f"planted {label // 6}"]
                assert row["score"] == pytest.approx(logits[i, label].item(), abs=1e-4)
                assert row["probability"] == pytest.approx(logits[i].softmax(0)[label].item(), abs=1e-4)


def test_what_is_wrong_with_one_body_is_no_others_matter(exported, problem: Problem):
    network = ServedNetwork(exported[0])
    inputs = problem.test.read(range(2)).numpy()
    good, bad, huge, again = network([npy(inputs[0]), b"bad", npy(np.full((1, 6, 6), 3e38, np.float32)), npy(inputs[1])])
    assert len(json.loads(good)["labels"]) == len(json.loads(again)["labels"]) == 5
    assert isinstance(bad, SelfInformedError)
    assert isinstance(huge, SelfInformedError)
    assert "not finite" in str(huge)
    assert network([b"bad"])[0].args == bad.args


def test_a_value_that_the_runtime_refuses_spoils_no_other_answer(problem: Problem, tmp_path):
    """Several inputs, one of them a table's row numbers; logistic outputs; a cover of the labels."""

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix, self.classifier = torch.nn.Embedding(10, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 36)

        def forward(self, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.mix(self.table(ids).mean(1) * weight).relu())

    inputs = {"ids": torch.arange(12).reshape(4, 3) % 10, "weight": torch.rand(4, 8)}
    net = wrap(Tokens(), inputs, output="logistic")
    groups = LabelGroups(36, (range(20), range(10, 36)), ("first", "second"))
    aug = augment(net, plan(net, groups, hidden=(4,)))
    aug.save_pretrained(tmp_path)
    export_onnx(aug, tmp_path / "model.onnx", inputs)
    network = ServedNetwork(tmp_path, top_k=100)

    def body(i: int, ids: list[int] | None = None) -> bytes:
        return save({"ids": np.array(ids) if ids else inputs["ids"][i].numpy(), "weight": inputs["weight"][i].numpy()})

    good, poison, again = network([body(0), body(1, [1, 2, 99]), body(2)])
    assert isinstance(poison, SelfInformedError)
    assert "the network cannot take these values" in str(poison)
    for i, answer in ((0, good), (2, again)):
        rows = json.loads(answer)["labels"]
        logits = aug.logits(inputs)[i]
        assert len(rows) == 36
        assert {row["index"]: row["groups"] for row in rows}[15] == ["first", "second"]
        assert [row["probability"] for row in rows] == pytest.approx(logits.sigmoid().sort(descending=True).values.tolist(), abs=1e-4)


def test_ties_go_to_the_lower_label(exported):
    network = ServedNetwork(exported[0], top_k=3)
    logits = np.zeros(36, np.float32)
    logits[[30, 20, 25]] = 1
    logits[7] = 2
    assert [row["index"] for row in json.loads(network._answer(logits))["labels"]] == [7, 20, 25]
    assert [row["index"] for row in json.loads(network._answer(np.zeros(36, np.float32)))["labels"]] == [0, 1, 2]


def test_what_is_missing_or_damaged_is_named(exported, tmp_path: Path):
    with refused("config.json does not exist"):
        ServedNetwork(tmp_path)
    shutil.copy(exported[0] / "config.json", tmp_path)
    with refused("model.onnx cannot be opened .it does not exist.; make it with: selfinformed export"):
        ServedNetwork(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with refused("model.onnx cannot be opened"):
        ServedNetwork(tmp_path)
    shutil.copy(exported[0] / "model.onnx", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["checksum"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"labels": [*content["labels"], "one more"]}))
    with refused("has 36 outputs, config.json names 37 labels; delete model.onnx"):
        ServedNetwork(tmp_path)
    for part in ({"plan": 3}, {"labels": content["labels"][:-1]}, {"labels": None}, {"output": "odds"}, {"labels": [{}] * 36}, *wrong_groups(content)):
        (tmp_path / "config.json").write_text(json.dumps(content | part))
        with refused("config.json: not a valid heads config"):
            ServedNetwork(tmp_path)


def wrong_groups(content: dict) -> list[dict]:
    plan = content["plan"]
    members = plan["groups"]["members"]
    return [{"plan": plan | {"groups": plan["groups"] | {"members": [[wrong, *members[0]], *members[1:]]}}} for wrong in (-1, 36, True, "1")]


@pytest.mark.parametrize("location", ["../secret", "{absolute}", "link"])
def test_weights_are_not_read_from_outside_the_folder(exported, tmp_path: Path, location: str):
    """A model.onnx may name another file as the place of its weights, whose content answers would give away."""
    from onnx import TensorProto, helper

    folder, secret = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    shutil.copy(exported[0] / "config.json", folder)
    np.arange(4, dtype=np.float32).tofile(secret)
    (folder / "link").symlink_to(secret)
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location.format(absolute=secret))
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("inputs", "logits"))
    graph = helper.make_graph([helper.make_node("Add", ["inputs", "weight"], ["logits"])], "graph", [inputs], [outputs], [weight])
    (folder / "model.onnx").write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
    with pytest.raises(SelfInformedError, match="(?i)cannot be opened .*external data path"):
        ServedNetwork(folder)


def test_a_body_that_no_reader_foresaw_is_its_senders_alone(exported, monkeypatch):
    network = ServedNetwork(exported[0])
    read = network._read
    monkeypatch.setattr(network, "_read", lambda body: 1 / 0 if body == b"bad" else read(body))
    array = io.BytesIO()
    np.save(array, np.zeros(next(iter(network.expected.values())).shape, np.float32))
    good, bad = network([array.getvalue(), b"bad"])
    assert json.loads(good)["labels"]
    assert "it cannot be read (ZeroDivisionError)" in str(bad)
