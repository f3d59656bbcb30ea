"""Trains the demo's base network and writes it as float16 safetensors, with its log.

    python scripts/train_demo_base.py --passes 10 --name budget
    python scripts/train_demo_base.py --passes 80 --name converged
    python scripts/train_demo_base.py --passes 40 --name converged-on --start converged --learning-rate 0.002 --out .

The last line trains the converged base on. Each time that added more, its result became the converged base: 80 passes 89.5 mAP, 40 more
90.6, 60 more 91.7, 120 more 92.5 (logs `glyphnet_converged_1.log` to `_4.log`).

One pass draws a newly distorted view of every (character, typeface) pair of the train split. The learning rate is annealed
to zero (one cycle). The log, `scripts/glyphnet_NAME.log`, is committed with the weights.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from selfinformed.data.glyphs import GlyphLabels, distort, render_glyphs
from selfinformed.network.glyphnet import GlyphNet

ASSETS = Path(__file__).parent.parent / "src" / "selfinformed" / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, required=True, help="passes over the train split")
    parser.add_argument("--name", required=True, help="glyphnet_NAME.safetensors is written")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", help="go on from this shipped base instead of from random weights")
    parser.add_argument("--out", type=Path, default=ASSETS)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    labels = GlyphLabels.shipped()
    glyphs = render_glyphs(labels)
    train = np.flatnonzero(glyphs.part == 0)
    bitmaps = torch.from_numpy(glyphs.bitmaps[train])
    targets = _multi_hot(glyphs, train)
    network = GlyphNet(len(labels.space)).to(memory_format=torch.channels_last)
    if options.start:
        network.load_state_dict(GlyphNet.shipped(options.start).state_dict())
    else:
        with torch.no_grad():
            network.classifier.bias.copy_(targets.float().mean(0).clamp(min=1e-5).logit())
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = options.passes * (len(train) // options.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(options.seed)
    log = (Path(__file__).parent / f"glyphnet_{options.name}.log").open("w")

    def say(**row: object) -> None:
        print(json.dumps(row), flush=True)
        print(json.dumps(row), file=log, flush=True)

    say(passes=options.passes, pairs=len(train), labels=len(labels.space), batch_size=options.batch_size,
        learning_rate=options.learning_rate, seed=options.seed, start=options.start, torch=torch.__version__,
        parameters=sum(p.numel() for p in network.parameters()))
    start = time.time()
    if options.start:
        say(epoch=0, **_evaluate(network, glyphs))
    for epoch in range(options.passes):
        network.train()
        total = 0.0
        order = torch.randperm(len(train), generator=generator)
        for chunk in order.split(options.batch_size * 16):
            images = distort(bitmaps[chunk], generator)
            for rows, batch in zip(chunk.split(options.batch_size), images.split(options.batch_size), strict=True):
                if len(rows) < options.batch_size:
                    continue
                logits = network(batch.contiguous(memory_format=torch.channels_last))
                loss = F.binary_cross_entropy_with_logits(logits, targets[rows].float(), reduction="sum") / len(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
        say(epoch=epoch + 1, seconds=round(time.time() - start, 1), loss=round(total * options.batch_size / len(train), 4),
            **_evaluate(network, glyphs))
    path = options.out / f"glyphnet_{options.name}.safetensors"
    state = {k: v.contiguous().half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(state, path)
    say(wrote=path.name, bytes=path.stat().st_size)


def _multi_hot(glyphs, pairs: np.ndarray) -> torch.Tensor:
    lists = glyphs.labels.label_lists
    targets = torch.zeros(len(pairs), len(glyphs.labels.space), dtype=torch.bool)
    for row, pair in enumerate(pairs):
        targets[row, lists[glyphs.character[pair]]] = True
    return targets


@torch.no_grad()
def _evaluate(network: GlyphNet, glyphs) -> dict[str, float]:
    network.eval()
    images, _, _ = glyphs.views("holdout", 1, seed=1)
    character = torch.from_numpy(glyphs.character[glyphs.part == 1])
    scores = torch.cat([network(batch) for batch in images.split(512)])
    characters = scores[:, : len(glyphs.labels.characters)]
    average_precision = []
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(50).indices, True)
    pairs = np.flatnonzero(glyphs.part == 1)
    truth = _multi_hot(glyphs, pairs)
    for c in torch.unique(torch.where(truth.any(0))[0]):
        order = scores[:, c].masked_fill(~kept[:, c], -torch.inf).argsort(descending=True, stable=True)
        hits = (truth[:, c] & kept[:, c])[order].double()
        average_precision.append(float((hits * hits.cumsum(0) / torch.arange(1, len(hits) + 1)).sum() / truth[:, c].sum()))
    return {
        "holdout_character_top1": round(float((characters.argmax(1) == character).float().mean()) * 100, 2),
        "holdout_map50": round(float(np.mean(average_precision)) * 100, 2),
    }


if __name__ == "__main__":
    main()
