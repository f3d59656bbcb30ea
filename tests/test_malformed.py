"""A few malformed inputs of every kind; benchmarks/torture_inputs.py gives the command line thousands."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from malformed import Reader, damaged, given, readers, write_sound

KINDS = [reader for reader in readers() if not reader.name.startswith(("report:", "image "))]  # figures take long, and so does each format of images
EACH = 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files of all kinds, made where the copies of them will be: configurations name them so."""
    folder = tmp_path_factory.mktemp("malformed")
    write_sound(folder / "copy", report=False)
    (folder / "copy").rename(folder / "sound")
    return folder / "sound"


@pytest.mark.parametrize("reader", KINDS, ids=lambda reader: reader.name)
def test_a_damaged_file_is_one_line_that_names_it_or_is_read(sound: Path, reader: Reader) -> None:
    others = [(sound / other.file).read_bytes() for other in KINDS if (sound / other.file).exists()]
    if not (sound / reader.file).exists():
        pytest.skip("made with the report only")
    content = (sound / reader.file).read_bytes()
    for number in range(EACH):
        changed = damaged(Path(reader.file), content, random.Random(f"test {reader.name} {number}"), others)
        assert given(reader, sound, sound.with_name("copy"), changed) in ("sound", "refused"), (number, changed[:200])


def test_a_file_that_is_cut_short_says_so(sound: Path) -> None:
    copy = sound.with_name("copy")
    for reader in (r for r in KINDS if r.name in ("predictions npz", "predictions safetensors", "predictions parquet", "counts.safetensors", "groups.json")):
        content = (sound / reader.file).read_bytes()
        assert given(reader, sound, copy, content[: len(content) // 2]) == "refused", reader.name
    shutil.rmtree(copy)
