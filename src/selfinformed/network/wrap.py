"""A trained classifier seen as trunk, stack and classifier, and proved to be just that."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from selfinformed.data.inputs import Inputs, InputsLike
from selfinformed.data.labels import LabelSpace
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.calls import call, evaluating, logits_of, record, told_of
from selfinformed.network.cost import Cost, cost
from selfinformed.network.families import labels_of
from selfinformed.network.finding import find_classifiers, find_stack, shape_at
from selfinformed.network.points import AttachPoint, Features, FeatureShape, Reduce
from selfinformed.network.state import fingerprint_of, glance, state_of
from selfinformed.runtime.arguments import expect, one_of
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import remark
from selfinformed.runtime.tabular import Table

Output = Literal["softmax", "logistic"]
_HOOKED = threading.RLock()



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
        state = state_of(self.model, self.changing), glance(self.model, self.changing)
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
    found = find_classifiers(model, calls, logits, given)
    labels = labels_of(model, logits.shape[1]) if labels is None else labels
    space = labels if isinstance(labels, LabelSpace) else LabelSpace.numbered(logits.shape[1]) if labels is None else LabelSpace(labels)
    if len(space) != logits.shape[1]:
        raise SelfInformedError(f"labels: {len(space)} label names for a network with {logits.shape[1]} outputs; give one per output unit")
    stack = find_stack(calls, found[0]) if len(found) == 1 else []
    if several is None:
        once = [c for c in stack if isinstance(c.module, nn.Linear) and [other.name for other in calls].count(c.name) == 1]  # others cannot be told apart
        stack = stack[stack.index(once[0]) :] if once else []
        several = [AttachPoint(call.name, "input", reduce) for call in (stack[:1] or found)]
    points = [point if isinstance(point, AttachPoint) else AttachPoint(point, "output", reduce) for point in several]
    if not points or len(set(points)) < len(points):
        raise SelfInformedError(f"attach: expected one or several different attach points, got {several}")
    shapes = [shape_at(model, calls, point, found) for point in points]
    names = tuple(c.name for c in stack if isinstance(c.module, nn.Linear))
    net = WrappedClassifier(model, [call.name for call in found], names, points, shapes, space, output, inputs)
    net.changing = frozenset(name for name, state in state_of(model).items() if before.get(name, state) != state)
    if uncounted := _uncounted(net):
        remark(f"not counted in the network's multiply-adds: {', '.join(uncounted)}; it costs more than is said, and heads a smaller share of it")
    return net


def check_wrapped(net: Any) -> None:
    """That this is a wrapped network, which is all that planning and training begin with."""
    expect(net, WrappedClassifier, "network", "what wrap gave", "give si.wrap(model, example_inputs), and of an augmented network aug.net")


def _uncounted(net: WrappedClassifier) -> tuple[str, ...]:
    with suppress(Exception):  # a network that does not run on a single example can still be measured; its cost says so where it is needed
        return net.cost.uncounted
    return ()
