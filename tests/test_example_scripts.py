"""Each script of examples/ runs as it is, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# What conftest.py does for this process: torchvision's compiled part is of another torch than the pinned one.
SCHEMAS = """
import runpy, sys, torch
lib = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    lib.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_there_is_one_for_each_family():
    assert [path.stem for path in EXAMPLES] == ["plain_module", "timm_images", "torchvision_images", "transformers_text"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_improves_on_its_base(path: Path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCHEMAS, str(path)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    base, augmented = (float(re.search(rf"^{name}\s+mAP@\d+ ([\d.]+)", done.stdout, re.M)[1]) for name in ("base", "augmented"))
    assert augmented > base, done.stdout
