"""Models by family and name: made, refused with a hint, or with the command that installs what is missing."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.families import FAMILIES, classifiers_of, family_of, labels_of, open_family
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.pipeline.config import RunConfig
from selfinformed.pipeline.inputs import Inputs
from selfinformed.runtime import extras
from selfinformed.runtime.errors import SelfInformedError

BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bert(folder, names=("sport", "news", "art"), weights=True):
    import transformers

    config = transformers.BertConfig(**BERT, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    if not weights:
        (folder / "model.safetensors").unlink()
    return model


def test_timm_and_torchvision_by_name():
    timm = open_family("timm", "resnet10t", 7, {"in_chans": 1})
    vision = open_family("torchvision", "resnet18", 5)
    assert (family_of(timm), family_of(vision), family_of(nn.Linear(1, 1))) == ("timm", "torchvision", None)
    assert timm(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert vision(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert (classifiers_of(timm), classifiers_of(vision), labels_of(timm)) == (("fc",), ("fc",), None)


def test_transformers_from_a_folder(tmp_path):
    model = bert(tmp_path)
    loaded = open_family("transformers", str(tmp_path), None)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert labels_of(loaded) == ["sport", "news", "art"]
    assert labels_of(bert(tmp_path, ("LABEL_0", "LABEL_1", "LABEL_2"))) is None
    net = wrap(loaded.eval(), {"input_ids": torch.ones(2, 4, dtype=torch.int64)})
    assert net.labels.names == ("sport", "news", "art")
    assert net.attach == AttachPoint("bert.pooler.dense", "input")


def test_a_folder_without_weights_gives_random_ones_and_a_pickle_is_refused(tmp_path):
    bert(tmp_path, weights=False)
    assert open_family("transformers", str(tmp_path), 3).num_labels == 3
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SelfInformedError, match=r"weights as a pickle \(\.bin\), which may run code; save them as safetensors"):
        open_family("transformers", str(tmp_path), None)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("timm", "resnet18x", r"timm:resnet18x cannot be made .*did you mean resnet18"),
        ("torchvision", "resnet1", "torchvision:resnet1 cannot be made .*did you mean resnet"),
        ("transformers", "FOLDER", r"has no config\.json that transformers can read"),
    ],
)
def test_unknown_names(family, name, message, tmp_path):
    with pytest.raises(SelfInformedError, match=message):
        open_family(family, str(tmp_path) if name == "FOLDER" else name, 3)


def test_a_transformers_model_that_is_no_classifier(tmp_path):
    import transformers

    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(SelfInformedError, match="is a BertModel; expected a class of transformers that ends in ForImageClassification"):
        open_family("transformers", str(tmp_path), None)
    bert(tmp_path)
    with pytest.raises(SelfInformedError, match=r"labels: 4 label names for transformers:.*, whose config\.json has 3"):
        open_family("transformers", str(tmp_path), 4)


@pytest.mark.parametrize("package", FAMILIES)
def test_a_missing_extra_names_the_command(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SelfInformedError, match=rf"{package} is not installed; run: pip install 'selfinformed\[{package}\]'"):
        open_family(package, "any", 3)


def test_a_torchvision_of_another_torch_names_the_command(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(extras, "importlib", ModuleType("importlib"))
    monkeypatch.setattr(extras.importlib, "import_module", broken, raising=False)
    message = r"does not work here \(operator torchvision::nms.*pip install --upgrade 'selfinformed\[torchvision\]'"
    with pytest.raises(SelfInformedError, match=message):
        open_family("torchvision", "resnet18", 3)


@pytest.mark.parametrize("reason", [ImportError("libgomp.so.1: cannot open"), ModuleNotFoundError("No module named 'dep'", name="dep"), RuntimeError("")])
def test_an_installed_package_that_does_not_work_is_not_called_missing(reason, monkeypatch):
    def broken(name):
        raise reason

    monkeypatch.setattr(extras, "importlib", ModuleType("importlib"))
    monkeypatch.setattr(extras.importlib, "import_module", broken, raising=False)
    said = re.escape(str(reason) or "RuntimeError")
    message = rf"^reading: the installed pyarrow does not work here \({said}\); run: pip install --upgrade 'selfinformed\[parquet\]'$"
    with pytest.raises(SelfInformedError, match=message):
        extras.extra("pyarrow.parquet", "reading", "parquet")


def test_in_a_configuration(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.zeros((4, 1, 32, 32), np.float32), targets=np.array([0, 1, 2, 2]))
    config = replace(RunConfig(), model="timm:resnet10t", holdout=str(tmp_path / "x.npz"), model_options={"in_chans": 1})
    assert Inputs(config).network().n_labels == 3
    with pytest.raises(SelfInformedError, match="model_options: these are for models named by their family"):
        Inputs(replace(config, model="demo:budget")).network()


def test_a_transformers_models_labels_order_the_data(tmp_path):
    import transformers
    from PIL import Image

    names = ["zebra", "ape"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], **labels)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / "0.png")
    inputs = Inputs(replace(RunConfig(), model=f"transformers:{tmp_path / 'model'}", holdout=str(tmp_path / "images")))
    assert inputs.network().labels.names == ("zebra", "ape")
    assert sorted(zip(inputs.examples("holdout").names, inputs.examples("holdout").targets.labels))[0][1] == 1  # ape


def test_a_transformers_model_names_the_labels_of_what_it_is_in():
    import transformers

    names = ["cat", "dog", "eel"]
    config = transformers.BertConfig(**BERT, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    within = nn.ModuleDict({"encoder": nn.Identity(), "model": transformers.BertForSequenceClassification(config)})
    assert labels_of(within, 3) == names
    assert labels_of(within, 4) is None


class Averaging(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4 + i, 6) for i in range(n))

    def forward(self, x):
        outputs = [part(x[:, : part.in_features].contiguous()) for part in self.parts]
        return sum(outputs[1:], outputs[0]) / len(outputs)


@pytest.mark.parametrize("n", [2, 3])
def test_several_classifiers_named_by_the_user(n):
    model, x = Averaging(n), torch.randn(5, 8)
    net = wrap(model, x, classifier=[f"parts.{i}" for i in range(n)])
    features = net.features(x)
    assert isinstance(net.classifier, AveragedClassifier)
    assert net.classifier.in_features == features.penultimate.shape[1] == sum(4 + i for i in range(n))
    assert torch.equal(net.classifier(features.penultimate), net.logits(x))
    linear = features.penultimate @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(linear, net.logits(x))
    assert net.feature_size == net.classifier.in_features  # heads read what all of them read
    assert net.cost.by_part["classifier"] == 6 * net.classifier.in_features
    weight = net.classifier.weight.clone()
    net.classifier.reset_parameters()
    assert not torch.equal(net.classifier.weight, weight)


def test_errors_about_classifiers():
    x = torch.randn(5, 8)
    with pytest.raises(SelfInformedError, match=r"two classifiers found, 'parts\.0', 'parts\.1', whose average.*classifier=\['parts\.0', 'parts\.1'\]"):
        wrap(Averaging(2), x)
    with pytest.raises(SelfInformedError, match=r"the average of 'parts\.0' and 'parts\.1' is not the model's logits"):
        wrap(Averaging(3), x, classifier=["parts.0", "parts.1"])
    convolution = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SelfInformedError, match="none found.*may be the convolution '0': replace that by pooling and an nn.Linear"):
        wrap(convolution, torch.randn(2, 3, 4, 4))
