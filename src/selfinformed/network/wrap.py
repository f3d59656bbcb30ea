"""A trained classifier seen as trunk, stack and classifier, and proved to be just that."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import threading
import zlib
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from selfinformed.data.inputs import Inputs, InputsLike
from selfinformed.data.labels import LabelSpace
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.calls import Call, call, evaluating, logits_of, record, told_of
from selfinformed.network.cost import Cost, cost
from selfinformed.network.families import classifiers_of, labels_of
from selfinformed.runtime.arguments import expect, one_of
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import remark
from selfinformed.runtime.tabular import Table

Output = Literal["softmax", "logistic"]
Reduce = Literal["flatten", "mean", "channels_first_mean", "channels_last_mean", "first", "map"]


@dataclass(frozen=True)
class AttachPoint:
    """A tensor that heads read.

    Attributes:
        module: a module's dotted name.
        side: whether it is that module's input or output.
        reduce: how a tensor with more than two dimensions becomes [B, D]:
            - `flatten`: everything side by side; its size must not change from batch to batch.
            - `mean`: over the positions of a map [B, channels, height, width], or over the tokens of a sequence [B, tokens, D].
            - `channels_first_mean`: over all but the first two dimensions, for sequences [B, channels, length] too.
            - `channels_last_mean`: over all but the first and last dimension, for maps [B, ..., channels].
            - `first`: the first token of a sequence [B, tokens, D].
            - `map`: flattened, but remembered as a map [B, channels, height, width] on which heads may convolve.
    """

    module: str
    side: Literal["input", "output"] = "output"
    reduce: Reduce = "flatten"

    def __post_init__(self) -> None:
        one_of("side", self.side, ("input", "output"))
        one_of("reduce", self.reduce, get_args(Reduce))

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, D), in memory of its own: what follows in the network may write to the tensor."""
        if tensor.ndim == 3 and self.reduce == "mean":
            return tensor.mean(1)
        if tensor.ndim > 2 and self.reduce in ("mean", "channels_first_mean"):
            return tensor.flatten(2).mean(2)
        if tensor.ndim > 2 and self.reduce == "channels_last_mean":
            return tensor.flatten(1, -2).mean(1)
        return (tensor[:, 0] if tensor.ndim > 2 and self.reduce == "first" else tensor).flatten(1).clone()

    def __str__(self) -> str:
        return f"the {self.side} of {self.module!r}"


@dataclass(frozen=True)
class FeatureShape:
    """What heads read from one attach point: `size` columns; `map` is (channels, height, width) where its `reduce` is `map`."""

    size: int
    map: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Features:
    """What a network computes for a batch: `attached` [B, D] (all attach points side by side), the classifier's input
    `penultimate` [B, P], `logits` [B, C]."""

    attached: torch.Tensor
    penultimate: torch.Tensor
    logits: torch.Tensor


class WrappedClassifier:
    """A model, where its classifier is, and where heads attach. Made by `wrap`; the model is never changed."""

    def __init__(
        self,
        model: nn.Module,
        classifiers: Sequence[str],
        stack: tuple[str, ...],
        attach_points: Sequence[AttachPoint],
        shapes: Sequence[FeatureShape],
        labels: LabelSpace,
        output: Output | None,
        example_inputs: Inputs,
    ) -> None:
        self.model = model
        self.classifier_names = tuple(classifiers)
        self.stack_names = stack
        self.attach_points = tuple(attach_points)
        self.shapes = tuple(shapes)
        self.labels = labels
        self.output = output
        self.example_inputs = example_inputs
        self.changing: frozenset[str] = frozenset()  # buffers that a call writes to
        self._fingerprint: tuple[Any, str] | None = None
        self.is_replaceable = False  # whether `augment` has seen that what stands in the classifier's place is called

    @property
    def attach(self) -> AttachPoint:
        """The first attach point, for the many networks that have one."""
        return self.attach_points[0]

    @property
    def feature_size(self) -> int:
        """D, over all attach points."""
        return sum(shape.size for shape in self.shapes)

    @property
    def classifier(self) -> nn.Linear | AveragedClassifier:
        """The last layer, with one output unit per label; of a distilled network the average of several."""
        parts = cast("list[nn.Linear]", [self.model.get_submodule(name) for name in self.classifier_names])
        return parts[0] if len(parts) == 1 else AveragedClassifier(parts)

    @property
    def classifier_name(self) -> str:
        """Dotted name of the classifier; of several the last that is called."""
        return self.classifier_names[-1]

    @property
    def n_labels(self) -> int:
        """C."""
        return len(self.labels)

    def logits(self, inputs: InputsLike) -> torch.Tensor:
        """The model's logits [B, C] in eval mode, without gradients."""
        with evaluating(self.model), told_of(inputs, self.example_inputs):
            return logits_of(call(self.model, inputs))

    def features(self, inputs: InputsLike) -> Features:
        """Runs the model once in eval mode and keeps what heads and classifier read."""
        kept: dict[int, torch.Tensor] = {}
        mine = threading.get_ident()

        def keeper(place: int, point: AttachPoint) -> Any:
            def keep(_: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
                if threading.get_ident() == mine:
                    kept[place] = point.read(args[0] if point.side == "input" else output)

            return keep

        hooks, inputs_of = [], [AttachPoint(name, "input") for name in self.classifier_names]
        with _HOOKED:  # hooks are the model's, and other threads may run it too
            try:
                for place, point in enumerate([*self.attach_points, *inputs_of]):
                    module, hook = self.model.get_submodule(point.module), keeper(place, point)
                    hooks.append(module.register_forward_pre_hook(hook) if point.side == "input" else module.register_forward_hook(hook))
                logits = self.logits(inputs)
            finally:
                for handle in hooks:
                    handle.remove()
        parts = [kept[place] for place in range(len(self.attach_points))]
        penultimate = [kept[place] for place in range(len(parts), len(kept))]
        for point, shape, part in zip(self.attach_points, self.shapes, parts, strict=True):
            if part.shape[1] != shape.size:
                raise SelfInformedError(
                    f"attach: {point} has {part.shape[1]} values per example here and had {shape.size} on the example inputs; choose "
                    "reduce='mean' (or 'first' for tokens) where its size depends on the input"
                )
        attached, read = (torch.cat([part.to(logits.device) for part in p], 1) if len(p) > 1 else p[0] for p in (parts, penultimate))
        return Features(attached, read, logits)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of the model's parameters and persistent buffers, taken again when their values have changed."""
        state = state_of(self.model, self.changing), _glance(self.model, self.changing)
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = state, fingerprint_of(self.model)
        return self._fingerprint[1]

    @cached_property
    def cost(self) -> Cost:
        """Multiply-adds per example and parameters, by part: trunk, stack, classifier."""
        parts = {"classifier": self.classifier_names, "stack": self.stack_names}
        return cost(self.model, self.example_inputs, parts)

    def __repr__(self) -> str:
        return (
            f"WrappedClassifier({type(self.model).__name__}: trunk of {self.feature_size} features read at {', '.join(map(str, self.attach_points))}, "
            f"stack of {len(self.stack_names)} linear layers, classifier {' and '.join(map(repr, self.classifier_names))} "
            f"with {self.n_labels} labels, {self.cost.multiply_adds / 1e6:.4g} M multiply-adds)"
        )

    def _repr_html_(self) -> str:
        cost = self.cost
        rows = [{"part": part, "multiply_adds": n, "parameters": cost.parameters_by_part[part]} for part, n in cost.by_part.items()]
        return Table.of(repr(self), rows, ("part",)).to_html()


def wrap(
    model: nn.Module,
    example_inputs: InputsLike,
    *,
    labels: LabelSpace | Sequence[str] | None = None,
    classifier: str | Sequence[str] | None = None,
    attach: str | AttachPoint | Sequence[str | AttachPoint] | None = None,
    reduce: Reduce = "flatten",
    output: Output | None = None,
) -> WrappedClassifier:
    """Finds trunk, stack and classifier in a model and proves that together they give its logits.

    A warning names the operators that are left out of its multiply-adds, if there are any; see `cost`.

    Args:
        model: any `nn.Module` that gives logits [B, C] (a tensor, an output with `.logits`, or a tuple that begins with them).
        example_inputs: a small batch, as a tensor or a mapping of keyword arguments, such as a tokenizer gives.
        labels: names of the C labels (default: what a transformers model calls them, or numbers).
        classifier: dotted name of the last linear layer, or of several whose average is the logits. By default the last `nn.Linear` whose
            output is the logits, or both classifiers of a distilled network of timm or transformers.
        attach: dotted name of the module whose output the heads read, or several. By default the trunk's output: what the first of the
            fully connected layers before the classifier reads.
        reduce: how a spatial map or token sequence at `attach` becomes a vector; see `AttachPoint`.
        output: `softmax` (one label per example) or `logistic` (several). By default training takes it from the targets. With `softmax` given,
            mAP@K ranks by probabilities instead of logits, which softmax leaves free to shift from example to example.

    Raises:
        SelfInformedError: no classifier is found, it is no linear layer, its output is not the logits, the label names do not fit, or the
            attach point is not called exactly once.
    """
    expect(model, nn.Module, "model", "a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise SelfInformedError("model: this one is scripted or traced, and its layers cannot be read; give the network from which it was made")
    if any(module._compiled_call_impl is not None for module in model.modules()) or hasattr(model, "_orig_mod"):
        raise SelfInformedError("model: this one is compiled, and its layers cannot be read; give the network as it was before, and compile what augment makes")
    if output is not None:
        one_of("output", output, get_args(Output))
    several = None if attach is None else attach if isinstance(attach, Sequence) and not isinstance(attach, str) else [attach]
    if reduce != "flatten" and several and all(isinstance(point, AttachPoint) for point in several):
        raise SelfInformedError(f"reduce: each attach point has one of its own; leave reduce out, or give it there: AttachPoint(..., reduce={reduce!r})")
    inputs: Inputs = dict(example_inputs) if isinstance(example_inputs, Mapping) else example_inputs
    before = state_of(model)
    logits, calls = record(model, inputs)
    given = None if classifier is None else list(classifier) if isinstance(classifier, Sequence) and not isinstance(classifier, str) else [classifier]
    found = _find_classifiers(model, calls, logits, given)
    labels = labels_of(model, logits.shape[1]) if labels is None else labels
    space = labels if isinstance(labels, LabelSpace) else LabelSpace.numbered(logits.shape[1]) if labels is None else LabelSpace(labels)
    if len(space) != logits.shape[1]:
        raise SelfInformedError(f"labels: {len(space)} label names for a network with {logits.shape[1]} outputs; give one per output unit")
    stack = _find_stack(calls, found[0]) if len(found) == 1 else []
    if several is None:
        once = [c for c in stack if isinstance(c.module, nn.Linear) and [other.name for other in calls].count(c.name) == 1]  # others cannot be told apart
        stack = stack[stack.index(once[0]) :] if once else []
        several = [AttachPoint(call.name, "input", reduce) for call in (stack[:1] or found)]
    points = [point if isinstance(point, AttachPoint) else AttachPoint(point, "output", reduce) for point in several]
    if not points or len(set(points)) < len(points):
        raise SelfInformedError(f"attach: expected one or several different attach points, got {several}")
    shapes = [_shape_at(model, calls, point, found) for point in points]
    names = tuple(c.name for c in stack if isinstance(c.module, nn.Linear))
    net = WrappedClassifier(model, [call.name for call in found], names, points, shapes, space, output, inputs)
    net.changing = frozenset(name for name, state in state_of(model).items() if before.get(name, state) != state)
    if uncounted := _uncounted(net):
        remark(f"not counted in the network's multiply-adds: {', '.join(uncounted)}; it costs more than is said, and heads a smaller share of it")
    return net


def _check_name(what: str, given: Any, model: nn.Module) -> None:
    """That this is a name, and not the module itself."""
    hint = "see model.named_modules()"
    if isinstance(given, nn.Module):
        own = next((name for name, module in model.named_modules() if module is given), None)
        hint = "this one is none of the model's" if own is None else f"give {own!r}"
    expect(given, str, what, "a module's name", hint)


def check_wrapped(net: Any) -> None:
    """That this is a wrapped network, which is all that planning and training begin with."""
    expect(net, WrappedClassifier, "network", "what wrap gave", "give si.wrap(model, example_inputs), and of an augmented network aug.net")


def state_of(model: nn.Module, changing: Set[str] = frozenset()) -> dict[str, tuple[int, int]]:
    """Another one whenever a parameter or a persistent buffer was written to or replaced, told without a look at their values; but for the buffers
    `changing`, in which a model keeps something of each call."""
    return {name: (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for name, tensor in _lasting(model, changing).items()}


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers themselves, by name; not what else a module may keep in its state."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def _glance(model: nn.Module, changing: Set[str]) -> int:
    """A checksum over some values of each tensor of `state_of`, since what is written through `.data`, as some optimisers do, leaves no other trace."""
    checksum = 0
    for tensor in _lasting(model, changing).values():
        flat = tensor.detach().flatten()
        checksum = zlib.crc32(bytes_of(flat[:: flat.numel() // 64 | 1]), checksum)
    return checksum


def _lasting(model: nn.Module, changing: Set[str]) -> dict[str, torch.Tensor]:
    """The tensors that have values, and the same from call to call."""
    return {name: tensor for name, tensor in tensors_of(model).items() if name not in changing and not is_lazy(tensor)}


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: torch.Tensor) -> memoryview | bytes:
    """A tensor's values, of any type, one after another."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _uncounted(net: WrappedClassifier) -> tuple[str, ...]:
    with suppress(Exception):  # a network that does not run on a single example can still be measured; its cost says so where it is needed
        return net.cost.uncounted
    return ()


def _find_classifiers(model: nn.Module, calls: list[Call], logits: torch.Tensor, names: Sequence[str] | None) -> list[Call]:
    """The call of the classifier, or of each of those whose average is the logits, in the order of the calls; proved bit for bit."""
    linear = [c for c in calls if isinstance(c.module, nn.Linear)]
    last = f"its last linear layers are: {', '.join(c.name for c in linear[-5:]) or 'none'}"
    if names is None:
        matching = [c for c in linear if _same(c.output, logits)]
        names = (matching[-1].name,) if matching else classifiers_of(model)
        if not matching and len(names) < 2:
            raise SelfInformedError(_not_found(linear, calls, logits, last))
    found: list[Call] = []
    for name in names:
        _check_name("classifier", name, model)
        if name not in dict(model.named_modules()):
            raise SelfInformedError(f"classifier: the model has no module {name!r}; {last}")
        mine = [c for c in calls if c.name == name]
        if not mine or not isinstance(mine[0].module, nn.Linear):
            kind = type(model.get_submodule(name)).__name__
            raise SelfInformedError(f"classifier: {name!r} is {'never called' if not mine else f'a {kind}'}; expected an nn.Linear that gives the logits")
        if len(mine) > 1:
            raise SelfInformedError(f"classifier: {name!r} is called {len(mine)} times in one forward pass; expected once")
        found.append(mine[0])
    found.sort(key=calls.index)
    outputs = [_as_linear(c, model) for c in found]
    recomposed = outputs[0] if len(outputs) == 1 else sum(outputs[1:], outputs[0]) / len(outputs)
    if not _same(recomposed, logits):
        difference = float((recomposed - logits).abs().max()) if recomposed.shape == logits.shape else float("inf")
        what = f"the output of {names[0]!r}" if len(names) == 1 else f"the average of {' and '.join(map(repr, names))}"
        raise SelfInformedError(
            f"classifier: {what} is not the model's logits (they differ by up to {difference:.3g}); "
            "expected a model whose last layer gives the logits, with nothing after it"
        )
    return found


@torch.no_grad()
def _as_linear(found: Call, model: nn.Module) -> torch.Tensor:
    """What a classifier's weight and bias give for its input; proved to be all that it does."""
    layer = cast("nn.Linear", found.module)
    # the tensor itself unless it was changed since: a copy lies otherwise in memory, for which a product may round otherwise
    read = found.input if _same(found.input, found.given) else found.given
    if not isinstance(read, torch.Tensor):
        raise SelfInformedError(f"classifier: {found.name!r} is not given its input by place; call it so in the model's forward: self.{found.name}(x)")
    if read.dtype != layer.weight.dtype:
        if hasattr(model, "_original_forward"):  # of accelerate, and so of transformers' Trainer
            hint = "accelerate put autocast into its forward: give accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
        elif torch.is_autocast_enabled(read.device.type):
            hint = "call wrap outside of autocast"
        else:
            hint = "take autocast out of the model's forward and put it around the call, or cast before the layer"
        raise SelfInformedError(f"classifier: {found.name!r} has weights of {layer.weight.dtype} and is given {read.dtype}; {hint}")
    read = read.to(layer.weight.device)
    output = nn.functional.linear(read, layer.weight, layer.bias)
    with evaluating(layer):
        if not _same(layer(read), output):
            raise SelfInformedError(
                f"classifier: {found.name!r} does not give what its weight and bias alone do: it is a {type(layer).__name__} with a forward of its own, or has "
                "a hook; heads add to the output of a plain linear layer: merge what it does into its weight, or do it before the layer"
            )
    return output


def _not_found(linear: list[Call], calls: list[Call], logits: torch.Tensor, last: str) -> str:
    sized = [c for c in linear if isinstance(c.output, torch.Tensor) and c.output.shape == logits.shape]
    for one, other in itertools.combinations(sized, 2):
        if _same((one.output + other.output) / 2, logits):
            names = f"{one.name!r}, {other.name!r}"
            return f"classifier: two classifiers found, {names}, whose average is the logits; if that is meant, name both: classifier=[{names}]"
    wide = [c for c in calls if isinstance(c.module, nn.Conv2d) and c.module.out_channels == logits.shape[1]]
    hint = f" It may be the convolution {wide[-1].name!r}: replace that by pooling and an nn.Linear of the same weights." if wide else ""
    return (
        f"classifier: none found; no nn.Linear gives the model's logits {list(logits.shape)} as its output. A model that ends in a "
        f"softmax has to be stripped of that first.{hint} To choose, give classifier=NAME; {last}"
    )


def _find_stack(calls: list[Call], classifier: Call) -> list[Call]:
    """The fully connected layers right before the classifier, each link proved on the recorded tensors."""
    leaves = [c for c in calls if c is classifier or not any(c.module.children())]  # a parametrised linear layer has children,
    leaves = [c for c in leaves if ".parametrizations." not in c.name]  # which are called before its own call ends
    chain: list[Call] = []
    following = classifier
    for previous in reversed(leaves[: leaves.index(classifier)]):
        pointwise = type(previous.module).__module__.startswith("torch.nn.modules") and isinstance(previous.module, _STACK_MODULES)
        if not pointwise or not isinstance(previous.given, torch.Tensor) or previous.given.ndim != 2:
            break
        with evaluating(previous.module):  # a model given in training mode would drop units and move its statistics
            output = previous.module(previous.given.clone())
        if not any(_same(activated, following.given) for activated in (output, output.relu(), output.tanh(), nn.functional.gelu(output))):
            break
        chain.insert(0, previous)
        following = previous
    while chain and not isinstance(chain[0].module, nn.Linear):
        chain.pop(0)
    return chain


_STACK_MODULES = (
    nn.Linear, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.ELU,
    nn.Dropout, nn.Identity, nn.BatchNorm1d, nn.LayerNorm,
)  # fmt: skip


def _shape_at(model: nn.Module, calls: list[Call], attach: AttachPoint, classifiers: list[Call]) -> FeatureShape:
    _check_name("attach", attach.module, model)
    names = dict(model.named_modules())
    if attach.module not in names:
        near = difflib.get_close_matches(attach.module, names, 3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see model.named_modules()"
        raise SelfInformedError(f"attach: the model has no module {attach.module!r}; {hint}")
    times = [c for c in calls if c.name == attach.module]
    if len(times) != 1:
        hint = "it is in the model, but its forward pass does not use it" if not times else "choose a module around it, or one of those inside it"
        raise SelfInformedError(f"attach: {attach.module!r} is called {len(times)} times in one forward pass; expected exactly once ({hint})")
    tensor = times[0].given if attach.side == "input" else times[0].output
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
        raise SelfInformedError(f"attach: the {attach.side} of {attach.module!r} is {type(tensor).__name__}; expected a tensor [batch, ...]")
    last = classifiers[-1]
    if calls.index(times[0]) >= calls.index(last) and not (times[0] is last and attach.side == "input"):
        raise SelfInformedError(f"attach: {attach} comes after the classifier {last.name!r}; heads add to its logits, so choose a point before it")
    inside = [c.module for c in calls if c.name.startswith(f"{attach.module}.") and is_layer(c.module)] if attach.side == "output" else []
    if attach.reduce == "mean" and tensor.ndim == 3 and isinstance(inside[-1] if inside else times[0].module, CHANNELS_FIRST):
        raise SelfInformedError(f"attach: {attach} has the shape [batch, channels, length]; give reduce='channels_first_mean' to average over the length")
    if attach.reduce == "map":
        if tensor.ndim != 4:
            raise SelfInformedError(f"attach: {attach} has the shape {list(tensor.shape)}; reduce='map' needs [batch, channels, height, width]")
        return FeatureShape(math.prod(tensor.shape[1:]), (tensor.shape[1], tensor.shape[2], tensor.shape[3]))
    return FeatureShape(attach.read(tensor).shape[1])


CHANNELS_FIRST = (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d)  # give [batch, channels, length]


def is_layer(module: nn.Module) -> bool:
    """Whether it has parameters, and no modules in it."""
    return not any(module.children()) and next(module.parameters(), None) is not None


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.is_nested or other.is_nested:
        return False
    return one.shape == other.shape and torch.equal(one, other.to(one.device))


_HOOKED = threading.RLock()
