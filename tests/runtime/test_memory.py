"""What is free is what the system says, or less where a container says less."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from selfinformed.augmented.network import augment
from selfinformed.cli import main
from selfinformed.runtime import memory as module
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import free_memory, free_on, require_memory
from selfinformed.structure.clustering import similarity_degrees
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.eigenpairs import leading_eigenpairs
from selfinformed.structure.measuring import measure
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import fit


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Says how much the system has, and a container of it allows and holds."""

    def system(available: int | None, limit: str | None = None, used: int = 0, cached: int = 0) -> int:
        if available is not None:
            (tmp_path / "meminfo").write_text(f"MemTotal:       999 kB\nMemAvailable:   {available} kB\n")
        if limit is not None:
            (tmp_path / "memory.max").write_text(f"{limit}\n")
            (tmp_path / "memory.current").write_text(f"{used}\n")
            (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
        return free_memory()

    monkeypatch.setattr(module, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_GROUP", tmp_path)
    monkeypatch.setattr(module, "_GROUPS", tmp_path / "cgroup")
    return system


def test_the_least_of_system_and_container_is_free(system):
    assert system(500) == 500 * 1024
    assert system(500, "max") == 500 * 1024
    assert system(500, "4000", used=3000, cached=1500) == 2500
    assert system(500, "4000", used=5000) == 0


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(("lines", "folder", "names"), [("0::{}", "", V2), ("11:cpu:/x\n4:memory,hugetlb:{}", "memory", V1)], ids=["version 2", "version 1"])
def test_the_limit_of_a_job_counts_wherever_in_its_groups_it_stands(system, tmp_path, lines: str, folder: str, names: tuple[str, str, str]):
    (tmp_path / "cgroup").write_text(lines.format("/slurm/uid_7/job_8/step_0:1") + "\n")
    groups = [tmp_path / folder / part for part in ("slurm/uid_7/job_8/step_0:1", "slurm/uid_7/job_8", "slurm/uid_7", "slurm", ".")]
    assert system(500) == 500 * 1024
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
        for name, content in zip(names, ("4000", "3000", ""), strict=True):
            (group / name).write_text(content)
        (group / "memory.stat").write_text(f"anon 1\n{names[2]} 1500\n")
        assert system(500) == 2500
        (group / names[0]).write_text("max" if names is V2 else "9223372036854771712")
        assert system(500) == 500 * 1024


def test_elsewhere_it_is_half_of_what_there_is(system, monkeypatch):
    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.__getitem__)
    assert system(None) == 204_800


def test_of_a_cuda_device_it_is_what_no_tensor_takes(problem, monkeypatch):
    """However much the system has: heads and what trains them are there."""
    features = problem.store("test")
    for name, size in (("mem_get_info", (1000, 9000)), ("memory_reserved", 700), ("memory_allocated", 600)):
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    monkeypatch.setattr(module, "_of_system", lambda: 10)
    assert free_on(torch.device("cuda", 1)) == 1100
    assert free_on(torch.device("mps")) == free_memory() == 10
    with pytest.raises(SelfInformedError, match="needs about"):
        require_memory(1101, "training", "take less", torch.device("cuda"))
    asked = []
    monkeypatch.setattr(module, "free_on", lambda device: asked.append(device) or 10**12)
    fit(augment(problem.net, problem.plan()), features, epochs=0)
    assert asked == [torch.device("cpu")] * 2


def test_here_it_is_something():
    assert 2**20 < free_memory() < 2**50 or not Path("/proc/meminfo").exists()


def test_work_that_does_not_fit_is_stopped_before_it_begins(system):
    system(1_000_000)
    require_memory(1_024_000_000, "counting", "take less")
    with pytest.raises(SelfInformedError, match=r"^counting needs about 1\.1 GB of memory, and 1\.0 GB are free; take less$"):
        require_memory(1_100_000_000, "counting", "take less")


def test_each_estimate_stands_before_its_work(tmp_path, monkeypatch, problem):
    features = problem.store("train")
    counts = measure(problem.net, problem.holdout, top_k=3)
    counts.save(tmp_path / "counts.safetensors")
    matrix = sp.csr_array(sp.diags_array([np.ones(3_000 - abs(k)) for k in (-1, 0, 1)], offsets=[-1, 0, 1]).astype(np.int64))
    aug = augment(problem.net, problem.plan())
    monkeypatch.setattr(module, "free_memory", lambda: 1)
    for work, said in (
        (lambda: measure(problem.net, problem.holdout), "measure: a batch of 64 x 36 logits .* smaller --forward-batch-size"),
        (lambda: FeatureStore.build(problem.net, problem.test), "features of 600 examples .* keep them on disk"),
        (lambda: fit(aug, features, epochs=1), "fit: .* parameters in batches of .* smaller --budget or --batch-size"),
        (lambda: ConfusionCounts.load(tmp_path / "counts.safetensors"), "counts.safetensors needs about"),
        (lambda: leading_eigenpairs(matrix, similarity_degrees(matrix), 5), "cluster: .* eigenvectors of .* labels .* fewer groups"),
    ):
        with pytest.raises(SelfInformedError, match=said):
            work()


TORCHS = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), RuntimeError(TORCHS), torch.OutOfMemoryError("CUDA out of memory. Tried")])
def test_memory_that_runs_out_all_the_same_is_one_line(monkeypatch, capsys, error):
    def out(**_):
        raise error

    monkeypatch.setattr("selfinformed.cli.app", out)
    monkeypatch.setattr(sys, "argv", ["selfinformed", "measure"])
    with pytest.raises(SystemExit, match="^2$"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("selfinformed: memory is short (")
    assert said.count("\n") == 1
