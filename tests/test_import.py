"""Importing is quick because nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import selfinformed


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('modules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules")[2].split())


def test_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "scipy", "sklearn", "pydantic", "matplotlib", "typer"}
    assert not imported_by("import selfinformed; dir(selfinformed); selfinformed.__all__") & heavy


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    statement = f"sys.argv = ['selfinformed', *{arguments}]\nfrom selfinformed.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert not imported_by(statement) & {"torch", "numpy", "scipy", "sklearn", "matplotlib"}


def test_an_error_can_be_caught_without_torch() -> None:
    assert "torch" not in imported_by("from selfinformed import SelfInformedError")


def test_serving_arrays_needs_no_torch() -> None:
    used = "selfinformed.serving.app, selfinformed.serving.protocol, selfinformed.serving.served, selfinformed.cli, selfinformed.runtime.progress"
    assert not imported_by(f"import selfinformed.serving, {used}") & {"torch", "scipy", "sklearn", "matplotlib"}


def test_all_is_the_public_names() -> None:
    rooms = [name for names in selfinformed._ROOMS.values() for name in names]
    assert sorted(rooms) == sorted(selfinformed.__all__) == list(selfinformed.__all__)
    assert all(getattr(selfinformed, room).__name__ == f"selfinformed.{room}" for room in selfinformed._ROOMS)
    assert set(dir(selfinformed)) == {*selfinformed.__all__, "__version__"}
    for name in selfinformed.__all__:
        assert getattr(selfinformed, name).__name__ == name


def test_a_type_checker_knows_public_names_and_no_others() -> None:
    tree = ast.parse(Path(selfinformed.__file__).read_text())
    assert "__getattr__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    checked = next(node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    assert sorted(alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names) == selfinformed.__all__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        selfinformed.fitt


def test_a_network_is_wrapped_and_planned_for_without_what_compiles() -> None:
    lines = [
        "import torch, selfinformed as si", "from torch import nn",
        "stack = nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 6))",
        "net = si.wrap(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), stack), torch.randn(2, 1, 8, 8))",
        "print(net.cost)",
    ]  # fmt: skip
    assert "torch._dynamo" not in imported_by("\n".join(lines))
