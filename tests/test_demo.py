"""The demo's run in half of its passes, without the arms `codetections` and `finetune` (they are tested on a small network): what the README claims holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from selfinformed.evidence.comparison import Comparison
from selfinformed.pipeline.config import demo_config
from selfinformed.pipeline.run import Run
from selfinformed.training.headroom import probe


def selfinformed(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "selfinformed.cli", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    options = yaml.safe_load(selfinformed("demo", "--output", folder / "run", "--print-config").stdout)
    options["arms"] = [arm for arm in options["arms"] if arm not in ("codetections", "finetune")]
    (folder / "config.yaml").write_text(yaml.safe_dump(options | {"epochs": 1}))
    return folder / "run", selfinformed("run", folder / "config.yaml").stdout


@pytest.fixture(scope="module")
def table(demo) -> Comparison:
    return Comparison.load(demo[0] / "comparison.json")


def test_demo_runs_its_arms_over_three_seeds(table):
    assert table.arms == ["base", "classifier", "confusions", "random", "dense"]
    assert all(len(table.values(arm)) == 3 for arm in table.arms)


@pytest.mark.parametrize("control", ["base", "classifier", "random"])
def test_demo_beats_the_control_with_an_interval_above_zero(table, control):
    assert table.difference("confusions", control)["low"] > 0


def test_demo_costs_at_most_three_percent(table):
    for arm in ("confusions", "random", "dense"):
        assert 1.02 < table.values(arm, "extra_computation").mean() <= 1.03


def test_demo_says_so_where_a_control_beats_the_method(table):
    if table.difference("confusions", "dense")["high"] < 0:
        assert "dense" in table.verdict.partition("do not beat")[2]


def test_demo_base_is_right_on_about_half_of_the_characters(demo):
    recall = json.loads((demo[0] / "evaluation.json").read_text())["base"]["recall_at"]
    assert 0.4 < recall["1"] < 0.6


def test_demo_ends_in_a_table_and_a_report(demo):
    folder, printed = demo
    assert "confusions" in printed
    assert "report.html" in printed
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "counts.safetensors", "groups.json", "plan.json", "heads.safetensors", "config.json", "history.jsonl", "evaluation.json",
        "comparison.json", "report.html", "config.yaml", "figures/cost.png", "figures/confusions.png", "figures/groups.png",
    } <= files  # fmt: skip


def test_the_demos_report_opens_in_a_browser(demo, opened):
    folder, _ = demo
    path = folder / "report.html"
    assert path.stat().st_size < 15_000_000
    tab = opened(path)
    tab.page.fill("#search", "word:GREEK")
    tab.page.press("#search", "Enter")
    assert "word:GREEK" in tab.text("#label-page h3")
    assert tab.page.locator("#groups img").count() > 50
    assert tab.troubles == []


def test_demo_probe_forecasts_what_training_gains(demo, table):
    headroom = json.loads((demo[0] / "probe.json").read_text())
    assert headroom["worth_it"]
    assert headroom["gain"] > table.difference("confusions", "base")["mean"] - 0.01


def test_demo_goes_on_where_it_was(demo):
    done = selfinformed("compare", demo[0], "--json")
    assert json.loads(done.stdout)["rows"] == json.loads((demo[0] / "comparison.json").read_text())["rows"]
    assert "is there already" in done.stderr


def test_converged_base_has_little_to_gain_and_the_probe_says_so(tmp_path):
    run = Run(demo_config("converged", None, str(tmp_path / "run")))
    headroom = probe(run.net, run.features("train"), run.features("holdout"), epochs=0.25)  # an eighth of the time; with 2 it says the same
    assert not headroom.worth_it
    assert "little to gain" in headroom.verdict
