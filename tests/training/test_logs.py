"""The log holds each step once, however often training was stopped."""

from __future__ import annotations

import json
import sys

import pytest

from conftest import Problem, failing_in_step
from selfinformed.augmented.network import augment
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.fitting import fit
from selfinformed.training.logs import TrainingLog


def lines(folder):
    return [json.loads(line) for line in (folder / "training.jsonl").read_text("utf-8").splitlines()]


def events(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_rows_of_steps_and_of_passes(problem: Problem, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    options = {"holdout": problem.store("holdout"), "recipe": {"patience": 3}}
    history = fit(augment(problem.net, problem.plan()), problem.store("train"), epochs=3, log=tmp_path, tensorboard=True, **options)
    rows = lines(tmp_path)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 5, 7, 9, 13, 17, 18]
    assert steps[-1].keys() == {"step", "epoch", "loss", "learning_rate"}
    assert max(row["learning_rate"] for row in steps) <= 6e-3
    judged = [row for row in rows if "holdout_mean_average_precision" in row]
    assert [row["holdout_mean_average_precision"] for row in judged] == [row["holdout_mean_average_precision"] for row in history.rows]
    assert [row["step"] for row in judged] == [6, 12, 18]
    shown = events(tmp_path)
    assert shown.keys() == {"loss", "learning_rate", "holdout_mean_average_precision"}
    assert [step for step, _ in shown["loss"]] == [row["step"] for row in steps]
    assert [value for _, value in shown["loss"]] == pytest.approx([row["loss"] for row in steps])


def test_a_full_disk_is_told_with_the_file(tmp_path) -> None:
    log = TrainingLog(tmp_path, tensorboard=False)
    log.file.close()
    log.file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(SelfInformedError, match=r"training\.jsonl cannot be written: No space left on device; free the disk"):
        log.add({"step": 1, "loss": 1.0})
    log.close()


def test_a_training_that_goes_on_drops_what_it_does_again(problem: Problem, tmp_path, monkeypatch) -> None:
    def train() -> None:
        aug = augment(problem.net, problem.plan())
        fit(aug, problem.store("train"), epochs=3, log=tmp_path / "log", tensorboard=False, checkpoint=tmp_path / "state.safetensors")

    with failing_in_step(monkeypatch, 11, KeyboardInterrupt):
        train()
    assert [row["step"] for row in lines(tmp_path / "log")] == [1, 5, 7, 9]
    train()
    assert [row["step"] for row in lines(tmp_path / "log")] == [1, 5, 7, 9, 13, 17, 18]


def test_a_training_from_the_start_begins_anew_and_half_lines_are_dropped(tmp_path) -> None:
    (tmp_path / "training.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste', "utf-8")
    TrainingLog(tmp_path, tensorboard=False, step=1).close()
    assert lines(tmp_path) == [{"step": 1}]
    TrainingLog(tmp_path, tensorboard=False).close()
    assert lines(tmp_path) == []


@pytest.mark.parametrize("wanted", [True, None, False])
def test_without_tensorboard_json_lines_remain(tmp_path, monkeypatch, wanted) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    if wanted:
        with pytest.raises(SelfInformedError, match=r"^fit: tensorboard=True: tensorboard is not installed; run: pip install 'selfinformed\[tensorboard\]'"):
            TrainingLog(tmp_path, wanted)
        return
    log = TrainingLog(tmp_path, wanted)
    log.add({"step": 1, "loss": float("nan")})
    log.close()
    assert lines(tmp_path) == [{"step": 1, "loss": None}]
    assert [path.name for path in tmp_path.iterdir()] == ["training.jsonl"]
