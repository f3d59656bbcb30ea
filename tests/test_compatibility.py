"""What earlier versions wrote is read by this one: whole runs, made by `scripts/make_fixtures.py` and never made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfinformed.evidence.evaluation import evaluate
from selfinformed.pipeline.config import read_config
from selfinformed.pipeline.run import Run

VERSIONS = sorted((Path(__file__).parent / "fixtures").iterdir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def written(request, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(request.param, tmp_path / "written")
    for name in ("sweep", "conditional"):  # pictures are not kept
        (tmp_path / "written" / "run" / "figures").mkdir(exist_ok=True)
        (tmp_path / "written" / "run" / "figures" / f"{name}.png").touch()
    monkeypatch.chdir(tmp_path / "written")
    return tmp_path / "written"


def test_a_run_of_an_earlier_version_is_taken_up_where_it_ended(written: Path) -> None:
    said: list[str] = []
    run = Run(read_config("run"), said.append)
    for kind in ("confusions", "codetections"):
        run.counts(kind), run.groups(kind), run.plan(kind)
    made = [run.stability(), run.sweep(), run.headroom(), run.conditional(), run.comparison(), run.search(), run.latency()]
    assert all(made)
    for split in ("train", "holdout", "test"):
        run.features(split)
    aug, before = run.augmented(), run.evaluation()
    there = [line.split()[1] for line in said if line.endswith("is there already")]
    assert not [line for line in said if "s in all" in line or " in 0." in line], "something was made again"
    assert len(there) == len(set(there)) == 18
    if "wrapped_output" not in json.loads((written / "run" / "config.json").read_text("utf-8")):
        aug.net.output = None  # logits were ranked then, whatever the labels
    assert evaluate(aug, run.features("test")).figures()["mean_average_precision"] == pytest.approx(before["mean_average_precision"], abs=1e-6)
    assert run.report().stat().st_size > 100_000


def test_its_numbers_are_as_they_were(written: Path) -> None:
    """What the checks of artefacts rely on, read as plain files."""
    rows = json.loads((written / "run" / "comparison.json").read_text("utf-8"))["rows"]
    assert {row["arm"] for row in rows} >= {"base", "classifier", "confusions", "codetections", "random", "dense"}
    assert Run(read_config("run")).comparison().rows == rows


def test_the_newest_fixture_is_of_this_version(tmp_path: Path) -> None:
    """A change of a format asks for a new fixture: the files this version writes have the keys of the newest one's."""
    newest = VERSIONS[-1] / "run"
    formats = {path.name: json.loads(path.read_text("utf-8")).get("format") for path in sorted(newest.glob("*.json")) if path.name != "config.json"}
    assert None not in formats.values()
