"""A run that is killed, or meets a disk that is full or broken, at each call that changes its folder; and runs killed at random times.

    python benchmarks/crashes.py                  # each call of each verb, by number: kill, ENOSPC (once and for good), EIO
    python benchmarks/crashes.py --random 1000    # kills at random times of the whole chain of verbs
    python benchmarks/crashes.py --disks 40       # a disk (tmpfs; needs root) that is full after so many sizes, and then has room

After each the verb is called again without a fault, and the folder must hold, byte for byte, what an undisturbed run holds. `faults.c` is compiled
and loaded before libc; processes are forked from one that has imported everything. Clocks stand still in them, so that times do not differ.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import RESULTS, save

from selfinformed.runtime.files import read_json
from selfinformed.runtime.progress import progress

CHAIN = (
    ("measure",), ("cluster",), ("plan",), ("probe",), ("fit",), ("evaluate", "--top-groups", "0,1"), ("compare",), ("search",), ("report",), ("export",),
)  # fmt: skip
FAULTS = {"kill": (1, 0, 0), "ENOSPC once": (2, errno.ENOSPC, 0), "ENOSPC from then on": (2, errno.ENOSPC, 1), "EIO once": (2, errno.EIO, 0)}
# TensorBoard's events carry times and the process in their names; a lock's file is empty; hidden files are temporary.
LEFT_OUT = re.compile(r"(^|/)\.|^log/events")
MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, {labels}))
"""


def main(random_kills: int, disks: int, seed: int, only: str | None, verbs: str | None) -> None:
    load_everything()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="crashes-") as name:
        folder = Path(name)
        size = {"examples": 3_000, "epochs": 6} if random_kills else {"examples": 240, "epochs": 1}
        config = prepare(folder, size)
        warm_up(folder, config)
        states, calls = undisturbed(folder, config)
        if disks:
            findings = full_disks(folder, config, states, disks)
        elif random_kills:
            findings = random_deaths(folder, config, states, random_kills, random.Random(seed))
        else:
            faults = {k: v for k, v in FAULTS.items() if only in (None, k)}
            findings = every_call(folder, config, states, calls, faults, verbs.split(",") if verbs else [verb[0] for verb in CHAIN])
        about = {"seed": seed, "verbs": [" ".join(verb) for verb in CHAIN], "calls": calls, **findings, "seconds": round(time.perf_counter() - start)}
        save("crashes-disks" if disks else "crashes-random" if random_kills else "crashes", about)
        print("\n".join(about["wrong"]) or "nothing was wrong")


def load_everything() -> None:
    """What the verbs import, so that a forked process begins at once."""
    for name in ("matplotlib.backends.backend_svg", "onnx", "onnxruntime", "onnxscript", "torch.utils.tensorboard", "selfinformed.pipeline.run"):
        import_module(name)
    import_module("torch").set_num_threads(1)
    figure = import_module("matplotlib.figure").Figure
    whole = figure.savefig
    figure.savefig = lambda self, *args, **options: whole(self, *args, **options | {"dpi": 30})  # pictures take most of a report's time


def prepare(folder: Path, size: dict[str, int], labels: int = 12) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((labels, 24)).astype(np.float32)
    options: dict[str, Any] = {}
    for split, n in (("train", size["examples"]), ("holdout", 240), ("test", 240)):
        targets = rng.integers(0, labels, n)
        inputs = centres[targets // 2 * 2] + 0.3 * centres[targets] + rng.standard_normal((n, 24), np.float32)
        np.savez(folder / f"{split}.npz", inputs=inputs.astype(np.float32), targets=targets)
        options[split] = str(folder / f"{split}.npz")
    (folder / "model.py").write_text(MODEL.format(labels=labels))
    options |= {
        "model": f"{folder / 'model.py'}:make", "output": str(folder / "run"), "n_groups": 3, "budget": 0.5, "epochs": size["epochs"], "seeds": 2,
        "probe_width": 16, "arms": ["base", "classifier", "confusions", "random", "dense"], "candidates": 3, "rounds": 1, "device": "cpu",
        "forward_batch_size": 64, "batch_size": 64, "bootstraps": 3,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder / "config.yaml"


def warm_up(folder: Path, config: Path) -> None:
    """Goes through all verbs in this process, so that those forked from it find everything compiled and cached."""
    clocks = time.perf_counter, time.time
    for verb in CHAIN:
        if code := child(folder, [verb[0], str(config), *verb[1:]], (0, 0, 0, 0), folder / "count"):
            raise SystemExit(f"{verb[0]} ended with {code}")
    time.perf_counter, time.time = clocks
    gc.collect()
    gc.freeze()


def undisturbed(folder: Path, config: Path) -> tuple[list[dict[str, bytes]], dict[str, int]]:
    """What the folder holds before the first verb and after each, and how many calls each makes that change it; all of it twice, to the byte."""
    twice = []
    for _ in range(2):
        shutil.rmtree(folder / "run", ignore_errors=True)
        states: list[dict[str, bytes]] = [{}]
        calls = {}
        for verb in CHAIN:
            begun = time.perf_counter()
            code, said, n = forked(folder, verb, config)
            print(f"{verb[0]}: {time.perf_counter() - begun:.1f} s, {n} calls", flush=True)
            if code:
                raise SystemExit(f"{verb}: {code}\n{said}")
            states.append(held(folder / "run"))
            calls[verb[0]] = n
        twice.append(states)
    for verb, (a, b) in zip(CHAIN, zip(*(states[1:] for states in twice), strict=True), strict=True):
        if different := differences(a, b):
            raise SystemExit(f"two undisturbed runs differ after {verb[0]}: {different}")
    return twice[0], calls


def every_call(folder: Path, config: Path, states: list[dict[str, bytes]], calls: dict[str, int], faults: dict[str, Any], verbs: list[str]) -> dict[str, Any]:
    """Each fault at each call; a verb begins from what the verbs before it left."""
    outcomes: dict[str, dict[str, Counter[str]]] = {verb: {fault: Counter() for fault in faults} for verb in verbs}
    wrong: list[str] = []
    chosen = [(place, verb) for place, verb in enumerate(CHAIN) if verb[0] in verbs]
    points = [(place, verb, fault, number) for place, verb in chosen for fault in faults for number in range(1, calls[verb[0]] + 1)]
    for done, (place, verb, fault, number) in enumerate(progress(points, len(points), "faults")):
        if done % 100 == 0:
            print(f"{done} of {len(points)}, {verb[0]}, {fault}, wrong: {wrong}", flush=True)
        put(states[place], folder / "run")
        code, said, _ = forked(folder, verb, config, number, *faults[fault])
        where = f"{verb[0]}, {fault} at call {number} of {calls[verb[0]]}"
        outcomes[verb[0]][fault][outcome(code)] += 1
        if fault == "kill":
            if code != -signal.SIGKILL:
                wrong.append(f"{where}: ended with {code}: {said[-300:]}")
        elif code not in (0, 2) or "Traceback" in said or (code == 2 and said.count("selfinformed: ") != 1):
            wrong.append(f"{where}: ended with {code}: {said[-2000:]}")
        code, said, _ = forked(folder, verb, config)
        if code:
            wrong.append(f"{where}: called again it ended with {code}: {said[-500:]}")
        elif different := differences(states[place + 1], held(folder / "run")):
            wrong.append(f"{where}: called again it left other content in {different}")
    return merged({"outcomes": outcomes, "wrong": wrong}, calls, faults)


def merged(found: dict[str, Any], calls: dict[str, int], faults: dict[str, Any]) -> dict[str, Any]:
    """With what is known of other verbs and faults, if these make as many calls as then."""
    path = RESULTS / "crashes.json"
    before = read_json(path, "results") if path.exists() else {"calls": None}
    if before["calls"] == calls:
        again = [f"{verb}, {fault} at" for verb in found["outcomes"] for fault in faults]
        for verb, by_fault in before["outcomes"].items():
            found["outcomes"][verb] = by_fault | found["outcomes"].get(verb, {})
        found["wrong"] += [line for line in before["wrong"] if not line.startswith(tuple(again))]
    return {"points": sum(sum(counter.values()) for by_fault in found["outcomes"].values() for counter in by_fault.values()), **found}


def random_deaths(folder: Path, config: Path, states: list[dict[str, bytes]], kills: int, rng: random.Random) -> dict[str, Any]:
    """SIGKILL at random times of the chain, run after run, until there were so many; each run is brought to its end."""
    wrong: list[str] = []
    done, runs, by_verb, longest = 0, 0, Counter[str](), {verb[0]: 0.5 for verb in CHAIN}
    bar = iter(progress(range(kills), kills, "kills"))
    while done < kills:
        shutil.rmtree(folder / "run", ignore_errors=True)
        for verb in CHAIN:
            for attempt in range(12):  # then it may finish
                begun = time.perf_counter()
                code, said, _ = forked(folder, verb, config, dies_after=rng.uniform(0, longest[verb[0]]) if attempt < 11 and done < kills else None)
                if code == 0:
                    longest[verb[0]] = max(longest[verb[0]], time.perf_counter() - begun) if attempt == 0 else longest[verb[0]]
                    break
                if code != -signal.SIGKILL:
                    wrong.append(f"{verb[0]} after {done} kills: ended with {code}: {said[-500:]}")
                    break
                done, by_verb[verb[0]] = done + 1, by_verb[verb[0]] + 1
                next(bar, None)
        runs += 1
        if different := differences(states[-1], held(folder / "run")):
            wrong.append(f"run {runs}: other content in {different}")
    return {"kills": done, "finished_runs": runs, "by_verb": dict(by_verb), "wrong": wrong}


def full_disks(folder: Path, config: Path, states: list[dict[str, bytes]], sizes: int) -> dict[str, Any]:
    """The chain on a disk of each of several sizes, on to the next verb after one that stopped; then with room on the same disk."""
    wrong: list[str] = []
    tally: Counter[str] = Counter()
    run, needed = folder / "run", sum(4096 * -(-len(content) // 4096) for content in states[-1].values())
    for number in progress(range(sizes), sizes, "disks"):
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        size = needed * (number + 1) // sizes
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", run], check=True)
        try:
            for room in (False, True):
                if room:
                    subprocess.run(["mount", "-o", f"remount,size={20 * needed}", run], check=True)
                for verb in CHAIN:
                    code, said, _ = forked(folder, verb, config)
                    tally[outcome(code)] += not room
                    if code not in ((0,) if room else (0, 2)) or "Traceback" in said or (code == 2 and said.count("selfinformed: ") != 1):
                        wrong.append(f"{verb[0]} on {size:,} bytes{', then with room' * room}: ended with {code}: {said[-600:]}")
            if different := differences(states[-1], held(run)):
                wrong.append(f"{size:,} bytes: other content in {different}")
        finally:
            subprocess.run(["umount", "-l", run], check=True)
    return {"disks": sizes, "largest": needed, "outcomes": dict(tally), "wrong": wrong}


def forked(
    folder: Path, verb: tuple[str, ...], config: Path, number: int = 0, mode: int = 0, error: int = 0, sticky: int = 0, dies_after: float | None = None
) -> tuple[int, str, int]:
    """Exit code, what was printed to stderr, and how many calls changed the folder, of one verb in a process of its own."""
    log, count = folder / "said", folder / "count"
    process = os.fork()
    if process == 0:
        with log.open("w") as said:
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(child(folder, [*verb[:1], str(config), *verb[1:]], (number, mode, error, sticky), count))
    if dies_after is not None:
        time.sleep(dies_after)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), int(count.read_text() or 0) if count.exists() else 0


def child(folder: Path, arguments: list[str], fault: tuple[int, int, int, int], count: Path) -> int:
    import traceback

    from selfinformed.cli import main

    time.perf_counter = lambda: 0.0
    time.time = lambda: 1.8e9  # type: ignore[assignment]
    sys.argv = ["selfinformed", *arguments]
    faults = ctypes.CDLL(None)
    number, *how = fault
    faults.faults_arm(str(folder / "run").encode(), ctypes.c_long(number), *how)
    try:
        main()
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    faults.faults_seen.restype = ctypes.c_long
    count.write_text(str(faults.faults_seen()))
    sys.stderr.flush()
    return code


def held(run: Path) -> dict[str, bytes]:
    """What the folder holds for whoever comes next."""
    names = (str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file())
    return {name: (run / name).read_bytes() for name in names if not LEFT_OUT.search(name)}


def put(state: dict[str, bytes], run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    for name, content in state.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)


def differences(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))


def outcome(code: int) -> str:
    return {0: "went on to its end", 2: "one line", -signal.SIGKILL: "killed", -signal.SIGBUS: "SIGBUS"}.get(code, f"exit code {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0, metavar="KILLS")
    parser.add_argument("--disks", type=int, default=0, metavar="SIZES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAULTS)
    parser.add_argument("--verbs")
    options = parser.parse_args()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        library = Path(tempfile.mkdtemp()) / "faults.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, Path(__file__).with_name("faults.c"), "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, __file__, *sys.argv[1:]], environment)
    main(options.random, options.disks, options.seed, options.only, options.verbs)
