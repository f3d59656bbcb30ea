"""Progress passes its items on, and is drawn only on a terminal; results say what they were made with."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from selfinformed.runtime import progress as progress_module
from selfinformed.runtime.progress import progress
from selfinformed.runtime.versions import machine, versions


@pytest.fixture(params=[True, False], ids=["terminal", "no terminal"])
def drawn(request, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(progress_module, "console", Console(file=file, force_terminal=request.param, width=100, _environ={"TERM": "xterm"}))
    return request.param, file


def test_items_pass_through_and_only_a_terminal_sees_a_bar(drawn):
    terminal, file = drawn
    assert list(progress(iter(range(5)), 5, "counting")) == [0, 1, 2, 3, 4]
    assert ("counting" in file.getvalue()) == terminal


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch):
    file, clock = io.StringIO(), iter([0, 70])
    monkeypatch.setattr(progress_module, "console", Console(file=file, force_terminal=True, width=100, _environ={"TERM": "dumb"}))
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=clock.__next__))
    assert list(progress(range(2), 2, "comparing")) == [0, 1]
    assert "comparing: 1 of 2, about 1 min left" in file.getvalue()


def test_without_a_terminal_a_line_says_how_far_it_is_now_and_then(monkeypatch):
    file, clock = io.StringIO(), iter([0, 30, 59, 70, 131, 200])
    monkeypatch.setattr(progress_module, "console", Console(file=file, width=100))
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=clock.__next__))
    assert list(progress(range(6), 6, "comparing")) == [0, 1, 2, 3, 4, 5]
    assert file.getvalue().splitlines() == [f"           comparing: {n} of 6, about 1 min left" for n in (3, 4, 5)]
    clock = iter([0, 600])
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=clock.__next__))
    items = progress(range(2000), 1250, "training")
    next(items), next(items)
    assert file.getvalue().splitlines()[-1] == "           training: 1 of 1,250, about 12,490 min left"


def test_the_bar_goes_away_when_the_loop_fails(drawn):
    def fail() -> None:
        for _ in progress(range(5), 5, "counting"):
            raise ValueError

    with pytest.raises(ValueError, match="^$"):
        fail()
    assert list(progress(range(2), 2, "again")) == [0, 1]


def test_items_are_taken_one_at_a_time(drawn):
    taken = []
    next(progress((taken.append(i) for i in range(5)), 5, "counting"))
    assert len(taken) == 1


def test_versions_and_machine():
    assert {"python", "selfinformed", "torch", "numpy", "scipy", "scikit-learn"} == set(versions())
    assert machine()["cores"] >= 1
