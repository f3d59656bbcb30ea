"""Training heads and classifier on cached features; optionally the whole network after that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Examples
from selfinformed.data.targets import Targets
from selfinformed.network.wrap import Output
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.progress import progress
from selfinformed.structure.measuring import check_labels
from selfinformed.training.features import FeatureStore, HeadInput

_LOSS_EVERY = 4  # steps; training needs only its gradient


@dataclass
class History:
    """What training did: a row {stage, epoch, loss, seconds, steps} per epoch, and the seconds it took in all.

    The loss is the mean over every fourth step of the epoch.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def fit(
    aug: AugmentedClassifier,
    train: Examples | FeatureStore,
    *,
    holdout: Examples | FeatureStore | None = None,
    epochs: float = 2,
    batch_size: int = 256,
    learning_rate: float = 6e-3,
    classifier_learning_rate: float = 3e-3,
    head_input: HeadInput = "whitened",
    output: Output | None = None,
    seed: int = 0,
    finetune: bool = False,
    finetune_epochs: int = 1,
    finetune_learning_rate: float = 1e-3,
) -> History:
    """Trains the heads and the classifier; the rest of the network stays as it is, in eval mode.

    Binary cross-entropy, summed over labels, for logistic outputs; cross-entropy for softmax. AdamW under a one-cycle schedule. The same seed
    gives the same weights on the same machine and number of threads.

    Args:
        aug: the augmented network, changed in place.
        train: examples, or their cached features.
        holdout: where the mean and covariance of the heads' input come from (default: `train`).
        epochs: passes over `train`; a fraction is a part of a pass.
        batch_size: examples per step.
        learning_rate: peak, for the heads.
        classifier_learning_rate: peak, for the classifier.
        head_input: `whitened`, `standardised` or `raw`; folded into the heads' first layer after training, at no cost.
        output: `softmax` or `logistic`; by default the network's own, or softmax where every example has exactly one label.
        seed: of the order of examples.
        finetune: train the whole network in a second stage, on inputs; `train` must then be examples.
        finetune_epochs: passes of that stage.
        finetune_learning_rate: its peak.
    """
    if finetune and not isinstance(train, Examples):
        raise SelfInformedError("fit: finetune=True trains the whole network, which needs examples; cached features hold only what heads read")
    if epochs < 0 or batch_size < 1:
        raise SelfInformedError(f"fit: expected epochs >= 0 and batch_size >= 1, got {epochs} and {batch_size}")
    start = time.perf_counter()
    store = train if isinstance(train, FeatureStore) else FeatureStore.build(aug.net, train)
    statistics = store if holdout is None else holdout
    if isinstance(statistics, Examples):
        statistics = FeatureStore.build(aug.net, statistics)
    for features in (store, statistics):
        if features.fingerprint != aug.net.fingerprint:
            raise SelfInformedError("fit: these features are of another network; cache them again with the one to augment")
    aug.output = output or aug.output or guess_output(store.targets)
    history = History()
    groups = [{"params": list(aug.classifier.parameters()), "lr": classifier_learning_rate}]
    order, targets = _by_group(aug, store.targets)
    heads = aug.heads

    def scores(rows: torch.Tensor) -> torch.Tensor:
        at_heads, at_classifier = (part.to(aug.classifier.weight) for part in store.batch(rows))
        return aug.from_features(at_heads, at_classifier) if order is None else aug.by_group(at_heads, at_classifier, order)

    aug.eval()
    if heads is not None:
        groups.append({"params": list(heads.parameters()), "lr": learning_rate})
        transform = statistics.input_transform(head_input)
        store = store.transformed(transform)
        heads.unfold(transform)
    try:
        if epochs:
            _train(groups, _Order(len(store), batch_size, seed), epochs, scores, targets, aug.output, history, "heads")
    finally:
        if heads is not None:
            heads.fold(transform)
    if finetune and store.examples is not None:  # without those that could not be read
        fit_whole(aug, store.examples, epochs=finetune_epochs, batch_size=batch_size, learning_rate=finetune_learning_rate, seed=seed, history=history)
    history.seconds = time.perf_counter() - start
    return history


def fit_whole(
    aug: AugmentedClassifier,
    train: Examples,
    *,
    epochs: float = 1,
    seconds: float | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    history: History | None = None,
) -> History:
    """Trains the whole augmented network on inputs, BatchNorm and dropout in training mode: the second stage, or with
    an empty plan the `finetune` control.

    Args:
        aug: changed in place.
        train: examples.
        epochs: passes, where `seconds` is not given.
        seconds: train this long instead; the schedule anneals over that time.
        batch_size: examples per step.
        learning_rate: peak of the one-cycle schedule.
        seed: of the order of examples and of dropout.
    """
    check_labels(aug.net, train)
    history = history or History()
    aug.output = aug.output or guess_output(train.targets)
    aug.base_was_tuned = True
    trained = aug.all_parameters()
    for parameter in trained:
        parameter.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aug.train()

        def scores(rows: torch.Tensor) -> torch.Tensor:
            return aug(train.read(rows.tolist()))  # type: ignore[no-any-return]

        order = _Order(len(train), batch_size, seed)
        start = time.perf_counter()
        _train([{"params": trained, "lr": learning_rate}], order, epochs, scores, train.targets, aug.output, history, "whole network", seconds)
    aug.eval()
    for parameter in trained:
        parameter.requires_grad_(any(parameter is new for new in aug.new_parameters()))
    history.seconds += time.perf_counter() - start
    return history


def loss_of(scores: torch.Tensor, targets: Targets, output: Output) -> torch.Tensor:
    """Mean over examples of cross-entropy (softmax) or of binary cross-entropy summed over labels (logistic).

    scores [B, C]; for softmax each example has exactly one label.
    """
    examples, labels = (torch.from_numpy(a).to(scores.device) for a in targets.pairs())
    if output == "softmax":
        return F.cross_entropy(scores, labels)
    return (F.softplus(scores).sum() - scores[examples, labels].sum()) / len(scores)


def gradient_of(scores: torch.Tensor, targets: Targets, output: Output) -> torch.Tensor:
    """The gradient [B, C] of `loss_of` in the scores: probabilities minus annotations, over B. A third of the work of the loss itself."""
    examples, labels = (torch.from_numpy(a).to(scores.device) for a in targets.pairs())
    gradient = scores.detach().softmax(1) if output == "softmax" else scores.detach().sigmoid()
    gradient[examples, labels] -= 1
    return gradient.div_(len(scores))


def guess_output(targets: Targets) -> Output:
    """Softmax where every example carries exactly one label, else logistic."""
    return "softmax" if targets.single else "logistic"


def _by_group(aug: AugmentedClassifier, targets: Targets) -> tuple[torch.Tensor | None, Targets]:
    """The network's group order, if it has one, and the targets with their labels renumbered to stand in it."""
    order = aug.group_order
    if order is None:
        return None, targets
    place = np.empty(aug.n_labels, dtype=np.int64)
    place[order.numpy()] = np.arange(aug.n_labels)
    return order.to(aug.classifier.weight.device), Targets(targets.offsets, place[targets.labels], targets.n_labels)


class _Order:
    """Shuffled batches of example numbers, a new order each pass; the last batch of a pass may be smaller."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size = n, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = math.ceil(n / batch_size)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.randperm(self.n, generator=self.generator).split(self.batch_size))  # type: ignore[no-untyped-call]


def _train(
    groups: list[dict[str, Any]],
    order: _Order,
    epochs: float,
    scores: Callable[[torch.Tensor], torch.Tensor],
    targets: Targets,
    output: Output,
    history: History,
    stage: str,
    seconds: float | None = None,
) -> None:
    if output == "softmax" and not targets.single:
        raise SelfInformedError("fit: softmax outputs need exactly one label per example; use output='logistic' for several")
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4, fused=True)
    peaks = [group["lr"] for group in groups]
    total, step, start = max(1, round(epochs * order.steps)), 0, time.perf_counter()

    def done() -> float:
        return step / total if seconds is None else (time.perf_counter() - start) / seconds

    epoch = 0
    while done() < 1:
        epoch += 1
        losses: list[float] = []
        for rows in progress(order, order.steps, f"training {stage} {epoch}"):
            if done() >= 1:
                break
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * one_cycle(done())
            logits, wanted = scores(rows), targets.take(rows.numpy())
            optimizer.zero_grad()
            logits.backward(gradient_of(logits, wanted, output))  # type: ignore[no-untyped-call]
            optimizer.step()
            if not losses or step % _LOSS_EVERY == 0 or step + 1 == total:
                losses.append(loss_of(logits.detach(), wanted, output).item())
                if not math.isfinite(losses[-1]):
                    raise SelfInformedError(f"fit: the loss became {losses[-1]} at step {step + 1}; lower the learning rate (now {peaks[-1]})")
            step += 1
        if losses:  # none where the time was up before the first step
            seconds_so_far = round(time.perf_counter() - start, 2)
            history.rows.append({"stage": stage, "epoch": epoch, "loss": sum(losses) / len(losses), "seconds": seconds_so_far, "steps": step})


def one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Share of the peak learning rate after a share `done` of training: cosine up over the first tenth, cosine down to zero."""
    if done < warm_up:
        return 0.04 + 0.48 * (1 - math.cos(math.pi * done / warm_up))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up))))
