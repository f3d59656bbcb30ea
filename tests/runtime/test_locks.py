"""Who finds a folder locked is told by whom and what to do, also where the file system gives no locks."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from pathlib import Path

import filelock
import pytest

from conftest import refused
from selfinformed.runtime import locks as module
from selfinformed.runtime.errors import InUseError
from selfinformed.runtime.locks import FolderLock, locked

fcntl = pytest.importorskip("fcntl")


def without_locks(monkeypatch, number: int) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def left_by(host: str, folder: Path, monkeypatch) -> None:
    """What a killed process of that host leaves where locks are mere files."""
    without_locks(monkeypatch, errno.ENOSYS)
    (folder / ".lock").write_text(f"999999\n{host}\n")
    (folder / ".lock.json").write_text(f'{{"host": "{host}", "process": 999999, "work": "fit", "command": "selfinformed fit"}}')
    warnings.simplefilter("ignore")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_not_called_full(tmp_path: Path, monkeypatch, number: int) -> None:
    without_locks(monkeypatch, number)
    for context in (lambda: FolderLock(tmp_path).held("fit"), lambda: locked(tmp_path / "rows.jsonl")):
        with refused("cannot be locked: .*; its file system is mounted without locks, mount it with them or choose another"), context():
            pass


def test_a_lock_that_a_killed_process_of_another_host_left_is_named(tmp_path: Path, monkeypatch) -> None:
    with warnings.catch_warnings():
        left_by("elsewhere", tmp_path, monkeypatch)
        with pytest.raises(InUseError) as raised, FolderLock(tmp_path).held("fit"):
            pass
    lock = tmp_path / ".lock"
    assert str(raised.value) == (
        f"{tmp_path} is in use by process 999999 on elsewhere (fit: selfinformed fit); wait for it, or, if that process is gone, delete {lock}, "
        "or choose another --output"
    )


def test_a_lock_that_a_killed_process_of_this_host_left_is_taken_over(tmp_path: Path, monkeypatch) -> None:
    with warnings.catch_warnings():
        left_by(socket.gethostname(), tmp_path, monkeypatch)
        with FolderLock(tmp_path).held("fit"):
            pass


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with refused("was moved or deleted while it was in use"), FolderLock(tmp_path / "gone").held("fit"):
        pass
    assert not (tmp_path / "gone").exists()


def test_a_file_is_changed_by_one_at_a_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_SHORT", 0.01)
    path = tmp_path / "rows.jsonl"
    with filelock.FileLock(tmp_path / ".rows.jsonl.lock"), refused("rows.jsonl is in use by another process; wait for it"), locked(path):
        pass
    with locked(path):
        pass
