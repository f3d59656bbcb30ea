"""Image files with labels: a folder per label, or a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)  # ImageNet's, as torchvision and timm use them
_DEVIATION = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


@dataclass(frozen=True)
class ImageFiles:
    """Paths of images and the labels of each."""

    paths: list[Path]
    targets: list[list[int]]
    labels: LabelSpace

    @classmethod
    def from_folder(cls, folder: Path, labels: LabelSpace | None) -> ImageFiles:
        """One subfolder per label."""
        subfolders = sorted(p for p in folder.iterdir() if p.is_dir())
        labels = labels or (LabelSpace(p.name for p in subfolders) if subfolders else None)
        found = [
            (path, labels.index(sub.name))
            for sub in subfolders if labels
            for path in sorted(sub.rglob("*")) if path.suffix.lower() in _SUFFIXES
        ]  # fmt: skip
        if not found or labels is None:
            raise SelfInformedError(f"data: {folder} holds no images in subfolders; expected {folder}/LABEL/IMAGE.png")
        return cls([path for path, _ in found], [[label] for _, label in found], labels)

    @classmethod
    def from_manifest(cls, path: Path, labels: LabelSpace | None) -> ImageFiles:
        """A table with the columns `path` and `labels`."""
        rows = _read_manifest(path)
        names = [_names(row) for _, row in rows]
        if not rows:
            raise SelfInformedError(f"data: the manifest {path} has no rows")
        labels = labels or LabelSpace(sorted({name for row in names for name in row}))
        targets = []
        for i, row in enumerate(names):
            try:
                targets.append(labels.indices(row))
            except SelfInformedError as error:
                raise SelfInformedError(f"data: {path}, row {i + 1}: {error}") from None
        return cls([path.parent / name for name, _ in rows], targets, labels)

    def read(self, row: int, transform: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """One image as a tensor."""
        from PIL import Image

        try:
            with Image.open(self.paths[row]) as image:
                return transform(image)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise SelfInformedError(f"data: the image {self.paths[row]} cannot be read ({error})") from None


def image_transform(size: int | None) -> Callable[[Any], torch.Tensor]:
    """PIL image to float [3, size, size]: shorter side resized to `size`, centre cropped, ImageNet mean and deviation."""

    def transform(image: Any) -> torch.Tensor:
        image = image.convert("RGB")
        if size is not None:
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.resize((width, height)).crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        return (pixels / 255.0 - _MEAN) / _DEVIATION

    return transform


def _names(labels: Any) -> list[str]:
    """A manifest's cell: names separated by `;`, or in parquet a list of names or numbers, or one number."""
    if isinstance(labels, str):
        return [name.strip() for name in labels.split(";") if name.strip()]
    return [str(name) for name in (labels if isinstance(labels, Sequence) else [labels])]


def _read_manifest(path: Path) -> list[tuple[str, Any]]:
    import csv

    try:
        if path.suffix == ".parquet":
            table = _parquet(path)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                table = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SelfInformedError(f"data: the manifest {path} cannot be read ({error})") from None
    for column in ("path", "labels"):
        wrong = next((i for i, row in enumerate(table) if row.get(column) is None), None)
        if wrong is not None:
            raise SelfInformedError(f"data: the manifest {path} has no {column!r} in row {wrong + 1}; its columns must be path, labels")
    return [(row["path"], row["labels"]) for row in table]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise SelfInformedError("data: reading parquet needs pyarrow; run: pip install 'selfinformed[parquet]'") from None
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise SelfInformedError(f"data: the manifest {path} cannot be read as parquet ({error})") from None
    return rows
