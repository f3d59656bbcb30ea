"""Image files and what becomes of them."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfinformed.data.images import ImageFiles, distorting, image_transform
from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.errors import SelfInformedError


def save_image(path: Path, size: tuple[int, int] = (8, 6), colour: tuple[int, int, int] = (255, 0, 0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_every_image_becomes_a_square_of_the_size_asked_for(width, height, size):
    assert image_transform(size)(Image.new("RGB", (width, height))).shape == (3, size, size)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA"])
def test_every_mode_becomes_rgb_of_its_own_size(mode):
    tensor = image_transform(None)(Image.new(mode, (8, 6)))
    assert tensor.shape == (3, 6, 8)
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize(("kind", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_more_than_8_bits_are_refused_and_not_cut_off(kind, mode, tmp_path):
    Image.fromarray(np.full((6, 8), 300, kind)).save(tmp_path / "x.tif")
    with pytest.raises(SelfInformedError, match=rf"x\.tif cannot be used \(its pixels are of more than 8 bits, mode {mode}; convert it to 8 bits"):
        ImageFiles([tmp_path / "x.tif"], [[0]], LabelSpace(list("a"))).read(0, image_transform(4))


def test_hidden_folders_and_files_are_no_labels_and_no_images(tmp_path):
    save_image(tmp_path / "cat" / "1.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "._1.png").write_bytes(b"of another system")
    found = ImageFiles.from_folder(tmp_path, None)
    assert (found.labels.names, [path.name for path in found.paths]) == (("cat",), ["1.png"])


def seen_in(view: int, image: Image.Image, size: int | None = None, augmentation: Literal["crop", "crop_mirror"] = "crop") -> torch.Tensor:
    return distorting(size, view, augmentation, image_transform(size))(image)


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.none() | st.integers(1, 40), st.integers(1, 9), st.sampled_from(["crop", "crop_mirror"]))
def test_distorted_views_have_the_size_asked_for_and_no_new_colours(width, height, size, view, augmentation):
    image = Image.new("L", (width, height), 40)
    image.paste(200, (0, 0, width // 2, height))
    seen = seen_in(view, image, size, augmentation)
    assert seen.shape == (3, size or height, size or width)
    low, high = (image_transform(None)(Image.new("L", (1, 1), grey)) for grey in (39, 201))
    assert ((seen >= low) & (seen <= high)).all()


def test_distorted_views_are_the_same_each_time_and_differ_from_one_another():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    views = [seen_in(view, noise, 16) for view in range(1, 6)]
    assert all(torch.equal(view, seen_in(i + 1, noise, 16)) for i, view in enumerate(views))
    assert len({view.numpy().tobytes() for view in views}) == 5
    mirrored = [seen_in(view, noise, 16, "crop_mirror") for view in range(1, 6)]
    turned = [torch.allclose(a.flip(2), b, atol=0.02) for a, b in zip(views, mirrored, strict=True)]
    assert 0 < sum(turned) < 5
    assert all(torch.equal(a, b) for a, b, is_turned in zip(views, mirrored, turned, strict=True) if not is_turned)


@pytest.mark.parametrize("size", [(200, 200), (240, 100), (60, 250)])
@pytest.mark.parametrize("square", [True, False])
def test_parts_keep_to_the_area_and_the_stretch_that_are_promised(size, square):
    """Two ramps from 0 to 255 say which part of each side is seen."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    ramps = Image.fromarray(np.stack([across, down, down], 2).round().astype(np.uint8))
    for view in range(1, 40):
        seen = distorting(100 if square else None, view, "crop", lambda part: torch.from_numpy(np.asarray(part).copy()).float())(ramps)
        rows, columns, _ = seen.shape
        edge = columns // 4, rows // 4  # not at the border, where resizing repeats pixels
        wide = (seen[0, -edge[0], 0] - seen[0, edge[0], 0]).item() / 255 * columns / (columns - 2 * edge[0]) * size[0]
        high = (seen[-edge[1], 0, 1] - seen[edge[1], 0, 1]).item() / 255 * rows / (rows - 2 * edge[1]) * size[1]
        stretch = wide / high * rows / columns
        assert 0.7 < stretch < 1.43  # pixels are whole numbers
        ratio = wide / high
        largest = min(size[0], size[1] * ratio) * min(size[1], size[0] / ratio)
        assert 0.31 < wide * high / largest < 1.08


def test_a_transform_of_ones_own_is_given_the_part():
    parts = []
    distorting(None, 1, "crop", lambda part: parts.append(part) or torch.zeros(1))(Image.new("L", (9, 7)))
    assert parts[0].size == (9, 7)


def test_pixels_are_normalised_as_imagenet():
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tensor = image_transform(4)(Image.new("RGB", (9, 5), (255, 51, 0)))
    expected = (torch.tensor([1.0, 0.2, 0.0]) - mean) / deviation
    torch.testing.assert_close(tensor, expected[:, None, None].expand(3, 4, 4))


def test_the_centre_is_cropped():
    image = Image.new("RGB", (30, 10))
    image.paste((255, 255, 255), (10, 0, 20, 10))
    assert torch.equal(image_transform(10)(image), image_transform(10)(Image.new("RGB", (10, 10), (255, 255, 255))))


def test_a_folder_per_label(tmp_path):
    for name in ("b/1.PNG", "b/deep/2.jpg", "a/3.png"):
        save_image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    files = ImageFiles.from_folder(tmp_path, None)
    assert files.labels.names == ("a", "b")
    assert [p.name for p in files.paths] == ["3.png", "1.PNG", "2.jpg"]
    assert files.targets == [[0], [1], [1]]
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert ImageFiles.from_folder(tmp_path, LabelSpace(["b", "z", "a"])).targets == [[2], [0], [0]]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_folder_names_may_stand_apart_from_their_letters(tmp_path, form):
    for name in ("etude", "zoo", "\u00e9t\u00e9"):
        save_image(tmp_path / unicodedata.normalize(form, name) / "1.png")
    assert ImageFiles.from_folder(tmp_path, None).labels.names == ("etude", "zoo", "\u00e9t\u00e9")
    given = LabelSpace([unicodedata.normalize("NFD", "\u00e9t\u00e9"), "zoo", "etude"])
    assert ImageFiles.from_folder(tmp_path, given).targets == [[2], [1], [0]]


def test_a_folder_that_is_no_label_is_refused(tmp_path):
    save_image(tmp_path / "dog" / "1.png")
    with pytest.raises(SelfInformedError, match=r"data: .*dog: labels: no label is named 'dog'; the 2 labels begin"):
        ImageFiles.from_folder(tmp_path, LabelSpace(["cat", "cow"]))


@pytest.mark.parametrize("subfolder", [None, "empty"])
def test_a_folder_without_images_is_refused(tmp_path, subfolder):
    if subfolder:
        (tmp_path / subfolder).mkdir()
    with pytest.raises(SelfInformedError, match=r"holds no images in subfolders; expected .*LABEL/IMAGE\.png"):
        ImageFiles.from_folder(tmp_path, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_manifest(tmp_path, encoding):
    (tmp_path / "m.csv").write_text("path,labels,more\nx/1.png,cat; grün;,1\n2.png,,2\n", encoding)
    files = ImageFiles.from_manifest(tmp_path / "m.csv", None)
    assert files.labels.names == ("cat", "grün")
    assert files.targets == [[0, 1], []]
    assert files.paths == [tmp_path / "x/1.png", tmp_path / "2.png"]


@pytest.mark.parametrize(
    ("labels", "names", "targets"),
    [
        ([["b", "a"], ["b"]], ("a", "b"), [[1, 0], [1]]),
        (["b;a", "b"], ("a", "b"), [[1, 0], [1]]),
        ([[3, 5], [3]], tuple("012345"), [[3, 5], [3]]),  # numbers are those of output units
        ([10, 2], tuple(map(str, range(11))), [[10], [2]]),
        (["10", "2;0"], tuple(map(str, range(11))), [[10], [2, 0]]),
        (["10", "002"], ("002", "10"), [[1], [0]]),
        (["b", None], ("b",), [[0], []]),
        ([["b"], None], ("b",), [[0], []]),
    ],
)
def test_a_parquet_manifest(tmp_path, labels, names, targets):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "labels": labels}), tmp_path / "m.parquet")
    files = ImageFiles.from_manifest(tmp_path / "m.parquet", None)
    assert files.labels.names == names
    assert files.targets == targets


@pytest.mark.parametrize("label", [0.5, -1, None, True])
def test_a_label_that_is_neither_name_nor_number_is_refused(tmp_path, label):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "labels": [[], [label]]}), tmp_path / "m.parquet")
    with pytest.raises(SelfInformedError, match=rf"m\.parquet, row 2 has {label} for a label; expected names, or class numbers from 0"):
        ImageFiles.from_manifest(tmp_path / "m.parquet", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"path,labels\n", "has no rows"),
        (b"file,labels\n1.png,a\n", "must be path, labels, and are .'file', 'labels'.$"),
        (b"path;labels\n1.png;a\n", "must be path, labels, and are .'path;labels'.; part its cells by commas"),
        (b"path\tlabels\n1.png\ta\n", "part its cells by commas"),
        (b"path,labels,labels\n1.png,a,b\n", "has the column 'labels' more than once; several labels stand in one cell"),
        (b"path,labels\n1.png,a\n2.png\n", "has no 'labels' in row 2"),
        (b"path,labels\n\xff.png,a\n", "is not UTF-8 text"),
        (b'path,labels\n"1.png,a\n', "cannot be read"),
        (b"path,labels\n1.png,a\n2.png,z\n", r"row 2: labels: no label is named 'z'"),
        (b"path,labels\n1.png,a\n2.png,a,b\n", "has more cells in row 2 than names in its header; part labels by ;"),
        (b"path,labels\n1.png,a;a\n", "row 1: the label 'a' twice; expected each once"),
    ],
)
def test_manifests_that_are_refused(tmp_path, content, message):
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(SelfInformedError, match=rf"m\.csv.*{message}"):
        ImageFiles.from_manifest(tmp_path / "m.csv", LabelSpace(["a"]))


def test_a_file_that_is_no_image_is_called_that(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(SelfInformedError, match=r"1\.png cannot be read \(it is damaged, or none of PNG, JPEG"):
        ImageFiles.from_folder(tmp_path, None).read(0, image_transform(8))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_absent_manifest_is_named(tmp_path, suffix):
    with pytest.raises(SelfInformedError, match=rf"m\.{suffix} does not exist"):
        ImageFiles.from_manifest(tmp_path / f"m.{suffix}", None)


def test_a_damaged_parquet_manifest_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SelfInformedError, match=r"m\.parquet cannot be read as parquet"):
        ImageFiles.from_manifest(tmp_path / "m.parquet", None)


@settings(max_examples=40)
@given(st.sampled_from(["png", "jpg", "gif", "bmp"]), st.floats(0, 1), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5))
def test_a_damaged_image_is_read_or_named(tmp_path_factory, suffix, share, changes):
    path = tmp_path_factory.mktemp("damaged") / f"x.{suffix}"
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)
    content = bytearray(path.read_bytes())
    for position, byte in changes:
        content[position % len(content)] = byte
    path.write_bytes(content[: int(share * len(content))])
    try:
        assert ImageFiles([path], [[0]], LabelSpace(list("a"))).read(0, image_transform(4)).shape == (3, 4, 4)
    except SelfInformedError as error:
        assert f"the image {path} cannot be read" in str(error)


@pytest.mark.parametrize("odd", ["3.0", "-1", "nan", "10."])
def test_a_class_number_that_is_none_is_no_name(tmp_path, odd):
    (tmp_path / "m.csv").write_text(f"path,labels\n0.png,0\n1.png,{odd}\n")
    with pytest.raises(SelfInformedError, match=rf"row 2 has {odd!r} for a label; expected class numbers from 0 without a point"):
        ImageFiles.from_manifest(tmp_path / "m.csv", None)
    named = LabelSpace(["0", odd])
    assert ImageFiles.from_manifest(tmp_path / "m.csv", named).targets == [[0], [1]]


def test_hidden_folders_are_passed_over_and_links_are_followed_once(tmp_path):
    for name in ("data/cat/.cache/1.png", "data/cat/1.png", "data/dog/1.png", "more/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "round").symlink_to(tmp_path / "data" / "dog")
    (tmp_path / "data" / "dog" / "folder.png").mkdir()
    found = ImageFiles.from_folder(tmp_path / "data", None)
    assert [name.removeprefix(f"{tmp_path}/data/") for name in found.names] == ["cat/1.png", "dog/1.png", "dog/more/2.png"]
