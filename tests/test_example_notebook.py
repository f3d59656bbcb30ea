"""The notebook of examples/ runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")
pytest.importorskip("pandas", reason="needs the extra pandas")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def outputs(cell: Any) -> str:
    return "".join(output.get("text", "") + str(output.get("data", {}).get("text/html", "")) for output in cell.outputs)


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_it_tells_the_story_it_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("seeds=3, epochs=3", "seeds=3, epochs=1").replace("[:300]", "[:200]")  # a third of the time
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    cells = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert not [output for cell in cells.values() for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"]
    judged = next(cell for source, cell in cells.items() if "si.fit(" in source)
    base, augmented = (float(found) for found in re.findall(r"mAP@50 ([\d.]+)", outputs(judged)))
    assert augmented > base + 2
    compared = outputs(next(cell for source, cell in cells.items() if "si.compare(" in source))
    assert "Heads on groups from confusions raise mAP@50" in compared
    figures = [source for source, cell in cells.items() if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert len(figures) == 3
    assert "<table" in outputs(list(cells.values())[-1])
