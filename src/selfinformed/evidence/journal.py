"""What a comparison has done so far, so that a stopped one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.evidence.evaluation import Evaluation
from selfinformed.evidence.rows import read_row
from selfinformed.runtime.files import from_line, plain, to_line, write_text
from selfinformed.runtime.reading import MOST_JSON, opened


class Journal:
    """Rows and tries done so far, in memory and, if asked for, in a file of one JSON line each.

    Lines of other inputs stay in the file: with those inputs again, they serve again.

    Attributes:
        rows: by arm and seed, the row of the comparison.
        per_label: by arm and seed, each label's average precision.
        tries: by arm and learning-rate factor, mAP on hold-out data.
    """

    def __init__(self, path: str | Path | None, inputs: Sequence[Any]) -> None:
        self.path = Path(path) if path else None
        self.key = hashlib.sha256(json.dumps(plain(inputs), sort_keys=True, default=repr).encode()).hexdigest()
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.per_label: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        self.tries: dict[tuple[str, float], float] = {}
        self._lines: list[str] = []
        if self.path and self.path.exists():
            with opened(self.path, "comparison", MOST_JSON) as file:
                for line in file.read().decode("utf-8", "replace").splitlines():
                    self._take(line)

    def add(self, arm: str, seed: int, evaluation: Evaluation, seconds: float, head_seconds: float = 0.0) -> None:
        """Keeps one row."""
        row = {"arm": arm, "seed": seed, **evaluation.figures(), "seconds": seconds, "head_seconds": head_seconds}
        self._write({"row": row, "per_label": evaluation.ranking.average_precision})

    def add_try(self, arm: str, factor: float, score: float) -> None:
        """Keeps one try of a learning rate."""
        self._write({"try": {"arm": arm, "factor": factor, "mean_average_precision": score}})

    def _write(self, content: dict[str, Any]) -> None:
        self._take(to_line({"key": self.key, **content}))
        if self.path:
            write_text(self.path, "\n".join(self._lines) + "\n")

    def _take(self, line: str) -> None:
        content = from_line(line)
        if content is None:  # half written or damaged: that row is made again
            return
        try:
            if content.get("key") == self.key:
                self._keep(content)
        except (ValueError, KeyError, TypeError, OverflowError):  # likewise
            return
        self._lines.append(line)

    def _keep(self, content: dict[str, Any]) -> None:
        if "try" in content:
            tried = content["try"]
            score = tried["mean_average_precision"]
            self.tries[str(tried["arm"]), float(tried["factor"])] = float("nan") if score is None else float(score)
            return
        row, per_label = read_row(content["row"]), np.array(content["per_label"], dtype=float)
        if per_label.ndim != 1 or "head_seconds" not in row:
            raise ValueError("not a whole row")
        self.rows[row["arm"], row["seed"]], self.per_label[row["arm"], row["seed"]] = row, per_label
