"""Any nn.Module: a convnet of one's own, heads with feature maps of their own, saved, loaded, and the method applied again.

python examples/plain_module.py
"""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F

import selfinformed as si
from selfinformed.network import AttachPoint

N_LABELS, SIZE = 30, 16


class ConvNet(nn.Module):
    """Pictures [B, 1, 16, 16] to logits [B, 30]."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
        self.hidden, self.classifier = nn.Linear(32, 32), nn.Linear(32, N_LABELS)

    def forward(self, x):
        return self.classifier(F.relu(self.hidden(self.body(x).mean((2, 3)))))


def draw(n, seed):
    """Textures [n, 1, 16, 16] of 6 families of 5 look-alikes each, and their labels."""
    kernels = torch.Generator().manual_seed(0)
    kernel = torch.randn(6, 1, 5, 5, generator=kernels).repeat_interleave(5, 0) + 0.6 * torch.randn(N_LABELS, 1, 5, 5, generator=kernels)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(N_LABELS, (n,), generator=generator)
    noise = torch.randn(1, n, SIZE, SIZE, generator=generator)
    return F.conv2d(noise, kernel[labels], padding=2, groups=n).transpose(0, 1) / 4, labels


def main():
    torch.manual_seed(0)
    train, holdout, test = (draw(n, seed) for n, seed in ((4000, 1), (2000, 2), (2000, 3)))
    model = ConvNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(3):
        for rows in torch.arange(len(train[1])).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
            optimizer.step()

    net = si.wrap(model.eval(), train[0][:2])
    train, holdout, test = (si.open_dataset(split) for split in (train, holdout, test))
    aug = si.augment(net, si.plan(net, si.cluster(si.measure(net, holdout), n_groups=6), hidden=(24,)))
    si.fit(aug, train, epochs=4)
    print("base          ", si.evaluate(net, test))
    print("augmented     ", si.evaluate(aug, test))

    with tempfile.TemporaryDirectory() as folder:
        aug.save_pretrained(folder)
        aug = si.load(folder, net)

    # Again: groups from what the augmented network still mixes up, heads with feature maps of their own at an earlier place.
    maps = AttachPoint("body.2", reduce="map")
    wider = si.wrap(model, net.example_inputs, attach=[*net.attach_points, maps])
    left = si.cluster(si.measure(aug, holdout), n_groups=6)
    again = si.augment(wider, si.plan(wider, left, budget=0.2, attach="body.2", kernel=3), onto=aug)
    si.fit(again, train, epochs=4)
    print("applied again ", si.evaluate(again, test))


if __name__ == "__main__":
    main()
