"""Earlier attach points, found in networks of every family."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import Problem
from selfinformed.network.points import AttachPoint
from selfinformed.network.stages import candidate_attach_points, with_earlier_points
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from zoo import ZOO

EXPECTED = {
    "torchvision resnet18 (ResNet)": [("layer1", "mean"), ("layer2", "mean"), ("layer3", "mean")],
    "timm mixer_s32_224 (MLP-Mixer)": [("blocks.0", "mean"), ("blocks.3", "mean"), ("blocks.5", "mean")],
    "timm coatnet_pico_rw_224 (CoAtNet)": [("stages.0", "mean"), ("stages.1", "mean"), ("stages.2", "mean")],
    "torchvision alexnet (AlexNet)": [("features.2", "mean"), ("features.5", "mean"), ("features.7", "mean")],
}
ALSO = [
    "timm swin_tiny_patch4_window7_224 (Swin)", "transformers BertForSequenceClassification (BERT)",
    "transformers Wav2Vec2ForSequenceClassification (wav2vec 2.0)",
]  # fmt: skip


@pytest.mark.parametrize("entry", [e for e in ZOO if str(e) in [*EXPECTED, *ALSO]], ids=str)
def test_points_lie_before_the_networks_own(entry) -> None:
    net = wrap(entry.make(), entry.inputs(2))
    points = candidate_attach_points(net)
    if str(entry) in EXPECTED:
        assert [(p.module, p.reduce) for p in points] == EXPECTED[str(entry)]
    assert len(points) == 3
    wider = with_earlier_points(net)
    assert wider.attach_points == (*points, *net.attach_points)
    assert wider.fingerprint == net.fingerprint
    narrow, wide = net.features(entry.inputs(3)), wider.features(entry.inputs(3))
    assert torch.equal(narrow.logits, wide.logits)
    assert torch.equal(narrow.attached, wide.attached[:, -net.feature_size :])


def test_maps_with_channels_last_keep_their_channels() -> None:
    swin = next(e for e in ZOO if e.family == "Swin")
    net = with_earlier_points(wrap(swin.make(), swin.inputs(2)), 3)
    assert AttachPoint("layers.0", "output", "channels_last_mean") in net.attach_points
    assert [shape.size for shape in net.shapes] == [16, 16, 32, 32]


def test_fewer_points_where_a_network_has_fewer(problem: Problem) -> None:
    assert candidate_attach_points(problem.net, 0) == ()
    assert candidate_attach_points(problem.net, 3) == (AttachPoint("trunk.2", "output", "mean"),)  # behind the ReLU; the second convolution ends the trunk
    assert with_earlier_points(problem.net, 0).attach_points == problem.net.attach_points
    linear = wrap(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.randn(2, 8))
    assert with_earlier_points(linear, 3).attach_points == linear.attach_points


class Odd(nn.Module):
    """A layer called twice, one that gives a tuple, attention weights, one off the batch; and one whose positions come last."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.pair, self.wave = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), nn.Conv1d(8, 5, 1)
        self.soft, self.windows, self.good, self.last = nn.Softmax(-1), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, 7, 8)
        x = self.pair(self.twice(self.twice(x)))[0]
        x = x + self.wave(x.transpose(1, 2)).mean((1, 2))[:, None, None]
        x = self.soft(x[:, None] @ x[:, None].transpose(2, 3))[:, 0] @ x
        x = self.windows(x.reshape(-1, 8)).reshape(x.shape)
        return self.classifier(self.last(self.good(x)).mean(1))


def test_what_cannot_be_read_is_left_out() -> None:
    net = wrap(Odd(), torch.randn(3, 7, 8))
    assert [(p.module, p.reduce) for p in candidate_attach_points(net, 9)] == [("wave", "channels_first_mean"), ("good", "mean")]


@pytest.mark.parametrize("length", [16, 20])  # as long as there are channels, or not
def test_signals_are_averaged_over_their_length(length: int) -> None:
    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Sequential(nn.Conv1d(3, 16, 5, padding=2), nn.ReLU()), nn.Conv1d(16, 24, 3, padding=1)
            self.classifier = nn.Linear(24, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.second(self.first(x)).relu().mean(2))

    model, x = Signals().eval(), torch.randn(4, 3, length)
    net = with_earlier_points(wrap(model, x))
    assert net.attach_points[0] == AttachPoint("first", "output", "channels_first_mean")
    torch.testing.assert_close(net.features(x).attached[:, :16], model.first(x).mean(2))
    with pytest.raises(SelfInformedError, match="has the shape .batch, channels, length.; give reduce='channels_first_mean'"):
        wrap(model, x, attach="first", reduce="mean")


def test_the_network_is_left_as_it_was(problem: Problem) -> None:
    model = problem.net.model.train()
    try:
        candidate_attach_points(problem.net)
        assert all(m.training for m in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    finally:
        model.eval()
