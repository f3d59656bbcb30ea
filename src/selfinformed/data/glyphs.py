"""The demo's input: characters drawn from real typefaces, labelled by themselves and by the words of their names.

An image of "é" carries the labels `é`, `LATIN`, `SMALL`, `E` and `ACUTE`. Characters whose outlines are the same (Latin A,
Greek Alpha, Cyrillic A) are one label, with the words of all their names. Pairs of (character, typeface) are split
into train, holdout and test, so no image's outline is seen in two of them.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.runtime.errors import SelfInformedError

Split = Literal["train", "holdout", "test"]

IMAGE_SIZE = 32
_CANVAS = 40  # glyphs are drawn larger and the distortion samples them down
_EM = 28
_BASELINE = 29
_CONNECTIVES = frozenset({"LETTER", "WITH", "AND", "SIGN", "SYMBOL", "TO", "OF"})  # words that name nothing drawn


@dataclass(frozen=True)
class GlyphLabels:
    """Characters (each a string of all characters with that outline) and, per character label, its words."""

    characters: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(sorted({word for words in self.words for word in words}))

    @cached_property
    def space(self) -> LabelSpace:
        """Character labels first, in code point order, then the words."""
        return LabelSpace([*(c[0] for c in self.characters), *(f"word:{w}" for w in self.vocabulary)])

    @cached_property
    def label_lists(self) -> list[list[int]]:
        """For each character label, its own label and those of its words."""
        word = {w: len(self.characters) + i for i, w in enumerate(self.vocabulary)}
        return [[i, *(word[w] for w in words)] for i, words in enumerate(self.words)]

    @classmethod
    def shipped(cls) -> GlyphLabels:
        """The label set the shipped bases were trained on."""
        text = resources.files("selfinformed.assets").joinpath("glyph_labels.json").read_text("utf-8")
        rows = json.loads(text)
        return cls(tuple(r["characters"] for r in rows), tuple(tuple(r["words"]) for r in rows))

    def to_json(self) -> str:
        rows = [{"characters": c, "words": list(w)} for c, w in zip(self.characters, self.words, strict=True)]
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


@dataclass(frozen=True)
class Glyphs:
    """Every drawn (character, typeface) pair.

    Attributes:
        labels: the label set.
        bitmaps: uint8 [N, 40, 40], ink 255, on a common baseline, centred sideways.
        character: int64 [N], the character label of each pair.
        face: int64 [N], the typeface of each pair, an index into `faces`.
        part: int64 [N], 0 train, 1 holdout, 2 test.
        faces: names of the typefaces.
    """

    labels: GlyphLabels
    bitmaps: npt.NDArray[np.uint8]
    character: npt.NDArray[np.int64]
    face: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    faces: tuple[str, ...]

    def views(self, split: Split, n_views: int, seed: int) -> tuple[torch.Tensor, list[list[int]], list[str]]:
        """`n_views` distorted views of every pair of a split.

        Returns:
            images uint8 [n, 1, 32, 32], their label lists, and a name for each ("é DejaVuSans #0"). View v of every
            pair comes before view v+1 of any. The same seed gives the same images.
        """
        pairs = np.flatnonzero(self.part == ("train", "holdout", "test").index(split))
        generator = torch.Generator().manual_seed(seed)
        images = torch.cat([distort(torch.from_numpy(self.bitmaps[pairs]), generator) for _ in range(n_views)])
        lists = self.labels.label_lists
        targets = [lists[self.character[p]] for p in pairs] * n_views
        names = [
            f"{self.labels.characters[self.character[p]][0]} {self.faces[self.face[p]]} #{v}"
            for v in range(n_views)
            for p in pairs
        ]
        return images, targets, names


def glyph_examples(split: Split, fonts: str | Path | None = None, views: int | None = None) -> Examples:
    """The demo's examples, with the label set the shipped bases were trained on.

    Args:
        split: train, holdout or test.
        fonts: a folder of typefaces to draw with (default: matplotlib's own).
        views: distorted views of each (character, typeface) pair; by default 2 of train, 1 of holdout and test.
    """
    glyphs = shipped_glyphs(None if fonts is None else str(fonts))
    seed = {"train": 11, "holdout": 12, "test": 13}[split]
    images, targets, names = glyphs.views(split, views or (2 if split == "train" else 1), seed)
    space = glyphs.labels.space
    return replace(open_dataset((images, targets), space), names=names)


@cache
def shipped_glyphs(fonts: str | None = None) -> Glyphs:
    """Every glyph of the shipped label set, drawn once per folder of typefaces."""
    return render_glyphs(GlyphLabels.shipped(), fonts)


def render_glyphs(labels: GlyphLabels, fonts: str | Path | None = None) -> Glyphs:
    """Draws every character of `labels` in every typeface that has it.

    Args:
        labels: what to draw.
        fonts: a folder of .ttf, .otf or .ttc files; by default the 16 text typefaces matplotlib carries.

    Raises:
        SelfInformedError: the folder has no typeface, or too few of them have the characters.
    """
    pairs = [
        (i, f, bitmap)
        for f, path in enumerate(font_files(fonts))
        for i, bitmap in _draw(path, [c[0] for c in labels.characters])
    ]
    if not pairs:
        raise SelfInformedError(f"fonts: no typeface in {fonts} has any of the demo's {len(labels.characters)} characters")
    character = np.array([p[0] for p in pairs], dtype=np.int64)
    order = np.argsort(character, kind="stable")
    character = character[order]
    part = _split(character)
    if len(np.unique(part)) < 3:
        raise SelfInformedError(f"fonts: too few typefaces in {fonts} share a character to split them into train, holdout and test; give at least 3")
    return Glyphs(
        labels,
        np.stack([pairs[i][2] for i in order]),
        character,
        np.array([pairs[i][1] for i in order], dtype=np.int64),
        part,
        tuple(path.stem for path in font_files(fonts)),
    )


def find_labels(fonts: str | Path | None = None, min_faces: int = 10, min_word: int = 5) -> GlyphLabels:
    """Chooses the characters that at least `min_faces` typefaces have, merged where their outlines are the same.

    Two characters are one label when they are drawn alike, to the pixel at 40 x 40, in at least half of the typefaces that have both.
    Words are kept that at least `min_word` of the labels carry and that name something drawn.
    """
    files = font_files(fonts)
    coverage = Counter(code for path in files for code in _charmap(path))
    codes = sorted(c for c, n in coverage.items() if n >= min_faces and _is_drawable(c))
    alike: Counter[tuple[int, int]] = Counter()
    shared: Counter[tuple[int, int]] = Counter()
    drawn: list[dict[int, bytes]] = [
        {codes[i]: bitmap.tobytes() for i, bitmap in _draw(path, [chr(c) for c in codes])} for path in files
    ]
    for face in drawn:
        same: dict[bytes, list[int]] = {}
        for code, bitmap in face.items():
            same.setdefault(bitmap, []).append(code)
        alike.update((a, b) for members in same.values() for a in members for b in members if a < b)
    for a, b in alike:
        shared[a, b] = sum(a in face and b in face for face in drawn)
    parent = {c: c for c in codes}

    def root(code: int) -> int:
        while parent[code] != code:
            code = parent[code]
        return code

    for (a, b), n in sorted(alike.items()):
        if 2 * n >= shared[a, b]:
            first, second = sorted((root(a), root(b)))
            parent[second] = first
    members: dict[int, list[int]] = {}
    for code in codes:
        members.setdefault(root(code), []).append(code)
    characters = tuple("".join(map(chr, m)) for m in members.values())
    names = [{w for c in chars for w in unicodedata.name(c).split()} - _CONNECTIVES for chars in characters]
    frequency = Counter(word for words in names for word in words)
    return GlyphLabels(characters, tuple(tuple(sorted(w for w in ws if frequency[w] >= min_word)) for ws in names))


def font_files(fonts: str | Path | None) -> list[Path]:
    """The typefaces of a folder, or matplotlib's own text typefaces."""
    if fonts is None:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        names = [p for p in folder.glob("*.ttf") if p.stem.startswith(("DejaVu", "STIXGeneral"))]
        return sorted(p for p in names if "Display" not in p.stem)
    folder = Path(fonts)
    if not folder.is_dir():
        raise SelfInformedError(f"fonts: {folder} is not a folder; give a folder of .ttf, .otf or .ttc files")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".ttf", ".otf", ".ttc"})
    if not files:
        raise SelfInformedError(f"fonts: {folder} holds no .ttf, .otf or .ttc file")
    return files


def distort(bitmaps: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Affine and elastic distortion, contrast and noise, then sampling down.

    Args:
        bitmaps: uint8 [n, 40, 40].
        generator: where the randomness comes from.
        strength: 0 leaves the image undistorted; 1 is the demo's.

    Returns:
        uint8 [n, 1, 32, 32].
    """
    return torch.cat([_distort(chunk, generator, strength) for chunk in bitmaps.split(2048)])  # type: ignore[no-untyped-call]


def _distort(bitmaps: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    n = len(bitmaps)

    def uniform(*shape: int) -> torch.Tensor:
        return (2 * torch.rand(n, *shape, generator=generator, device="cpu") - 1) * strength

    angle, shear, zoom = 0.22 * uniform(), 0.2 * uniform(), 1 + 0.18 * uniform(2)
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([torch.stack([cos, shear - sin], -1), torch.stack([sin, cos], -1)], 1) / zoom[:, None]
    theta = torch.cat([rows, 0.14 * uniform(2, 1)], -1)  # (n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    elastic = F.interpolate(0.11 * uniform(2, 5, 5), IMAGE_SIZE, mode="bicubic", align_corners=True)
    ink = F.grid_sample(bitmaps[:, None] / 255.0, grid + elastic.permute(0, 2, 3, 1), align_corners=False)
    contrast, offset = 0.75 + 0.25 * uniform(1, 1, 1), 0.12 * uniform(1, 1, 1)
    noise = 0.07 * strength * torch.randn(ink.shape, generator=generator, device="cpu")
    return ((ink * contrast + 0.12 * strength + offset + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _draw(path: Path, characters: Sequence[str]) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.truetype(str(path), _EM)
        charmap = _charmap(path)
    except Exception as error:  # whatever a broken file makes FreeType or fontTools raise
        raise SelfInformedError(f"fonts: {path} cannot be read as a typeface ({error}); take it out of the folder") from None
    drawn = []
    for i, character in enumerate(characters):
        if ord(character) in charmap:
            image = Image.new("L", (_CANVAS, _CANVAS))
            ImageDraw.Draw(image).text((_CANVAS / 2, _BASELINE), character, fill=255, font=font, anchor="ms")
            bitmap = np.asarray(image)
            if bitmap.any():
                drawn.append((i, bitmap))
    return drawn


def _charmap(path: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(str(path), fontNumber=0, lazy=True) as font:
        return frozenset(font.getBestCmap() or {})


def _is_drawable(code: int) -> bool:
    character = chr(code)
    return unicodedata.category(character)[0] in "LNPS" and bool(unicodedata.name(character, ""))


def _split(character: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """About two pairs of each character to holdout and two to test, the rest (at least one) to train."""
    part = np.zeros(len(character), dtype=np.int64)
    for label in np.unique(character):
        pairs = np.random.default_rng([7, int(label)]).permutation(np.flatnonzero(character == label))
        n = min(2, (len(pairs) - 1) // 2)
        part[pairs[:n]] = 2
        part[pairs[n : 2 * n]] = 1
    return part
