"""A disk that fails at any call, and a process that ends there: one line, and nothing computed is lost. `benchmarks/crashes.py` does so to all verbs."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest

from conftest import write_config
from selfinformed.cli import main

CALLS = ("fsync", "replace", "link", "mkdir", "open")


class Ended(BaseException):
    """The process is no more: what the program does on its way out does not count, so hidden files are left."""


class Disk:
    """Counts the calls that change files below a folder; the one with a number fails."""

    def __init__(self, folder: Path, monkeypatch, at: int = 0, failure: BaseException | None = None) -> None:
        self.folder, self.at, self.failure, self.seen = str(folder), at, failure, 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, call):
        def watched(*args, **kwargs):
            path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[0])
            changes = call.__name__ != "open" or (len(args) > 1 and args[1] & os.O_CREAT)
            if changes and str(path).startswith(self.folder):
                self.seen += 1
                if self.seen == self.at:
                    raise self.failure
            return call(*args, **kwargs)

        return watched


def called(verb: str, config: Path, monkeypatch) -> int | BaseException:
    monkeypatch.setattr(sys, "argv", ["selfinformed", verb, str(config)])
    try:
        main()
    except SystemExit as exit:
        return exit.code
    except Ended as ended:
        return ended


def held(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")}


FULL, BROKEN = (OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO))


@pytest.mark.parametrize("failures", [(FULL, BROKEN), (Ended(),)], ids=["full or broken", "ended"])  # in turn
def test_at_every_call(workspace: Path, monkeypatch, capsys, failures) -> None:
    config = write_config(workspace)
    assert called("cluster", config, monkeypatch) == 0
    before = held(workspace / "out")
    with monkeypatch.context() as patch:
        disk = Disk(workspace / "out", patch)
        assert called("plan", config, patch) == 0
    after, calls = held(workspace / "out"), disk.seen
    assert calls >= 8
    for number, failure in zip(range(1, calls + 1), itertools.cycle(failures)):
        (workspace / "out" / "plan.json").unlink(missing_ok=True)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            Disk(workspace / "out", patch, number, failure)
            code = called("plan", config, patch)
        said = capsys.readouterr().err
        found = held(workspace / "out")
        assert {name: found[name] for name in before} == before
        assert found.get("plan.json") in (None, after["plan.json"])
        if isinstance(failure, OSError):
            assert code in (0, 2), number
            assert said.count("selfinformed: ") == (code == 2), said
        assert called("plan", config, monkeypatch) == 0
        assert held(workspace / "out") == after
    shutil.rmtree(workspace / "out")
