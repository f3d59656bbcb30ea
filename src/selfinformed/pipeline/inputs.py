"""The network and the data that a configuration names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing is unpickled here
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch

from selfinformed.data.examples import Examples
from selfinformed.data.glyphs import GlyphLabels, glyph_examples, shipped_glyphs
from selfinformed.data.images import IMAGENET, Pixels
from selfinformed.data.inputs import Inputs as Batch
from selfinformed.data.inputs import take_inputs
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.network.families import FAMILIES, labels_of, open_family
from selfinformed.network.glyphnet import BaseName, GlyphNet
from selfinformed.network.points import AttachPoint, Reduce
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.pipeline.config import RunConfig
from selfinformed.runtime.device import choose_device
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.reading import check_file, check_tensors, naming, read_text, reason_of, shown
from selfinformed.runtime.remarks import remark
from selfinformed.runtime.seeds import seeded
from selfinformed.structure.groups import LabelGroups
from selfinformed.training.fitting import guess_output

if TYPE_CHECKING:
    from torch import nn

Part = Literal["train", "holdout", "test", "second_view"]


class Inputs:
    """Opens what a configuration names, each once and only when asked for."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._examples: dict[str, Examples] = {}

    def network(self) -> WrappedClassifier:
        """The wrapped network, on the chosen device, its convolutions laid out channels last (over twice as fast on a CPU)."""
        config, model = self.config, self._placed(self._model)
        examples = self.examples("holdout")
        try:
            return wrap(
                model, examples.example_inputs(), labels=examples.labels,
                classifier=names.split(",") if "," in (names := config.classifier or "") else config.classifier,
                attach=_attach_points(config), reduce="flatten" if config.attach else config.reduce,
                output=guess_output(examples.targets) if config.outputs == "auto" else config.outputs,
            )  # fmt: skip
        except SelfInformedError as error:
            if "example inputs" in str(error):
                found = examples.example_inputs()
                which = f", {str(found.dtype).removeprefix('torch.')} {list(found.shape)}" if isinstance(found, torch.Tensor) else ""
                raise SelfInformedError(f"{error}; they are the first of {config.holdout}{which}") from None
            raise

    def teacher(self) -> tuple[WrappedClassifier, torch.Tensor | None]:
        """The wrapped network whose outputs are soft targets, and int64 [C] which of them is each label, where its names say that they stand otherwise."""
        config, train = self.config, self.examples("train")
        try:
            model = self._placed(self._opened(config.teacher or "", None, config.teacher_checkpoint))
            net = wrap(model, train.example_inputs())
        except SelfInformedError as error:
            hint = "; of a teacher that cannot be named: wrap it in a function whose network ends in one linear layer" if "classifier=" in str(error) else ""
            raise SelfInformedError(f"teacher: {error}{hint}") from None
        if net.n_labels != len(train.labels):
            raise SelfInformedError(f"teacher: expected {len(train.labels)} outputs, one for each label; the network has {net.n_labels}")
        names, own = labels_of(model), list(train.labels.names)
        if names is None or names == own:
            return net, None
        number = {name: i for i, name in enumerate(names)}
        if missing := sorted(set(own) - set(number)):
            raise SelfInformedError(f"teacher: its labels are others than those taught; {shown(missing[0])} is none of them")
        return net, torch.tensor([number[name] for name in own], device="cpu")

    def _placed(self, model: nn.Module) -> nn.Module:
        """The network as it is run."""
        volumes = any(p.ndim == 5 for p in model.parameters())  # the weights of a Conv3d have no such layout
        device = choose_device(self.config.device)
        layout = torch.preserve_format if volumes or device.type not in ("cpu", "cuda") else torch.channels_last  # which not all compute right
        return model.to(device).to(memory_format=layout).eval()  # type: ignore[no-any-return, call-overload]

    @cached_property
    def _model(self) -> nn.Module:
        """The network with its weights."""
        return self._opened(self.config.model, self.config.model_options, self.config.checkpoint)

    @property
    def has_random_weights(self) -> bool:
        """Whether nothing says what the network was trained to."""
        c = self.config
        named = {"pretrained", "checkpoint_path", "weights"} & {*(c.model_options or {})}
        return c.model.startswith(("timm:", "torchvision:")) and not c.checkpoint and not named

    @cached_property
    def pixels(self) -> Pixels:
        """Mean and deviation of pixels that the network was trained on, as far as is known."""
        mean, deviation = IMAGENET
        family, _, name = self.config.model.partition(":")
        if family == "timm" and not (self.config.pixel_mean and self.config.pixel_std):
            with suppress(Exception):  # a name without a configuration, or that is none, which is said where the model is made
                known = extra("timm").get_pretrained_cfg(name)
                if known is not None and len(known.mean) == len(known.std) == 3:
                    mean, deviation = known.mean, known.std
        return tuple(self.config.pixel_mean or mean), tuple(self.config.pixel_std or deviation)

    def _opened(self, model_name: str, options: dict[str, Any] | None, checkpoint: str | None) -> nn.Module:
        config = self.config
        family, _, name = model_name.partition(":")
        if family == "transformers":
            model = open_family(family, name, len(self.labels) if self.labels else None, options)
        elif family in FAMILIES:
            n_labels = len(self.labels) if self.labels else config.n_labels or len(self.examples("train" if config.train else "holdout").labels)
            with seeded(0):  # without a checkpoint the same network each time
                model = open_family(family, name, n_labels, options)
        elif options:
            raise SelfInformedError(f"model_options: these are for models named by their family ({', '.join(FAMILIES)}); got the model {model_name!r}")
        else:
            model = _open_model(model_name, Path(config.output))
        if checkpoint:
            _load_checkpoint(model, Path(checkpoint))
        return model

    def examples(self, part: Part) -> Examples:
        """The examples of a split, or the second view of the test examples."""
        if part not in self._examples:
            source = getattr(self.config, part)
            if not source:
                raise SelfInformedError(f"{part}: the configuration names no {part} examples; add `{part}: FOLDER, MANIFEST or FILE.npz`")
            self._examples[part] = _mirrored(self.examples("test")) if (part, source) == ("second_view", "mirrored") else self._open(source, part)
        return self._examples[part]

    def mapping(self) -> dict[str, str] | Path | None:
        """Source to target labels; the demo's maps every character to itself and leaves the words out."""
        if self.config.mapping == "characters":
            names = GlyphLabels.shipped().space.names
            return {name: name for name in names if not name.startswith("word:")}
        return Path(self.config.mapping) if self.config.mapping else None

    def batches_to_time(self) -> list[Batch]:
        """Batches of `latency_batch` mixed hold-out examples, several where they are small; data may be sorted by label."""
        size, examples = self.config.latency_batch, self.examples("holdout")
        if size > len(examples):
            raise SelfInformedError(f"latency_batch: expected at most the {len(examples):,} hold-out examples, got {size:,}")
        wanted = size * max(1, min(10, 64 // size))
        mixed = np.random.default_rng(self.config.seed).permutation(len(examples))[: wanted + self.config.skip_bad]  # of which some may be unreadable
        rows, inputs = next(examples.take(mixed).batches(len(mixed)), ((), torch.empty(0, device="cpu")))
        if len(rows) < size:
            raise SelfInformedError(f"latency_batch: of {len(mixed):,} hold-out examples {len(rows):,} can be read, expected {size:,}; give fewer")
        return [take_inputs(inputs, range(start, start + size)) for start in range(0, min(wanted, len(rows)) - size + 1, size)]

    def pictures(self, groups: LabelGroups, most: int = 1_500) -> dict[int, bytes]:
        """A small PNG for each label, at most so many, the first labels of each group first: the demo's glyphs, or where inputs are images the
        first hold-out example of the label. Empty for other data, or where the data are not there."""
        import io

        from PIL import Image

        order = [int(label) for place in range(max(groups.sizes, default=0)) for members in groups.members for label in members[place : place + 1]]
        try:
            found = self._glyphs() if self.config.holdout == "glyphs" else self._images(list(dict.fromkeys(order))[:most])
        except SelfInformedError:  # moved since, or unreadable
            return {}
        pictures = {}
        for label, pixels in found.items():
            image, buffer = Image.fromarray(pixels), io.BytesIO()
            image.thumbnail((48, 48))
            image.quantize(8 if pixels.ndim == 2 else 32).save(buffer, "png", optimize=True)
            pictures[label] = buffer.getvalue()
        return pictures

    def _glyphs(self) -> dict[int, npt.NDArray[np.uint8]]:
        glyphs = shipped_glyphs(self.config.fonts)
        return {int(label): 255 - glyphs.bitmaps[first] for label, first in zip(*np.unique(glyphs.character, return_index=True), strict=True)}

    def _images(self, labels: list[int]) -> dict[int, npt.NDArray[np.uint8]]:
        """The first example of each label as uint8 [H, W] or [H, W, 3], its values spread from black to white."""
        examples = self.examples("holdout")
        rows, annotated = examples.targets.pairs()
        first = {label: int(row) for row, label in zip(rows[::-1].tolist(), annotated[::-1].tolist(), strict=True)}
        found = {}
        for label in (label for label in labels if label in first):
            try:
                inputs = examples.read([first[label]])
            except SelfInformedError:  # one that cannot be read takes no other's picture away
                continue
            if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or min(inputs.shape[2:]) < 8:
                return {}
            pixels = inputs[0].float().movedim(0, 2)
            low, high = pixels.amin(), pixels.amax()
            pixels = (255 * (pixels - low) / (high - low).clamp(min=1e-9)).round().to(torch.uint8)
            found[label] = pixels[..., 0].numpy() if pixels.shape[2] == 1 else pixels.numpy()
        return found

    def _open(self, source: str, split: Part) -> Examples:
        if source == "glyphs":
            if split == "second_view":
                raise SelfInformedError("second_view: glyphs have one view for test; give mirrored, or a source of your own")
            return glyph_examples(split, self.config.fonts, self.config.views if split == "train" else None)
        labels = self.labels
        if labels is None and self.config.model.startswith("transformers:"):
            names = labels_of(self._model)  # the order of its outputs, which need not be that of the folders' names
            labels = LabelSpace(names) if names else None
        if labels is None and split != "train" and self.config.train:
            labels = self.examples("train").labels  # the label set is the training data's
        augmentation = self.config.augmentation if split == "train" else None
        asked = self.config.pixel_mean or self.config.pixel_std or not source.endswith(".npz")  # whose inputs are no images
        return open_dataset(
            source, labels, image_size=self.config.image_size, pixels=self.pixels if asked else None, skip_bad=self.config.skip_bad,
            views=self.config.views if augmentation else 1, augmentation=augmentation,
        )

    @cached_property
    def labels(self) -> LabelSpace | None:
        """The label names that were given, None for none."""
        if not self.config.labels:
            return None
        try:
            with naming(self.config.labels):
                return LabelSpace(read_text(self.config.labels, "labels", encoding="utf-8-sig").removesuffix("\n").split("\n"))
        except SelfInformedError as error:
            raise SelfInformedError(f"{error}; expected a text file with one name per line") from None


def _mirrored(examples: Examples) -> Examples:
    """Images, left and right exchanged."""

    def read(rows: Sequence[int]) -> Batch:
        inputs = examples.read(rows)
        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
            raise SelfInformedError("second_view: only images (N, channels, height, width) can be mirrored; give a source of the same examples")
        return inputs.flip(3)

    return replace(examples, read=read, skipped={}, content=lambda: b"mirrored" + examples.content())


def _attach_points(config: RunConfig) -> list[AttachPoint] | None:
    if config.attach is None:
        return None
    parts = (part.strip().partition(":") for part in config.attach.split(","))
    return [AttachPoint(name, "output", cast("Reduce", reduce or config.reduce)) for name, _, reduce in parts]


def _open_model(name: str, output: Path) -> nn.Module:
    """The network that a function or a class of the user's gives. What the name may call: a function of a Python file outside the run folder (which
    holds results, and may come from somebody else), or a function or `nn.Module` of an installed package, defined there."""
    from torch import nn

    place, _, function = name.rpartition(":")
    if not name:
        raise SelfInformedError("model: the configuration names no model, and this runs it; of saved predictions alone labels can be measured and clustered")
    if not place or not function:
        raise SelfInformedError(
            f"model: {name!r} names no model; expected timm:NAME, torchvision:NAME, transformers:FOLDER, FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION, "
            "demo:budget or demo:converged"
        )
    if place == "demo":
        if function not in get_args(BaseName):
            raise SelfInformedError(f"model: the shipped bases are {' and '.join(get_args(BaseName))}, got {function!r}")
        return GlyphNet.shipped(cast("Literal['budget', 'converged']", function))
    if place.endswith(".py") and Path(place).resolve().is_relative_to(output.resolve()):
        raise SelfInformedError(f"model: {place} is in the run folder {output}, which holds results and never code; keep it elsewhere")
    try:
        model = _made_by(place, function, output)()
    except SelfInformedError:
        raise
    except Exception as error:  # the file is the user's and may raise anything
        raise SelfInformedError(f"model: {name!r} cannot be opened ({type(error).__name__}: {error})") from error
    if not isinstance(model, nn.Module):
        raise SelfInformedError(f"model: {name!r} returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _made_by(place: str, function: str, output: Path) -> Any:
    from torch import nn

    if place.endswith(".py"):
        return getattr(_import(place), function)
    package = place.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise SelfInformedError(f"model: {place} is of Python's standard library, which has no networks; expected PACKAGE.MODULE:FUNCTION of a package")
    spec = importlib.util.find_spec(package)  # which imports nothing
    lies = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
    if any(Path(at).resolve().is_relative_to(output.resolve()) for at in lies if at):
        raise SelfInformedError(f"model: {place} is in the run folder {output}, which holds results and never code; keep it elsewhere")
    found = getattr(importlib.import_module(place), function)
    is_network = inspect.isclass(found) and issubclass(found, nn.Module)
    if not is_network and not (inspect.isfunction(found) and found.__module__.partition(".")[0] == package):
        raise SelfInformedError(f"model: {function} is no function of {package}, nor an nn.Module; expected PACKAGE.MODULE:FUNCTION that returns a network")
    return found


def _import(place: str) -> Any:
    if not Path(place).is_file():
        raise SelfInformedError(f"model: the file {place} does not exist")
    folder = Path(place).resolve().parent
    spec = importlib.util.spec_from_file_location(f"_model_{len(_FOLDERS)}_{Path(place).stem}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    beside = {*map(str, _FOLDERS)} - {str(folder)}
    others = {name: sys.modules.pop(name) for name, its in list(sys.modules.items()) if beside and _is_in(its, beside)}
    _FOLDERS.append(folder)
    sys.path.insert(0, str(folder))  # so that it can import the files beside it, not those of the same name beside another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        sys.modules.update(others)
    return module


_FOLDERS: list[Path] = []  # of the files that were imported


def _is_in(module: Any, folders: set[str]) -> bool:
    """Whether a module's file is anywhere below one of the folders."""
    place = str(getattr(module, "__file__", None) or "")
    while (above := os.path.dirname(place)) != place:
        if above in folders:
            return True
        place = above
    return False


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    own, state = model.state_dict(), _read_checkpoint(path)
    state = {name: tensor for name, tensor in state.items() if name in own or name != "n_averaged"}  # which AveragedModel adds
    prefixes = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning, in any order
    while state.keys() != own.keys() and (prefix := next((p for p in prefixes if state and all(name.startswith(p) for name in state)), None)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    missing, unknown = [k for k in own if k not in state], [k for k in state if k not in own]
    kinds = [k for k in own if k in state and not _is_like(state[k], own[k])]
    shapes = [] if kinds else [f"{k} {list(state[k].shape)} for {list(own[k].shape)}" for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unknown or kinds or shapes:
        differences = (("missing", missing), ("unknown", unknown), ("of another kind of tensor", kinds), ("of another shape", shapes))
        parts = [f"{what} {', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)})" for what, names in differences if names]
        raise SelfInformedError(f"checkpoint: {path} does not fit the model: {'; '.join(parts)}; is it of this architecture, with {len(own)} tensors?")
    model.load_state_dict(state)


def _is_like(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a checkpoint's tensor is as plain as the model's: dense, in memory, and numbers of the same kind, or loading would fail or make them others."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized and not tensor.is_nested
    return plain and (tensor.is_floating_point(), tensor.is_complex()) == (own.is_floating_point(), own.is_complex())


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file, or of a .pt file read with weights_only=True, where they may be under `state_dict` or `model`."""
    from safetensors.torch import load_file

    check_file(path, "checkpoint")
    try:
        if path.suffix == ".safetensors":
            check_tensors(path, "checkpoint")
        elif zipfile.is_zipfile(path) and any(member.compress_type != zipfile.ZIP_STORED for member in zipfile.ZipFile(path).infolist()):
            raise ValueError("it is compressed, which torch.save does not do, and may unpack to any size")
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged, or refused because it is more than tensors
        told = str(error).lower()
        if isinstance(error, UnpicklingError) and "weights_only" in told and "unsupported operand" not in told:  # which bytes that are no pickle have
            raise SelfInformedError(
                f"checkpoint: {path} is a pickle that holds more than tensors, and opening it could run code; where you trust it, convert it once: "
                "torch.save(model.state_dict(), 'weights.pt'), or safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from None
        reason = "it is no file that torch.save wrote" if "weights_only" in told else reason_of(error)
        raise SelfInformedError(f"checkpoint: {path} cannot be read ({reason}); expected .safetensors, or a .pt of tensors only") from None
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            if others := [other for other in ("state_dict_ema", "model_ema", "ema") if isinstance(state.get(other), dict)]:
                remark(f"checkpoint: {path} holds {name!r}, which is taken, and {others[0]!r}; save the weights you want alone if it is those")
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise SelfInformedError(f"checkpoint: {path} holds no state dict; expected a dictionary of tensors by name")
    return state
