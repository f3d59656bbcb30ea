"""Finished runs, read from their folders to be held against each other; no network or data is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfinformed.evidence.comparison import Comparison
from selfinformed.evidence.reporting import reading
from selfinformed.evidence.runs import RunFindings, report_runs
from selfinformed.pipeline.artefacts import read_artefact
from selfinformed.pipeline.config import read_config
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups


def side_by_side(folders: Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Writes a page of several runs (default: `runs.html` beside the first run's folder).

    Raises:
        SelfInformedError: a folder is no run, or one without a comparison.
    """
    runs = [_findings(Path(folder)) for folder in folders]
    with reading(*(run.folder for run in runs)):
        return report_runs(runs, path or runs[0].folder.resolve().parent / "runs.html")


def _findings(folder: Path) -> RunFindings:
    path = folder / "comparison.json"
    if not path.exists():
        raise SelfInformedError(f"report: {folder} holds no comparison.json; make it with: selfinformed compare {folder}")
    comparison = Comparison.load(path)

    def there(name: str) -> Any:
        return read_artefact(folder / name) if (folder / name).exists() else {}

    groups = LabelGroups.load(folder / "groups.json") if (folder / "groups.json").exists() else None
    with reading(folder):
        names = [str(row["label"]) for row in there("evaluation.json").get("labels", [])]
        headroom = dict(there("probe.json"))
    return RunFindings(folder, names, comparison, headroom, len(groups) if groups else None, read_config(folder).to_dict())
