"""What a request holds, checked before it is believed: an image, an array as .npy, or several arrays as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from selfinformed.runtime.errors import SelfInformedError

if TYPE_CHECKING:
    from selfinformed.data.images import Pixels

Arrays = dict[str, np.ndarray]
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")


@dataclass(frozen=True)
class Expected:
    """One example of an input: its type, and its shape without the batch."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> None:
        """One example, with or without a batch of one about it."""
        whole = all(type(size) is int for size in shape)  # a header may say True, which equals 1
        if dtype != self.dtype or not whole or shape not in (self.shape, (1, *self.shape)):
            raise SelfInformedError(f"{what}: expected {self}, got {dtype} {list(shape)}; send one example, of that type and shape")


def body_reader(expected: Mapping[str, Expected], images: Callable[[bytes], np.ndarray] | None) -> Callable[[bytes], Arrays]:
    """Gives the function that turns a body into one example of each input, or raises `SelfInformedError`.

    Args:
        expected: the inputs by name.
        images: reads an image, where the network takes images.
    """
    (name, first), *others = expected.items()

    def read(body: bytes) -> Arrays:
        if others:
            return _read_safetensors(body, expected)
        if body.startswith(np.lib.format.MAGIC_PREFIX):
            return {name: _read_npy(body, first)}
        if images is None:
            raise SelfInformedError(f"body: expected an array {first} as .npy, got {len(body):,} bytes that are none; send what numpy.save writes")
        array = images(body)
        first.check(array.dtype, array.shape, "image")
        return {name: array}

    return read


def image_reader(size: int | None, most_pixels: int, pixels: Pixels | None = None) -> Callable[[bytes], np.ndarray]:
    """Gives the function that turns an image into float32 [3, H, W], as the examples that the network was trained on were.

    Args:
        size, pixels: see `image_transform`.
        most_pixels: that the header may state, and that resizing may make, which of a thread-like image is far more.
    """
    from selfinformed.data.images import IMAGENET, DeepPixelsError, has_many_scans, image_transform, is_slow  # which needs torch; a server of arrays does not

    transform = image_transform(size, pixels or IMAGENET)

    def read(body: bytes) -> np.ndarray:
        from PIL import Image

        if is_slow(body):
            raise SelfInformedError("image: it is written as text or in runs, which is slow to read; send PNG or JPEG")
        if has_many_scans(body):
            raise SelfInformedError("image: a JPEG of so many scans takes long to read; send one of fewer")
        try:
            with Image.open(BytesIO(body), formats=_FORMATS) as image:
                width, height = image.size
                there = width * height
                resized = there if size is None else round(there * (size / max(1, min(width, height))) ** 2)
                if max(there, resized) > most_pixels:
                    raise SelfInformedError(
                        f"image: {width} x {height} is more than {most_pixels:,} pixels (when resized: {resized:,}); send a smaller or less narrow one"
                    )
                array: np.ndarray = transform(image).numpy()
                return array
        except SelfInformedError:
            raise
        except Image.DecompressionBombError:
            raise SelfInformedError(f"image: more than {most_pixels:,} pixels; send a smaller one") from None
        except DeepPixelsError as error:
            raise SelfInformedError(f"image: {error}") from None
        except Exception as error:  # decoders raise anything on damaged or hostile bytes
            raise SelfInformedError(f"image: it cannot be read ({type(error).__name__}); expected {', '.join(_FORMATS)}, or an array as .npy") from None

    return read


def _read_npy(body: bytes, expected: Expected) -> np.ndarray:
    """The array of a .npy file. Type and shape are compared before anything of their size is made; objects, and so pickles, match no type."""
    file = BytesIO(body)
    try:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, in_columns, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # the header is a Python literal, in which anything can be wrong
        raise SelfInformedError(f"body: its .npy header cannot be read ({type(error).__name__}); expected {expected} as numpy.save writes it") from None
    expected.check(dtype, shape, "body")
    size, given = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, len(body) - file.tell()
    if given != size:
        raise SelfInformedError(f"body: a .npy of {expected} holds {size:,} bytes after its header, got {given:,}")
    array = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if in_columns else "C").reshape(expected.shape)
    return _finite(array, "body")


def _read_safetensors(body: bytes, expected: Mapping[str, Expected]) -> Arrays:
    from safetensors.numpy import load

    wanted = ", ".join(f"{name} {what}" for name, what in expected.items())
    try:
        arrays = load(body)
    except Exception as error:  # SafetensorError, or a type that numpy has not
        raise SelfInformedError(f"body: it cannot be read as safetensors ({type(error).__name__}); expected {wanted}") from None
    if arrays.keys() != expected.keys():
        raise SelfInformedError(f"body: expected {wanted}; got {', '.join(sorted(arrays)[:8]) or 'no array'}")
    for name, what in expected.items():
        what.check(arrays[name].dtype, arrays[name].shape, name)
    return {name: _finite(arrays[name].reshape(what.shape), name) for name, what in expected.items()}


def _finite(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SelfInformedError(f"{what}: it holds NaN or infinity; send finite numbers")
    return array
