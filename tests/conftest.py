"""One small problem for every test: labels in planted groups, a frozen random convnet, a classifier that was trained too briefly."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # other tests have the other cores: read as NumPy and PyTorch are imported, here and in the processes of tests

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from PIL import Image
from torch import nn

from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.evidence.reporting import Findings
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.measuring import measure
from selfinformed.structure.planning import plan
from selfinformed.structure.plans import HeadPlan
from selfinformed.training.features import FeatureStore
from selfinformed.training.stepping import Training

# torchvision registers kernels of two operators whose schemas its compiled part defines; that part is of another torch than the pinned one.
_SCHEMAS = torch.library.Library("torchvision", "DEF")  # kept alive
for _operator in ("nms", "qnms"):
    _SCHEMAS.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

N_GROUPS, GROUP_SIZE = 6, 6
N_LABELS = N_GROUPS * GROUP_SIZE
PLANTED = LabelGroups(N_LABELS, tuple(np.arange(N_LABELS).reshape(N_GROUPS, GROUP_SIZE)), tuple(f"planted {i}" for i in range(N_GROUPS)))

pytest_plugins = ["browsing"]
settings.register_profile("same", deadline=None, derandomize=True)  # on any machine, busy or not
settings.register_profile("search", deadline=None)  # other examples each time: pytest --hypothesis-profile search
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo comes first: of two workers one is busy with it while the other does the rest, instead of waiting for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart() -> None:
    """What a module draws as it is imported is the same in every run."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """So is what a fixture draws, whichever test comes to it first."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """And what a test draws, whatever ran before it in its process."""
    torch.manual_seed(0)


class SmallNet(nn.Module):
    """6 x 6 pictures to 36 logits; its narrow stack loses what heads on the trunk's 144 features can still read."""

    def __init__(self, n_labels: int = N_LABELS, stack: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.stack = nn.Sequential(nn.Linear(144, stack), nn.ReLU(), nn.Dropout(0.1))
        self.classifier = nn.Linear(stack, n_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stack(self.trunk(x)))


@dataclass(frozen=True)
class Problem:
    net: WrappedClassifier
    train: Examples
    holdout: Examples
    test: Examples
    groups: LabelGroups = PLANTED

    def store(self, split: str) -> FeatureStore:
        if split not in self._stores:
            self._stores[split] = FeatureStore.build(self.net, getattr(self, split))
        return self._stores[split]

    def plan(self, hidden: tuple[int, ...] = (12,)) -> HeadPlan:
        return plan(self.net, self.groups, hidden=hidden)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_stores", {})


def draw(n: int, seed: int, noise: float = 0.6, several: bool = False) -> tuple[torch.Tensor, list[list[int]]]:
    """Pictures of labels that lie close within a group and far between groups; `several` adds up to two more labels."""
    means = torch.Generator().manual_seed(99)
    centres = 1.5 * torch.randn(N_GROUPS, 36, generator=means)
    offsets = 0.6 * torch.randn(N_LABELS, 36, generator=means)
    rng = np.random.default_rng(seed)
    targets = [sorted(set(rng.choice(N_LABELS, 1 + (rng.integers(3) if several else 0)).tolist())) for _ in range(n)]
    pictures = torch.stack([(centres.repeat_interleave(GROUP_SIZE, 0)[labels] + offsets[labels]).sum(0) for labels in targets])
    pictures += noise * torch.from_numpy(rng.standard_normal((n, 36))).float()
    return pictures.reshape(n, 1, 6, 6), targets


def make_problem(several: bool = False, steps: int = 60, stack: int = 16, noise: float = 0.6) -> Problem:
    space = LabelSpace(f"label {i}" for i in range(N_LABELS))
    splits = {}
    for seed, (split, n) in enumerate({"train": 1500, "holdout": 600, "test": 600}.items()):
        pictures, targets = draw(n, seed, noise, several)
        splits[split] = open_dataset((pictures, targets), space)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet(stack=stack).eval()
        pictures = splits["train"].read(range(1500))
        model.train()(pictures)  # sets the BatchNorm's statistics
        model.eval()
        with torch.no_grad():
            penultimate = model.stack(model.trunk(pictures))
        hot = splits["train"].targets.multi_hot()
        optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.02)
        for _ in range(steps):
            scores = model.classifier(penultimate)
            loss = nn.functional.cross_entropy(scores, hot / hot.sum(1, keepdim=True))
            if several:
                loss = nn.functional.binary_cross_entropy_with_logits(scores, hot, reduction="none").sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net = wrap(model, pictures[:2], labels=space, output="logistic" if several else None)
    return Problem(net, **splits)


def refused(*parts: str) -> Any:
    """One line with these parts."""
    return pytest.raises(SelfInformedError, match="^[^\n]*" + "[^\n]*".join(parts) + "[^\n]*$")


def damaged(examples: Examples, bad: Iterable[int], skip_bad: int) -> Examples:
    """The examples, of which some cannot be read."""

    def read(rows):
        for row in sorted({*rows} & {*bad}):
            raise SelfInformedError(f"data: picture {row} cannot be read")
        return examples.read(rows)

    return replace(examples, read=read, skip_bad=skip_bad, skipped={})


def changed_network(problem: Problem) -> WrappedClassifier:
    """The network with one bias a little larger."""
    model = copy.deepcopy(problem.net.model)
    with torch.no_grad():
        model.classifier.bias[3] += 1e-6
    return wrap(model, problem.holdout.example_inputs(), labels=problem.net.labels)


def changed_inputs(problem: Problem) -> Examples:
    """The hold-out examples with one pixel of the last a little brighter."""
    inputs = problem.holdout.read(range(600)).clone()
    inputs[599, 0, 5, 5] += 1e-6
    return open_dataset((inputs, problem.holdout.targets), problem.holdout.labels)


@pytest.fixture(scope="session")
def problem() -> Problem:
    """One label per example, and headroom."""
    return make_problem()


@pytest.fixture(scope="session")
def several() -> Problem:
    """One to three labels per example, logistic outputs, and headroom."""
    return make_problem(several=True)


@pytest.fixture(scope="session")
def converged() -> Problem:
    """Easy data and a wide stack whose classifier was trained until nothing is left to gain."""
    return make_problem(steps=250, stack=128, noise=0.3)


@pytest.fixture(scope="session")
def planted(problem: Problem) -> WrappedClassifier:
    """The wrapped net of `problem`."""
    return problem.net


@pytest.fixture(scope="session")
def counts(problem: Problem) -> ConfusionCounts:
    """Its confusion counts on hold-out data."""
    return measure(problem.net, problem.holdout)


@pytest.fixture(scope="session", params=["problem", "several"])
def either(request: pytest.FixtureRequest) -> Problem:
    """Both kinds of targets."""
    return request.getfixturevalue(request.param)


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d({channels}, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveMaxPool2d(3), nn.Flatten())
        self.classifier = nn.Linear(144, {labels})

    def forward(self, x):
        return self.classifier(self.trunk(x))

def make():
    torch.manual_seed(0)
    return Net()

def nothing():
    return 3

def nan():
    net = make()
    nn.init.constant_(net.classifier.bias, float("nan"))
    return net

def softmax():
    return nn.Sequential(make(), nn.Softmax(1))
"""


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, label names, and .npz data sets of 12 labels, of which the hold-out set never has the last."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "model.py").write_text(MODEL.format(channels=1, labels=12), "utf-8")
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(12)), "utf-8")
    centres = torch.randn(12, 36, generator=torch.Generator().manual_seed(5))
    for seed, split in enumerate(("train", "holdout", "test")):
        pictures, _ = draw(240, seed)
        targets = np.random.default_rng(seed).integers(0, 11 if split == "holdout" else 12, 240)
        np.savez(folder / f"{split}.npz", inputs=(0.3 * pictures + centres[targets].reshape(-1, 1, 6, 6)).numpy(), targets=targets)
    return folder


@pytest.fixture
def workspace(data_folder: Path, tmp_path: Path) -> Path:
    """A folder with a config.yaml for the data in `data`; its run folder is `out`."""
    (tmp_path / "data").symlink_to(data_folder)
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, **changes: Any) -> Path:
    """The configuration of a workspace, with some options changed."""
    data = (folder / "data").resolve()
    options = {
        "output": str(folder / "out"), "model": f"{data / 'model.py'}:make", "labels": str(data / "labels.txt"),
        **{split: str(data / f"{split}.npz") for split in ("train", "holdout", "test")},
        "n_groups": 3, "budget": 0.5, "epochs": 1, "seeds": 1, "probe_width": 16, "arms": ["base", "confusions", "dense"],
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(options | changes), "utf-8")
    return path


@contextmanager
def failing_in_step(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]) -> Iterator[None]:
    """Within this context training fails in that step, counted from 1, and the error ends the context."""
    original = Training._step

    def failing(self: Training, rows: torch.Tensor) -> None:
        if self.state.step + 1 == step:
            raise error
        original(self, rows)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(Training, "_step", failing)
        yield


CLASSES = [0, 2, 1, 2, 0, 1]  # of six examples


@pytest.fixture
def six_images(tmp_path: Path) -> Path:
    """A folder of six images of three labels, a, b and c, each with a grey of its own."""
    for i, label in enumerate(sorted(CLASSES)):
        (tmp_path / "abc"[label]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (40 * i, 40 * i, 40 * i)).save(tmp_path / "abc"[label] / f"{i}.png")
    return tmp_path


def lists_of(examples: Examples) -> list[list[int]]:
    """The labels of each example."""
    return [examples.targets.of(i).tolist() for i in range(len(examples))]


def write_images(folder: Path, bad: str | None = None) -> dict[str, str]:
    """Coloured pictures in `folder/images`, four for each of 12 labels, one of them damaged; the options that read them."""
    (folder / "colour.py").write_text(MODEL.format(channels=3, labels=12), "utf-8")
    rng = np.random.default_rng(0)
    for label in range(12):
        (folder / "images" / f"class {label}").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / "images" / f"class {label}" / f"{i}.png")
    if bad:
        (folder / "images" / bad).write_bytes(b"no image")
    return {"model": f"{folder / 'colour.py'}:make", **{split: str(folder / "images") for split in ("train", "holdout", "test")}}


@pytest.fixture(scope="session")
def findings(problem: Problem, counts: ConfusionCounts) -> Findings:
    """What a report is made of: a small run whose label names would like to be markup."""
    from hostile import hostile_findings

    return hostile_findings(problem, counts)
