"""Measuring that is killed at random, hundreds of times: whatever dies and whenever, the counts come out the same, byte for byte.

    python benchmarks/kills.py --kills 200

Several processes fill one run folder under torchrun, or one does alone. SIGKILL hits one of them, the launcher (the orphans go on and meet the
next launch) or all of a launch, while they start, work on units or reduce them; then the folder is launched again, and perhaps killed again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import save

from selfinformed.runtime.files import read_json, read_tensors
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.measuring import FORMAT

N, LABELS, WIDTH, BATCH = 5_003, 300, 64, 16  # a prime number of examples, which no number of processes divides
WORLDS, START_UP = (1, 2, 3, 5), 2.0  # seconds at least before a process works
MARK = "SELFINFORMED_BENCHMARK"  # in the environment of all that is launched, orphans too: run folder and number of the launch
MODEL = f"""
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = [nn.Linear({WIDTH}, 1024), nn.ReLU()]
    for _ in range(18):
        layers += [nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, {LABELS}))
"""


def main(kills: int, seed: int) -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            config = prepare(folder, seed)
            reference = folder / "reference"
            alone = launched(config, reference, 0, reference)
            worlds = [launched(config, folder / f"world-{world}", world, reference) for world in WORLDS]
            tally, runs = killed_runs(config, reference, kills, random.Random(seed))
        finally:
            left = end(folder)
        save("kills", {
            "command": f"python benchmarks/kills.py --kills {kills} --seed {seed}", "seed": seed, "n_examples": N, "n_labels": LABELS,
            "units": alone["units"], "kills": tally["kills"], **{f"by_{g}": {k[1]: n for k, n in tally.items() if k[0] == g} for g in GROUPS},
            "finished_runs": len(runs), **{name: sum(run[name] for run in [*worlds, *runs]) for name in FINDINGS},
            "launches": sum(run["launches"] for run in runs), "most_kills_of_one_run": max(run["kills"] for run in runs), "processes_left": left,
            "world_sizes": [alone, *worlds], "seconds": time.perf_counter() - start,
        })  # fmt: skip


def prepare(folder: Path, seed: int) -> Path:
    """A hold-out set with one to three labels per example, a network, and the configuration that names them."""
    rng = np.random.default_rng(seed)
    hot = np.zeros((N, LABELS), bool)
    hot[np.arange(N)[:, None], rng.integers(0, LABELS, (N, 3))] = True
    np.savez(folder / "holdout.npz", inputs=rng.standard_normal((N, WIDTH), np.float32), targets=hot)
    (folder / "model.py").write_text(MODEL)
    options = {"model": f"{folder / 'model.py'}:build", "holdout": str(folder / "holdout.npz"), "forward_batch_size": BATCH, "device": "cpu"}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder / "config.yaml"


def launched(config: Path, run: Path, world: int, reference: Path) -> dict[str, Any]:
    """An uninterrupted run."""
    start = time.perf_counter()
    assert launch(config, run, world).wait() == 0, (run.parent / "log.txt").read_text()
    row = {"processes": world or 1, "torchrun": bool(world), "seconds": time.perf_counter() - start, **compared(run, reference)}
    say(f"{run.name}: {row}")
    return row


def killed_runs(config: Path, reference: Path, wanted: int, rng: random.Random) -> tuple[Counter[Any], list[dict[str, Any]]]:
    """Kills until as many as wanted have hit a living process; in each folder a few, then it is let finish and compared."""
    tally: Counter[Any] = Counter()
    runs: list[dict[str, Any]] = []
    while tally["kills"] < wanted:
        run, before, launches, of_this_run = reference.with_name(f"run-{len(runs):03d}"), tally["kills"], 0, rng.randint(3, 9)
        while tally["kills"] < min(wanted, before + of_this_run) and not (run / "counts.safetensors").exists():
            world = rng.choice([0, 2, 2, 2, 3, 3, 3])
            phase, victim = kill(config, run, world, launches, reference, rng)
            launches += 1
            if victim:
                tally.update(["kills", ("victim", victim), ("launch", "first" if launches == 1 else "resumed"), ("phase", phase)])
                say(f"kill {tally['kills']:>3}: {run.name} launch {launches}, {world} processes, {victim} at {phase}, {len(units(run))} units")
        found = launched(config, run, rng.choice([0, 2, 3]), reference)  # the last launch is let finish
        left = end(run)  # orphans, which may have written the file again meanwhile
        again = compared(run, reference)
        runs.append({**{name: found[name] + again[name] for name in FINDINGS}, "kills": tally["kills"] - before, "launches": launches + 1})
        say(f"{run.name}: {runs[-1]}, processes left: {left}")
    return tally, runs


def kill(config: Path, run: Path, world: int, number: int, reference: Path, rng: random.Random) -> tuple[str, str]:
    """Launches, and kills at a random moment: (what was going on, what was hit; nothing if it was done before)."""
    total, there = len(units(reference)), len(units(run))
    process, start = launch(config, run, world, number), time.perf_counter()
    plan = rng.choice(["start-up", "units", "units", "units", "units", "reduction"])
    delay, goal = rng.uniform(0.02, START_UP * (1 + world / 2)), min(total, there + rng.randint(1, 12))
    if plan != "start-up":
        delay, goal = (rng.uniform(0, 0.05), goal) if plan == "units" else (rng.uniform(0, 0.8), total)
        while process.poll() is None and (len(units(run)) < goal or (there == total and time.perf_counter() - start < START_UP)):
            time.sleep(0.01)
    time.sleep(delay)
    now, late = len(units(run)), time.perf_counter() - start > START_UP
    phase = "reduction" if now == total and (there < total or late) else "units" if there < now < total else "start-up"
    found, victim = processes(run), rng.choice(["one process", "launcher", "whole launch"]) if world else "the only process"
    ours = [pid for pid, (launched, _) in found.items() if launched == number]
    workers = [pid for pid, (_, launcher) in found.items() if not launcher]  # orphans of earlier launches too
    if victim == "one process":
        ours = [rng.choice(workers)] if workers else []
    elif victim == "launcher":
        ours = [pid for pid in ours if found[pid][1]]
    return phase, victim if sum(map(hit, ours)) else ""


def launch(config: Path, run: Path, world: int, number: int = 0) -> subprocess.Popen[bytes]:
    """Starts measuring: under torchrun, or with world 0 alone."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world else []
    command = [sys.executable, *torchrun, "-m", "selfinformed", "measure", str(config), "--output", str(run)]
    with (run.parent / "log.txt").open("wb") as log:
        return subprocess.Popen(command, env=os.environ | {MARK: f"{run}:{number}"}, stdout=log, stderr=log, start_new_session=True)


def processes(folder: Path) -> dict[int, tuple[int, bool]]:
    """The living processes of a run folder, or of all in a folder: their launch, and whether they are torchrun itself."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mark = next((e for e in (process / "environ").read_text("utf-8", "replace").split("\0") if e.startswith(f"{MARK}={folder}")), None)
            if mark and (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found[int(process.name)] = (int(mark.rpartition(":")[2]), "torch.distributed.run" in (process / "cmdline").read_text())
        except OSError:  # gone meanwhile
            continue
    return found


def hit(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def end(folder: Path) -> int:
    """Kills what is left of a folder's processes, and says how many would not die."""
    for _ in range(100):
        if not [hit(pid) for pid in processes(folder)]:
            return 0
        time.sleep(0.1)
    return len(processes(folder))


def compared(run: Path, reference: Path) -> dict[str, int]:
    """How a finished run differs from the reference, and the units that are not there exactly once."""
    files = [folder / "counts.safetensors" for folder in (run, reference)]
    one, other = (ConfusionCounts.load(file) for file in files)
    assert one.n_examples == other.n_examples == N
    manifest = read_json(run / "detections" / "manifest.json", "manifest")
    numbers = np.concatenate([read_tensors(path, FORMAT)[0]["rows"] // manifest["unit_size"] for path in units(run)])
    times, whole = np.bincount(numbers, minlength=manifest["n_units"]), np.bincount(np.arange(N) // manifest["unit_size"])
    return {
        "files_that_differ": int(files[0].read_bytes() != files[1].read_bytes()), "cells_that_differ": (one.to_scipy() != other.to_scipy()).nnz,
        "units_lost": int((times < whole).sum()), "units_counted_twice": int((times > whole).sum()), "units": len(units(run)),
    }  # fmt: skip


def units(run: Path) -> list[Path]:
    return sorted((run / "detections").glob("unit-*.safetensors"))


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


GROUPS = ("victim", "launch", "phase")
FINDINGS = ("files_that_differ", "cells_that_differ", "units_lost", "units_counted_twice")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
