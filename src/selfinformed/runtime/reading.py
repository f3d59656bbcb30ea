"""One door for files that others may have written: regular files, no larger and no deeper than what is expected of their kind."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic_core import ValidationError

from selfinformed.runtime.errors import SelfInformedError

MOST_TEXT = 2**20  # bytes of a configuration
MOST_JSON = 2**30  # bytes of any other text
MOST_HEADER = 2**26  # bytes of the header of a safetensors file
MOST_DEPTH = 64  # of lists and objects within one another
MOST_LABELS = 2**24  # of a network, and so of anything that is counted by label


@contextmanager
def opened(path: str | Path, what: str, most: int | None = None) -> Iterator[IO[bytes]]:
    """A regular file (or a link to one) of at most `most` bytes, to read; `what` says in errors what it should be.

    Raises:
        SelfInformedError: it does not exist, cannot be read, is a folder, pipe or device, or is larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))  # a pipe would wait for a writer
    except FileNotFoundError:
        raise SelfInformedError(f"{what}: {path} does not exist") from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise SelfInformedError(f"{what}: {path} cannot be read ({reason_of(error)})") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise SelfInformedError(f"{what}: {path} is {kind}; expected a file")
    with os.fdopen(handle, "rb") as file:
        if most is not None and found.st_size > most:
            raise SelfInformedError(f"{what}: {path} has {found.st_size:,} bytes; expected at most {most:,}")
        try:
            yield file
        except OSError as error:  # of a descriptor, which has no name
            if error.filename is None:
                error.filename = str(path)
            raise


def check_file(path: str | Path, what: str, most: int | None = None) -> None:
    """As `opened`, for a library that opens the file itself."""
    with opened(path, what, most):
        pass


def read_text(path: str | Path, what: str, most: int = MOST_JSON, encoding: str = "utf-8") -> str:
    """The text of a file, with line breaks as `\\n`.

    Raises:
        SelfInformedError: as `opened`, or it is not text in that encoding.
    """
    with opened(path, what, most) as file:
        try:
            return file.read(most + 1).decode(encoding).replace("\r\n", "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SelfInformedError(f"{what}: {path} cannot be read ({reason_of(error)})") from None


def parsed(text: str) -> Any:
    """JSON that is no deeper than `MOST_DEPTH`.

    Raises:
        ValueError: it is not.
    """
    depth = 0
    for token in _STRUCTURE.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > MOST_DEPTH:
            raise ValueError(f"lists or objects nested more than {MOST_DEPTH} deep")
    return json.loads(text)


def check_tensors(path: str | Path, what: str) -> None:
    """Stops before a safetensors file is opened that is none.

    Raises:
        SelfInformedError: as `opened`.
        ValueError: its header is longer than the file, or than `MOST_HEADER`.
    """
    with opened(path, what) as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}; at most {MOST_HEADER:,} are read")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors from within name this file too."""
    try:
        yield
    except SelfInformedError as error:
        if str(path) in str(error):
            raise
        raise SelfInformedError(f"{path}: {error}") from None


def shown(value: Any, most: int = 80) -> str:
    """A value in an error: on one line, and not longer than that."""
    try:
        text = repr(value) if not isinstance(value, list | tuple | dict) or len(value) < 20 else f"{type(value).__name__} of {len(value)}"
    except ValueError:  # a whole number of thousands of digits
        text = f"{type(value).__name__} that is too large to show"
    return text if len(text) <= most else f"{text[:most]}…"


def first_line(error: BaseException) -> str:
    """The first line of what a library says, without what surrounds it; the exception's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def reason_of(error: BaseException) -> str:
    """What an exception says, on one short line; of a pydantic `ValidationError` the first problem and its place."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        return f"{place}: {first['msg'].lower()[:200]}" if place else first["msg"].lower()[:200]
    if isinstance(error, KeyError):
        return f"it has no {str(error)[:80]}"
    text = " ".join((error.strerror or str(error)).split()) if isinstance(error, OSError) else " ".join(str(error).split())
    text = text or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
