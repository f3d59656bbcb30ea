"""Every network of the zoo: wrapped, recomposed, augmented, trained, saved, loaded, exported; and the table of them in docs/zoo.md.

SELFINFORMED_ZOO_INPUTS=10000 compares exports on so many inputs. SELFINFORMED_ZOO=all exports every entry, not only a few;
SELFINFORMED_ZOO=write does so too and writes the table.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import selfinformed as si
from conftest import *  # noqa: F403  (torchvision's schemas)
from selfinformed.augmented.exported import export_program
from selfinformed.data.inputs import Inputs, take_inputs
from selfinformed.network.calls import call
from selfinformed.structure.groups import LabelGroups
from zoo import ZOO, Entry, N

TABLE = Path(__file__).parents[1] / "docs" / "zoo.md"
MODE = os.environ.get("SELFINFORMED_ZOO", "")
N_CHECKED = int(os.environ.get("SELFINFORMED_ZOO_INPUTS", "9"))  # how many inputs an export is compared on
ROWS: dict[str, list[str]] = {}
GROUPS = LabelGroups(N, (np.array([0, 5, 2, 7]), np.array([1, 3]), np.array([4, 6, 8])))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ZOO, ids=str)
def test_a_network_of_the_zoo(entry: Entry, tmp_path: Path):
    torch.manual_seed(0)
    model, inputs = calibrated(entry.make(), entry.inputs(16)), entry.inputs(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = si.wrap(model, inputs)
    features, expected = net.features(inputs), net.logits(inputs)
    assert expected.shape == (4, N)
    assert torch.equal(features.logits, expected)
    assert torch.equal(net.classifier(features.penultimate), expected)  # recomposed
    assert features.attached.shape == (4, net.feature_size)

    aug = si.augment(net, si.plan(net, GROUPS, hidden=(6, 5)))
    assert torch.equal(aug.logits(inputs), expected)
    with aug.heads_disabled():
        assert torch.equal(aug.logits(inputs), expected)

    frozen = {name: p.clone() for name, p in aug.named_parameters() if not p.requires_grad}
    data = si.open_dataset((inputs, [0, 1, 4, 9]), net.labels)
    si.fit(aug, data, epochs=4, batch_size=2, head_input="standardised")
    assert all(torch.equal(p, frozen[name]) for name, p in aug.named_parameters() if name in frozen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    trained = aug.logits(inputs)
    assert not torch.equal(trained, expected)
    torch.testing.assert_close(aug.from_features(features.attached, features.penultimate), trained, rtol=1e-4, atol=1e-4)
    with aug.heads_disabled():
        assert torch.equal(aug.logits(inputs), expected)
    with aug.conditional(3):
        torch.testing.assert_close(aug.logits(inputs), trained, rtol=1e-4, atol=1e-4)

    aug.save_pretrained(tmp_path)
    assert torch.equal(si.load(tmp_path, model, inputs).logits(inputs), trained)
    exported = ""
    if entry.export or MODE:
        exported = export(aug, entry, tmp_path)
        assert exported.startswith("yes") or not entry.export, exported
    named = "id2label" if net.labels.names[0] == "kind 0" else "numbers"
    shown = [entry.package, entry.family, f"`{entry.name}`", ", ".join(f"`{n}`" for n in net.classifier_names),
             ", ".join(map(str, net.attach_points)).replace("'", "`"), str(net.feature_size), named, exported]  # fmt: skip
    ROWS[str(entry)] = shown


@torch.no_grad()
def calibrated(model: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    """With the statistics of a batch in its BatchNorms: without them the logits of a deep random network grow past any tolerance."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the average of what it has seen
    if norms:
        call(model.train(), inputs)
    return model.eval()


def export(aug: si.AugmentedClassifier, entry: Entry, folder: Path) -> str:
    try:
        check = si.export_onnx(aug, folder / "model.onnx", entry.inputs(N_CHECKED))
        print(f"{entry}: {check.n_inputs} inputs, {check.max_difference:.2g} at most, top-1 {check.top1_agreement:.4%}")
    except Exception as error:  # an operator that ONNX does not know
        if entry.export:
            raise
        return f"no ({'differs by more than 1e-4' if 'logits differ' in str(error) else type(error).__name__})"
    assert check.top1_agreement == 1
    program = export_program(aug, entry.inputs(3)).module()
    five = entry.inputs(5)
    got = program(*five.values()) if isinstance(five, dict) else program(five)
    torch.testing.assert_close(got, aug.logits(five), rtol=1e-4, atol=1e-4)
    return "yes"


def test_the_zoo_is_large_and_various():
    assert len(ZOO) >= 25
    assert len({entry.family for entry in ZOO}) >= 12
    assert len({str(entry) for entry in ZOO} | {entry.family for entry in ZOO}) > len(ZOO)


def test_the_table_in_the_documentation():
    """Runs after the others; what they found is what the table says, except for exports, which only some make."""
    if len(ROWS) < len(ZOO):
        pytest.skip("needs the whole zoo in this process")
    rows = [ROWS[str(entry)] for entry in ZOO]
    if MODE == "write":
        head = ["package", "family", "architecture", "classifier", "heads read", "D", "label names", "ONNX"]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        text = (
            "# The zoo\n\nEvery network below is wrapped, recomposed, augmented (bit for bit the base before training), trained with only new parameters\n"
            "moving, saved and loaded by `tests/test_zoo.py`, at a small size and with random weights; this table is written by it\n"
            f"(`SELFINFORMED_ZOO=write python -m pytest tests/test_zoo.py`). {len(ZOO)} architectures of {len({e.family for e in ZOO})} families.\n\n"
        )
        TABLE.write_text(text + "\n".join(lines) + "\n", "utf-8")
    written = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in TABLE.read_text("utf-8").splitlines() if line.startswith("| ")][2:]
    assert [row[:7] for row in written] == [row[:7] for row in rows]
    assert all(made[7] in ("", row[7]) for made, row in zip(rows, written, strict=True))


def test_an_input_of_another_size_where_the_attach_point_is_flattened():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, N)).eval()
    net = si.wrap(model, torch.randn(2, 1, 8, 8), attach="0")
    with pytest.raises(si.SelfInformedError, match="100 values per example here and had 144? on the example inputs.*reduce='mean'|values per example"):
        net.features(torch.randn(2, 1, 7, 7))
    assert take_inputs(torch.arange(3), [1]).tolist() == [1]
