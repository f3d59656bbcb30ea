"""The network and the data that a configuration names are opened, or the reason is given."""

from __future__ import annotations

import importlib
import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import write_images
from selfinformed.data.glyphs import GlyphLabels, render_glyphs
from selfinformed.data.images import IMAGENET
from selfinformed.network.glyphnet import GlyphNet
from selfinformed.network.points import AttachPoint
from selfinformed.pipeline import inputs as inputs_module
from selfinformed.pipeline.config import RunConfig
from selfinformed.pipeline.inputs import Inputs
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark
from selfinformed.structure.groups import LabelGroups

MODEL_FILE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Size:
    features: int = 4
    labels: int = 3

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(Size().features, 6), nn.ReLU(), nn.Linear(6, Size().labels)).train()

def volumes():
    return nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3))

def number():
    return 3

def fails():
    raise KeyError("weights")

def needs(size):
    return nn.Linear(size, size)
"""


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """A model in a file and its examples in .npz files, with paths in the configuration."""
    (tmp_path / "wave.py").write_text(MODEL_FILE)  # named like a module of Python's own
    for seed, split in enumerate(("train", "holdout", "test")):
        rng = np.random.default_rng(seed)
        np.savez(tmp_path / f"{split}.npz", inputs=rng.random((6, 4), np.float32), targets=np.arange(6) % 3)
    splits = {split: str(tmp_path / f"{split}.npz") for split in ("train", "holdout", "test")}
    return RunConfig(model=f"{tmp_path / 'wave.py'}:make", device="cpu", **splits)


def test_a_function_in_a_file(config):
    net = Inputs(config).network()
    assert (net.classifier_name, net.stack_names, net.n_labels) == ("2", ("0",), 3)
    assert not net.model.training
    assert hasattr(importlib.import_module("wave"), "open")


def test_a_function_in_a_module(config, tmp_path, monkeypatch):
    (tmp_path / "networks_of_ours.py").write_text(MODEL_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    assert Inputs(replace(config, model="networks_of_ours:make")).network().n_labels == 3
    with pytest.raises(SelfInformedError, match=r"'no\.such:make' cannot be opened \(ModuleNotFoundError"):
        Inputs(replace(config, model="no.such:make")).network()


def test_options_reach_the_wrapper(config):
    net = Inputs(replace(config, attach="0", classifier="2", outputs="logistic")).network()
    assert (net.attach.module, net.attach.side, net.output) == ("0", "output", "logistic")
    net = Inputs(replace(config, attach="0:mean, 1", classifier="2")).network()
    assert net.attach_points == (AttachPoint("0", reduce="mean"), AttachPoint("1"))


def test_outputs_are_as_the_holdout_labels_are(config, tmp_path):
    assert Inputs(config).network().output == "softmax"
    with np.load(config.holdout) as file:
        np.savez(tmp_path / "several.npz", inputs=file["inputs"], targets=np.eye(3, dtype=np.int64)[file["targets"]] | [1, 0, 0])
    assert Inputs(replace(config, holdout=str(tmp_path / "several.npz"))).network().output == "logistic"
    assert Inputs(replace(config, outputs="logistic")).network().output == "logistic"


def test_volumes(config, tmp_path):
    np.savez(tmp_path / "volumes.npz", inputs=np.zeros((3, 1, 2, 2, 2), np.float32), targets=np.arange(3))
    one = str(tmp_path / "volumes.npz")
    assert Inputs(replace(config, model=config.model.replace("make", "volumes"), train=one, holdout=one)).network().feature_size == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "the configuration names no model, and this runs it"),
        ("make", "'make' names no model; expected timm:NAME, torchvision:NAME, transformers:FOLDER, FILE.py:FUNCTION"),
        ("FILE:", "names no model"),
        ("nowhere.py:make", r"the file nowhere\.py does not exist"),
        ("FILE:absent", r"cannot be opened \(AttributeError: .*absent"),
        ("FILE:number", r"returned int; expected a torch\.nn\.Module"),
        ("FILE:fails", r"cannot be opened \(KeyError: 'weights'\)"),
        ("FILE:needs", r"cannot be opened \(TypeError"),
        ("demo:best", "the shipped bases are budget and converged, got 'best'"),
    ],
)
def test_models_that_cannot_be_opened(config, model, message):
    file = config.model.rpartition(":")[0]
    with pytest.raises(SelfInformedError, match=f"model: .*{message}"):
        Inputs(replace(config, model=model.replace("FILE", file))).network()


def test_a_file_that_is_no_python(config, tmp_path):
    (tmp_path / "broken.py").write_text("def make(:")
    with pytest.raises(SelfInformedError, match=r"cannot be opened \(SyntaxError"):
        Inputs(replace(config, model=f"{tmp_path / 'broken.py'}:make")).network()


def weights(offset: float = 1.0) -> dict[str, torch.Tensor]:
    return {"0.weight": torch.full((6, 4), offset), "0.bias": torch.zeros(6), "2.weight": torch.ones(3, 6), "2.bias": torch.zeros(3)}


@pytest.mark.parametrize("form", ["x.safetensors", "x.pt", "nested.pt"])
def test_a_checkpoint_is_loaded(config, tmp_path, form):
    path = tmp_path / form
    if form.endswith(".safetensors"):
        save_file(weights(), path)
    else:
        torch.save({"epoch": 3, "state_dict": weights()} if form == "nested.pt" else weights(), path)
    net = Inputs(replace(config, checkpoint=str(path))).network()
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in net.model.state_dict().items())


@pytest.mark.parametrize("prefixes", [("module.",), ("_orig_mod.",), ("_orig_mod.", "module."), ("module.", "_orig_mod."), ("model.",)])
def test_what_wrappers_put_before_every_name_goes(config, tmp_path, prefixes):
    torch.save({"".join(prefixes) + name: tensor for name, tensor in weights().items()} | {"n_averaged": torch.tensor(3)}, tmp_path / "x.pt")
    net = Inputs(replace(config, checkpoint=str(tmp_path / "x.pt"))).network()
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in net.model.state_dict().items())


def test_a_prefix_that_is_the_models_own_stays(config, tmp_path):
    (tmp_path / "wave.py").write_text(MODEL_FILE + "\ndef wrapped():\n    net = nn.Sequential()\n    net.add_module('module', make())\n    return net\n")
    torch.save({f"module.{name}": tensor for name, tensor in weights().items()}, tmp_path / "x.pt")
    net = Inputs(replace(config, model=config.model.replace("make", "wrapped"), checkpoint=str(tmp_path / "x.pt"))).network()
    assert all(torch.equal(tensor, weights()[name.removeprefix("module.")]) for name, tensor in net.model.state_dict().items())


def test_averaged_weights_beside_those_that_are_taken_are_named(config, tmp_path):
    torch.save({"state_dict": weights(), "state_dict_ema": weights(2.0)}, tmp_path / "x.pt")
    with pytest.warns(Remark, match="holds 'state_dict', which is taken, and 'state_dict_ema'; save the weights you want alone"):
        net = Inputs(replace(config, checkpoint=str(tmp_path / "x.pt"))).network()
    assert torch.equal(net.model.state_dict()["0.weight"], weights()["0.weight"])


def test_pixels_are_scaled_as_the_network_was_trained(config, tmp_path):
    (tmp_path / "pictures").mkdir()
    images = write_images(tmp_path / "pictures")["holdout"]
    there = replace(config, train=images, holdout=images, image_size=32)
    with Image.open(Path(images) / "class 0" / "0.png") as image:
        image = image.resize((32, 32))
        plain = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 255.0
    vit = replace(there, model="timm:vit_tiny_patch16_224", model_options={"img_size": 32, "depth": 1})
    for changes, (mean, std) in (
        ({}, IMAGENET), ({"model": "timm:resnet10t"}, IMAGENET), ({"model": vit.model}, ((0.5,) * 3, (0.5,) * 3)),
        ({"model": vit.model, "pixel_mean": (0.1, 0.2, 0.3)}, ((0.1, 0.2, 0.3), (0.5,) * 3)), ({"pixel_std": (1.0, 2.0, 3.0)}, (IMAGENET[0], (1.0, 2.0, 3.0))),
    ):  # fmt: skip
        expected = (plain - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
        torch.testing.assert_close(Inputs(replace(there, **changes)).examples("holdout").read([0])[0], expected)
    told = {Inputs(replace(there, **changes)).examples("holdout").fingerprint for changes in ({}, {"pixel_std": (1.0, 2.0, 3.0)})}
    assert len(told) == 2
    first, second = (Inputs(vit).network() for _ in range(2))
    assert first.fingerprint == second.fingerprint  # random weights, but the same
    assert Inputs(vit).has_random_weights
    assert not Inputs(replace(vit, checkpoint="x.pt")).has_random_weights
    assert not Inputs(config).has_random_weights


def test_two_classifiers_are_named_with_a_comma(config, tmp_path):
    two = """
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        x = self.trunk(x)
        return (self.one(x) + self.other(x)) / 2
"""
    (tmp_path / "wave.py").write_text(MODEL_FILE + two)
    net = Inputs(replace(config, model=config.model.replace("make", "Two"), classifier="one,other")).network()
    assert net.classifier_names == ("one", "other")


class Payload:
    """What a pickle may run when it is opened."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))])
def test_a_pickled_object_is_refused_and_not_run(config, tmp_path, save):
    save(Payload(), tmp_path / "x.pt")
    with pytest.raises(SelfInformedError, match=r"checkpoint: .*x\.pt is a pickle that holds more than tensors.*convert it once: torch\.save"):
        Inputs(replace(config, checkpoint=str(tmp_path / "x.pt"))).network()


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><title>404</title>", bytes(5000), b"version https://git-lfs.github.com/spec/v1"])
def test_what_is_no_checkpoint_at_all_is_not_to_be_trusted(config, tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(SelfInformedError, match=r"checkpoint: .*x\.pt cannot be read \(it is no file that torch\.save wrote\)"):
        Inputs(replace(config, checkpoint=str(tmp_path / "x.pt"))).network()


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "empty.pt", "empty.safetensors"])
def test_checkpoints_that_cannot_be_read_are_named(config, tmp_path, name):
    if name.startswith("empty"):
        (tmp_path / name).touch()
    with pytest.raises(SelfInformedError, match=rf"checkpoint: .*{name} (cannot be read|does not exist)"):
        Inputs(replace(config, checkpoint=str(tmp_path / name))).network()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"other": torch.zeros(1)}}, "unknown other"),
        ({"other": torch.zeros(1)}, r"missing 0\.weight, 0\.bias, 2\.weight, … \(4\); unknown other \(1\); is it of this architecture, with 4 tensors"),
        (weights() | {"2.bias": torch.zeros(9)}, r"does not fit the model: of another shape 2\.bias \[9\] for \[3\] \(1\)"),
        (weights() | {"2.bias": torch.zeros(3, dtype=torch.int8)}, r"of another kind of tensor 2\.bias \(1\)"),
        (weights() | {"2.bias": torch.zeros(3, dtype=torch.complex64)}, "of another kind of tensor"),
        (weights() | {"0.weight": weights()["0.weight"].to_sparse()}, r"of another kind of tensor 0\.weight \(1\)"),
        (weights() | {"2.bias": 3}, "holds no state dict; expected a dictionary of tensors"),
        (weights() | {0: torch.zeros(1), "z": torch.zeros(1)}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
    ],
)
def test_checkpoints_that_do_not_fit_name_the_difference(config, tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(SelfInformedError, match=rf"checkpoint: .*x\.pt .*{message}"):
        Inputs(replace(config, checkpoint=str(tmp_path / "x.pt"))).network()


def test_examples_are_opened_once(config):
    inputs = Inputs(config)
    assert inputs.examples("test") is inputs.examples("test")
    assert inputs.examples("test").labels is inputs.examples("train").labels


def test_training_images_alone_are_seen_in_several_views(config, tmp_path):
    for split in ("train", "holdout"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (9, 8), "red").save(tmp_path / split / label / "0.png")
    sources = {"train": str(tmp_path / "train"), "holdout": str(tmp_path / "holdout"), "image_size": 4}
    seen = Inputs(replace(config, **sources, views=3, augmentation="crop"))
    assert (len(seen.examples("train")), len(seen.examples("holdout"))) == (6, 2)
    assert seen.examples("train").read(range(6)).shape == (6, 3, 4, 4)
    assert len(Inputs(replace(config, **sources)).examples("train")) == 2  # `views` alone is of glyphs


def test_splits_that_are_not_named(config):
    with pytest.raises(SelfInformedError, match="test: the configuration names no test examples; add `test: FOLDER"):
        Inputs(replace(config, test="")).examples("test")


def test_the_label_set_is_the_training_datas(config, tmp_path):
    np.savez(tmp_path / "few.npz", inputs=np.zeros((2, 4), np.float32), targets=np.array([0, 1]))
    few = replace(config, holdout=str(tmp_path / "few.npz"))
    assert len(Inputs(few).examples("holdout").labels) == 3
    assert len(Inputs(replace(few, train="")).examples("holdout").labels) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_labels(config, tmp_path, encoding):
    (tmp_path / "labels.txt").write_text("Äpfel\nb\nc\n", encoding)
    assert Inputs(replace(config, labels=str(tmp_path / "labels.txt"))).network().labels.names == ("Äpfel", "b", "c")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(SelfInformedError, match="example 2 has label 2"):
        Inputs(replace(config, labels=str(tmp_path / "labels.txt"))).network()
    with pytest.raises(SelfInformedError, match=r"labels: .*absent\.txt does not exist.*one name per line"):
        _ = Inputs(replace(config, labels=str(tmp_path / "absent.txt"))).labels


def test_the_mapping(config):
    assert Inputs(config).mapping() is None
    assert Inputs(replace(config, mapping="map.csv")).mapping() == Path("map.csv")
    characters = Inputs(replace(config, mapping="characters")).mapping()
    assert all(source == target for source, target in characters.items())
    assert len(characters) == len(GlyphLabels.shipped().characters)


def test_an_example_that_cannot_be_read_takes_no_other_labels_picture_away(tmp_path):
    write_images(tmp_path, bad="class 1/0.png")
    for path in (tmp_path / "images").rglob("*.png"):
        if path.stat().st_size > 20:
            Image.open(path).resize((16, 16)).save(path)
    inputs = Inputs(RunConfig(holdout=str(tmp_path / "images"), skip_bad=1))
    assert sorted(inputs.pictures(LabelGroups.everything(12))) == [label for label in range(12) if label != 1]


def test_the_demo(config, monkeypatch):
    few = GlyphLabels(("A", "B", "é"), (("LATIN",), ("LATIN",), ()))
    glyphs = render_glyphs(few)
    monkeypatch.setattr(inputs_module, "shipped_glyphs", lambda *_: glyphs)
    monkeypatch.setattr("selfinformed.data.glyphs.shipped_glyphs", lambda *_: glyphs)
    monkeypatch.setattr(GlyphNet, "shipped", lambda *_: GlyphNet(4))
    demo = Inputs(replace(config, model="demo:budget", train="glyphs", holdout="glyphs", test="glyphs", views=3))
    assert demo.network().labels == few.space
    assert len(demo.examples("train")) == 3 * int((glyphs.part == 0).sum())
    assert len(demo.examples("holdout")) == int((glyphs.part == 1).sum())
    assert len(demo.examples("test")) % int((glyphs.part == 2).sum()) == 0
    pictures = demo.pictures(LabelGroups.everything(3))
    assert sorted(pictures) == [0, 1, 2]
    assert Image.open(io.BytesIO(pictures[0])).size == (40, 40)
    assert Inputs(config).pictures(LabelGroups.everything(3)) == {}


def test_a_teacher_is_opened_as_the_model_is(config, tmp_path):
    save_file(weights(2.0), tmp_path / "x.safetensors")
    net, order = Inputs(replace(config, soft_targets=0.5, teacher=config.model, teacher_checkpoint=str(tmp_path / "x.safetensors"))).teacher()
    assert order is None
    assert net.model[0].weight.unique().tolist() == [2.0]
    (tmp_path / "two.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 2))")
    for teacher, message in (
        (f"{tmp_path / 'two.py'}:make", "teacher: expected 3 outputs, one for each label; the network has 2"),
        (f"{tmp_path / 'nowhere.py'}:make", r"teacher: model: the file .*nowhere\.py does not exist"),
        ("somewhere", "teacher: model: 'somewhere' names no model"),
        ("", "teacher: model: the configuration names no model"),
    ):
        with pytest.raises(SelfInformedError, match=message):
            Inputs(replace(config, soft_targets=0.5, teacher=teacher)).teacher()


def test_a_teacher_that_names_its_labels_teaches_them_in_the_order_of_the_network(config, tmp_path, monkeypatch):
    names = ["2", "0", "1"]
    monkeypatch.setattr(inputs_module, "labels_of", lambda model: names)
    inputs = Inputs(replace(config, soft_targets=0.5, teacher=config.model))
    own = list(inputs.examples("train").labels.names)
    _, order = inputs.teacher()
    assert [names[i] for i in order] == own
    names[0] = "3"
    with pytest.raises(SelfInformedError, match="teacher: its labels are others than those taught; '2' is none of them"):
        Inputs(replace(config, soft_targets=0.5, teacher=config.model)).teacher()


def test_files_of_the_same_name_beside_model_and_teacher_are_not_mistaken_for_one_another(config, tmp_path):
    for folder, width in (("one", 5), ("other", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text("from parts import make")
        made = f"nn.Sequential(nn.Linear(4, {width}), nn.Linear({width}, 3))"
        (tmp_path / folder / "parts.py").write_text(f"from torch import nn\ndef make():\n    return {made}")
    inputs = Inputs(replace(config, soft_targets=0.5, model=f"{tmp_path}/one/model.py:make", teacher=f"{tmp_path}/other/model.py:make"))
    assert (inputs.network().classifier.in_features, inputs.teacher()[0].classifier.in_features) == (5, 7)
    assert importlib.import_module("parts").make()[0].out_features == 5


def test_a_package_in_the_run_folder_is_no_model(config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "its_own_model.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path / "run"))
    with pytest.raises(SelfInformedError, match="model: its_own_model is in the run folder .*, which holds results and never code"):
        Inputs(replace(config, model="its_own_model:make", output=str(tmp_path / "run"))).network()


def test_a_compressed_checkpoint_is_refused_before_it_unpacks(config, tmp_path):
    torch.save({"extra": torch.zeros(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(SelfInformedError, match=r"checkpoint: .*w\.pt cannot be read \(it is compressed"):
        Inputs(replace(config, checkpoint=str(tmp_path / "w.pt"))).network()


def test_a_label_name_may_hold_what_only_some_take_for_the_end_of_a_line(config, tmp_path):
    names = ["a\u2028a", "b\x0bb", "c\x85c"]
    (tmp_path / "labels.txt").write_bytes("\r\n".join([*names, ""]).encode())
    assert Inputs(replace(config, labels=str(tmp_path / "labels.txt"))).labels.names == tuple(names)
