"""Calling any network alike: one tensor or keyword arguments in, logits [B, C] out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from selfinformed.data.inputs import InputsLike
from selfinformed.data.labels import LabelSpace
from selfinformed.runtime.arguments import expect
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import first_line


class Classifies(Protocol):
    """What gives logits for labels: a wrapped network, or an augmented one."""

    @property
    def n_labels(self) -> int: ...

    @property
    def labels(self) -> LabelSpace: ...

    @property
    def fingerprint(self) -> str: ...

    def logits(self, inputs: InputsLike) -> torch.Tensor: ...


def call(model: nn.Module, inputs: InputsLike | None, /, *more: Any, **named: Any) -> Any:
    """Calls a model with a tensor, with a dictionary of tensors alone as keyword arguments, or with whatever it takes, on the model's own device."""
    if inputs is not None:
        expect(inputs, torch.Tensor | Mapping, "model", "a tensor or a mapping of tensors by name", _HINT)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    given: tuple[Any, ...] = () if inputs is None and not more else (inputs, *more)
    if isinstance(inputs, Mapping) and not more and not named:
        given, named = (), dict(inputs)

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return model(*map(moved, given), **{name: moved(value) for name, value in named.items()})


_HINT = "give torch.from_numpy(array), and of data from open_dataset data.example_inputs()"


def logits_of(output: Any) -> torch.Tensor:
    """The logits in whatever a model returns: a tensor [B, C], `.logits`, `["logits"]`, or the first of a tuple."""
    if not isinstance(output, torch.Tensor):
        if hasattr(output, "logits"):
            output = output.logits
        elif isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif isinstance(output, tuple | list) and output:
            output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = f"a tensor of shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise SelfInformedError(f"model: expected logits [batch, labels] (a tensor, or an output with `logits`), got {shape}")
    return output


def batch_size_of(inputs: InputsLike) -> int:
    return len(next(value for value in inputs.values() if isinstance(value, torch.Tensor)) if isinstance(inputs, Mapping) else inputs)


@contextmanager
def told_of(inputs: InputsLike, example_inputs: InputsLike) -> Iterator[None]:
    """Within this context a network's failure names the inputs it was given, and those it was wrapped with.

    Raises:
        SelfInformedError: with the network's own reason.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # they would fit elsewhere, or in a smaller batch
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason, given, wrapped = first_line(error), _shapes(inputs), _shapes(example_inputs)
        raise SelfInformedError(f"model: it does not run on these inputs ({reason}); it was wrapped with {wrapped}, and these are {given}") from error


def _shapes(inputs: InputsLike) -> str:
    named = inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]
    told = (f"{name}{' ' * bool(name)}{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for name, x in named if isinstance(x, torch.Tensor))
    return ", ".join(told) or type(inputs).__name__


def is_traced() -> bool:
    """Whether a program is made of the steps that are taken now, which then may not depend on the data."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; what was in training mode is so again after, once no thread is in such a context of it any more."""
    with _LOCK:
        modules = list(model.modules())
        training = [module for module in modules if module.training or id(module) in _EVALUATED]
        for module in training:
            _EVALUATED[id(module)] += 1
        if any(module.training for module in modules):
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _LOCK:
            for module in training:
                _EVALUATED[id(module)] -= 1
                if not _EVALUATED[id(module)]:
                    del _EVALUATED[id(module)]
                    module.training = True


_LOCK = threading.RLock()
_EVALUATED: Counter[int] = Counter()  # by id, the modules that were in training mode and are not, and in how many contexts


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one module, in the order in which calls end; `given` is a copy of its first input, `alone` whether that was its only one."""

    name: str
    module: nn.Module
    input: Any
    given: Any
    alone: bool
    output: Any


def record(model: nn.Module, inputs: InputsLike) -> tuple[torch.Tensor, list[Call]]:
    """A model's logits [B, C] in eval mode, without gradients, and every call of its modules.

    Raises:
        SelfInformedError: the model does not run on the inputs, or its logits are no numbers.
    """
    calls: list[Call] = []
    given: dict[str, list[Any]] = {}
    hooks = []
    for name, module in model.named_modules():
        if name:

            def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any], name: str = name) -> None:
                first = args[0] if args else None
                alone = all(other is None or isinstance(other, bool) for other in (*args[1:], *options.values()))
                given.setdefault(name, []).append((first, first.clone() if isinstance(first, torch.Tensor) else first, alone))

            def after(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                first, copied, alone = given[name].pop()
                calls.append(Call(name, module, first, copied, alone, output))

            hooks += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        with evaluating(model):
            output = call(model, inputs)
    except (SelfInformedError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises on inputs that are not its own
        raise SelfInformedError(f"model: it does not run on the example inputs ({first_line(error)}); give inputs of the shape it was trained on") from error
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits_of(output)
    if not len(logits):
        raise SelfInformedError("model: the example inputs are an empty batch; give at least one example, two where the network has BatchNorm")
    if not logits.isfinite().all():
        raise SelfInformedError("model: its logits on the example inputs are NaN or infinite; mend its weights, or the inputs")
    return logits, calls
