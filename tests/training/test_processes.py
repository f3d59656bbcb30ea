"""Two processes train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfinformed.runtime.files import read_tensors
from selfinformed.training.processes import Processes

SCRIPT = """
import os, sys
import torch
from torch import distributed
from conftest import make_problem
from selfinformed.augmented.network import augment
from selfinformed.runtime.files import write_tensors
from selfinformed.training.fitting import fit

folder, world = sys.argv[1], int(os.environ.get("WORLD_SIZE", "1"))
if world > 1:
    distributed.init_process_group("gloo")
rank = int(os.environ.get("RANK", "0"))
problem = make_problem(several=True)
recipes = [{}, {"patience": 2, "ema": 0.9, "balanced_sampling": 0.5, "label_smoothing": 0.1, "soft_targets": 0.2}]
for number, recipe in enumerate(recipes):
    aug = augment(problem.net, problem.plan(), seed=rank)  # all take the first process's
    options = dict(epochs=2, batch_size=1499 if number else 499, recipe=recipe, log=f"{folder}/log-{world}-{number}", tensorboard=False)  # a last batch of 1 or 3 rows
    if number:
        options["checkpoint"] = f"{folder}/state-{world}.safetensors"
    if rank == 0 or world > 1:
        history = fit(aug, problem.store("train"), holdout=problem.store("holdout"), **options)
    arrays = {str(i): p.detach().numpy() for i, p in enumerate(aug.new_parameters())}
    write_tensors(f"{folder}/{world}-{rank}-{number}.safetensors", arrays, {"format": "test/1", "losses": str([row["loss"] for row in history.rows])})
if world > 1:
    distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script's results, by one process and by two."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "train.py").write_text(SCRIPT.replace("seed=rank", "seed=0 if world == 1 else 7 * rank"), "utf-8")
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in ([sys.executable], torchrun):
        done = subprocess.run([*command, str(folder / "train.py"), str(folder)], env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(folder: Path, name: str):
    arrays, metadata = read_tensors(folder / f"{name}.safetensors", "test/1")
    return [torch.from_numpy(arrays[key]) for key in sorted(arrays)], eval(metadata["losses"])


@pytest.mark.parametrize("number", [0, 1])
def test_two_processes_train_what_one_does(folder: Path, number: int) -> None:
    one, losses = result(folder, f"1-0-{number}")
    first, losses_first = result(folder, f"2-0-{number}")
    second, losses_second = result(folder, f"2-1-{number}")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert losses_first == losses_second == pytest.approx(losses, rel=1e-4)


def test_only_the_first_process_writes(folder: Path) -> None:
    alone, together = ((folder / f"log-{world}-0" / "training.jsonl").read_text().splitlines() for world in (1, 2))
    assert len(alone) == len(together) == 3
    assert (folder / "state-2.safetensors").exists()


@given(st.integers(0, 40), st.integers(1, 5))
def test_every_row_goes_to_one_process(n: int, world: int) -> None:
    parts = [Processes(rank, world).share(torch.arange(n)) for rank in range(world)]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
