"""Every command and snippet of the README runs."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def shell_lines() -> list[str]:
    return [line.split("  #")[0].strip() for text in blocks("bash") for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_readme_python_example_prints_what_it_shows(tmp_path, monkeypatch):
    example, shown = blocks("python")[0], blocks("text")[0]
    assert len(example.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})  # the README's own code
    assert (tmp_path / "out" / "heads.safetensors").exists()

    def figures(text: str) -> list[float]:
        return [float(n) for n in re.findall(r"\d+\.\d+", text)]

    assert re.sub(r"\d", "0", printed.getvalue()).split() == re.sub(r"\d", "0", shown).split()
    assert figures(printed.getvalue()) == pytest.approx(figures(shown), abs=1.0)  # another processor rounds otherwise


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("make")])
def test_readme_make_targets_exist(line):
    made = subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_readme_says_how_to_install_without_make():
    lines = shell_lines()
    assert lines[lines.index("pip install .") + 1] == "selfinformed demo"


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("selfinformed")])
def test_readme_commands_parse(line):
    """The commands take minutes or the user's own files, so here they resolve their configuration and stop."""
    words = shlex.split(line)
    assert words[1] in {"demo", "run", "measure", "cluster", "probe", "plan", "fit", "evaluate", "compare", "search", "report", "export", "serve", "bench"}
    asked = subprocess.run([sys.executable, "-m", "selfinformed.cli", words[1], "--help"], capture_output=True, text=True)
    assert asked.returncode == 0
    for option in re.findall(r"--[a-z-]+", line):
        assert option in asked.stdout, f"{option} is not an option of {words[1]}"


def test_readme_config_is_valid():
    import yaml

    from selfinformed.pipeline.config import RunConfig

    for text in blocks("yaml"):
        assert RunConfig().with_changes(yaml.safe_load(text)).model


def test_readme_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
