"""Bodies are checked before they are believed."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from conftest import refused
from selfinformed.data.images import decoded, image_transform
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.serving.bodies import Expected, body_reader, image_reader

PICTURE = Expected(np.dtype("float32"), (2, 3))
read = body_reader({"inputs": PICTURE}, None)
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG of zeros, a few kB for any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), b""
    if width * height < 10**6:
        rows = packer.compress(bytes((width + 1) * height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


@pytest.mark.parametrize("array", [ARRAY, ARRAY[None], np.asfortranarray(ARRAY), np.asfortranarray(ARRAY[None])])
def test_an_array_with_or_without_a_batch_in_either_order(array):
    np.testing.assert_array_equal(read(npy(array))["inputs"], ARRAY)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"", [r"expected an array float32 \[2, 3\] as .npy, got 0 bytes"]),
        (npy(ARRAY.astype(np.float64)), [r"expected float32 \[2, 3\], got float64"]),
        (npy(ARRAY.astype(">f4")), ["expected float32", "got >f4"]),
        (npy(ARRAY[:1]), [r"got float32 \[1, 3\]"]),
        (npy(np.stack([ARRAY, ARRAY])), [r"got float32 \[2, 2, 3\]; send one example"]),
        (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), [r"expected float32 \[2, 3\], got object"]),
        (npy(np.zeros(2, "f4,i4")), [r"expected float32"]),
        (npy(ARRAY)[:-1], ["holds 24 bytes after its header, got 23"]),
        (npy(ARRAY) + b"x", ["got 25"]),
        (b"\x93NUMPY", [".npy header cannot be read"]),
        (b"\x93NUMPY\x03\x00" + npy(ARRAY)[8:], [".npy header cannot be read"]),
        (b"\x93NUMPY\x01\x00\x20\x00" + b"(" * 32, [".npy header cannot be read"]),
        (b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('ls')   ", [".npy header cannot be read"]),
        (npy(np.full((2, 3), np.nan, np.float32)), ["NaN or infinity"]),
    ],
)
def test_another_body_is_refused(body, parts):
    with refused(*parts):
        read(body)


def test_a_header_that_states_terabytes_makes_no_array():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    with refused(r"expected float32 \[2, 3\], got float32 \[1000000, 1000000\]"):
        read(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_are_an_array_or_an_error(rest):
    for start in (b"\x93NUMPY", b"\x93NUMPY\x01\x00", npy(ARRAY)[:40], npy(ARRAY)[:128]):
        with contextlib.suppress(SelfInformedError):
            assert read(start + rest)["inputs"].shape == (2, 3)


def test_several_inputs_come_as_safetensors():
    expected = {"ids": Expected(np.dtype("int64"), (4,)), "mask": Expected(np.dtype("bool"), (4,))}
    several = body_reader(expected, None)
    arrays = {"ids": np.arange(4), "mask": np.ones((1, 4), bool)}
    got = several(save(arrays))
    assert {name: array.shape for name, array in got.items()} == {"ids": (4,), "mask": (4,)}
    for body, part in [
        (b"", "cannot be read as safetensors"),
        (npy(ARRAY), r"cannot be read as safetensors.*expected ids int64 \[4\], mask bool \[4\]"),
        (save({"ids": np.arange(4)}), "got ids"),
        (save(arrays | {"ids": np.arange(5)}), r"ids: expected int64 \[4\], got int64 \[5\]"),
        (struct.pack("<Q", 2**62) + b"{}", "cannot be read as safetensors"),
    ]:
        with refused(part):
            several(body)


def test_an_image_is_read_as_the_examples_were():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    with_images = body_reader({"inputs": Expected(np.dtype("float32"), (3, 8, 8))}, image_reader(8, 10_000))
    for kind in ("png", "jpeg", "webp", "bmp", "gif", "ppm"):
        file = io.BytesIO()
        picture.save(file, kind)
        with Image.open(io.BytesIO(file.getvalue())) as again:
            expected = image_transform(8)(again).numpy()
        np.testing.assert_array_equal(with_images(file.getvalue())["inputs"], expected)
    with refused(r"image: expected float32 \[3, 9, 9\], got float32 \[3, 8, 8\]"):
        body_reader({"inputs": Expected(np.dtype("float32"), (3, 9, 9))}, image_reader(8, 10_000))(file.getvalue())
    array = np.zeros((3, 8, 8), np.float32)
    np.testing.assert_array_equal(with_images(npy(array))["inputs"], array)  # transformed already


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (png(60_000, 60_000), "more than 1,000,000 pixels"),
        (png(2_000, 1_000), "2000 x 1000 is more than 1,000,000 pixels"),
        (png(12_000, 10_000), "more than 1,000,000 pixels"),
        (png(1, 50_000), r"1 x 50000 .*when resized: 3,200,000"),
        (png(16, 16)[:44], "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_is_large_or_none_is_refused_by_its_header(body, part):
    assert len(body) < 2_000
    with refused(part):
        image_reader(8, 1_000_000)(body)


def test_deep_pixels_are_refused_as_such():
    file = io.BytesIO()
    Image.new("I;16", (8, 8)).save(file, "png")
    with refused("image: its pixels are of more than 8 bits"):
        image_reader(None, 10_000)(file.getvalue())


@given(st.binary(max_size=300), st.integers(0, 200))
def test_damaged_images_are_errors(noise, place):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "png")
    whole = file.getvalue()
    with contextlib.suppress(SelfInformedError):
        image_reader(None, 10_000)(whole[:place] + noise + whole[place + len(noise) :])


def test_a_dimension_that_is_no_number_is_refused():
    body = io.BytesIO()
    np.lib.format.write_array_header_1_0(body, {"descr": "<f4", "fortran_order": False, "shape": (True, 16)})
    with refused(r"body: expected float32 \[16\], got float32 \[True, 16\]"):
        body_reader({"x": Expected(np.dtype(np.float32), (16,))}, None)(body.getvalue() + bytes(64))


@pytest.mark.parametrize("start", [b"P1\n16 16\n", b"P2\n16 16\n255\n", b"P3\n16 16\n255\n", b"BM" + bytes(28) + b"\1\0\0\0"])
def test_images_that_are_decoded_by_loops_in_python_are_refused_at_once(start):
    with refused("image: it is written as text or in runs, which is slow to read; send PNG or JPEG"):
        image_reader(None, 10**6)(start + b"#\n" * 100_000)


def test_a_jpeg_of_many_scans_is_refused_at_once_wherever_it_is_read():
    body = b"\xff\xd8" + b"\xff\xda\x00\x08" * 101
    with refused("image: a JPEG of so many scans takes long to read"):
        image_reader(None, 10**6)(body)
    with refused("data: the image x cannot be read .*more than 100 scans, which take long to read"):
        decoded(io.BytesIO(body), "x", lambda image: image)
    usual = io.BytesIO()
    Image.new("RGB", (64, 64)).save(usual, "JPEG", progressive=True)
    assert image_reader(None, 10**6)(usual.getvalue()).shape == (3, 64, 64)
