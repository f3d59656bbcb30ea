"""Export to ONNX, verified by onnxruntime every time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Inputs
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import written_atomically


@dataclass(frozen=True)
class ExportCheck:
    """How the exported network compares with the one in memory on the inputs it was checked with."""

    path: Path
    n_inputs: int
    max_difference: float
    top1_agreement: float


def export_onnx(aug: AugmentedClassifier, path: str | Path, inputs: Inputs, tolerance: float = 1e-4) -> ExportCheck:
    """Writes the augmented network as ONNX with a dynamic batch, and compares onnxruntime's logits with torch's.

    Args:
        aug: what to export.
        path: the .onnx file; its metadata holds the label names and the result of the check.
        inputs: at least two examples to check with.
        tolerance: the largest absolute difference of logits that is accepted.

    Raises:
        SelfInformedError: the `onnx` extra is not installed, or the exported network differs by more than the tolerance.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except (ImportError, RuntimeError):
        raise SelfInformedError("export: ONNX needs an extra; run: pip install 'selfinformed[onnx]'") from None
    if isinstance(inputs, dict):
        raise SelfInformedError("export: networks called with keyword arguments cannot be exported yet; wrap the model so that it takes one tensor")
    if len(inputs) < 2:
        raise SelfInformedError(f"export: {len(inputs)} input to check with; give at least two, since the batch may be of any size")
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        expected = aug.logits(inputs).cpu()
        program = torch.onnx.export(
            aug.base.eval(), (inputs,), dynamo=True, dynamic_shapes=({0: batch},), input_names=["inputs"], output_names=["logits"], verbose=False
        )
    with written_atomically(path) as temporary:
        assert program is not None
        program.save(str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [inputs[:1], inputs[1:]]  # two sizes, since an export can tie itself to the batch it saw
        got = torch.cat([torch.from_numpy(session.run(None, {name: part.cpu().numpy()})[0]) for part in parts if len(part)])
        check = ExportCheck(
            Path(path), len(inputs), float((got - expected).abs().max()), float((got.argmax(1) == expected.argmax(1)).float().mean())
        )
        if not check.max_difference <= tolerance:
            raise SelfInformedError(
                f"export: onnxruntime's logits differ by up to {check.max_difference:.2g} (accepted: {tolerance:.2g}); nothing was written"
            )
        exported: Any = onnx.load(str(temporary))
        metadata = {"labels": "\n".join(aug.net.labels.names), "max_difference": str(check.max_difference), "top1_agreement": str(check.top1_agreement)}
        onnx.helper.set_model_props(exported, metadata)
        onnx.save(exported, str(temporary))
    return check
