"""From saved predictions to groups with no network at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfinformed import cli
from selfinformed.structure.counts import ConfusionCounts

C = 60


@pytest.fixture
def selfinformed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfinformed", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    own = rng.integers(0, 4, 2000)
    ids = np.argsort(-(rng.random((2000, C)) + (np.arange(C) % 4 == own[:, None])), axis=1)[:, :5]
    return ids, 4 * rng.integers(0, C // 4, 2000) + own


def test_saved_predictions_are_counted_and_clustered(selfinformed: Any, tmp_path: Path) -> None:
    ids, labels = arrays()
    np.savez(tmp_path / "p.npz", ids=ids, labels=labels)
    (tmp_path / "names.txt").write_text("".join(f"label {i}\n" for i in range(C)))
    run = tmp_path / "run"
    code, out, err = selfinformed("measure", "--predictions", tmp_path / "p.npz", "--labels", tmp_path / "names.txt", "--output", run)
    assert code == 0, err
    assert "most confused pairs in 2,000 examples, top 5 of 60 labels" in out
    assert ConfusionCounts.load(run / "counts.safetensors").n_examples == 2000
    code, out, err = selfinformed("cluster", run, "--n-groups", 4)
    assert code != 0  # the run folder was begun with another number of groups
    assert "n_groups" in err
    code, out, err = selfinformed("cluster", run)
    assert code == 0, err
    assert "label " in out
    assert "groups from two halves of the examples agree" in out
    code, out, err = selfinformed("plan", run)
    assert code == 2
    assert "Traceback" not in err


def test_planted_groups_are_found_in_a_process_that_has_no_network(selfinformed: Any, tmp_path: Path) -> None:
    ids, labels = arrays()
    np.savez(tmp_path / "p.npz", ids=ids, labels=labels)
    (tmp_path / "names.txt").write_text("".join(f"name {i}\n" for i in range(C)))
    for names, first in ((["--n-labels", C], "0"), (["--labels", tmp_path / "names.txt"], "name 0")):
        run = tmp_path / f"run {first}"
        options = ["--predictions", tmp_path / "p.npz", *names, "--n-groups", 4, "--output", run, "--json"]
        done = subprocess.run([sys.executable, "-m", "selfinformed", "cluster", *map(str, options)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        groups = json.loads(done.stdout)
        assert sorted(sorted(members) for members in groups["members"]) == [list(range(k, C, 4)) for k in range(4)]
        _, out, err = selfinformed("measure", run, "--json")
        assert all(pair["detected"].startswith(first[:-1]) for pair in json.loads(out)["pairs"])
        assert "counts.safetensors is there already" in err


def test_bad_predictions_are_one_line_that_names_file_and_row(selfinformed: Any, tmp_path: Path) -> None:
    ids, labels = arrays()
    scores = np.ones(ids.shape)
    scores[17, 2] = np.nan
    wide, twice = ids.copy(), ids.copy()
    wide[40, 1], twice[41, 1] = C, twice[41, 0]
    np.savez(tmp_path / "nan.npz", ids=ids, labels=labels, scores=scores)
    np.savez(tmp_path / "wide.npz", ids=wide, labels=labels)
    np.savez(tmp_path / "twice.npz", ids=twice, labels=labels)
    np.savez(tmp_path / "good.npz", ids=ids, labels=labels)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:5000])
    (tmp_path / "ragged.csv").write_text("ids,labels\n1;2;3,1\n4;5,2\n")
    cases = {
        "nan.npz": "row 17 has the score nan", "wide.npz": "row 40 has label 60; labels go from 0 to 59", "twice.npz": "row 41 names label",
        "cut.npz": "cut.npz", "ragged.csv": "line 3 has 2 ids", "absent.npz": "absent.npz does not exist",
    }  # fmt: skip
    for name, said in cases.items():
        code, _, err = selfinformed("measure", "--predictions", tmp_path / name, "--n-labels", C, "--output", tmp_path / f"run {name}")
        assert code == 2, name
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("selfinformed: ")
        assert said in err.splitlines()[-1], err
        assert name in err.splitlines()[-1]
        assert not (tmp_path / f"run {name}" / "counts.safetensors").exists()
    code, _, err = selfinformed("measure", "--predictions", tmp_path / "good.npz", "--output", tmp_path / "r")
    assert (code, "--n-labels N" in err) == (2, True)


@pytest.mark.parametrize("verb", ["measure", "cluster"])
def test_neither_configuration_nor_predictions(selfinformed: Any, verb: str) -> None:
    code, _, err = selfinformed(verb)
    assert code == 2
    assert "name a config.yaml or a run folder, or --predictions FILE" in err
