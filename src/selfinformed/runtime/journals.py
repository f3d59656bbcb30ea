"""Work done so far, one JSON line each, so that what is stopped goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfinformed.runtime.files import from_line, to_line, write_text
from selfinformed.runtime.reading import MOST_JSON, opened


class JournalFile:
    """Entries of some inputs, in memory and, if asked for, in a file.

    Lines of other inputs stay in the file: with those inputs again, they serve again. Lines that are half written or damaged are dropped, so that
    what they held is done again.

    Args:
        path: the file, written anew with each entry; None for none.
        key: tells entries of these inputs from those of others.
        keep: takes the content of an entry; `ValueError`, `KeyError`, `TypeError` or `OverflowError` where it is none.
    """

    def __init__(self, path: str | Path | None, key: str, keep: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._key, self._keep = Path(path) if path else None, key, keep
        self._lines: list[str] = []
        if self._path and self._path.exists():
            with opened(self._path, "journal", MOST_JSON) as file:
                for line in file.read().decode("utf-8", "replace").splitlines():
                    self._take(line)

    def add(self, **content: Any) -> None:
        """Keeps an entry."""
        self._take(to_line({"key": self._key, **content}))
        if self._path:
            write_text(self._path, "\n".join(self._lines) + "\n")

    def _take(self, line: str) -> None:
        content = from_line(line)
        if content is None:
            return
        try:
            if content.get("key") == self._key:
                self._keep(content)
        except (ValueError, KeyError, TypeError, OverflowError):
            return
        self._lines.append(line)
