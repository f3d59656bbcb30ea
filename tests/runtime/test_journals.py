"""Entries of several processes stay in one journal."""

from __future__ import annotations

import json
from pathlib import Path

from selfinformed.runtime.journals import JournalFile


def test_entries_that_others_wrote_meanwhile_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    one, other = (JournalFile(path, key, lambda content: None) for key in "ab")
    one.add(row=1)
    other.add(row=2)
    with path.open("a") as file:
        file.write('{"key": "c", "ro')  # half written
    one.add(row=3)
    other.add(row=4)
    assert [json.loads(line)["row"] for line in path.read_text("utf-8").splitlines()] == [1, 2, 3, 4]
    kept: list[int] = []
    JournalFile(path, "a", lambda content: kept.append(content["row"]))
    assert kept == [1, 3]


def test_a_journal_that_was_deleted_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    journal = JournalFile(path, "a", lambda content: None)
    journal.add(row=1)
    path.unlink()
    journal.add(row=2)
    assert [json.loads(line)["row"] for line in path.read_text("utf-8").splitlines()] == [1, 2]
