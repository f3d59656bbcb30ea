"""The demo's base network: a small convnet over 32 x 32 glyphs, with logistic outputs."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import torch
from torch import nn

BaseName = Literal["budget", "converged"]


class GlyphNet(nn.Module):
    """Five convolutions (the trunk, 4 x 4 x 32 = 512 features), two ReLU layers of 128 (the stack), one output unit per label.

    Takes uint8 or float images [B, 1, 32, 32] (uint8 is scaled to 0..1) and gives logits [B, n_labels].
    """

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _Scale(),
            *_convolution(1, 32, stride=1),
            *_convolution(32, 32, stride=2),
            *_convolution(32, 64, stride=2),
            *_convolution(64, 64, stride=1),
            *_convolution(64, 96, stride=2),
            *_convolution(96, 32, stride=1),
            nn.Flatten(),
        )
        self.stack = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.classifier = nn.Linear(128, n_labels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.stack(self.trunk(images)))
        return logits

    @classmethod
    def shipped(cls, base: BaseName = "budget") -> GlyphNet:
        """A trained network from the package: `budget` (a few passes) or `converged`."""
        from safetensors.torch import load

        content = resources.files("selfinformed.assets").joinpath(f"glyphnet_{base}.safetensors").read_bytes()
        state = {k: v.float() if v.is_floating_point() else v for k, v in load(content).items()}
        network = cls(len(state["classifier.bias"]))
        network.load_state_dict(state)
        return network.eval()


class _Scale(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / 255.0 if images.dtype == torch.uint8 else images


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
