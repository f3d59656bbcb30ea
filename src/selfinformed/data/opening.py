"""Opens examples from wherever they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args, overload

from selfinformed.data.arrays import from_arrays, read_npz
from selfinformed.data.examples import Examples
from selfinformed.data.hub_datasets import HubDataset
from selfinformed.data.images import IMAGENET, Augmentation, ImageFiles, Images, Pixels, Transform, distorting, image_transform
from selfinformed.data.inputs import Inputs, sample_of, stacked
from selfinformed.data.labels import LabelSpace, as_labels
from selfinformed.data.map_style import from_map_style
from selfinformed.data.tar_shards import TarShards
from selfinformed.data.targets import as_targets
from selfinformed.runtime.arguments import real_numbers, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import naming, shown


def open_dataset(
    source: Any,
    labels: LabelSpace | Sequence[str] | None = None,
    *,
    image_size: int | None = None,
    transform: Transform | None = None,
    pixels: Pixels | None = None,
    skip_bad: int = 0,
    views: int = 1,
    augmentation: Augmentation | None = None,
) -> Examples:
    """Opens examples from wherever they are.

    Args:
        source: one of
            - a folder with one subfolder of images per label (single label);
            - a .csv or .parquet manifest with the columns `path` (relative to the manifest) and `labels` (names separated by `;`,
              or a list);
            - tar shards as the webdataset package writes them, uncompressed: one .tar file, `train-{000..146}.tar`, or a folder of them; labels are in
              an example's member `cls` or `json`, as class numbers or names;
            - a .npz file with `inputs` [N, ...] and `targets` ([N] or multi-hot [N, C]);
            - a `datasets.Dataset` of Hugging Face with a column `label` or `labels`, and one of images or what the network is called with (`input_ids`
              and its mask, `pixel_values`);
            - a pair (inputs [N, ...] as a tensor, array or mapping of them, such as a tokenizer gives, targets in any form);
            - a map-style dataset giving (input or mapping of inputs, class number or label list), such as a `torch.utils.data.Dataset`;
            - `Examples`, returned as they are.
        labels: the network's label names in the order of its outputs. By default the subfolders' names, the manifest's labels sorted,
            or numbers. Folders and labels of the data must be among them.
        image_size: side in pixels to which image files are resized and cropped (default: left as they are).
        transform: takes a PIL image, gives a tensor; instead of the default (RGB, 0..1, less a mean, over a deviation).
        pixels: that mean and deviation, three numbers each (default: ImageNet's).
        skip_bad: how many unreadable images may be set aside; beyond that reading stops with the file's name.
        views: how often each image is there: first as it is, then in distorted views, view after view; the same at each reading.
        augmentation: what distorted views are: `crop`, or `crop_mirror`, where left and right do not matter.

    Raises:
        SelfInformedError: the source is none of these, or disagrees with the labels.
    """
    space = None if labels is None else as_labels(labels)
    given = [name for name, value in {"image_size": image_size, "transform": transform, "pixels": pixels}.items() if value is not None]
    if transform is not None and (image_size is not None or pixels is not None):
        raise SelfInformedError("data: a transform gives the inputs by itself; leave image_size and pixels out, or transform")
    image_size = None if image_size is None else whole_number("image_size", image_size)
    skip_bad, views = whole_number("skip_bad", skip_bad, least=0), whole_number("views", views)
    pixels = None if pixels is None else _checked_pixels(pixels)
    transforms = [transform or image_transform(image_size, pixels or IMAGENET)]
    if augmentation is not None or views != 1:
        if augmentation is None or augmentation not in get_args(Augmentation) or views < 2:
            ways = " or ".join(get_args(Augmentation))
            raise SelfInformedError(f"data: distorted views want augmentation {ways} and at least 2 views; got {augmentation} and {views}")
        size = None if transform else image_size
        transforms += [distorting(size, view, augmentation, transforms[0]) for view in range(1, views)]
    about = (f"{image_size} " if image_size else "").encode() + (f"{augmentation} {views}" if augmentation else "").encode()
    about += b"" if pixels in (None, IMAGENET) else repr(pixels).encode()
    from_images = partial(_from_images, transforms=transforms, skip_bad=skip_bad, about=about, sampled=transform is not None)
    if isinstance(source, str | Path):
        path = Path(source)
        if shards := TarShards.named(path):
            return from_images(TarShards.indexed(shards, space))
        if path.is_dir():
            return from_images(ImageFiles.from_folder(path, space))
        if path.suffix in {".csv", ".parquet"}:
            return from_images(ImageFiles.from_manifest(path, space))
        if path.suffix == ".npz":
            _check_no_images(path, views, given)
            with naming(path):
                return from_arrays(*read_npz(path), space)
        problem = "does not exist" if not path.exists() else "is no folder, .csv, .parquet, .tar or .npz file"
        raise SelfInformedError(f"data: {path} {problem}; expected a folder of images, a manifest, tar shards or an .npz file")
    if HubDataset.is_one(source):
        found = HubDataset.of(source, space)
        if found.image is not None:
            return from_images(found)
        _check_no_images(type(source).__name__, views, given)
        return Examples(found.read_inputs, as_targets(found.targets, len(found.labels)), found.labels, found.names, skip_bad, content=found.content)
    _check_no_images(type(source).__name__, views, given)
    if isinstance(source, Examples):
        if space not in (None, source.labels):
            raise SelfInformedError("labels: these examples have others already; give the names where they are opened first")
        return source
    if isinstance(source, tuple) and len(source) == 2:
        return from_arrays(*source, space)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Mapping):
        return from_map_style(source, space, skip_bad)
    hint = "; give its `dataset`" if hasattr(source, "dataset") else ""
    if not hint and hasattr(source, "__iter__") and not isinstance(source, Mapping):
        hint = "; read it into an array first"
    raise SelfInformedError(
        f"data: cannot read {type(source).__name__}{hint}; expected a folder, a manifest, an .npz file, (inputs, targets) or a map-style dataset"
    )


def _checked_pixels(pixels: Any) -> Pixels:
    if not isinstance(pixels, Iterable) or len(pixels := tuple(pixels)) != 2:
        raise SelfInformedError(f"pixels: expected a mean and a deviation, three numbers each; got {shown(pixels)}")
    mean, deviation = real_numbers("pixels", pixels[0]), real_numbers("pixels", pixels[1], above=0)
    if len(mean) != 3 or len(deviation) != 3:
        raise SelfInformedError(f"pixels: expected a mean and a deviation, three numbers each; got {shown(pixels)}")
    return mean, deviation


def _from_images(images: Images, transforms: Sequence[Transform], skip_bad: int, about: bytes, sampled: bool) -> Examples:
    n = len(transforms)
    views = _Views(images, images.names if n == 1 else _NamesOfViews(images.names, n), transforms, about, sampled)
    targets = as_targets(images.targets * n, len(images.labels))
    return Examples(views.read, targets, images.labels, views.names, skip_bad * n, content=views.content, n_views=n)


@dataclass(frozen=True)
class _Views:
    """Each image through the first transform, then each through the second, and so on; `about` says what they are, or a few images are `sampled`."""

    images: Images
    names: Sequence[str]
    transforms: Sequence[Transform]
    about: bytes
    sampled: bool

    def read(self, rows: Sequence[int]) -> Inputs:
        n = len(self.images.targets)
        inputs = [self.images.read(row % n, self.transforms[row // n]) for row in rows]
        return stacked(inputs, [self.names[row] for row in rows], "give all one size, e.g. with image_size")

    def content(self) -> bytes:
        return self.images.content() + self.about + (sample_of(self.read, len(self.images.targets)) if self.sampled else b"")


@dataclass(frozen=True)
class _NamesOfViews(Sequence[str]):
    """Names of images, then of their views, view after view."""

    of_images: Sequence[str]
    n_views: int

    def __len__(self) -> int:
        return len(self.of_images) * self.n_views

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        view, image = divmod(range(len(self))[row], len(self.of_images))
        return f"{self.of_images[image]} (view {view})" if view else self.of_images[image]


def _check_no_images(source: str | Path, views: int, given: Sequence[str]) -> None:
    """That inputs which are no images are not asked for views, or for what is done to images."""
    if given:
        raise SelfInformedError(f"data: {given[0]} is of images; {source} gives its inputs as the network takes them; leave it out")
    if views != 1:
        raise SelfInformedError("data: only images, in a folder, manifest, tar shards or a column, have distorted views; leave augmentation out")
