"""Images with labels: a folder per label, or a manifest; and what becomes of the pixels."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import torch

from selfinformed.data.labels import LabelSpace, composed, resolved
from selfinformed.data.parquet import parquet_file
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_JSON, check_file, naming, opened, reason_of, shown

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # what Pillow may take a file for, whatever it is called
_MOST_SCANS = 100  # of a JPEG; an encoder writes a dozen
_MOST_PIXELS = 2**27  # of an image, before it is decoded and after it is resized
MOST_BYTES = 2**28  # of an image file
_MOST_CHARACTERS = 2**14  # of a path or a label in a parquet manifest
_BILINEAR, _MIRROR = 2, 0  # Pillow's numbers

Pixels = tuple[Sequence[float], Sequence[float]]
"""What is taken from pixels of 0 to 1, and what they are then divided by, red, green and blue."""
IMAGENET: Pixels = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DeepPixelsError(ValueError):
    """An image has more than 8 bits for each colour."""


Transform = Callable[[Any], torch.Tensor]
"""Takes a PIL image, gives a tensor."""
Augmentation = Literal["crop", "crop_mirror"]
"""What distorted views of an image are: a random part of it, perhaps mirrored."""


class Images(Protocol):
    """Images wherever they are, each with its labels."""

    @property
    def names(self) -> Sequence[str]:
        """How messages call each."""

    @property
    def targets(self) -> list[list[int]]: ...

    @property
    def labels(self) -> LabelSpace: ...

    def read(self, row: int, transform: Transform) -> torch.Tensor:
        """One of them, as a tensor."""

    def content(self) -> bytes:
        """Changes when the images do."""


@dataclass(frozen=True)
class ImageFiles:
    """Paths of images and the labels of each."""

    paths: list[Path]
    targets: list[list[int]]
    labels: LabelSpace

    @cached_property
    def names(self) -> list[str]:
        return [str(path) for path in self.paths]

    @classmethod
    def from_folder(cls, folder: Path, labels: LabelSpace | None) -> ImageFiles:
        """One subfolder per label."""
        subfolders = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: composed(p.name))
        images = {sub: sorted(_images_below(sub), key=lambda p: p.parts) for sub in subfolders}  # paths themselves are compared in another way on each system
        if not any(images.values()):
            raise SelfInformedError(f"data: {folder} holds no images in subfolders; expected {folder}/LABEL/IMAGE.png")
        labels = labels or LabelSpace(composed(sub.name) for sub in subfolders)
        targets: list[list[int]] = []
        for sub, paths in images.items():
            try:
                targets += [[labels.index(sub.name)]] * len(paths) if paths else []
            except SelfInformedError as error:
                raise SelfInformedError(f"data: {sub}: {error}") from None
        return cls([path for paths in images.values() for path in paths], targets, labels)

    @classmethod
    def from_manifest(cls, path: Path, labels: LabelSpace | None) -> ImageFiles:
        """A table with the columns `path` and `labels`: names, or class numbers."""
        rows = _read_manifest(path)
        if not rows:
            raise SelfInformedError(f"data: the manifest {path} has no rows")
        names = [label_names(row, f"{path}, row {number + 1}") for number, (_, row) in enumerate(rows)]
        if labels is None and all(is_class_number(name) and str(int(name)) == str(name) for row in names for name in row):  # 007 is a name
            names = [[int(name) for name in row] for row in names]
        elif labels is None:
            for number, row in enumerate(names):
                if odd := next((name for name in row if isinstance(name, str) and re.fullmatch(r"-\d+|\d+\.0*|nan", name, re.I)), None):
                    raise SelfInformedError(
                        f"data: {path}, row {number + 1} has {shown(odd)} for a label; expected class numbers from 0 without a point, and an empty cell for "
                        "none; or give the names with `labels`"
                    )
        with naming(path):
            targets, labels = resolved(names, labels, lambda row: f"{path}, row {row + 1}")
        return cls([path.parent / name for name, _ in rows], targets, labels)

    def read(self, row: int, transform: Transform) -> torch.Tensor:
        """One image as a tensor."""
        with opened(self.paths[row], "data", MOST_BYTES) as file:
            return decoded(file, str(self.paths[row]), transform)

    def content(self) -> bytes:
        """Of the files' sizes and times."""
        return stamp(self.paths)


def _images_below(folder: Path) -> Iterator[Path]:
    """Images anywhere below a folder, links followed once; nothing whose name, or whose folder's, begins with a dot."""
    seen: set[str] = set()
    for where, subfolders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        yield from (path for name in files if name[0] != "." and (path := Path(where, name)).suffix.lower() in SUFFIXES)


def is_slow(start: bytes) -> bool:
    """Whether Pillow decodes an image that starts so by a loop in Python, whose time can grow with the square of the file: plain PNM, BMP in runs."""
    return start[:2] in (b"P1", b"P2", b"P3") or (start[:2] == b"BM" and start[30:34] in (b"\1\0\0\0", b"\2\0\0\0"))


def has_many_scans(image: bytes) -> bool:
    """Whether a JPEG has more scans than `_MOST_SCANS`: a decoder goes over all pixels for each, of which a few bytes can say a next."""
    return image[:2] == b"\xff\xd8" and image.count(b"\xff\xda") > _MOST_SCANS


def decoded(file: IO[bytes], name: str, transform: Transform) -> torch.Tensor:
    """An image as a tensor; `name` is what errors call it, after `the image`."""
    from PIL import Image, UnidentifiedImageError

    start = file.read(64)
    file.seek(0)
    try:
        if is_slow(start):
            raise ValueError("it is written as text or in runs, which is slow to read; convert it to PNG or JPEG")
        if start[:2] == b"\xff\xd8":
            if has_many_scans(file.read()):
                raise ValueError(f"it has more than {_MOST_SCANS} scans, which take long to read; write it anew")
            file.seek(0)
        image = Image.open(file, formats=_FORMATS)
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels; at most {_MOST_PIXELS:,} are read")
        image.load()
    except UnidentifiedImageError:
        raise SelfInformedError(f"data: the image {name} cannot be read (it is damaged, or none of {', '.join(_FORMATS)})") from None
    except Exception as error:  # decoders raise many kinds on damaged bytes
        raise SelfInformedError(f"data: the image {name} cannot be read ({reason_of(error)})") from None
    try:
        return transform(image)
    except (OSError, ValueError) as error:
        raise SelfInformedError(f"data: the image {name} cannot be used ({reason_of(error)})") from None


def stamp(paths: Sequence[Path]) -> bytes:
    """Changes when the size or the time of a file does."""
    stats = [path.stat() if path.exists() else None for path in paths]
    return hashlib.sha256(repr([s and (s.st_size, s.st_mtime_ns) for s in stats]).encode()).digest()


def image_transform(size: int | None, pixels: Pixels = IMAGENET) -> Transform:
    """PIL image to float [3, size, size]: shorter side resized to `size`, centre cropped, less a mean and over a deviation."""
    return partial(_transformed, size, *(torch.tensor(values, device="cpu").reshape(3, 1, 1) for values in pixels))


def _transformed(size: int | None, mean: torch.Tensor, deviation: torch.Tensor, image: Any) -> torch.Tensor:
    image = _in_colour(image)
    if size is not None:
        width, height = _resized(image, size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height)).crop((left, top, left + size, top + size))
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return (values / 255.0 - mean) / deviation


def distorting(size: int | None, view: int, augmentation: Augmentation, transform: Transform) -> Transform:
    """What transforms a random part of a PIL image instead of the image: resized to [size, size], or to the image's own size, and for `crop_mirror`
    mirrored half of the time.

    The part's sides are in another ratio than those it is resized to, by at most a third either way, and its area is 35 to 100% of the largest such part
    (after Szegedy et al. 2015). A number of view gives the same part of the same image each time.
    """

    return partial(_distorted, size, view, augmentation, transform)


def _distorted(size: int | None, view: int, augmentation: Augmentation, transform: Transform, image: Any) -> torch.Tensor:
    image = _in_colour(image)
    if size is not None:
        _resized(image, size)
    rng = np.random.default_rng([view, zlib.crc32(image.tobytes())])
    width, height = image.size
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))) * (width / height if size is None else 1)
    wide = min(width, height * ratio) * math.sqrt(rng.uniform(0.35, 1.0))
    high = min(wide / ratio, height)
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    part = image.resize(image.size if size is None else (size, size), resample=_BILINEAR, box=(left, top, left + wide, top + high))
    return transform(part.transpose(_MIRROR) if augmentation == "crop_mirror" and rng.random() < 0.5 else part)


def _in_colour(image: Any) -> Any:
    """As RGB. Pixels of more than 8 bits, which Pillow would cut off at 255, are refused."""
    if image.mode[:1] in "IF":
        raise DeepPixelsError(f"its pixels are of more than 8 bits, mode {image.mode}; convert it to 8 bits, or from Python give a transform")
    return image.convert("RGB")


def _resized(image: Any, size: int) -> tuple[int, int]:
    """Width and height when the shorter side has that size."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels would be {width:,} x {height:,} before it is cropped")
    return width, height


def names_in(text: str) -> list[str]:
    """Names separated by `;`."""
    return [name.strip() for name in text.split(";") if name.strip()]


def label_names(labels: Any, where: str) -> list[str | int]:
    """A manifest's cell: names separated by `;`, or in parquet a list of names or of class numbers, or one number; nothing at all is no label."""
    if isinstance(labels, str):
        return [*names_in(labels)]
    found = [] if labels is None else list(labels) if isinstance(labels, Sequence) else [labels]
    for label in found:
        if isinstance(label, bool) or not isinstance(label, str | int) or (isinstance(label, int) and label < 0):
            raise SelfInformedError(f"data: {where} has {shown(label)} for a label; expected names, or class numbers from 0")
    return found


def is_class_number(label: str | int) -> bool:
    """Whether it is a number of an output unit, or text that is one."""
    return isinstance(label, int) or (label.isascii() and label.isdigit() and len(label) < 10)


def _read_manifest(path: Path) -> list[tuple[str, Any]]:
    import csv

    try:
        if path.suffix == ".parquet":
            table = _parquet(path)
        else:
            with opened(path, "data", MOST_JSON) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
                reader = csv.DictReader(text, strict=True)
                if reader.fieldnames:
                    _check_header(path, reader.fieldnames)
                table = list(reader)
    except UnicodeDecodeError:
        raise SelfInformedError(f"data: the manifest {path} is not UTF-8 text; save it so") from None
    except (OSError, csv.Error) as error:
        raise SelfInformedError(f"data: the manifest {path} cannot be read ({reason_of(error)})") from None
    wrong = next((i for i, row in enumerate(table) if None in row), None)  # where csv puts what the header has no name for
    if wrong is not None:
        raise SelfInformedError(
            f"data: the manifest {path} has more cells in row {wrong + 1} than names in its header; part labels by ; and quote what holds a comma"
        )
    for column in ("path", "labels"):
        wrong = next((i for i, row in enumerate(table) if row.get(column) is None and (column == "path" or path.suffix != ".parquet")), None)
        if wrong is not None:
            raise SelfInformedError(f"data: the manifest {path} has no {column!r} in row {wrong + 1}; its columns must be path, labels")
    wrong = next((i for i, row in enumerate(table) if not isinstance(row["path"], str) or not row["path"] or "\0" in row["path"]), None)
    if wrong is not None:
        raise SelfInformedError(f"data: the manifest {path} has {shown(table[wrong]['path'])} for a path in row {wrong + 1}; expected the name of an image")
    return [(row["path"], row["labels"]) for row in table]


def _check_header(path: Path, header: Sequence[str]) -> None:
    """That a manifest names its two columns, once each."""
    if not {"path", "labels"} <= {*header}:
        parted = "; part its cells by commas" if len(header) == 1 and re.search("[;\t|]", header[0]) else ""
        raise SelfInformedError(f"data: the columns of the manifest {path} must be path, labels, and are {shown(header)}{parted}")
    if twice := next((name for name in ("path", "labels") if header.count(name) > 1), None):
        raise SelfInformedError(f"data: the manifest {path} has the column {twice!r} more than once; several labels stand in one cell, parted by ;")


def _parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    check_file(path, "data")
    try:
        with parquet_file(path, "data") as file:
            for name in ("path", "labels"):
                if name not in file.schema_arrow.names:
                    found = shown(file.schema_arrow.names)
                    raise SelfInformedError(
                        f"data: the manifest {path} has no {name!r} in row 1; its columns must be path, labels, and are {found}: parquet is read as a manifest "
                        "of images; other data, such as tokens, are given from Python, as a datasets.Dataset or ({name: array}, targets)"
                    )
            for batch in file.iter_batches(columns=["path", "labels"]):
                for column in batch.columns:
                    _check_texts(column)
                rows += batch.to_pylist()
    except SelfInformedError:
        raise
    except Exception as error:  # decoders raise many kinds on damaged bytes
        raise SelfInformedError(f"data: the manifest {path} cannot be read as parquet ({reason_of(error)})") from None
    return rows


def _check_texts(column: Any) -> None:
    """Stops at a text that is too long to be a path or a label."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if pa.types.is_dictionary(column.type):
        longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        if longest > _MOST_CHARACTERS:
            raise ValueError(f"a text of {longest:,} bytes; expected at most {_MOST_CHARACTERS:,}")
