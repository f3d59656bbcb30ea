"""Trains the bases of the kanji and cjk benchmarks.

    python benchmarks/bases.py kanji budget
    python benchmarks/bases.py kanji converged
    python benchmarks/bases.py kanji long

Of every (character, typeface) pair of the train split one pass sees a newly distorted view, for the converged base the same view each time: a fixed
set of images, as most data are. The learning rate is annealed to zero over the passes given (one cycle). The converged base and the long-trained one,
which start from random weights too, are then trained on for as long again as they were so far, at a third of the learning rate and annealed again,
until that adds less than half a point of mAP: the log of that last stage is the proof, and the base is what was there before it. Of new views it never
did on kanji, in 64 passes. A stopped training goes on from its last pass. Weights and logs are kept in `benchmarks/bases/`.
The converged base of cjk begins with a softmax over all its labels, of which an image's have equal shares (Mahajan et al. 2018), and has logistic
outputs from the ninth pass on: from random weights 21,616 logistic outputs stay near chance for passes, and 22 passes were not enough.
The base of all 6,355 kanji (`kanji2`) begins with the weights of the one of 2,965; their pairs are split alike, so that it saw no test pair.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from characters import CACHE, LEVEL_1, Characters, cjk, kanji
from safetensors.torch import load_file, save_file
from torch import nn

from selfinformed.data.glyphs import distort
from selfinformed.data.targets import Targets
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.structure.average_precision import Ranking, RankingMetrics
from selfinformed.training.losses import gradient_of, loss_of
from selfinformed.training.stepping import one_cycle

BASES = Path(__file__).parent / "bases"
PASSES = {
    ("kanji", "budget"): 5, ("kanji", "converged"): 12, ("kanji", "long"): 16, ("kanji2", "budget"): 1,
    ("cjk", "budget"): 8, ("cjk", "converged"): 12,
}  # fmt: skip
SOFTMAX_PASSES = {("cjk", "converged"): 8}  # the first of them, before those with logistic outputs
DATA = {"kanji": lambda: kanji(1), "kanji2": lambda: kanji(2), "cjk": cjk}


class CharacterNet(nn.Module):
    """A small residual network over 32 x 32 images: trunk, stack of two ReLU layers, classifier.

    Takes uint8 images [B, 1, 32, 32]; gives logits [B, C]. With `pooled` the trunk's output is averaged over positions to D features, else
    its 4 x 4 positions stand side by side.
    """

    def __init__(self, n_labels: int, hidden: int, pooled: int = 0) -> None:
        super().__init__()
        size = pooled or 96 * 16
        self.early = nn.Sequential(
            _Scale(), nn.PixelUnshuffle(2), *_convolution(4, 48, 1), *_convolution(48, 96, 2), _Residual(96)
        )  # 96 x 8 x 8
        self.late = nn.Sequential(
            *_convolution(96, 192, 2), _Residual(192), nn.Conv2d(192, pooled or 96, 1, bias=False), nn.BatchNorm2d(pooled or 96), nn.ReLU(),
            nn.AvgPool2d(4) if pooled else nn.Identity(), nn.Flatten(),
        )  # fmt: skip
        self.stack = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, n_labels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.stack(self.late(self.early(images))))
        return logits


class _Scale(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / 255.0 if images.dtype == torch.uint8 else images


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_convolution(channels, channels, 1), *_convolution(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.inner(x)
        return x + inner


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def network_for(name: str, n_labels: int) -> CharacterNet:
    return CharacterNet(n_labels, 384, pooled=384) if name == "cjk" else CharacterNet(n_labels, 512)


def base(name: str, kind: str, n_labels: int) -> CharacterNet:
    """A saved base, from `benchmarks/bases/`; trained first where it is not there."""
    shards = sorted(BASES.glob(f"{name}-{kind}-*.safetensors"))
    if not shards:
        train(name, kind)
        shards = sorted(BASES.glob(f"{name}-{kind}-*.safetensors"))
    parts = {key: value for shard in shards for key, value in load_file(shard).items()}
    network = network_for(name, n_labels)
    network.load_state_dict({key: _joined(parts, key) for key in network.state_dict()})
    return network.eval()


def network_of(name: str, kind: str, data: Characters) -> WrappedClassifier:
    """A saved base, wrapped."""
    network = base(name, kind, len(data.labels)).to(memory_format=torch.channels_last)
    example = torch.from_numpy(data.bitmaps[:1, None, 4:36, 4:36].copy())
    return wrap(network, example, labels=data.labels, output="logistic" if name == "cjk" else "softmax")


def log_seconds(name: str, kind: str) -> float:
    """What training a saved base took, from its logs, with what it began from.

    A quick pass (lower quartile) is taken for every pass of a stage, since some waited for other work.
    """
    if name == "kanji2":
        return log_seconds("kanji", kind) + _log_seconds(name, kind)
    return _log_seconds(name, kind)


def _log_seconds(name: str, kind: str) -> float:
    logs = [_lines(path.stem) for path in sorted(BASES.glob(f"{name}-{kind}*.jsonl"), key=lambda path: path.stem)]
    if len(logs) > 1 and logs[-1][-1]["holdout_map50"] < logs[-2][-1]["holdout_map50"] + 0.5:
        logs.pop()  # the proof that it converged
    return sum(len(log) * float(np.quantile(np.diff([0.0, *(line["seconds"] for line in log)]), 0.25)) for log in logs)


def _joined(parts: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    found = [parts[f"{key}@{number}"] for number in range(sum(part.rpartition("@")[0] == key for part in parts))]
    tensor = torch.cat(found) if found[0].ndim else found[0]
    return tensor.float() if tensor.is_floating_point() else tensor


def train(name: str, kind: str, learning_rate: float = 3e-3, batch_size: int = 128) -> None:
    data = DATA[name]()
    single = name != "cjk"
    torch.manual_seed(0)
    network = network_for(name, len(data.labels)).to(memory_format=torch.channels_last)
    rows = data.rows("train")
    targets = data.targets(rows)
    if name == "kanji2":
        _extend(network, base("kanji", kind, LEVEL_1))
    if not single:
        with torch.no_grad():
            network.classifier.bias.copy_(torch.from_numpy(targets.positives() / len(rows)).float().clamp(min=1e-6).logit())
    staged(
        f"{name}-{kind}", PASSES[name, kind], learning_rate, proven=kind != "budget",
        stage=lambda log, passes, peak: _stage(
            log, network, data, rows, targets, passes, peak, batch_size, single, fixed=kind == "converged",
            softmax_passes=0 if "-on" in log else SOFTMAX_PASSES.get((name, kind), 0),
        ),
        keep=lambda: save(network, f"{name}-{kind}"),
        restore=lambda: network.load_state_dict(base(name, kind, len(data.labels)).state_dict()),
    )  # fmt: skip


@torch.no_grad()
def _extend(network: CharacterNet, other: CharacterNet) -> None:
    """Begins where a network of the first labels ended: from random weights so many labels stay at chance for more passes than a budget has."""
    known = other.state_dict()
    for key, value in network.state_dict().items():
        value[: len(known[key])].copy_(known[key]) if value.ndim else value.copy_(known[key])


def staged(
    name: str, passes: int, learning_rate: float, proven: bool, stage: Callable[[str, int, float], float], keep: Callable[[], None],
    restore: Callable[[], object],
) -> None:  # fmt: skip
    """Trains a base for some passes and, where it is to be `proven` that it converged, on for as long again as it was so far, until that adds less
    than half a point of mAP: what was there before that last stage is what is kept. Stages with a complete log are not trained again.

    Args:
        name: of the base, and of its logs.
        stage: trains for (log, passes, peak learning rate); gives hold-out mAP in percent.
        keep, restore: save the network as the base, and read it back.
    """
    before = -1.0
    for number in range(6):
        log = f"{name}{f'-on{number}' if number else ''}"
        done = _last(log)
        if done and done["pass"] == done["of"] and list(BASES.glob(f"{name}*.safetensors")):  # that stage is in the base that is saved
            restore()
            reached = done["holdout_map50"]
        else:
            reached = stage(log, passes, learning_rate / (3 if number else 1))
            if reached >= before + 0.5:
                keep()
        if not proven or reached < before + 0.5:
            break
        passes, before = passes * (2 if number else 1), reached


def _last(log: str) -> dict[str, float]:
    """The last line of a log; empty without one."""
    lines = _lines(log)
    return lines[-1] if lines else {}


def _lines(log: str) -> list[dict[str, float]]:
    path = BASES / f"{log}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(network: nn.Module, name: str) -> None:
    """float16, in files of at most 4 MB; a larger tensor is cut along its rows into `name@0`, `name@1` and so on."""
    BASES.mkdir(exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, value in network.state_dict().items():
        tensor = value.contiguous().half() if value.is_floating_point() else value
        parts = tensor.tensor_split(-(-tensor.nbytes // 3_900_000)) if tensor.ndim else (tensor,)
        for number, part in enumerate(parts):
            if size + part.nbytes > 4_000_000:
                shards.append({})
                size = 0
            shards[-1][f"{key}@{number}"] = part.clone()
            size += part.nbytes
    for number, shard in enumerate(shards):
        save_file(shard, BASES / f"{name}-{number:02d}.safetensors")


def _stage(file, network, data: Characters, rows, targets, passes, peak, batch_size, single, fixed, softmax_passes) -> float:
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.02, fused=True)
    log, resume = BASES / f"{file}.jsonl", CACHE / f"{file}.pt"
    BASES.mkdir(exist_ok=True)
    first, seconds, reached = 0, 0.0, -1.0
    if resume.exists():
        state = torch.load(resume, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["passes"], state["seconds"]
    else:
        log.write_text("")
    n = len(rows)
    drawn = data.examples("train").read(range(n)) if fixed else torch.from_numpy(data.bitmaps[rows])
    steps = n // batch_size
    for number in range(first, passes):
        start = time.time()
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(n, generator=generator)
        network.train()
        total = 0.0
        images = torch.empty(0)
        for step in range(steps):
            at = step * batch_size
            if step % 16 == 0:
                images = drawn[order[at : at + 16 * batch_size]]
                images = images if fixed else distort(images, generator)
            chosen = order[at : at + batch_size]
            batch = images[at % (16 * batch_size) :][:batch_size].contiguous(memory_format=torch.channels_last)
            for group in optimizer.param_groups:
                group["lr"] = peak * one_cycle((number + step / steps) / passes, 0.15)
            logits = network(batch)
            wanted = targets.take(chosen.numpy())
            if number == softmax_passes > 0 == step:
                logits = _from_softmax(network.classifier, logits, len(wanted.labels) / batch_size)
            if step % 16 == 0 and single:
                total += 16 * loss_of(logits.detach(), wanted, "softmax").item()
            optimizer.zero_grad()
            shares = number < softmax_passes
            logits.backward(_gradient_of_shares(logits, wanted) if shares else gradient_of(logits, wanted, "softmax" if single else "logistic"))
            optimizer.step()
        seconds += time.time() - start
        figures = judge(network, data, "holdout")
        reached = 100 * figures.mean_average_precision
        line = {"pass": number + 1, "of": passes, "seconds": round(seconds, 1), **({"loss": round(total / steps, 4)} if single else {}),
                "holdout_map50": round(reached, 2), "holdout_top1": round(100 * figures.top1, 2)}
        print(json.dumps(line), flush=True)
        with log.open("a") as out:
            out.write(json.dumps(line) + "\n")
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "passes": number + 1, "seconds": seconds}, resume)
    return reached


@torch.no_grad()
def _gradient_of_shares(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Of the cross-entropy with equal shares of an example's labels, in the logits [B, C]; the mean over examples."""
    sizes = torch.from_numpy(np.diff(targets.offsets))
    examples = torch.repeat_interleave(torch.arange(len(targets)), sizes)
    gradient = logits.softmax(1)
    gradient[examples, torch.from_numpy(targets.labels)] -= 1 / sizes[examples]
    return gradient.div_(len(targets))


def _from_softmax(classifier: nn.Linear, logits: torch.Tensor, labels_per_example: float) -> torch.Tensor:
    """Shifts biases such that a label's logistic output begins at the number of labels times its share, and gives the logits that are then."""
    shift = math.log(labels_per_example) - logits.detach().logsumexp(1).mean()
    with torch.no_grad():
        classifier.bias += shift
    return logits + shift


@torch.no_grad()
def judge(network: nn.Module, data: Characters, part: str) -> Ranking:
    network.eval()
    examples = data.examples(part)
    if len(examples) > 12_000:
        examples = examples.take(range(0, len(examples), 3))
    metrics = RankingMetrics(len(data.labels), ranked_by="probabilities" if examples.targets.single else "logits")
    for chosen, images in examples.batches(512):
        logits = network(images.contiguous(memory_format=torch.channels_last))
        metrics.update(logits, examples.targets.take(chosen))
    return metrics.compute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted({name for name, _ in PASSES}))
    parser.add_argument("kind", choices=sorted({kind for _, kind in PASSES}))
    options = parser.parse_args()
    train(options.name, options.kind)
