"""What a comparison has done so far, so that a stopped one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.evidence.evaluation import Evaluation
from selfinformed.evidence.rows import read_row
from selfinformed.runtime.files import plain
from selfinformed.runtime.journals import JournalFile


@dataclass(frozen=True)
class Try:
    """How an arm may be trained: a factor of its learning rates, and a `residual` where it is not only the recipe's."""

    factor: float = 1.0
    residual: float | None = None

    def to_dict(self) -> dict[str, float]:
        return {"factor": self.factor} if self.residual is None else {"factor": self.factor, "residual": self.residual}


class Journal:
    """Rows and tries of the same inputs done so far, in memory and, if asked for, in a file.

    Args:
        path: the file.
        inputs: of all arms.
        own: of arms that have more, what tells these.

    Attributes:
        rows: by arm and seed, the row of the comparison.
        per_label: by arm and seed, each label's average precision.
        tries: by arm and `Try`, mAP on hold-out data.
    """

    def __init__(self, path: str | Path | None, inputs: Sequence[Any], own: Mapping[str, str] | None = None) -> None:
        self._own = own or {}
        self.key = hashlib.sha256(json.dumps(plain(inputs), sort_keys=True, default=repr).encode()).hexdigest()
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.per_label: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        self.tries: dict[tuple[str, Try], float] = {}
        self._file = JournalFile(path, self.key, self._keep)

    def add(self, arm: str, seed: int, evaluation: Evaluation, seconds: float, head_seconds: float = 0.0) -> None:
        """Keeps one row."""
        row = {"arm": arm, "seed": seed, **evaluation.figures(), "seconds": seconds, "head_seconds": head_seconds}
        self._file.add(row=row, per_label=evaluation.ranking.average_precision, **self._of(arm))

    def add_try(self, arm: str, tried: Try, score: float) -> None:
        """Keeps one try."""
        self._file.add(**{"try": {"arm": arm, **tried.to_dict(), "mean_average_precision": score}, **self._of(arm)})

    def _of(self, arm: str) -> dict[str, str]:
        return {"of": self._own[arm]} if arm in self._own else {}

    def _keep(self, content: dict[str, Any]) -> None:
        if content.get("of") != self._own.get(content["try" if "try" in content else "row"]["arm"]):
            return
        if "try" in content:
            tried = content["try"]
            score, residual = tried["mean_average_precision"], tried.get("residual")
            key = Try(float(tried["factor"]), None if residual is None else float(residual))
            self.tries[str(tried["arm"]), key] = float("nan") if score is None else float(score)
            return
        row, per_label = read_row(content["row"]), np.array(content["per_label"], dtype=float)
        if per_label.ndim != 1 or "head_seconds" not in row:
            raise ValueError("not a whole row")
        self.rows[row["arm"], row["seed"]], self.per_label[row["arm"], row["seed"]] = row, per_label
