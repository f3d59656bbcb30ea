"""Keeps what this version writes, for later versions to read: a whole run of a small network, with its data, in tests/fixtures/NAME.

    python scripts/make_fixtures.py 2026-11-26

Made once per version of a file format and never again; `tests/test_compatibility.py` opens all of them.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
MODEL = """import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))
"""
CONFIG = """model: model.py:make
train: train.npz
holdout: holdout.npz
test: test.npz
output: run
labels: labels.txt
n_groups: 2
budget: 0.9
seeds: 1
bootstraps: 2
sweep: [2, 3]
epochs: 1
probe_width: 8
candidates: 2
rounds: 1
device: cpu
top_groups: [0, 1]
arms: [base, classifier, confusions, codetections, random, dense]
"""
VERBS = (("measure",), ("cluster",), ("run",), ("evaluate",), ("search",), ("bench",), ("export",))


def main(name: str) -> None:
    folder = FIXTURES / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 16))
    for split, n in (("train", 120), ("holdout", 80), ("test", 80)):
        targets = rng.integers(0, 8, n)
        inputs = centres[targets // 2 * 2] + 0.3 * centres[targets] + rng.standard_normal((n, 16))
        np.savez_compressed(folder / f"{split}.npz", inputs=inputs.astype(np.float32).round(2), targets=targets)
    (folder / "model.py").write_text(MODEL)
    (folder / "labels.txt").write_text("".join(f"label {letter}\n" for letter in "abcdefgé"))
    (folder / "config.yaml").write_text(CONFIG)
    for verb in VERBS:
        subprocess.run([sys.executable, "-m", "selfinformed", *verb, "config.yaml" if verb == ("measure",) else "run"], cwd=folder, env=os.environ, check=True)
    for path in [*folder.rglob("events.out*"), *folder.rglob(".*"), *folder.rglob("*.png"), *folder.rglob("*.svg"), *folder.rglob("*.html")]:
        path.unlink()  # for people, and never read
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


if __name__ == "__main__":
    main(sys.argv[1])
