"""Work done so far, one JSON line each, so that what is stopped goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfinformed.runtime.files import from_line, to_line, write_text
from selfinformed.runtime.locks import locked
from selfinformed.runtime.reading import MOST_JSON, opened


class JournalFile:
    """Entries of some inputs, in memory and, if asked for, in a file.

    Lines of other inputs stay in the file: with those inputs again, they serve again. Lines that are half written or damaged are dropped, so that
    what they held is done again.

    Args:
        path: the file, written anew with each entry; None for none. Entries that other processes have written meanwhile stay in it.
        key: tells entries of these inputs from those of others.
        keep: takes the content of an entry; `ValueError`, `KeyError`, `TypeError`, `AttributeError` or `OverflowError` where it is none.
    """

    def __init__(self, path: str | Path | None, key: str, keep: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._key, self._keep = Path(path) if path else None, key, keep
        self._lines: list[str] = []
        for line in self._written():
            self._take(line)

    def add(self, **content: Any) -> None:
        """Keeps an entry."""
        line = to_line({"key": self._key, **content})
        with locked(self._path) if self._path else nullcontext():
            known = {*self._lines}
            self._lines += [other for other in self._written() if other not in known and from_line(other) is not None]
            self._take(line)
            if self._path:
                write_text(self._path, "\n".join(self._lines) + "\n")

    def _written(self) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        with opened(self._path, "journal", MOST_JSON) as file:
            return file.read().decode("utf-8", "replace").splitlines()

    def _take(self, line: str) -> None:
        content = from_line(line)
        if content is None:
            return
        try:
            if content.get("key") == self._key:
                self._keep(content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return
        self._lines.append(line)
