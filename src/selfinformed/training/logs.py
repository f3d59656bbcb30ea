"""What training did, step by step: JSON lines, and TensorBoard's events where it is installed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.files import cannot_write, from_line, plain, write_text
from selfinformed.runtime.reading import read_text


class TrainingLog:
    """The log of one training in a folder: training.jsonl, a row {step, ...} at a time, and TensorBoard events beside it.

    Args:
        folder: made if it is not there.
        tensorboard: also write events; None: if tensorboard is installed.
        step: the step from which training goes on; rows after it, of a training that was stopped, are dropped. At 0 the log starts anew.

    Raises:
        SelfInformedError: tensorboard is asked for and not installed; the folder cannot be written.
    """

    def __init__(self, folder: str | Path, tensorboard: bool | None = None, step: int = 0) -> None:
        self.path = Path(folder) / "training.jsonl"
        kept = [line for line in read_text(self.path, "log").splitlines() if _step_of(line) <= step] if step and self.path.exists() else []
        self.writer = _writer(folder, tensorboard, step)
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.file = self.path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row; its `step` counts steps done."""
        try:
            self.file.write(json.dumps(plain(row)) + "\n")
            self.file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self.writer is not None:
            for name, value in row.items():
                if name not in ("step", "epoch", "stage"):
                    self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was told by `add`
            self.file.close()
        if self.writer is not None:
            self.writer.close()


def _step_of(line: str) -> float:
    step = (from_line(line) or {}).get("step")
    return float(step) if isinstance(step, int | float) else float("inf")


def _writer(folder: str | Path, wanted: bool | None, step: int) -> Any:
    if wanted is False:
        return None
    try:
        extra("tensorboard", "fit: tensorboard=True")
        writer = extra("torch.utils.tensorboard", "fit: tensorboard=True", "tensorboard")
    except SelfInformedError:
        if wanted:
            raise
        return None
    return writer.SummaryWriter(str(folder), purge_step=step + 1 if step else None)
