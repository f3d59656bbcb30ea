"""ONNX against torch on 10,000 inputs: the demo's convolutional network with trained heads on real glyphs. Run by `make bench-export`.

Other networks: SELFINFORMED_ZOO_INPUTS=10000 python -m pytest tests/test_zoo.py -s -k "resnet10t or vit_tiny or deit_tiny or Bert"
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import save

import selfinformed as si
from selfinformed.data.glyphs import glyph_examples
from selfinformed.network.glyphnet import GlyphNet

N = 10_000


def glyphnet() -> tuple[si.AugmentedClassifier, torch.Tensor]:
    train, holdout, test = (glyph_examples(split) for split in ("train", "holdout", "test"))
    net = si.wrap(GlyphNet.shipped(), holdout.example_inputs(), labels=holdout.labels)
    groups = si.cluster(si.measure(net, holdout), n_groups=6, labels=net.labels)
    aug = si.augment(net, si.plan(net, groups, budget=0.03))
    si.fit(aug, train, holdout=holdout, epochs=1)
    images = torch.cat([test.read(range(len(test))), train.read(range(max(0, N - len(test))))])
    return aug, images[:N]


def main() -> None:
    aug, images = glyphnet()
    with tempfile.TemporaryDirectory() as folder:
        check = si.export_onnx(aug, Path(folder) / "model.onnx", images)
    save("export", {"seed": 0, "network": "GlyphNet, trained heads, glyphs", **{k: v for k, v in vars(check).items() if k != "path"}})


if __name__ == "__main__":
    main()
