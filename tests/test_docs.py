"""The documentation says what is so: its commands parse, its snippets run, its pages cover every verb, name, artefact and format."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from types import FunctionType

import pytest
import typer
import yaml

import selfinformed as si
from selfinformed.cli import _parsed, app
from selfinformed.pipeline.config import RunConfig
from selfinformed.pipeline.folder import ARTEFACTS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
TITLED = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    return [(page, text) for page, content in PAGES.items() for kind, text in FENCE.findall(content) if kind == language]


def commands() -> list[tuple[str, str, bool]]:
    """Every line of a block that calls selfinformed, and every such call within a sentence, which may leave out what it is called on."""
    lines = [(page, line.split("  #")[0].strip()) for page, text in blocks("") + blocks("bash") for line in text.splitlines()]
    prose = [(page, call) for page, content in PAGES.items() for call in re.findall(r"`(selfinformed [^`]+)`", FENCE.sub("", content))]
    called = [(page, line[line.index("selfinformed") :], True) for page, line in lines if re.match(r"(selfinformed|torchrun .* -m selfinformed) ", line)]
    return sorted({*called, *((page, call, False) for page, call in prose if not {"--help", "--version"} & set(call.split()))})


@pytest.mark.parametrize(("page", "line", "whole"), commands())
def test_commands_parse(page, line, whole):
    _, verb, *words = shlex.split(line)
    assert verb in COMMANDS
    given = COMMANDS[verb].make_context(verb, words).params
    assert not whole or verb == "demo" or not {"source", "runs", "model", "predictions"}.isdisjoint(name for name, value in given.items() if value is not None)
    changes = {name: _parsed(name, value) for name, value in given.items() if value is not None and name in RunConfig.__dataclass_fields__}
    RunConfig().with_changes(changes)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_a_page_with_an_example_and_what_it_writes(verb):
    text = PAGES[f"howto/{verb}.md"]
    assert f"selfinformed {verb}" in text
    assert "| reads | writes |" in text
    options = {option for parameter in COMMANDS[verb].params for option in parameter.opts}
    for option in re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE):
        assert option in options


def test_options_named_anywhere_exist():
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
    others = {"--constraint", "--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port", "--data-binary"}  # of pip, torchrun and curl
    for page, text in PAGES.items():
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known | others, page


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_compile_and_name_what_there_is(page, code):
    compile(code, page, "exec")
    for line in re.findall(r"^from selfinformed.* import .*|^import selfinformed.*", code, re.MULTILINE):
        exec(line, {})


def test_public_names_in_the_text_exist():
    for page, text in PAGES.items():
        assert set(re.findall(r"\bsi\.([a-zA-Z_]+)", text)) - {"augmented"} <= set(si.__all__), page


def test_configurations_are_valid():
    for page, text in blocks("yaml"):
        assert RunConfig().with_changes(yaml.safe_load(text)), page


def reference() -> list[object]:
    entries = re.findall(r"^::: (selfinformed\S+)$", "\n".join(text for page, text in PAGES.items() if page.startswith("api/")), re.MULTILINE)
    return [getattr(importlib.import_module(entry.rpartition(".")[0]), entry.rpartition(".")[2]) for entry in entries]


def test_everything_in_the_reference_is_described():
    classes = [thing for thing in reference() if isinstance(thing, type)]
    methods = {f"{thing.__name__}.{name}": member for thing in classes for name, member in vars(thing).items() if not name.startswith("_")}
    functions = {name: getattr(member, "__func__", getattr(member, "fget", member)) for name, member in methods.items()}
    assert len(functions) > 100
    assert [name for name, function in functions.items() if isinstance(function, FunctionType) and not function.__doc__] == []
    assert all(thing.__doc__ for thing in reference())


def test_every_public_name_is_in_the_reference():
    found = reference()
    for name in si.__all__:
        assert any(getattr(si, name) is thing for thing in found), name
        assert f"`si.{name}`" in PAGES["api/index.md"]


def test_every_artefact_and_format_is_described():
    text = PAGES["file-formats.md"]
    for artefact in ARTEFACTS:
        assert artefact in text
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    formats = set(re.findall(r'FORMAT = "(selfinformed\.[a-z]+/\d)"', source)) - {"selfinformed.features/1"}  # which is read, no longer written
    assert len(formats) > 8
    for name in formats:
        assert name in text


def test_troubleshooting_quotes_messages_that_there_are():
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", source)  # one string over several lines
    rows = re.findall(r"^\| (`.*?`) \| ", PAGES["troubleshooting.md"], re.MULTILINE)
    assert len(rows) > 50
    filled_in = r": expected |, got|…|'[^']*'|\b[xXNMCDLKn]\b|\d[\d.]*|[()]|\b(?:nan|timm|train|torchvision|onnx|n_groups)\b|x\.py|does not exist"
    for message in [message for row in rows for message in re.findall(r"`([^`]+)`", row)]:
        longest = max((piece.strip(" :;,") for piece in re.split(filled_in, message)), key=len)
        assert longest in source, message


def test_links_between_pages_and_to_files_of_the_repository_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", FENCE.sub("", text)):
            assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A folder with the files that the tour shows, made smaller, and what running them leaves."""
    folder = tmp_path_factory.mktemp("tour")
    files = dict(TITLED.findall(PAGES["tour.md"]))
    for name, old, new in [
        ("shapes.py", '{"train": 40, "holdout": 20, "test": 20}', '{"train": 6, "holdout": 6, "test": 4}'),
        ("shapes.py", "range(10)", "range(2)"), ("tour.py", "seeds=3", "seeds=1"), ("tour.py", "epochs=8", "epochs=1"),
        ("config.yaml", "epochs: 8", "epochs: 1\nseeds: 1\narms: [base, confusions, dense]"),
    ]:  # fmt: skip
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        exec(compile(files["shapes.py"], "shapes.py", "exec"), {"__name__": "__main__"})
        exec(compile(files["tour.py"], "tour.py", "exec"), {"__name__": "tour"})
        sys.modules.pop("shapes", None)
        for line in ("run config.yaml", "evaluate runs/shapes --top-groups 1,2", "bench runs/shapes", "search runs/shapes"):
            assert f"selfinformed {line}" in PAGES["tour.md"]
            if not line.startswith(("bench", "search")):
                app(shlex.split(line), standalone_mode=False)
    return folder


def test_the_tour_runs(tour):
    assert (tour / "out" / "heads.safetensors").exists()
    assert (tour / "runs" / "shapes" / "report.html").exists()


def test_files_and_fields_of_a_run_are_in_the_reference(tour):
    text, run = PAGES["file-formats.md"], tour / "runs" / "shapes"
    for path in run.iterdir():
        assert path.name in text
        content = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else {}
        row = content[0] if isinstance(content, list) else content
        for field in row:
            assert re.search(rf"\b{field}\b", text), f"{path.name}: {field}"
            if field in ("rows", "summary", "trials", "about", "forecast", "diagnosis", "groups", "mistakes", "labels") and isinstance(row[field], list | dict):
                inner = row[field][0] if isinstance(row[field], list) and row[field] else row[field]
                for name in inner if isinstance(inner, dict) else ():
                    assert re.search(rf"\b{name}\b", text), f"{path.name}: {field}.{name}"


@pytest.mark.parametrize(("page", "line", "whole"), [call for call in commands() if call[2]])
def test_commands_shown_one_after_another_are_not_refused(page, line, whole):
    """A run folder belongs to one configuration: a line that changes an option needs a folder of its own."""
    _, verb, *words = shlex.split(line)
    given = COMMANDS[verb].make_context(verb, words).params
    changes = {name: _parsed(name, value) for name, value in given.items() if value is not None and name in RunConfig.__dataclass_fields__}
    assert verb == "demo" or {"output", "model", "predictions"} & set(changes) or not RunConfig().with_changes(changes).differences(RunConfig())


def test_the_tables_of_results_are_of_the_figures_that_are_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables")
    for name, text in tables.parts(tables.measured()).items():
        assert f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->" in PAGES["results.md"], "run python benchmarks/tables.py"
