"""Export to ONNX, verified by onnxruntime every time."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.inputs import InputsLike, take_inputs
from selfinformed.network.calls import batch_size_of, evaluating, logits_of
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.arguments import expect, whole_number
from selfinformed.runtime.device import full_precision
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.files import digest_of, written_atomically
from selfinformed.runtime.reading import first_line, reason_of
from selfinformed.runtime.tabular import one_line

_MOST_BYTES = 2_000_000_000  # of weights: a file of protobuf ends at 2 GiB
_NOT_THE_NETWORKS = (*(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])), contextlib.__file__, functools.__file__)
_TALKATIVE = ("torch", "torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class ExportCheck:
    """How the exported network compares with the one in memory on the inputs it was checked with.

    Attributes:
        path: what was written.
        n_inputs: examples compared.
        max_difference: largest absolute difference of logits.
        top1_agreement: share of examples with the same best label, or two best that are equal to within 1e-6.
        extra_computation: multiply-adds of what was written, which computes all heads, or none within `heads_disabled`, over the base's.
    """

    path: Path
    n_inputs: int
    max_difference: float
    top1_agreement: float
    extra_computation: float


def export_program(aug: AugmentedClassifier | WrappedClassifier, inputs: InputsLike) -> torch.export.ExportedProgram:
    """The augmented network as a `torch.export` program with a dynamic batch, to compile ahead of time or to run elsewhere.

    Where each example runs only some heads (`run_conditionally`) the program computes all of them and leaves out what was not chosen: the same
    logits, at the multiply-adds of `aug.plan`.

    Args:
        aug: what to export; what `wrap` gave is exported without heads.
        inputs: at least two examples; their other dimensions stay as they are. The program takes the tensors of a dictionary in its order; what else
            is in it becomes part of the program.

    Raises:
        SelfInformedError: the network does not run on the inputs, or cannot be traced.
    """
    expect(aug, AugmentedClassifier | WrappedClassifier, "export", "what augment gave, or wrap")
    tensors, constants = _divided(inputs)
    if not tensors:
        raise SelfInformedError(f"export: expected a tensor, or a mapping with tensors, to check with, got {type(inputs).__name__}; torch.as_tensor makes one")
    if any(parameter.is_meta for parameter in _model(aug).parameters()):
        raise SelfInformedError("export: the network is on the device meta, where weights have no values; load them on another first")
    if batch_size_of(inputs) < 2:
        raise SelfInformedError(f"export: {batch_size_of(inputs)} input to check with; give at least two, since the batch may be of any size")
    aug.logits(take_inputs(inputs, slice(2)))  # which says what is wrong with them
    model, batch, device = _model(aug), torch.export.Dim("batch"), aug.classifier.weight.device
    module = _Logits(model, list(tensors) if isinstance(inputs, Mapping) else [], constants)
    shapes = {"tensors": tuple({0: batch} for _ in tensors)}
    with evaluating(model), _traced():
        program = torch.export.export(module, tuple(tensor.to(device) for tensor in tensors.values()), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of code and where they are on this machine
    return _without_unused(program)


def export_onnx(
    aug: AugmentedClassifier | WrappedClassifier, path: str | Path, inputs: InputsLike, tolerance: float = 1e-4, heads: str | Path | None = None,
    opset: int | None = None,
) -> ExportCheck:
    """Writes the augmented network as ONNX with a dynamic batch, and compares onnxruntime's logits with torch's.

    Args:
        aug: what to export; what `wrap` gave is exported without heads.
        path: the .onnx file; its metadata holds the label names and the result of the check. Its inputs are called as the network's
            keyword arguments are, or `inputs`; its output `logits`.
        inputs: at least two examples to check with.
        tolerance: the largest absolute difference of logits that is accepted.
        heads: the heads.safetensors that the network was saved as; its digest is kept in the metadata, for `is_export_of`;
            within `heads_disabled` that it is of none.
        opset: of ONNX's operators, 18 to 23, for what is older or newer than torch's choice.

    Raises:
        SelfInformedError: the `onnx` extra is not installed, the network is in half precision, does not run on the inputs, cannot be traced, has more
            weights than such a file holds, or the exported network differs by more than the tolerance.
    """
    onnx, onnxruntime, _ = (extra(package, "export: ONNX", "onnx") for package in ("onnx", "onnxruntime", "onnxscript"))
    opset = None if opset is None else whole_number("opset", opset, 23, least=18)
    program = export_program(aug, inputs)
    kind = str(aug.classifier.weight.dtype).removeprefix("torch.")
    if kind in ("float16", "bfloat16"):
        raise SelfInformedError(f"export: the network is in {kind}, which onnxruntime's CPU lacks; export it in float32: aug.float()")
    names = list(_divided(inputs)[0])
    with _traced():
        converted = torch.onnx.export(program, dynamo=True, input_names=names, output_names=["logits"], opset_version=opset, verbose=False)
    assert converted is not None
    _without_source(converted)
    if (size := sum(value.const_value.nbytes for value in converted.model.graph.initializers.values() if value.const_value is not None)) > _MOST_BYTES:
        raise SelfInformedError(
            f"export: the network's weights take {size:,} bytes and an ONNX file holds {_MOST_BYTES:,}; take export_program, or save_pretrained and si.load"
        )
    exported: Any = converted.model_proto
    _name_batch(exported.graph)
    with written_atomically(path) as temporary:
        onnx.save(exported, str(temporary))
        try:
            session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
            check = _check(aug, inputs, path, session)
        except SelfInformedError:
            raise
        except Exception as error:  # the runtime has a class of its own for each reason
            remedy = "export_program needs no onnxruntime" if kind == "float32" else f"the network is in {kind}; export it in float32: aug.float()"
            raise SelfInformedError(f"export: onnxruntime cannot run the network ({reason_of(error)}); nothing was written; {remedy}") from None
        if not check.max_difference <= tolerance:
            raise SelfInformedError(
                f"export: onnxruntime's logits differ by up to {check.max_difference:.2g} (accepted: {tolerance:.2g}); nothing was written"
            )
        metadata = {
            "labels": "\n".join(map(one_line, aug.labels.names)), "max_difference": str(check.max_difference), "top1_agreement": str(check.top1_agreement),
            "checked_inputs": str(check.n_inputs), "extra_computation": str(check.extra_computation),
        }  # fmt: skip
        is_base = isinstance(aug, WrappedClassifier) or aug.is_base
        if heads or is_base:
            metadata["heads"] = digest_of(heads) if heads and not is_base else ""
        onnx.helper.set_model_props(exported, metadata)
        onnx.save(exported, str(temporary))
    return check


def is_export_of(path: Path, heads: Path) -> bool:
    """Whether an ONNX file is there and was exported from these heads, as they are now; one that does not say so, if it is not older than they."""
    if not (path.is_file() and heads.is_file()):
        return False
    onnx = extra("onnx", "serve", "serve")
    try:
        said = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    except Exception:  # protobuf's errors have no class in common
        return False
    return said["heads"] == digest_of(heads) if "heads" in said else path.stat().st_mtime >= heads.stat().st_mtime


def _model(aug: AugmentedClassifier | WrappedClassifier) -> torch.nn.Module:
    return aug.model if isinstance(aug, WrappedClassifier) else aug.base


def _divided(inputs: InputsLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors among inputs, by the names they have in an export, and what else is a keyword argument."""
    named = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in named.items() if name not in tensors}


@contextmanager
def _traced() -> Iterator[None]:
    """Within this context a program is made: without what torch and its helpers say of their own code, and with one line where it cannot be made.

    Raises:
        SelfInformedError: with the reason, and the last line of the network's own code that led to it.
    """
    loggers, said = [logging.getLogger(name) for name in _TALKATIVE], io.StringIO()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said):  # where torch writes the whole program as far as it came
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except (SelfInformedError, MemoryError):
        raise
    except Exception as error:  # torch has a class for each reason, and raises the network's own
        remedy = "its forward may take torch's operators alone, and no branch on values that it computes; without an export use it in PyTorch (si.load)"
        raise SelfInformedError(f"export: the network cannot be traced ({_why(error)}); {remedy}") from error
    else:
        sys.stderr.write(said.getvalue())
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _why(error: BaseException) -> str:
    """The first line of the innermost reason, and the last line of the network's own code on the way to it."""
    frames: list[traceback.FrameSummary] = []
    while True:
        frames += [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_NETWORKS)]
        if error.__cause__ is None:
            break
        error = error.__cause__
    return first_line(error).rstrip(".") + (f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")


def _without_unused(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without weights that no step reads: the base's classifier beside the one that took its place."""
    signature, unused = program.graph_signature, {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    gone = [spec for spec in signature.input_specs if spec.target is not None and spec.arg.name in unused]
    for spec in gone:
        program.graph.erase_node(unused[spec.arg.name])
    signature.input_specs = [spec for spec in signature.input_specs if spec not in gone]
    read = {spec.target for spec in signature.input_specs}
    program.graph_module.recompile()
    return torch.export.ExportedProgram(
        root=program.graph_module, graph=program.graph, graph_signature=signature, range_constraints=program.range_constraints,
        state_dict={name: tensor for name, tensor in program.state_dict.items() if name in read},
        constants={name: value for name, value in program.constants.items() if name in read},
        module_call_graph=program.module_call_graph, example_inputs=program.example_inputs, verifiers=program.verifiers,
    )  # fmt: skip


def _without_source(program: Any) -> None:
    """Takes from an ONNX program what torch notes beside its steps: lines of code and where they are on this machine."""
    model = program.model
    for graph in (model.graph, *model.functions.values()):
        for part in (graph, *graph.inputs, *graph.outputs, *graph.all_nodes(), *(value for node in graph.all_nodes() for value in node.outputs)):
            part.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def _name_batch(graph: Any) -> None:
    """Calls the open dimension of inputs and logits `batch` instead of the number that torch gave it."""
    given = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == given:
                dimension.dim_param = "batch"


def _check(aug: AugmentedClassifier | WrappedClassifier, inputs: InputsLike, path: str | Path, session: Any) -> ExportCheck:
    """Compares the two, in batches of several sizes, since an export can tie itself to the batch it saw."""
    n, start, size = batch_size_of(inputs), 0, 1
    largest, agreeing = 0.0, 0
    known = {given.name for given in session.get_inputs()}
    while start < n:
        part = take_inputs(inputs, slice(start, start + size))
        feed = {name: tensor.cpu().numpy() for name, tensor in _divided(part)[0].items() if name in known}  # an input that is not used is dropped
        with full_precision():  # as onnxruntime computes
            got, expected = torch.from_numpy(session.run(None, feed)[0]), aug.logits(part).cpu()
        difference = (got - expected).abs()
        largest = max(largest, float(difference.max())) if not difference.isnan().any() else float("nan")
        best = expected.argmax(1, keepdim=True)
        tied = (expected.max(1).values - got.gather(1, best).flatten()).abs() + (got.max(1).values - got.gather(1, best).flatten()) < 1e-6
        agreeing += int(((got.argmax(1) == best.flatten()) | tied).sum())
        start, size = start + size, min(64, size + 2)
    extra_computation = 1.0 if isinstance(aug, WrappedClassifier) or aug.is_base else aug.plan.extra_computation
    return ExportCheck(Path(path), n, largest, agreeing / n, extra_computation)


class _Logits(torch.nn.Module):
    """A network that takes tensors in order, whatever it calls them, beside what is always the same, and gives its logits alone, whatever else it returns."""

    def __init__(self, model: torch.nn.Module, names: list[str], constants: dict[str, Any]) -> None:
        super().__init__()
        self.base, self.names, self.constants = model, names, constants

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return logits_of(self.base(**dict(zip(self.names, tensors, strict=True)), **self.constants) if self.names else self.base(*tensors))
