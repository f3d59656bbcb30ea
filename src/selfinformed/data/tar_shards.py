"""Images in tar shards, as the webdataset package writes them: the members of one name before its first dot are one example."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import torch

from selfinformed.data.images import MOST_BYTES, SUFFIXES, Transform, decoded, is_class_number, names_in, stamp
from selfinformed.data.labels import LabelSpace, checked_labels, resolved
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import opened, parsed, reason_of, shown

_MOST_TEXT = 2**20  # bytes of an example's labels
_MOST_HEADER = 2**12  # bytes of the long names that come before a member; `tarfile` takes them in whole, and its time grows with their square
_MOST_PADDING = 2**20  # bytes of zeros at the end
_MOST_SHARDS = 2**20
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


@dataclass(frozen=True)
class TarShards:
    """Where each image lies in its shard, and its labels.

    Attributes:
        shards: the files.
        places: (number of the shard, offset in bytes, size in bytes, name without ending) of each image.
        targets: the output units of each image's labels.
        labels: the label set.
    """

    shards: list[Path]
    places: list[tuple[int, int, int, str]]
    targets: list[list[int]]
    labels: LabelSpace

    @classmethod
    def named(cls, source: Path) -> list[Path] | None:
        """The shards that a name stands for: a .tar file, files numbered as `train-{000..146}.tar`, or those of a folder without subfolders; else None."""
        if source.is_dir():
            inside = sorted(path for path in source.iterdir() if not path.name.startswith("."))
            return None if any(path.is_dir() for path in inside) else [path for path in inside if path.suffix == ".tar"] or None
        if source.suffix != ".tar":
            return None
        if not (numbers := _RANGE.search(str(source))):
            return [source]
        first, last = map(int, numbers.groups())
        if not first <= last < first + _MOST_SHARDS:
            raise SelfInformedError(f"data: {source} names no files; expected a range such as {{000..146}}, of at most {_MOST_SHARDS:,} files")
        before, after, width = str(source)[: numbers.start()], str(source)[numbers.end() :], len(numbers[1])
        return [Path(f"{before}{number:0{width}d}{after}") for number in range(first, last + 1)]

    @classmethod
    def indexed(cls, shards: list[Path], labels: LabelSpace | None) -> TarShards:
        """Reads where everything is. An example's labels are in its member `cls` (a class number or a label's name, several separated by `;` or
        line breaks), or else in its `json` (a number, a name, a list of them, or an object with `cls`, `label` or `labels`).

        Raises:
            SelfInformedError: a shard is no uncompressed tar file, an image has no labels, or labels that are not among those given.
        """
        places, annotated = list[tuple[int, int, int, str]](), list[list[str | int]]()
        for number, shard in enumerate(progress(shards, len(shards), "reading the index of shards") if len(shards) > 1 else shards):
            for name, (offset, size, found) in _examples(shard).items():
                places.append((number, offset, size, name))
                annotated.append(found)
        if not places:
            raise SelfInformedError(f"data: {shards[0]} holds no images; expected pairs such as 0001.jpg and 0001.cls")
        targets, labels = resolved(annotated, labels, lambda row: f"{shards[places[row][0]]}, {places[row][3]}")
        return cls(shards, places, targets, labels)

    @cached_property
    def names(self) -> list[str]:
        return [f"{self.shards[shard]}:{name}" for shard, _, _, name in self.places]

    def read(self, row: int, transform: Transform) -> torch.Tensor:
        """One image as a tensor."""
        shard, offset, size, _ = self.places[row]
        with opened(self.shards[shard], "data") as file:
            file.seek(offset)
            return decoded(io.BytesIO(file.read(size)), self.names[row], transform)

    def content(self) -> bytes:
        """Of the shards' sizes and times."""
        return stamp(self.shards)


class _Member(tarfile.TarInfo):
    """A member whose long names are not longer than any name is."""

    def _proc_member(self, archive: Any) -> Any:
        long = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if long and not 0 <= self.size <= _MOST_HEADER:
            raise ValueError(f"a header of {self.size:,} bytes; at most {_MOST_HEADER:,} are read")
        return super()._proc_member(archive)  # type: ignore[misc]  # which its source names as the place for this


def _examples(shard: Path) -> dict[str, tuple[int, int, list[str | int]]]:
    """(offset, size, labels) of each image of a shard, by name."""
    images: dict[str, dict[str, tuple[int, int]]] = {}
    annotated: dict[str, dict[str, tuple[int, int]]] = {}
    with opened(shard, "data") as file:
        for name, offset, size in _members(shard, file):
            folder, _, last = name.rpartition("/")
            key, _, ending = last.partition(".")
            ending = ending.lower()
            if not key:  # what macOS puts beside each file
                continue
            key = f"{folder}/{key}" if folder else key
            kinds = images if f".{ending.rpartition('.')[2]}" in SUFFIXES else annotated if ending in ("cls", "json") else None
            if kinds is None:
                continue
            most = MOST_BYTES if kinds is images else _MOST_TEXT
            if size > most:
                raise SelfInformedError(f"data: {shard}: its member {shown(name)} has {size:,} bytes; at most {most:,} are read")
            if ending in kinds.setdefault(key, {}):
                raise SelfInformedError(f"data: {shard}: its member {shown(name)} stands twice; give each example a name of its own")
            kinds[key][ending] = offset, size
        found = {}
        for key, places in images.items():
            plain = [ending for ending in places if "." not in ending] or list(places)  # beside x.jpg x.mask.png is no input
            if len(plain) > 1:
                raise SelfInformedError(f"data: {shard}: {shown(key)} has several images, {', '.join(map(shown, plain))}; keep the one that is the input")
            if not (texts := annotated.get(key)):
                raise SelfInformedError(f"data: {shard}: the image {shown(key)} has no labels; expected a member {shown(key + '.cls')} beside it")
            ending = "cls" if "cls" in texts else "json"
            file.seek(texts[ending][0])
            try:
                found[key] = (*places[plain[0]], _labels(file.read(texts[ending][1]), ending))
            except ValueError as error:
                raise SelfInformedError(f"data: {shard}: {shown(f'{key}.{ending}')} holds no labels ({reason_of(error)})") from None
    return found


def _members(shard: Path, file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each file in an archive, in order."""
    whole, last = os.fstat(file.fileno()).st_size, -1
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # of millions it would keep all
                if member.offset <= last or member.size < 0 or member.offset_data + member.size > whole:
                    raise ValueError(f"its member {shown(member.name)} is not where it says; the file is cut short or damaged")
                last = member.offset
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
                elif not member.isdir() and Path(member.name).suffix.lower() in SUFFIXES:
                    raise ValueError(f"its member {shown(member.name)} is a link or has holes; pack the images themselves (tar --hard-dereference)")
            file.seek(tar.offset)
            rest = file.read(_MOST_PADDING + 1)
            if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
                raise ValueError("more follows after its end" if len(rest) > tarfile.BLOCKSIZE else "it has no end; the file is cut short")
    except SelfInformedError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        hint = "; compressed shards have to be unpacked (gunzip) first, since images are read one by one" if _is_packed(shard) else ""
        raise SelfInformedError(f"data: {shard} cannot be read as tar ({reason_of(error)}){hint}") from None


def _labels(content: bytes, ending: str) -> list[str | int]:
    """Class numbers and names in the order they stand in.

    Raises:
        ValueError: it is neither.
    """
    text = content.decode("utf-8-sig")
    if ending == "cls":
        return checked_labels([int(name) if is_class_number(name) else name for name in names_in(text.replace("\n", ";"))])
    value: Any = parsed(text)
    if isinstance(value, dict):
        kind = next((kind for kind in ("cls", "label", "labels") if kind in value), None)
        if kind is None:
            raise ValueError(f"it has no `cls`, `label` or `labels`; its keys are {shown(list(value))}")
        value = value[kind]
    return checked_labels(value)


def _is_packed(shard: Path) -> bool:
    with opened(shard, "data") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
