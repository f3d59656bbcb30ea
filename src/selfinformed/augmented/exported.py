"""Export to ONNX, verified by onnxruntime every time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Inputs, take_inputs
from selfinformed.network.calls import batch_size_of, evaluating, logits_of
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.files import digest_of, written_atomically
from selfinformed.runtime.tabular import one_line


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


def export_program(aug: AugmentedClassifier, inputs: Inputs) -> torch.export.ExportedProgram:
    """The augmented network as a `torch.export` program with a dynamic batch, to compile ahead of time or to run elsewhere.

    Where each example runs only some heads (`run_conditionally`) the program computes all of them and leaves out what was not chosen: the same
    logits, at the multiply-adds of `aug.plan`.

    Args:
        aug: what to export.
        inputs: at least two examples; their other dimensions stay as they are. The program takes the tensors of a dictionary in its order.
    """
    if batch_size_of(inputs) < 2:
        raise SelfInformedError(f"export: {batch_size_of(inputs)} input to check with; give at least two, since the batch may be of any size")
    if aug.dispatch is not None and aug.dispatch.share is not None:
        raise SelfInformedError("export: with conditional(share=...) which heads run depends on the rest of the batch; leave that context, or give above=")
    names, tensors = (list(inputs), tuple(inputs.values())) if isinstance(inputs, dict) else ([], (inputs,))
    batch = torch.export.Dim("batch")
    shapes = {"tensors": tuple({0: batch} for _ in tensors)}
    with evaluating(aug.base), _quiet():
        return torch.export.export(_Logits(aug.base, names), tensors, dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own code: that it will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def export_onnx(aug: AugmentedClassifier, path: str | Path, inputs: Inputs, tolerance: float = 1e-4, heads: str | Path | None = None) -> ExportCheck:
    """Writes the augmented network as ONNX with a dynamic batch, and compares onnxruntime's logits with torch's.

    Args:
        aug: what to export.
        path: the .onnx file; its metadata holds the label names and the result of the check. Its inputs are called as the network's
            keyword arguments are, or `inputs`; its output `logits`.
        inputs: at least two examples to check with.
        tolerance: the largest absolute difference of logits that is accepted.
        heads: the heads.safetensors that the network was saved as; its digest is kept in the metadata, for `is_export_of`;
            within `heads_disabled` that it is of none.

    Raises:
        SelfInformedError: the `onnx` extra is not installed, the network is in half precision, or the exported network differs by more than the
            tolerance.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except (ImportError, RuntimeError):
        raise SelfInformedError("export: ONNX needs an extra; run: pip install 'selfinformed[onnx]'") from None
    kind = aug.classifier.weight.dtype
    if kind in (torch.float16, torch.bfloat16):
        name = str(kind).removeprefix("torch.")
        raise SelfInformedError(f"export: the network is in {name}, which onnxruntime's CPU lacks; export it in float32: aug.float()")
    names = list(inputs) if isinstance(inputs, dict) else ["inputs"]
    with _quiet():
        program = torch.onnx.export(export_program(aug, inputs), dynamo=True, input_names=names, output_names=["logits"], verbose=False)
    assert program is not None
    with written_atomically(path) as temporary:
        program.save(str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        check = _check(aug, inputs, path, session)
        if not check.max_difference <= tolerance:
            raise SelfInformedError(
                f"export: onnxruntime's logits differ by up to {check.max_difference:.2g} (accepted: {tolerance:.2g}); nothing was written"
            )
        exported: Any = onnx.load(str(temporary))
        metadata = {
            "labels": "\n".join(map(one_line, aug.net.labels.names)), "max_difference": str(check.max_difference), "top1_agreement": str(check.top1_agreement),
            "checked_inputs": str(check.n_inputs), "extra_computation": str(check.extra_computation),
        }  # fmt: skip
        if aug.is_base or heads:
            metadata["heads"] = digest_of(heads) if heads and not aug.is_base else ""
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


def _check(aug: AugmentedClassifier, inputs: Inputs, path: str | Path, session: Any) -> ExportCheck:
    """Compares the two, in batches of several sizes, since an export can tie itself to the batch it saw."""
    n, start, size = batch_size_of(inputs), 0, 1
    largest, agreeing = 0.0, 0
    known = {given.name for given in session.get_inputs()}
    while start < n:
        part = take_inputs(inputs, slice(start, start + size))
        tensors = part if isinstance(part, dict) else {"inputs": part}
        feed = {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name in known}  # an input that is not used is dropped
        got, expected = torch.from_numpy(session.run(None, feed)[0]), aug.logits(part).cpu()
        difference = (got - expected).abs()
        largest = max(largest, float(difference.max())) if not difference.isnan().any() else float("nan")
        best = expected.argmax(1, keepdim=True)
        tied = (expected.max(1).values - got.gather(1, best).flatten()).abs() + (got.max(1).values - got.gather(1, best).flatten()) < 1e-6
        agreeing += int(((got.argmax(1) == best.flatten()) | tied).sum())
        start, size = start + size, min(64, size + 2)
    return ExportCheck(Path(path), n, largest, agreeing / n, 1.0 if aug.is_base else aug.plan.extra_computation)


class _Logits(torch.nn.Module):
    """A network that takes tensors in order, whatever it calls them, and gives its logits alone, whatever else it returns."""

    def __init__(self, base: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.base, self.names = base, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return logits_of(self.base(**dict(zip(self.names, tensors, strict=True))) if self.names else self.base(*tensors))
