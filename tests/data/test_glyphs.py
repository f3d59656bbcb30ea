"""The demo's input: labels, drawings, splits and distortion."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfinformed.data.glyphs import GlyphLabels, Glyphs, distort, find_labels, font_files, glyph_examples, render_glyphs, shipped_glyphs
from selfinformed.runtime.errors import SelfInformedError

FEW = GlyphLabels(("AΑА", "B", "é", "ж"), (("CAPITAL", "LATIN"), ("CAPITAL", "LATIN"), ("LATIN", "SMALL"), ("SMALL",)))


@pytest.fixture(scope="module")
def labels() -> GlyphLabels:
    return GlyphLabels.shipped()


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return shipped_glyphs(None)


@pytest.fixture
def fonts(tmp_path):
    """A folder of four typefaces."""
    for path in font_files(None)[:4]:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_there_are_over_a_thousand_labels_and_each_is_another(labels):
    assert len(labels.space) >= 1000
    assert len(set(labels.space.names)) == len(labels.space)
    everything = "".join(labels.characters)
    assert len(set(everything)) == len(everything)  # no character belongs to two labels


def test_characters_of_one_outline_share_a_label(labels):
    (merged,) = (c for c in labels.characters if "A" in c)
    assert {"A", "Α", "А"} <= set(merged)  # Latin, Greek, Cyrillic
    words = labels.words[labels.characters.index(merged)]
    assert {"LATIN", "GREEK", "CYRILLIC", "CAPITAL"} <= set(words)


def test_an_image_carries_its_character_and_its_words(labels):
    number = next(i for i, c in enumerate(labels.characters) if c[0] == "é")
    names = [labels.space.names[i] for i in labels.label_lists[number]]
    assert names[0] == "é"
    assert {"word:LATIN", "word:SMALL", "word:E", "word:ACUTE"} <= set(names)
    for lists in labels.label_lists:
        assert len(set(lists)) == len(lists)


def test_json_holds_the_label_set(labels, tmp_path, monkeypatch):
    (tmp_path / "glyph_labels.json").write_text(labels.to_json(), "utf-8")
    monkeypatch.setattr("selfinformed.data.glyphs.resources.files", lambda _: tmp_path)
    assert GlyphLabels.shipped() == labels


def test_every_pair_is_drawn_once_and_in_one_split(glyphs):
    pairs = np.stack([glyphs.character, glyphs.face], 1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert set(np.unique(glyphs.part)) == {0, 1, 2}
    assert glyphs.bitmaps.shape == (len(pairs), 40, 40)
    assert glyphs.bitmaps.any((1, 2)).all()
    assert set(glyphs.character[glyphs.part == 0]) == set(glyphs.character)  # each can be learnt


def test_drawing_and_splits_are_deterministic():
    one, other = render_glyphs(FEW), render_glyphs(FEW)
    for name in ("bitmaps", "character", "face", "part"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    names = {split: {name.rpartition(" ")[0] for name in one.views(split, 1, 0)[2]} for split in ("train", "holdout", "test")}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == len(one.part)


def test_views():
    glyphs = render_glyphs(FEW)
    images, targets, names = glyphs.views("train", 2, seed=3)
    n = int((glyphs.part == 0).sum())
    assert images.shape == (2 * n, 1, 32, 32)
    assert images.dtype == torch.uint8
    assert targets[:n] == targets[n:]
    assert targets[0] == [0, *(FEW.space.index(f"word:{w}") for w in FEW.words[0])]
    assert names[0].startswith("A ")
    assert names[0].endswith("#0")
    assert names[n].endswith("#1")
    assert torch.equal(images, glyphs.views("train", 2, seed=3)[0])
    assert not torch.equal(images, glyphs.views("train", 2, seed=4)[0])
    assert not torch.equal(images[:n], images[n:])


def test_examples(glyphs, monkeypatch):
    examples = glyph_examples("holdout")
    assert len(examples) == int((glyphs.part == 1).sum())
    assert examples.labels == glyphs.labels.space
    assert not examples.targets.single
    assert examples.read([3, 0]).shape == (2, 1, 32, 32)
    assert examples.name(0).endswith("#0")
    monkeypatch.setattr("selfinformed.data.glyphs.shipped_glyphs", lambda _: replace(glyphs, bitmaps=glyphs.bitmaps // 2))
    assert glyph_examples("holdout").fingerprint != examples.fingerprint


def test_without_strength_the_ink_stays():
    bitmaps = torch.from_numpy(render_glyphs(FEW).bitmaps)
    images = distort(bitmaps, torch.Generator().manual_seed(0), strength=0.0)
    assert torch.equal(images, distort(bitmaps, torch.Generator().manual_seed(1), strength=0.0))
    smaller = torch.nn.functional.interpolate(bitmaps[:, None].float(), 32, mode="bilinear", align_corners=False)
    assert (images.float() - 0.75 * smaller).abs().max() <= 1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_distortion_varies_with_the_generator_only(strength):
    bitmaps = torch.from_numpy(render_glyphs(FEW).bitmaps)
    first, again, other = (distort(bitmaps, torch.Generator().manual_seed(seed), strength) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_folder_of_typefaces(fonts):
    glyphs = render_glyphs(FEW, fonts)
    assert len(glyphs.faces) == 4
    assert set(glyphs.faces) == {path.stem for path in fonts.iterdir()}
    assert glyphs.face.max() < 4


def test_labels_are_found_in_typefaces(fonts):
    for path in font_files(fonts)[2:]:
        path.unlink()
    found = find_labels(fonts, min_faces=2, min_word=20)
    (merged,) = (c for c in found.characters if "A" in c)
    assert {"A", "Α", "А"} <= set(merged)
    words = [word for words in found.words for word in words]
    assert min(words.count(word) for word in set(words)) >= 20
    assert "LETTER" not in words


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(SelfInformedError, match="nowhere is not a folder"):
        render_glyphs(FEW, tmp_path / "nowhere")
    with pytest.raises(SelfInformedError, match=r"holds no \.ttf, \.otf or \.ttc file"):
        render_glyphs(FEW, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_broken_typeface_is_named(fonts, share):
    path = font_files(fonts)[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SelfInformedError, match=rf"{path.name} cannot be read as a typeface .*; take it out of the folder"):
        render_glyphs(FEW, fonts)


def test_typefaces_without_the_characters_are_refused(fonts):
    with pytest.raises(SelfInformedError, match="no typeface in .* has any of the demo's 1 characters"):
        render_glyphs(GlyphLabels(("\U0001f9a4",), ((),)), fonts)


def test_too_few_typefaces_to_split_are_refused(fonts):
    for path in font_files(fonts)[2:]:
        path.unlink()
    with pytest.raises(SelfInformedError, match="too few typefaces .* give at least 3"):
        render_glyphs(FEW, fonts)
