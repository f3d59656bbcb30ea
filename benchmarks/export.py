"""ONNX against torch on 10,000 inputs: the demo's convolutional network with trained heads on real glyphs, and a vision transformer on noise.

Run by `make bench-export`; about five minutes on 2 cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
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


def transformer() -> tuple[si.AugmentedClassifier, torch.Tensor]:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=4, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=1000)
    images = torch.randn(N, 3, 32, 32)
    net = si.wrap(ViTForImageClassification(config).eval(), images[:2])
    groups = si.LabelGroups(1000, tuple(np.array_split(np.random.default_rng(0).permutation(1000), 10)))
    return si.augment(net, si.plan(net, groups, hidden=(64, 64)), classifier="reinitialise"), images


def main() -> None:
    rows = []
    for name, make in (("GlyphNet, trained heads, glyphs", glyphnet), ("ViT of 12 blocks, noise", transformer)):
        aug, images = make()
        with tempfile.TemporaryDirectory() as folder:
            check = si.export_onnx(aug, Path(folder) / "model.onnx", images)
        rows.append({"network": name, **{k: v for k, v in vars(check).items() if k != "path"}})
        print(rows[-1], flush=True)
    save("export", {"seed": 0, "rows": rows})


if __name__ == "__main__":
    main()
