"""Everything that can be installed with the package is pinned in constraints.txt, so that what was tested is what is installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("packaging")
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LINES = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LINES}
EXTRAS = PROJECT["project"]["optional-dependencies"]
DECLARED = [Requirement(text) for part in (PROJECT["project"]["dependencies"], *EXTRAS.values(), PROJECT["build-system"]["requires"]) for text in part]


def test_pins_are_exact_and_stand_once() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in LINES)
    assert len(PINS) == len(LINES)


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_pinned_at_a_version_that_it_allows(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin, f"{requirement.name} is in pyproject.toml but not in constraints.txt"
    assert requirement.specifier.contains(pin)


@pytest.mark.parametrize(
    ("name", "version"),
    [("typer", "0.15.4"), ("scipy", "1.12.0"), ("scipy", "1.13.1"), ("numba", "0.60.0")],
    ids=["its help fails with click 8.2", "its coo_array has no coords", "no wheel for Python 3.13", "none either"],
)
def test_versions_that_do_not_do_are_not_allowed(name: str, version: str) -> None:
    assert not any(requirement.specifier.contains(version) for requirement in DECLARED if requirement.name == name)


def test_what_is_published_is_typed_and_small() -> None:
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"] == {"packages": ["src/selfinformed"]}  # all of it
    assert (files("selfinformed") / "py.typed").is_file()
    assert "/benchmarks/bases" in targets["sdist"]["exclude"]


def test_the_build_backend_is_pinned_for_tests_alone() -> None:
    assert not [text for text in PROJECT["build-system"]["requires"] if "==" in text]


def test_what_the_dependencies_need_is_pinned_too() -> None:
    """As far as they are installed here: every package reached from them, by what their own metadata say."""
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(requirement.name), extra) for requirement in DECLARED for extra in ("", *requirement.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        for requirement in needed:
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), inner) for inner in ("", *requirement.extras)]
                pin = PINS.get(canonicalize_name(requirement.name))
                assert pin, f"{requirement.name}, which {name} needs, is not in constraints.txt"
                assert requirement.specifier.contains(pin, prereleases=True), f"{name} needs {requirement}, pinned is {pin}"
    assert len(seen) > 100


def test_no_pin_is_below_a_version_that_mends_a_known_advisory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import advisories

    assert advisories.main() == 0
    assert all(row.package == canonicalize_name(row.package) for row in advisories.TABLE)
    monkeypatch.setattr(advisories, "TABLE", [advisories.Advisory("torch", "99", "CVE-0000-0", "everything", "nowhere")])
    assert advisories.main() == 1
    assert f"torch {PINS['torch']} is below 99: CVE-0000-0, everything (nowhere)" in capsys.readouterr().out
