"""The end of a trunk, found in networks of every family, gives what the network gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import Problem
from selfinformed.network.points import AttachPoint
from selfinformed.network.trunk import CopiedEnd, trunk_end
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from zoo import ZOO

ENDS = {
    "torchvision resnet18 (ResNet)": (AttachPoint("layer3", reduce="map"), ("layer4", "avgpool")),
    "timm resnet10t (ResNet)": (AttachPoint("layer3", reduce="map"), ("layer4", "global_pool")),
    "timm vit_tiny_patch16_224 (ViT)": (AttachPoint("blocks.0"), ("blocks.1", "norm")),
    "timm mixer_s32_224 (MLP-Mixer)": (AttachPoint("blocks.6"), ("blocks.7", "norm")),
    "timm efficientnet_lite0 (EfficientNet)": (AttachPoint("blocks.5", reduce="map"), ("blocks.6", "conv_head", "bn2", "global_pool")),
    "torchvision alexnet (AlexNet)": (AttachPoint("features.9", "input", reduce="map"), ("features.9", *(f"features.{i}" for i in range(10, 13)), "avgpool")),
}


@pytest.mark.parametrize("entry", [e for e in ZOO if str(e) in ENDS], ids=str)
def test_a_copy_gives_the_trunks_output_and_costs_what_it_executes(entry) -> None:
    attach, modules = ENDS[str(entry)]
    model = entry.make().eval()
    own = wrap(model, entry.inputs(2))
    net = wrap(model, entry.inputs(2), attach=[attach, *own.attach_points])
    end = trunk_end(net, 0)
    assert end.modules[: len(modules)] == modules
    features = net.features(entry.inputs(3)).attached
    read, expected = features.split([net.shapes[0].size, end.size], 1)
    copied = CopiedEnd(model, end)
    before = read.clone()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        given = copied(read.unflatten(1, end.shape))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(read, before)
    assert end.parameters == sum(p.numel() for p in copied.parameters())
    if "ViT" not in str(entry):  # attention is not counted on a CPU
        assert counter.get_total_flops() == 2 * 3 * end.multiply_adds
    copied.train()
    assert not any(module.training for module in copied.modules())


def mapped(model: nn.Module, name: str) -> WrappedClassifier:
    return wrap(model.eval(), torch.randn(2, 1, 8, 8), attach=[AttachPoint(name, reduce="map")])


class Skipping(nn.Module):
    """Between its attach point and the trunk's output it adds, or calls a block with a tensor more."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.early, self.late, self.out, self.masked = nn.Conv2d(1, 4, 3), Masked(), nn.Linear(4, 5), masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.early(x)
        x = self.late(x, mask=torch.ones(1)) if self.masked else x + self.late(x)
        return self.out(x.mean((2, 3)))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.convolution(x) if mask is None else self.convolution(x) * mask


@pytest.mark.parametrize("masked", [False, True])
def test_what_does_more_than_call_modules_is_refused(masked: bool) -> None:
    with pytest.raises(SelfInformedError, match=r"copy: from the output of 'early' the modules .* do not alone give the trunk's output, what 'out' reads"):
        trunk_end(mapped(Skipping(masked), "early"), 0)


def test_points_that_are_not_whole_or_past_the_trunk_are_refused(problem: Problem) -> None:
    model, inputs = problem.net.model, problem.net.example_inputs
    with pytest.raises(SelfInformedError, match="copy: a copy reads the whole of the output of 'trunk.2'"):
        trunk_end(wrap(model, inputs, attach="trunk.2", reduce="mean"), 0)
    for point in (AttachPoint("trunk"), AttachPoint("stack.0", "input"), AttachPoint("stack.1")):
        with pytest.raises(SelfInformedError, match=r"the modules \(none\) lead on"):
            trunk_end(wrap(model, inputs, attach=[point]), 0)
