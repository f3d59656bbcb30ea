"""The paper's base network: the convolutional part of GoogLeNet (Szegedy et al., 2014), two layers of 4,096 ReLU units, logistic units."""

from __future__ import annotations

import torch
from torch import nn

# Channels of the four branches: 1 x 1; 3 x 3 after its reduction; 5 x 5 after its reduction; 1 x 1 after pooling (their Table 1).
_INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64), "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64), "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128), "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


class PaperNet(nn.Module):
    """Images [B, 3, 224, 224] to logits [B, C]. Trunk: 1,024 maps averaged to 3 x 3 places, 9,216 features; stack: 2 x 4,096.

    Args:
        n_labels: C, 17,000 in the paper.
    """

    def __init__(self, n_labels: int = 17_000) -> None:
        super().__init__()
        groups: dict[str, list[nn.Module]] = {}
        for name, channels in _INCEPTION.items():
            groups.setdefault(name[0], []).append(_Inception(*channels))
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.trunk = nn.Sequential(
            _convolution(3, 64, 7, 2, 3), pool, _convolution(64, 64, 1), _convolution(64, 192, 3, 1, 1), pool,
            *groups["3"], pool, *groups["4"], pool, *groups["5"], nn.AvgPool2d(5, 1), nn.Flatten(),
        )  # fmt: skip
        self.stack = nn.Sequential(nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU())
        self.classifier = nn.Linear(4096, n_labels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, 224, 224] to logits [B, C]."""
        logits: torch.Tensor = self.classifier(self.stack(self.trunk(images)))
        return logits


def paper_net() -> PaperNet:
    """The paper's network with 17,000 labels, randomly initialised: `--model selfinformed.network.googlenet:paper_net --checkpoint FILE`."""
    return PaperNet()


class _Inception(nn.Module):
    def __init__(self, channels: int, one: int, to_three: int, three: int, to_five: int, five: int, pooled: int) -> None:
        super().__init__()
        self.one = _convolution(channels, one, 1)
        self.three = nn.Sequential(_convolution(channels, to_three, 1), _convolution(to_three, three, 3, 1, 1))
        self.five = nn.Sequential(_convolution(channels, to_five, 1), _convolution(to_five, five, 5, 1, 2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), _convolution(channels, pooled, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


def _convolution(channels: int, maps: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, maps, kernel, stride, padding), nn.ReLU(inplace=True))
