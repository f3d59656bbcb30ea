"""The demo's base network."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from selfinformed.data.glyphs import GlyphLabels
from selfinformed.network.glyphnet import BaseName, GlyphNet
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap


@pytest.mark.parametrize("base", get_args(BaseName))
def test_shipped_bases_fit_the_shipped_labels(base):
    network = GlyphNet.shipped(base)
    assert not network.training
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert network.classifier.out_features == len(GlyphLabels.shipped().space)
    assert network(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).isfinite().all()


def test_bytes_are_scaled():
    network = GlyphNet(5).eval()
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(network(images), network(images / 255.0))


def test_its_parts_are_found():
    net = wrap(GlyphNet(5), torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    assert (net.attach, net.stack_names, net.classifier_name) == (AttachPoint("stack.0", "input"), ("stack.0", "stack.2"), "classifier")
    assert net.feature_size == 512
