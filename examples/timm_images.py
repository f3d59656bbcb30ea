"""A network of timm on images: 40 kinds of noisy shape that come in groups of look-alikes.

pip install 'selfinformed[timm]'; python examples/timm_images.py
"""

import timm
import torch
from torch.nn import functional as F

import selfinformed as si

N_LABELS, SIZE = 40, 32


def draw(n, seed):
    """Pictures [n, 3, 32, 32] of 8 families of 5 look-alikes each, and their labels."""
    prototypes = torch.Generator().manual_seed(0)
    family = F.interpolate(torch.randn(8, 3, 4, 4, generator=prototypes), SIZE, mode="bilinear").repeat_interleave(5, 0)
    detail = 0.5 * F.interpolate(torch.randn(N_LABELS, 3, 8, 8, generator=prototypes), SIZE, mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(N_LABELS, (n,), generator=generator)
    return (family + detail)[labels] + 2.5 * torch.randn(n, 3, SIZE, SIZE, generator=generator), labels


def trained_briefly(model, images, labels, steps=50, learning_rate=2e-3):
    """A base on a budget: a few dozen steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    model.train()
    for step in range(steps):
        rows = slice(64 * step % len(images), 64 * step % len(images) + 64)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval()


def main():
    torch.manual_seed(0)
    names = [f"family {i // 5}, kind {i % 5}" for i in range(N_LABELS)]
    train, holdout, test = (draw(n, seed) for n, seed in ((2400, 1), (800, 2), (800, 3)))
    model = trained_briefly(timm.create_model("resnet10t", num_classes=N_LABELS), *train)

    net = si.wrap(model, train[0][:2], labels=names)
    print(net)
    groups = si.cluster(si.measure(net, si.open_dataset(holdout, names)), n_groups=8)
    for members in groups.members[:3]:
        print("mixed up:", "; ".join(names[m] for m in members))
    aug = si.augment(net, si.plan(net, groups, budget=0.03))
    si.fit(aug, si.open_dataset(train, names), epochs=4)
    print("base      ", si.evaluate(net, si.open_dataset(test, names)))
    print("augmented ", si.evaluate(aug, si.open_dataset(test, names)))
    with aug.conditional(2):
        print("2 of 8    ", si.evaluate(aug, si.open_dataset(test, names)))


if __name__ == "__main__":
    main()
