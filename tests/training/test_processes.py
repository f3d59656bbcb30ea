"""Two processes train what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import Problem, refused, write_config
from selfinformed.augmented.network import augment
from selfinformed.cli import main
from selfinformed.pipeline.run import Run
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.training.fitting import fit
from selfinformed.training.processes import Processes, joined

SCRIPT = """
import os
import sys
from torch import distributed
from conftest import make_problem
from test_processes import train

distributed.init_process_group("gloo")
train(make_problem(several=True), sys.argv[1], distributed.get_world_size(), distributed.get_rank())
distributed.barrier()
os._exit(0)  # see cli.main
"""
RECIPES = (
    {"residual": 0.0}, {"label_smoothing": 0.1}, {"ema": 0.5},
    {"patience": 2, "residual": 0.25, "ema": 0.9, "balanced_sampling": 0.5, "label_smoothing": 0.1, "soft_targets": 0.2},
)  # fmt: skip
RUN = (None, {"share": 0.25}, {"top_groups": 2, "share": 0.5, "chance": 3}, None)  # which examples run heads


def train(problem: Problem, folder: str, world: int, rank: int) -> None:
    """Two trainings; the processes begin with different weights, of which those of the first count."""
    for number, recipe in enumerate(RECIPES):
        aug = augment(problem.net, problem.plan(), seed=7 * rank)
        batch_size = 1499 if number else 499  # the last batch has one row, or three
        options = {"checkpoint": f"{folder}/state-{world}.safetensors"} if number == 3 else {}
        options |= {"batch_size": batch_size, "recipe": recipe, "log": f"{folder}/log-{world}-{number}", "tensorboard": False}
        with nullcontext() if RUN[number] is None else aug.conditional(**RUN[number]):
            history = fit(aug, problem.store("train"), holdout=problem.store("holdout"), epochs=2, **options)
        arrays = {str(i): p.detach().numpy() for i, p in enumerate(aug.new_parameters())}
        losses = json.dumps([row["loss"] for row in history.rows])
        write_tensors(f"{folder}/{world}-{rank}-{number}.safetensors", arrays, {"format": "test/1", "losses": losses})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, several: Problem) -> Path:
    """What one process trains, and what two do."""
    folder = tmp_path_factory.mktemp("processes")
    train(several, str(folder), 1, 0)
    (folder / "script.py").write_text(SCRIPT, "utf-8")
    done = two_processes(folder, str(folder / "script.py"), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def two_processes(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a script or `-m` module under torchrun; modules are found in the folder first."""
    tests = Path(__file__).parents[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (folder, tests.parent / "src", tests, tests / "training")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*torchrun, *command], env=environment, capture_output=True, text=True, timeout=240)


def result(folder: Path, name: str):
    arrays, metadata = read_tensors(folder / f"{name}.safetensors", "test/1")
    return [torch.from_numpy(arrays[key]) for key in sorted(arrays)], json.loads(metadata["losses"])


@pytest.mark.parametrize("number", range(4))
def test_two_processes_train_what_one_does(folder: Path, number: int) -> None:
    one, losses = result(folder, f"1-0-{number}")
    first, losses_first = result(folder, f"2-0-{number}")
    second, losses_second = result(folder, f"2-1-{number}")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert losses_first == losses_second == pytest.approx(losses, rel=1e-4)


def test_only_the_first_process_writes(folder: Path) -> None:
    alone, together = ((folder / f"log-{world}-0" / "training.jsonl").read_text().splitlines() for world in (1, 2))
    assert len(alone) == len(together) == 3
    assert (folder / "state-2.safetensors").exists()


WRITES = """
import os, sys

def note(event, arguments):
    if event in ("os.rename", "os.link") and "RANK" in os.environ:
        with open(os.path.join({folder!r}, "written-" + os.environ["RANK"]), "a") as file:
            print(arguments[1], file=file)

sys.addaudithook(note)
"""


def test_the_command_line_trains_in_two_processes_what_it_does_in_one(workspace: Path, monkeypatch) -> None:
    (workspace / "sitecustomize.py").write_text(WRITES.format(folder=str(workspace)), "utf-8")  # every Python process imports it
    done = two_processes(workspace, "-m", "selfinformed", "fit", str(write_config(workspace, output=str(workspace / "two"))))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("heads.safetensors and config.json are in") == 1
    assert done.stderr.count("fit        config.json in") == 1
    first, second = ([Path(line) for line in (workspace / f"written-{rank}").read_text().splitlines()] for rank in (0, 1))
    artefacts = ["counts.safetensors", "groups.json", "plan.json", "history.jsonl", "heads.safetensors", "config.json"]
    assert [path.name for path in first if path.parent == workspace / "two" and path.name in artefacts] == artefacts
    assert {path.name for path in second if path.parent == workspace / "two"} <= {"config.yaml"}
    monkeypatch.setattr(sys, "argv", ["selfinformed", "fit", str(write_config(workspace, output=str(workspace / "one")))])
    with pytest.raises(SystemExit, match="^0$"):
        main()
    one, two = (load_file(workspace / folder / "heads.safetensors") for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    assert {p.name for p in (workspace / "one").iterdir()} == {p.name for p in (workspace / "two").iterdir()}
    again = two_processes(workspace, "-m", "selfinformed", "fit", str(workspace / "two"))
    assert (again.returncode, again.stderr.count("is there already")) == (0, 1)


def test_all_processes_may_replace_heads_of_another_structure(workspace: Path, monkeypatch) -> None:
    """As the first does, or they stop it."""
    asked: list[bool] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("selfinformed.cli._joined", lambda device: nullcontext())
    monkeypatch.setattr(Run, "augmented", lambda self, replace_others=False: asked.append(replace_others))
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["selfinformed", "fit", str(write_config(workspace))])
    with pytest.raises(SystemExit, match="^0$"):
        main()
    assert asked == [True]


@pytest.mark.parametrize("arguments", [["demo"], ["report", "nowhere"], ["serve", "nowhere"]])
def test_what_is_not_divided_the_first_process_does_alone(monkeypatch, arguments: list[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["selfinformed", *arguments])
    monkeypatch.setattr("selfinformed.cli._open", lambda *_: pytest.fail("it began"))
    with pytest.raises(SystemExit, match="^0$"):
        main()


def grouped(monkeypatch, chosen: str, device: str, error: Exception | None = None) -> tuple:
    """How two processes would speak."""
    def init(*how, timeout, device_id=None):
        asked.append((*how, device_id))
        if error:
            raise error

    asked: list[tuple] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("selfinformed.training.processes.choose_device", lambda _: torch.device(chosen))
    monkeypatch.setattr("torch.distributed.init_process_group", init)
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda: None)
    with joined(device):
        return asked[0]


def test_processes_speak_as_their_devices_can(monkeypatch) -> None:
    assert grouped(monkeypatch, "cuda:1", "auto") == ("nccl", torch.device("cuda:1"))
    assert grouped(monkeypatch, "cuda:1", "cuda") == ("nccl", torch.device("cuda:1"))
    assert grouped(monkeypatch, "cuda:1", "cuda:1") == ("gloo", None)  # the same for all of them
    assert grouped(monkeypatch, "xpu:0", "auto") == ("xccl", torch.device("xpu:0"))
    assert grouped(monkeypatch, "cpu", "auto") == ("gloo", None)
    for chosen, device in (("mps:0", "auto"), ("xpu:1", "xpu:1")):
        with refused("torchrun: processes cannot train together on " + chosen, "--device cpu"):
            grouped(monkeypatch, chosen, device)
    with refused("torchrun: there are more processes on this host than cuda devices; start fewer"):
        grouped(monkeypatch, "cuda:0", "auto", RuntimeError("NCCL error in: x.cpp\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"))


@pytest.mark.parametrize("said", ["[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:999", "of the network"])
def test_what_another_process_is_missed_for_is_one_line(monkeypatch, said: str) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *_, **__: None)
    expected = refused("torchrun: stopped with another process") if "gloo" in said else pytest.raises(RuntimeError, match="^of the network$")
    with expected, joined("cpu"):
        raise RuntimeError(said)


def test_what_stops_the_first_process_stops_the_others(workspace: Path) -> None:
    done = two_processes(workspace, "-m", "selfinformed", "fit", str(write_config(workspace, budget=1e-6)))
    assert done.returncode != 0
    assert done.stderr.count("selfinformed: budget: ") == 1
    assert "Error: " not in done.stderr.split("ChildFailedError")[0].replace("SelfInformedError: ", "")


def test_a_world_without_torchrun_is_refused(workspace: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(sys, "argv", ["selfinformed", "fit", str(write_config(workspace))])
    with pytest.raises(SystemExit, match="^2$"):
        main()
    assert "WORLD_SIZE is 2, but the processes cannot be joined" in capsys.readouterr().err


@given(st.integers(0, 40), st.integers(1, 5))
def test_every_row_goes_to_one_process(n: int, world: int) -> None:
    parts = [Processes(rank, world).share(torch.arange(n)) for rank in range(world)]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
