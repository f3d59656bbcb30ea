"""Images in tar shards are those of the files that were put into them; a shard that is cut or lies about its members is refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfinformed.data.opening import open_dataset
from selfinformed.data.tar_shards import TarShards
from selfinformed.runtime.errors import SelfInformedError


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(buffer, "png")
    return buffer.getvalue()


def write(path: Path, members: dict[str, bytes], mode: str = "w", **options) -> Path:
    with tarfile.open(path, mode, **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(number: int, label: str) -> dict[str, bytes]:
    return {f"{number:04d}.png": png(number), f"{number:04d}.cls": label.encode()}


def lists_of(examples) -> list[list[int]]:
    return [examples.targets.of(i).tolist() for i in range(len(examples))]


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_shards_hold_what_was_written(tmp_path_factory, classes, kind):
    folder = tmp_path_factory.mktemp("shards")
    for number, shard in enumerate(classes):
        members = {k: v for at, label in enumerate(shard) for k, v in pair(20 * number + at, str(label)).items()}
        write(folder / f"train-{number:03d}.tar", members, format=kind)
    flat = [label for shard in classes for label in shard]
    for source in (folder, folder / f"train-{{000..{len(classes) - 1:03d}}}.tar"):
        examples = open_dataset(source)
        assert lists_of(examples) == [[label] for label in flat]
        assert len(examples.labels) == 1 + max(flat)
        greys = torch.tensor([20 * number + at for number, shard in enumerate(classes) for at in range(len(shard))])
        seen = examples.read(range(len(flat)))[:, 0, 0, 0]
        torch.testing.assert_close(seen, (greys / 255 - 0.485) / 0.229)


def test_names_folders_long_paths_and_several_labels(tmp_path):
    far = "x" * 90 + "/" + "y" * 90
    write(tmp_path / "a.tar", {
        f"{far}.jpg": png(1), f"{far}.cls": b"dog; indoors\n", "b.seg.png": png(2), "b.json": json.dumps({"labels": ["cat"], "url": "x"}).encode(),
        "c.PNG": png(3), "c.cls": b"", "c.txt": b"a caption",
    })  # fmt: skip
    examples = open_dataset(tmp_path / "a.tar")
    assert examples.labels.names == ("cat", "dog", "indoors")
    assert lists_of(examples) == [[1, 2], [0], []]
    assert [examples.name(i) for i in (0, 2)] == [f"{tmp_path}/a.tar:{far}", f"{tmp_path}/a.tar:c"]
    assert lists_of(open_dataset(tmp_path / "a.tar", ["indoors", "dog", "cat"])) == [[0, 1], [2], []]
    with pytest.raises(SelfInformedError, match=r"a\.tar, b: labels: no label is named 'cat'"):
        open_dataset(tmp_path / "a.tar", ["indoors", "dog"])


def test_class_numbers_are_output_units_whatever_the_names(tmp_path):
    write(tmp_path / "a.tar", pair(0, "2") | {"1.png": png(1), "1.json": b"[0, 1]"})
    assert lists_of(open_dataset(tmp_path / "a.tar", ["0", "1", "10"])) == [[2], [0, 1]]
    with pytest.raises(SelfInformedError, match=r"there is no label 2; there are 2"):
        open_dataset(tmp_path / "a.tar", ["x", "y"])


def test_masks_metadata_and_what_macos_leaves_are_passed_over(tmp_path):
    members = {"0.depth.png": png(1), "0.json": b'{"width": 3}', "0.PNG": png(255), "0.CLS": b"1", "._0.png": b"", "./._1.png": b"", "x/._0.png": b""}
    examples = open_dataset(write(tmp_path / "a.tar", members))
    assert lists_of(examples) == [[1]]
    torch.testing.assert_close(examples.read([0])[0, 0, 0, 0], torch.tensor((1 - 0.485) / 0.229))


def test_digits_in_quotes_are_a_name(tmp_path):
    write(tmp_path / "a.tar", {"0.png": png(0), "0.json": b'{"label": "0"}', "1.png": png(0), "1.json": b'{"label": 0}', "2.png": png(0), "2.cls": b"0"})
    assert lists_of(open_dataset(tmp_path / "a.tar", ["1", "0"])) == [[1], [0], [0]]


def test_a_name_that_stands_twice(tmp_path):
    path = write(tmp_path / "a.tar", pair(0, "0"))
    write(path, pair(0, "1"), "a")
    with pytest.raises(SelfInformedError, match=r"'0000\.png' stands twice"):
        open_dataset(path)


def test_archives_one_after_another(tmp_path):
    parts = [write(tmp_path / f"{i}.tar", pair(i, "0")).read_bytes() for i in (0, 1)]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    with pytest.raises(SelfInformedError, match="more follows after its end"):
        open_dataset(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_long_headers_are_not_taken_in(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**30
        tar.fileobj.write(info.tobuf())
        tar.fileobj.truncate(2**30 + 2**20)  # a hole
        tar.fileobj.seek(2**30 + 2**20)
    with pytest.raises(SelfInformedError, match="a header of 1,073,741,824 bytes"):
        open_dataset(tmp_path / "a.tar")


def test_hidden_folders_beside_shards(tmp_path):
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "a.tar", pair(0, "0"))
    assert len(open_dataset(tmp_path)) == 1


def test_a_damaged_image_is_named_and_can_be_set_aside(tmp_path):
    write(tmp_path / "a.tar", pair(0, "0") | {"1.png": b"no image", "1.cls": b"1"})
    examples = open_dataset(tmp_path / "a.tar", skip_bad=1)
    assert [rows.tolist() for rows, _ in examples.batches(2)] == [[0]]
    assert "a.tar:1 cannot be read" in examples.skipped[1]


def test_the_fingerprint_changes_with_the_shard(tmp_path):
    before = open_dataset(write(tmp_path / "a.tar", pair(0, "0"))).fingerprint
    assert before != open_dataset(write(tmp_path / "a.tar", pair(0, "0") | {"notes.txt": 30_000 * b" "})).fingerprint


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no images"),
        ({"a.txt": b"1"}, "holds no images"),
        ({"a.png": b""}, "the image 'a' has no labels; expected a member 'a.cls'"),
        ({"a.png": b"", "a.json": b'{"caption": "x"}'}, "'a.json' holds no labels .it has no `cls`, `label` or `labels`"),
        ({"a.png": b"", "a.json": b"[1.5]"}, "1.5 is no label"),
        ({"a.png": b"", "a.json": b"[0, 1, 0, 1]"}, "names a label twice; expected class numbers, not one 0 or 1"),
        ({"a.png": b"", "a.json": b'[""]'}, "'' is no label"),
        ({"a.png": b"", "a.json": b"[" * 100}, "nested more than"),
        ({"a.png": b"", "a.json": b"{"}, "'a.json' holds no labels"),
        ({"a.png": b"", "a.cls": b"\xff"}, "'a.cls' holds no labels"),
        ({"a.png": b"", "a.cls": b"1", "b.png": b"", "b.cls": b"cat"}, "tar, b: some labels are class numbers and some names"),
        ({"a.png": b"", "a.cls": b"999999999"}, "tar, a: the class number 999999999"),
        ({"a.png": b"", "a.json": b"9" * 5000}, "'a.json' holds no labels"),
        ({"a.png": b"", "a.json": b"-1"}, "-1 is no label"),
        ({"a.png": b"", "a.cls": b""}, "a and all others have no label"),
        ({"a.png": b"", "a.json": b"null"}, "a and all others have no label"),
        ({"a.png": b"", "a.cls": b"1" * (2**20 + 1)}, "1,048,577 bytes; at most"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"1"}, "'a' has several images, 'png', 'jpg'"),
        ({"a.x.png": b"", "a.y.png": b"", "a.cls": b"1"}, "'a' has several images"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, members, message):
    with pytest.raises(SelfInformedError, match=message) as caught:
        open_dataset(write(tmp_path / "a.tar", members))
    assert "a.tar" in str(caught.value)


def test_every_cut_of_a_shard_is_refused(tmp_path):
    whole = write(tmp_path / "a.tar", pair(0, "0") | pair(1, "1")).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in range(0, end, 64):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(SelfInformedError, match=r"cut\.tar"):
            open_dataset(tmp_path / "cut.tar")


@settings(max_examples=150)
@given(st.integers(0, 3), st.integers(0, 511), st.binary(min_size=1, max_size=12))
def test_damaged_headers_are_refused_or_read(tmp_path_factory, block, at, content):
    """Sizes below zero and headers that lead back to one another among them: they must not read for ever."""
    path = write(tmp_path_factory.mktemp("damaged") / "a.tar", pair(0, "0") | pair(1, "1"), format=tarfile.GNU_FORMAT)
    whole = bytearray(path.read_bytes())
    header = bytearray(whole[1024 * block : 1024 * block + 512])
    header[at : at + len(content)] = content[: 512 - at]
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()  # so that only what it says is wrong
    whole[1024 * block : 1024 * block + 512] = header
    path.write_bytes(whole)
    try:
        open_dataset(path, skip_bad=2)
    except SelfInformedError as error:
        assert "a.tar" in str(error)


def test_a_size_below_zero_does_not_read_for_ever(tmp_path):
    path = write(tmp_path / "a.tar", pair(0, "0") | pair(1, "1"), format=tarfile.GNU_FORMAT)
    whole = bytearray(path.read_bytes())
    for block in (0, 2):  # a member's size in base 256, as GNU tar writes large ones
        header = bytearray(whole[512 * block : 512 * block + 512])
        header[124:136] = (-1024).to_bytes(12, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        whole[512 * block : 512 * block + 512] = header
    path.write_bytes(whole)
    with pytest.raises(SelfInformedError, match=r"a\.tar cannot be read as tar"):
        open_dataset(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_are_not_followed(tmp_path, kind):
    (tmp_path / "secret.png").write_bytes(png(9))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = kind, str(tmp_path / "secret.png")
        tar.addfile(link)
    with pytest.raises(SelfInformedError, match=r"'0\.png' is a link or has holes"):
        open_dataset(tmp_path / "a.tar")


def test_compressed_shards_say_what_to_do(tmp_path):
    write(tmp_path / "a.tar", pair(0, "0"), "w:gz")
    with pytest.raises(SelfInformedError, match="have to be unpacked"):
        open_dataset(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["x-{5..2}.tar", "x-{0..99999999}.tar"])
def test_a_range_that_is_none(tmp_path, name):
    with pytest.raises(SelfInformedError, match="names no files"):
        TarShards.named(tmp_path / name)


def test_a_shard_that_is_missing(tmp_path):
    write(tmp_path / "x-0.tar", pair(0, "0"))
    with pytest.raises(SelfInformedError, match=r"x-1\.tar does not exist"):
        open_dataset(tmp_path / "x-{0..1}.tar")
