"""The story a run ends with: the same in a pipe and on a terminal, whatever its width."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from conftest import write_config
from selfinformed import cli
from selfinformed.evidence.comparison import Comparison

LINE = re.compile(
    r"selfinformed: mAP@50 base \d+\.\d\d method \d+\.\d\d gain [+-]\d+\.\d\d \([+-]\d+\.\d\d to [+-]\d+\.\d\d\) cost \d+\.\d{3}x beats \S+ loses \S+"
)


@pytest.fixture(scope="module")
def done(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two seeds."""
    from selfinformed.pipeline.config import read_config
    from selfinformed.pipeline.run import Run

    folder = tmp_path_factory.mktemp("done")
    (folder / "data").symlink_to(data_folder)
    run = Run(read_config(write_config(folder, seeds=2)))
    run.stability(), run.plan(), run.headroom(), run.augmented(), run.evaluation(), run.comparison(), run.report()
    return run.folder


@pytest.fixture
def shown(done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What a verb prints on standard output; with a width, as on a terminal that wide."""

    def call(verb: str, width: int | None = None, **environment: str) -> str:
        monkeypatch.setattr(sys, "argv", ["selfinformed", verb, str(done)])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if width is not None:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("verb", ["compare", "run", "report"])
def test_it_ends_with_the_arms_the_verdict_and_one_line(shown, done: Path, verb: str) -> None:
    text = shown(verb)
    comparison = Comparison.load(done / "comparison.json")
    *before, verdict, line = text.splitlines()
    assert verdict == comparison.verdict
    assert LINE.fullmatch(line)
    assert line == comparison.line
    assert [row.split()[0] for row in before[-5:] if row] == ["arm", *comparison.arms]
    assert [found for found in text.splitlines() if found.startswith("selfinformed:")] == [line]


@pytest.mark.parametrize("verb", ["compare", "report", "cluster", "measure", "plan", "probe", "fit", "evaluate"])
def test_a_pipe_gets_plain_text(shown, verb: str) -> None:
    text = shown(verb)
    assert not re.search(r"[\x1b\u2500-\u257f…]", text)


@pytest.mark.parametrize("width", [60, 120])
def test_a_terminal_gets_colour_within_its_width_and_no_color_takes_it_away(shown, done: Path, width: int) -> None:
    text = shown("compare", width)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    table = plain.splitlines()[2:-3]
    assert max(map(len, table)) <= width
    comparison = Comparison.load(done / "comparison.json")
    for row in comparison.summary():
        assert f"{100 * row['mean_average_precision']:.2f}" in plain
        assert f"{row['multiply_adds']:,.0f}" in plain
    assert plain.splitlines()[-1] == comparison.line
    assert not re.search(r"\x1b\[(3|4|9|10)\d", shown("compare", width, NO_COLOR="1"))


def test_json_holds_the_line_too(done: Path) -> None:
    assert LINE.fullmatch(json.loads((done / "comparison.json").read_text("utf-8"))["line"])
