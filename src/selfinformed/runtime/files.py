"""Files that are whole or absent: written aside, synced, renamed. JSON and safetensors only; nothing is pickled."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_JSON, check_tensors, opened, parsed, reason_of


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
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if not keep or not _linked(temporary, path):
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, keep: bool = False) -> None:
    with written_atomically(path, keep) as temporary:
        temporary.write_text(text, "utf-8", errors="backslashreplace")  # names of files may hold bytes that are no text; in JSON this reads back alike


def write_json(path: str | Path, content: Any, keep: bool = False) -> None:
    """Writes JSON with numpy values turned into plain ones; NaN becomes null."""
    write_text(path, json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", keep)


def read_json(path: str | Path, what: str) -> Any:
    """Reads JSON; `what` says in the error what the file should have been."""
    with opened(path, what, MOST_JSON) as file:
        content = file.read()
    try:
        return parsed(content.decode())
    except (ValueError, RecursionError) as error:
        raise SelfInformedError(f"{what}: {path} cannot be read as JSON ({reason_of(error)}); delete it to have it made again") from None


def read_object(path: str | Path, what: str) -> dict[str, Any]:
    """Reads JSON that should be an object."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise SelfInformedError(f"{what}: {path} holds {type(content).__name__} where an object was expected; delete it to have it made again")
    return content


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Reads the objects of a file of JSON lines; without the file, none. Lines that are half written or no objects are left out."""
    if not Path(path).exists():
        return []
    with opened(path, "log", MOST_JSON) as file:
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    rows = []
    for line in lines:
        try:
            row = parsed(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


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

    The library's own writer wants every array whole in memory, which doubles what a count matrix takes; the format is a length of eight
    bytes, a JSON header padded to eight, and the arrays.
    """
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    ends = np.cumsum([0, *(arrays[name].nbytes for name in names)]).tolist()
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    for name, begin, end in zip(names, ends[:-1], ends[1:], strict=True):
        header[name] = {"dtype": _TENSOR_TYPES[arrays[name].dtype.name], "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with written_atomically(path, keep) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = arrays[name]
            for piece in array.pieces if isinstance(array, Chunks) else [array]:
                file.write(np.ascontiguousarray(piece, array.dtype).reshape(-1).view(np.uint8).data)


def read_tensors(path: str | Path, format: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads safetensors written by `write_tensors` with that format, e.g. "selfinformed.counts/1"."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise SelfInformedError(f"{path} does not exist (expected a file of format {format})")
    try:
        check_tensors(path, format)
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                found = metadata.get("format", "none of selfinformed's")
                raise SelfInformedError(f"{path}: expected a file of format {format}, this one is {found[:80]}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:  # numpy does not know every type of tensor
        raise SelfInformedError(f"{path} is not a whole safetensors file ({reason_of(error)}); delete it to have it made again") from None


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


_TENSOR_TYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "float16": "F16", "uint32": "U32", "int32": "I32",
    "float32": "F32", "uint64": "U64", "int64": "I64", "float64": "F64",
}  # fmt: skip


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
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> SelfInformedError:
    reason = error.strerror or str(error)
    return SelfInformedError(f"{path} cannot be written: {reason}; free the disk or choose another folder")
