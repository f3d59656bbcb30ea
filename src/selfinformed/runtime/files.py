"""Files that are whole or absent: written aside, synced, renamed, each with a checksum. JSON and safetensors only; nothing is pickled."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.reading import MOST_JSON, check_tensors, opened, parsed, read_text, reason_of, shown

_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # what a file system says that cannot sync a folder


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_atomically(path: str | Path, keep: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success syncs it and renames it to `path`, on failure removes it.

    With `keep`, a `path` that has appeared meanwhile stays as it is: of several writers the first wins.

    Raises:
        SelfInformedError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if not keep or not _linked(temporary, path):
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):  # of a broken disk: what was the matter is said already
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, keep: bool = False) -> None:
    with written_atomically(path, keep) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace", "\n")  # names of files may hold bytes that are no text; in JSON this reads back alike


def write_json(path: str | Path, content: Any, keep: bool = False) -> None:
    """Writes JSON with numpy values turned into plain ones; NaN becomes null. An object carries its checksum."""
    content = plain(content)
    write_text(path, json.dumps(_sealed(content) if isinstance(content, dict) else content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", keep)


def read_json(path: str | Path, what: str) -> Any:
    """Reads JSON, without the checksum it may carry; `what` says in the error what the file should have been."""
    with opened(path, what, MOST_JSON) as file:
        content = file.read()
    try:
        return _unsealed(parsed(content.decode()))
    except _Damaged:
        remedy = 'delete it to have it made again, or, if the change is yours, its line "checksum"'
        raise SelfInformedError(f"{what}: {path} is not as it was written: its checksum is of another content; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise SelfInformedError(f"{what}: {path} cannot be read as JSON ({reason_of(error)}); delete it to have it made again") from None


def is_sealed(path: str | Path) -> bool:
    """Whether a file is an object in JSON that carries a checksum, which `read_json` holds against it."""
    with suppress(ValueError, RecursionError, SelfInformedError):
        content = parsed(read_text(path, "artefact"))
        return isinstance(content, dict) and "checksum" in content
    return False


def read_object(path: str | Path, what: str) -> dict[str, Any]:
    """Reads JSON that should be an object."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise SelfInformedError(f"{what}: {path} holds {type(content).__name__} where an object was expected; delete it to have it made again")
    return content


def to_line(row: Mapping[str, Any]) -> str:
    """An object as one line of JSON, with its checksum."""
    return json.dumps(_sealed(plain(row)))


def from_line(line: str) -> dict[str, Any] | None:
    """What `to_line` wrote, or another wrote without a checksum; None for a line that is half written, changed or no object."""
    try:
        row = _unsealed(parsed(line))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Reads the objects of a file of JSON lines; without the file, none. Damaged lines are left out."""
    if not Path(path).exists():
        return []
    with opened(path, "log", MOST_JSON) as file:
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return [row for line in lines if (row := from_line(line)) is not None]


@dataclass(frozen=True)
class Chunks:
    """An array that is written piece by piece and never held whole."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: str | Path, arrays: Mapping[str, np.ndarray | Chunks], metadata: Mapping[str, str], keep: bool = False) -> None:
    """Writes arrays as safetensors, without copying them; `metadata["format"]` names what the file is, with its version.

    `metadata["checksum"]` is added: SHA-256 of the whole file with 64 zeros in the checksum's place.

    The library's own writer wants every array whole in memory, which doubles what a count matrix takes; the format is a length of eight
    bytes, a JSON header padded to eight, and the arrays.
    """
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    ends = np.cumsum([0, *(arrays[name].nbytes for name in names)]).tolist()
    header: dict[str, Any] = {"__metadata__": dict(sorted({**metadata, "checksum": "0" * 64}.items()))}
    for name, begin, end in zip(names, ends[:-1], ends[1:], strict=True):
        header[name] = {"dtype": _TENSOR_TYPES[arrays[name].dtype.name], "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(start)
    with written_atomically(path, keep) as temporary, temporary.open("wb") as file:
        file.write(start)
        for name in names:
            array = arrays[name]
            for piece in array.pieces if isinstance(array, Chunks) else [array]:
                data = np.ascontiguousarray(piece, array.dtype).reshape(-1).view(np.uint8).data
                digest.update(data)
                file.write(data)
        file.seek(start.index(_UNSUMMED) + len(_BEFORE_SUM))
        file.write(digest.hexdigest().encode())


def check_sum(path: str | Path) -> None:
    """Reads a file of `write_tensors` through and holds it against its checksum; one of a version that wrote none passes.

    Raises:
        ValueError: it is another content's.
    """
    with Path(path).open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), _LONGEST_HEADER))
        place = start.find(_BEFORE_SUM) + len(_BEFORE_SUM)
        if place < len(_BEFORE_SUM):
            return
        claimed = start[place : place + 64]
        digest = hashlib.sha256(start[:place] + b"0" * 64 + start[place + 64 :])
        while data := file.read(1 << 22):
            digest.update(data)
    if digest.hexdigest().encode() != claimed:
        raise ValueError("its checksum is of another content")


def read_tensors(path: str | Path, format: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads safetensors written by `write_tensors` with that format, e.g. "selfinformed.counts/1"."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise SelfInformedError(f"{path} does not exist (expected a file of format {format})")
    require_memory(Path(path).stat().st_size, f"{path}", "free some")
    try:
        check_tensors(path, format)
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                found = metadata.get("format", "none of selfinformed's")
                raise SelfInformedError(f"{path}: expected a file of format {format}, this one is {found[:80]}")
            check_sum(path)
            metadata.pop("checksum", None)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:  # numpy does not know every type of tensor
        raise SelfInformedError(f"{path} is not a whole safetensors file ({reason_of(error)}); delete it to have it made again") from None


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what an object that was read from JSON differs from one that could be written there, in words; empty where in nothing."""
    wanted = json.loads(json.dumps(plain(wanted)))
    return ", ".join(f"{key} {shown(found.get(key))}, now {shown(wanted.get(key))}" for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key))


def plain(value: Any) -> Any:
    """Numpy scalars and arrays, paths and tuples as what JSON knows; NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


_BEFORE_SUM = b'"checksum": "'  # in a header this can only be the key itself: within a text its quotes would be escaped
_UNSUMMED = _BEFORE_SUM + b"0" * 64
_LONGEST_HEADER = 100_000_000  # as safetensors has it
_TENSOR_TYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "float16": "F16", "uint32": "U32", "int32": "I32",
    "float32": "F32", "uint64": "U64", "int64": "I64", "float64": "F64",
}  # fmt: skip


class _Damaged(ValueError):
    """A checksum is of another content."""


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "checksum": _sum_of(content)}


def _unsealed(content: Any) -> Any:
    if not isinstance(content, dict) or "checksum" not in content:
        return content
    claimed = content.pop("checksum")
    if claimed != _sum_of(content):
        raise _Damaged
    return content


def _sum_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _linked(temporary: Path, path: Path) -> bool:
    """Gives the temporary file its name unless that is taken; False where the file system has no links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Makes new names in a folder last, where the file system can: some sync files alone."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> SelfInformedError:
    """What to raise where a file could not be written."""
    reason = error.strerror or str(error)
    return SelfInformedError(f"{path} cannot be written: {reason}; free the disk or choose another folder")
