"""The formats of saved predictions: each file says how many examples it holds and yields them in batches, as they are."""

from __future__ import annotations

import csv
import itertools
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from selfinformed.data.parquet import parquet_file
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import check_tensors, shown

Array = npt.NDArray[Any]
Arrays = dict[str, "_Array"]
Lists = dict[str, tuple[Array, Array]]  # of each column all its entries in one array, and how many of them each row has
_COLUMNS = frozenset({"ids", "labels", "scores"})
_ARRAYS = _COLUMNS | {"offsets"}


class Rows(NamedTuple):
    """Consecutive examples as a file has them."""

    ids: Array  # integers [b, K]
    scores: Array | None  # floating point [b, K]
    labels: Array  # integers [sum]
    sizes: Array  # how many of the labels each example has, int64 [b]


class File(NamedTuple):
    """One file: its N, its K, its C if it says so, and what reads it in batches of at most a given size."""

    path: Path
    n_rows: int
    width: int
    n_labels: int | None
    read: Callable[[int], Iterator[Rows]]


def row_name(path: Path, row: int) -> str:
    return f"{path}: line {row + 2}" if path.suffix.lower() == ".csv" else f"{path}: row {row}"


def open_safetensors(path: Path) -> File:
    """Arrays `ids`, `labels`, perhaps `offsets` and `scores`; perhaps `n_labels` in the metadata."""
    return _binary(path, _in_safetensors)


def open_npz(path: Path) -> File:
    """The same arrays, each a member of a zip archive."""
    return _binary(path, _in_npz)


def open_parquet(path: Path) -> File:
    """Columns `ids`, `labels`, perhaps `scores`."""

    def lists(size: int) -> Iterator[Lists]:
        first = 0
        with parquet_file(path, "predictions") as file:
            names = sorted(_COLUMNS & set(file.schema_arrow.names))
            for batch in file.iter_batches(size, columns=names):
                yield {name: _entries(path, first, name, batch.column(name)) for name in names}
                first += len(batch)

    with parquet_file(path, "predictions") as file:
        return _table(path, file.schema_arrow.names, file.metadata.num_rows, lists)


def open_csv(path: Path) -> File:
    """The same columns, entries separated by `;`."""
    text = partial(path.open, newline="", encoding="utf-8-sig")

    def lists(size: int) -> Iterator[Lists]:
        first = 0
        with text() as file:
            reader = csv.reader(itertools.islice(file, n + 1), strict=True)
            next(reader)
            while table := list(itertools.islice(reader, size)):
                for row, fields in enumerate(table):
                    if len(fields) != len(names):
                        raise SelfInformedError(f"predictions: {row_name(path, first + row)} has {len(fields)} columns, the header {len(names)}; mend it")
                if reader.line_num != 1 + first + len(table):
                    raise SelfInformedError(f"predictions: {row_name(path, first)} or one after it breaks within quotes; write each example in one line")
                yield {name: _numbers(path, first, name, list(column)) for name, column in zip(names, zip(*table)) if name in _COLUMNS}
                first += len(table)

    with text() as file:
        names = [name.strip() for name in next(csv.reader([file.readline()], strict=True), [])]
        n = max((number for number, line in enumerate(file, 1) if line.strip()), default=0)
    return _table(path, names, n, lists)


@dataclass
class _Array:
    """One array of a binary file, read from front to back. `kind` is numpy's: i, u, f, b; V for what numpy does not know."""

    shape: tuple[int, ...]
    kind: str
    type: str
    read: Callable[[int, int], Array]
    taken: int = 0

    def take(self, n: int) -> Array:
        """The next n rows."""
        self.taken += n
        return self.read(self.taken - n, self.taken)


def _binary(path: Path, opened: Callable[[Path], AbstractContextManager[tuple[Arrays, str | None]]]) -> File:
    with opened(path) as (arrays, stated):
        _check_layout(path, arrays)
        n, width = arrays["ids"].shape
        n_labels = next(iter(arrays["labels"].shape[1:]), None)
    if stated is not None:
        if not (stated.isascii() and stated.isdecimal() and len(stated) < 20) or n_labels not in (None, int(stated)):
            expected = "a number of labels" if n_labels is None else f"{n_labels}, the columns of labels"
            raise SelfInformedError(f"n_labels: {path} has {stated[:80]!r} in its metadata; expected {expected}")
        n_labels = int(stated)

    def read(size: int) -> Iterator[Rows]:
        with opened(path) as (arrays, _):
            for labels, sizes in _annotations(path, arrays, n, size):
                scores = arrays["scores"].take(len(sizes)) if "scores" in arrays else None
                yield Rows(arrays["ids"].take(len(sizes)), scores, labels, sizes)

    return File(path, n, width, n_labels, read)


def _check_layout(path: Path, arrays: Arrays) -> None:
    def expect(name: str, kinds: str, shape_fits: bool, expected: str) -> None:
        if arrays[name].kind not in kinds or not shape_fits:
            raise SelfInformedError(f"predictions: {path}: {name} is {arrays[name].type} {list(arrays[name].shape)}; expected {expected}")

    _check_names(path, list(arrays))
    ids, labels = arrays["ids"].shape, arrays["labels"].shape
    expect("ids", "iu", len(ids) == 2, "integers [N, K]")
    n = ids[0]
    if "scores" in arrays:
        expect("scores", "f", arrays["scores"].shape == ids, f"floating point of 16, 32 or 64 bits {list(ids)}, the shape of ids")
    if "offsets" in arrays:
        expect("offsets", "iu", arrays["offsets"].shape == (n + 1,), f"integers [{n + 1}], one more than the examples")
        expect("labels", "iu", len(labels) == 1, "integers [sum], since there are offsets")
    elif len(labels) == 2:
        expect("labels", "iufb", labels[0] == n, f"multi-hot [{n}, C], a row for each of ids")
    else:
        expect("labels", "iu", labels == (n,), f"integers [{n}], one for each row of ids; or several for each, with offsets [{n + 1}]")


def _check_names(path: Path, names: list[str]) -> None:
    for name in ("ids", "labels"):
        if names.count(name) != 1:
            raise SelfInformedError(f"predictions: {path} has {names.count(name) or 'no'} {name!r}; expected ids, labels and perhaps scores, once each")


def _annotations(path: Path, arrays: Arrays, n: int, size: int) -> Iterator[tuple[Array, Array]]:
    """(labels, sizes) of each batch, as in `Rows`."""
    labels, total = arrays["labels"], arrays["labels"].shape[0]
    last = arrays["offsets"].take(1) if "offsets" in arrays else None
    for first in range(0, n, size):
        count = min(size, n - first)
        if len(labels.shape) == 2:
            yield _from_multi_hot(path, first, labels, count)
        elif last is None:
            yield labels.take(count), np.ones(count, np.int64)
        else:
            offsets = np.concatenate([last, arrays["offsets"].take(count)])
            wrong = (offsets[1:] < offsets[:-1]) | (offsets[1:] > total)
            wrong[0] |= first == 0 and offsets[0] != 0
            wrong[-1] |= first + count == n and offsets[-1] != total
            if wrong.any():
                at = int(wrong.argmax())
                expected = f"offsets must start at 0, never fall, and end at {total}, the number of labels"
                raise SelfInformedError(f"predictions: {row_name(path, first + at)} has offsets {offsets[at]} to {offsets[at + 1]}; {expected}")
            yield labels.take(int(offsets[-1]) - int(offsets[0])), np.diff(offsets).astype(np.int64)
            last = offsets[-1:]


def _from_multi_hot(path: Path, first: int, hot: _Array, count: int) -> tuple[Array, Array]:
    labels, sizes = [], []
    step = 1 + (1 << 22) // hot.shape[1]  # many labels: a batch of them at once might not fit the memory
    for start in range(0, count, step):
        block = hot.take(min(step, count - start))
        wrong = np.argwhere((block != 0) & (block != 1))
        if len(wrong):
            who, entry = row_name(path, first + start + wrong[0, 0]), block[tuple(wrong[0])]
            raise SelfInformedError(f"predictions: {who} has {entry} for label {wrong[0, 1]}; multi-hot labels are 0 or 1")
        labels.append(np.nonzero(block)[1])
        sizes.append(np.count_nonzero(block, axis=1))
    return np.concatenate(labels), np.concatenate(sizes)


@contextmanager
def _in_safetensors(path: Path) -> Iterator[tuple[Arrays, str | None]]:
    from safetensors import safe_open

    def array(part: Any) -> _Array:
        of_type = part.get_dtype()
        kind = "b" if of_type == "BOOL" else of_type[0].lower() if of_type[1:] in {"8", "16", "32", "64"} else "V"  # BF16, F8_E4M3, ...
        # a slice [N:N] is refused
        return _Array(tuple(part.get_shape()), kind, of_type, lambda start, stop: part[start:stop] if stop > start else np.empty(0, np.int64))

    check_tensors(path, "predictions")
    with safe_open(str(path), framework="np") as file:
        yield {name: array(file.get_slice(name)) for name in _ARRAYS & set(file.keys())}, (file.metadata() or {}).get("n_labels")


@contextmanager
def _in_npz(path: Path) -> Iterator[tuple[Arrays, str | None]]:
    with zipfile.ZipFile(path) as archive, ExitStack() as opened:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        yield {name: _npy(path, members[name], opened.enter_context(archive.open(members[name]))) for name in _ARRAYS & set(members)}, None


def _npy(path: Path, member: zipfile.ZipInfo, stream: IO[bytes]) -> _Array:
    version = np.lib.format.read_magic(stream)
    shape, fortran, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    if fortran and len(shape) > 1:
        raise SelfInformedError(f"predictions: {path}: {member.filename} is in Fortran order; save np.ascontiguousarray of it")
    row = math.prod(shape[1:]) * dtype.itemsize
    if dtype.kind in "iufb" and (min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size):
        raise ValueError(f"{member.filename} has {member.file_size} bytes, which is not {list(shape)} of {dtype}")

    def read(start: int, stop: int) -> Array:
        data = bytearray(stream.read((stop - start) * row))
        if len(data) != (stop - start) * row:
            raise EOFError(f"{member.filename} ends early")
        if stop == shape[0]:
            stream.read(1)  # at the end zipfile compares the checksum
        return np.frombuffer(data, dtype).reshape(stop - start, *shape[1:])

    return _Array(shape, dtype.kind, str(dtype), read)


def _table(path: Path, names: list[str], n: int, lists: Callable[[int], Iterator[Lists]]) -> File:
    _check_names(path, names)
    width = next((int(batch["ids"][1][:1].sum()) for batch in lists(1)), 0)

    def read(size: int) -> Iterator[Rows]:
        first = 0
        for batch in lists(size):
            ids, sizes = batch["ids"]
            scores, n_scores = batch.get("scores", (None, sizes))
            for row in np.flatnonzero(sizes != width)[:1]:
                counts = f"{sizes[row]} ids, the rows before it have {width}"
                raise SelfInformedError(f"predictions: {row_name(path, first + row)} has {counts}; every example needs the same number")
            for row in np.flatnonzero(n_scores != sizes)[:1]:
                raise SelfInformedError(f"predictions: {row_name(path, first + row)} has {n_scores[row]} scores for {width} ids; each id needs its score")
            yield Rows(ids.reshape(-1, width), None if scores is None else scores.reshape(-1, width), *batch["labels"])
            first += len(sizes)

    return File(path, n, width, None, read)


def _entries(path: Path, first: int, name: str, column: Any) -> tuple[Array, Array]:
    sizes, entries = np.ones(len(column), np.int64), column
    if hasattr(column, "value_lengths") and not column.null_count:
        sizes, entries = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64), column.flatten()
    if entries.null_count:
        row = np.repeat(np.arange(len(sizes)), sizes)[entries.is_null().to_numpy(zero_copy_only=False).argmax()]
        raise SelfInformedError(f"predictions: {row_name(path, first + row)} has null in its {name}; fill it in, or leave the example out")
    numbers = entries.to_numpy(zero_copy_only=False, writable=True)
    if numbers.dtype.kind not in ("f" if name == "scores" else "iu") or (entries is column and name != "labels"):
        expected = {"ids": "lists of integers", "labels": "integers or lists of integers", "scores": "lists of floating-point numbers"}[name]
        found = re.sub(r"dictionary<values=([^,]+),[^>]*>", r"\1", str(column.type))  # as the file has it: texts are held once, see parquet_file
        raise SelfInformedError(f"predictions: {path}: {name} is {found}; expected {expected}")
    return numbers, sizes


def _numbers(path: Path, first: int, name: str, fields: list[str]) -> tuple[Array, Array]:
    dtype = np.float64 if name == "scores" else np.int64
    sizes = np.array([field.count(";") + 1 if field.strip() else 0 for field in fields])
    numbers = _converted(";".join(field for field in fields if field.strip()), int(sizes.sum()), dtype)
    if numbers is None:
        entries = ((row, entry) for row, field in enumerate(fields) if field.strip() for entry in field.split(";"))
        row, entry = next((row, entry) for row, entry in entries if _converted(entry, 1, dtype) is None)
        expected = "numbers" if name == "scores" else "integers of at most 64 bits"
        raise SelfInformedError(f"predictions: {row_name(path, first + row)} has {shown(entry)} among its {name}; expected {expected}, separated by ;")
    return numbers, sizes


def _converted(text: str, size: int, dtype: type[np.generic]) -> Array | None:
    """The `size` numbers of a text, or None if it holds another count of them, or anything else."""
    limits = np.iinfo(np.int64)
    try:
        numbers = np.fromstring(text, dtype, sep=";")  # five times as fast as int() of every entry, but gives the limits for what is beyond
        if dtype is np.int64 and ((numbers == limits.max) | (numbers == limits.min)).any():
            numbers = np.array([number for number in map(int, text.split(";")) if limits.min <= number <= limits.max], np.int64)
    except ValueError:
        return None
    return numbers if len(numbers) == size else None
