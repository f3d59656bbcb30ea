"""A network of torchvision: heads that read two attach points, the trunk's output and an earlier block.

pip install 'selfinformed[torchvision]'; python examples/torchvision_images.py
"""

import torch
import torchvision
from torch.nn import functional as F

import selfinformed as si
from selfinformed.network import AttachPoint

N_LABELS, SIZE = 30, 32


def draw(n, seed):
    """Pictures [n, 3, 32, 32] of 6 families of 5 look-alikes each, and their labels."""
    prototypes = torch.Generator().manual_seed(0)
    family = F.interpolate(torch.randn(6, 3, 4, 4, generator=prototypes), SIZE, mode="bilinear").repeat_interleave(5, 0)
    detail = 0.5 * F.interpolate(torch.randn(N_LABELS, 3, 8, 8, generator=prototypes), SIZE, mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(N_LABELS, (n,), generator=generator)
    return (family + detail)[labels] + 2.5 * torch.randn(n, 3, SIZE, SIZE, generator=generator), labels


def main():
    torch.manual_seed(0)
    train, holdout, test = (draw(n, seed) for n, seed in ((2400, 1), (800, 2), (800, 3)))
    model = torchvision.models.resnet18(num_classes=N_LABELS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for rows in torch.arange(len(train[0])).split(64):  # one pass: a base on a budget
        optimizer.zero_grad()
        F.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
        optimizer.step()

    earlier = AttachPoint("layer3", reduce="mean")
    net = si.wrap(model.eval(), train[0][:2], attach=[AttachPoint("fc", "input"), earlier])
    print(net)
    train, holdout, test = (si.open_dataset(split) for split in (train, holdout, test))
    groups = si.cluster(si.measure(net, holdout), n_groups=6)
    everything = si.LabelGroups.everything(N_LABELS)
    specialists = si.plan(net, groups, budget=0.015, attach="layer3")
    dense = si.plan(net, everything, budget=0.015, attach="fc")
    aug = si.augment(net, specialists + dense)
    si.fit(aug, train, epochs=4)
    print("base      ", si.evaluate(net, test))
    print("augmented ", si.evaluate(aug, test))


if __name__ == "__main__":
    main()
