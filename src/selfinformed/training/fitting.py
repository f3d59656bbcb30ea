"""Training heads and classifier on cached features; optionally the whole network after that."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from selfinformed.augmented.dispatch import Dispatch
from selfinformed.augmented.network import AugmentedClassifier
from selfinformed.data.examples import Examples
from selfinformed.data.targets import Targets
from selfinformed.network.calls import told_of
from selfinformed.network.state import fingerprint_of
from selfinformed.network.trunk import CopiedEnd
from selfinformed.network.wrap import Output
from selfinformed.runtime.arguments import expect, near, one_of, real_number, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.remarks import remark
from selfinformed.runtime.seeds import seeded
from selfinformed.structure.measuring import check_labels
from selfinformed.training.checkpoints import Checkpoint
from selfinformed.training.features import FeatureStore, metrics_of
from selfinformed.training.joining import Join
from selfinformed.training.logs import TrainingLog
from selfinformed.training.losses import Objective, loss_of
from selfinformed.training.moments import HeadInput
from selfinformed.training.processes import Processes
from selfinformed.training.recipe import REVISION, Recipe
from selfinformed.training.sampling import draw_of
from selfinformed.training.stepping import History, Order, Training
from selfinformed.training.teachers import Teacher, check_teacher, teacher_of, told

_AT_ONCE = 512  # held-out examples
_SAMPLED = 64  # examples whose features a checkpoint knows


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
    recipe: Recipe | Mapping[str, Any] | None = None,
    teacher: Teacher | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    log: str | Path | None = None,
    tensorboard: bool | None = None,
    finetune: bool = False,
    finetune_epochs: int = 1,
    finetune_learning_rate: float = 1e-3,
) -> History:
    """Trains the heads and the classifier; the rest of the network stays as it is, in eval mode.

    Binary cross-entropy, summed over labels, for logistic outputs; cross-entropy for softmax. AdamW under a one-cycle schedule. The same seed
    gives the same weights on the same machine and number of threads.

    Where `torch.distributed` is initialised (`torch.distributed.init_process_group("gloo")` in a script that torchrun starts), all its
    processes call this alike; each batch is divided among them and all end with the same weights, those of one process up to rounding.

    Args:
        aug: the augmented network, changed in place.
        train: examples, or their cached features.
        holdout: what `Recipe.patience` watches; not read without it.
        epochs: passes over `train`; a fraction is a part of a pass.
        batch_size: examples per step.
        learning_rate: peak, for the heads.
        classifier_learning_rate: peak, for the classifier.
        head_input: `whitened`, `standardised` or `raw`, by the mean and covariance of the training features; folded into the heads' first layer
            after training, at no cost.
        output: `softmax` or `logistic`; by default the network's own, or softmax where every example has exactly one label.
        seed: of the order of examples.
        recipe: everything else about this training: schedule, smoothing, long tails, soft targets, averaging, early stopping.
        teacher: whose outputs are the soft targets: logits [N, C] of the training examples (of every view, where there are several), or a
            function of their numbers [b] that gives logits [b, C], as a `TeacherNetwork` is (default: the base itself).
        checkpoint: a file that takes the state of this training; called again with the same arguments and the network as it was at first,
            `fit` goes on from it to the same weights, bit for bit. It is left where it is: a finished one gives its result at once.
        checkpoint_every: steps between two writings of it, beside those after each pass and each minute.
        log: a folder that takes training.jsonl, a row each fourth step, and TensorBoard's events.
        tensorboard: whether it does (default: if TensorBoard is installed).
        finetune: train the whole network in a second stage, on inputs; features must then know the examples they are of. Checkpoint and log are of
            the first stage only, and of the recipe soft targets and patience.
        finetune_epochs: passes of that stage; none for 0.
        finetune_learning_rate: its peak, and that of heads' copies of the trunk's end: weights that were trained before.

    Raises:
        SelfInformedError: options that cannot be; features of another network; a checkpoint of another training; a loss that is not finite.
    """
    expect(aug, AugmentedClassifier, "fit", "a network from augment", "give si.augment(net, plan)")
    recipe, batch_size, seed = Recipe.of(recipe), whole_number("batch_size", batch_size), seed_of(seed)
    finetune_epochs = whole_number("finetune_epochs", finetune_epochs, least=0)
    epochs, learning_rate, classifier_learning_rate, finetune_learning_rate = _at_least_zero(
        epochs=epochs, learning_rate=learning_rate, classifier_learning_rate=classifier_learning_rate, finetune_learning_rate=finetune_learning_rate
    )
    _check_kinds(head_input, output)
    if finetune and not isinstance(train, Examples) and train.examples is None:
        raise SelfInformedError("fit: finetune=True trains the whole network, which needs examples; these features hold only what heads read, not what from")
    if checkpoint_every is not None and checkpoint is None:
        raise SelfInformedError(f"fit: expected checkpoint= beside checkpoint_every={checkpoint_every!r}, the file that is written so often")
    checkpoint_every = None if checkpoint_every is None else whole_number("checkpoint_every", checkpoint_every)
    if log is not None and Path(log).is_file():
        raise SelfInformedError(f"log: expected a folder, got the file {log}; name another")
    if recipe.patience and holdout is None:
        raise SelfInformedError(f"fit: patience={recipe.patience} watches held-out examples; give holdout=, or leave patience at 0")
    _check_epsilon(recipe, aug)
    if teacher is not None and not recipe.soft_targets:
        raise SelfInformedError("fit: a teacher is given, but soft_targets is 0; set the share of the loss that is the teacher's in the recipe")
    check_teacher(teacher)
    start = time.perf_counter()
    heads_on, base_on = aug.classifier.weight.device, aug.net.classifier.weight.device
    if heads_on != base_on and isinstance(train, Examples):
        remark(f"fit: the heads are on {heads_on}, and the network that computes what they read on {base_on}; move the model before wrap, or aug.net.model too")
    store = FeatureStore.of(aug.net, train)
    held_out = None if holdout is None or not recipe.patience else FeatureStore.of(aug.net, holdout)
    for features in (store, held_out):
        if features is not None:
            features.check(aug.net, "fit", "to augment")
    if held_out is not None and not len(held_out.targets.labels):
        raise SelfInformedError("fit: patience watches held-out examples, and none of them has a label; give annotated ones")
    if aug.is_base:
        raise SelfInformedError("fit: within heads_disabled the network is the base, which is not trained; call fit outside")
    if aug.compare_base():
        raise SelfInformedError("fit: the network was trained on since it was augmented, so its heads read others than the model's features; augment it anew")
    aug.output = output or aug.output or guess_output(store.targets)
    history, processes = History(), Processes.joined()
    copies = {source: CopiedEnd(aug.net.model, source.copy) for source in aug.plan.sources if source.copy is not None}
    order, targets = _by_group(aug, store.targets)
    join = Join.of(aug, recipe, store.targets, aug.output, store.n_views)
    seen = join if order is None else replace(join, prior=join.prior[order])
    kept = None
    if checkpoint is not None:
        rates = {"learning_rate": learning_rate, "classifier_learning_rate": classifier_learning_rate}
        rates |= {"finetune_learning_rate": finetune_learning_rate} if copies else {}
        about = {"epochs": epochs, "batch_size": batch_size, **rates, "head_input": head_input, "output": aug.output, "seed": seed, **asdict(recipe)}
        about |= {"revision": REVISION, "features": _digest(store), "watched": held_out and _digest(held_out), "starting weights": _starting(aug)}
        chosen = None if aug.dispatch is None else aug.dispatch.told()
        more = {"teacher": told(teacher), "heads run": chosen, **({} if held_out is None else {"watched by": aug.net.output})}
        if store.shards is not None and store.shards.window < len(store):  # else the order is that of memory
            more["order"] = f"{len(store.shards.paths)} shards, {store.shards.window} rows at a time"
        kept = Checkpoint(Path(checkpoint), about | more, checkpoint_every)
    trained = sum(p.numel() for p in aug.new_parameters())
    needed = 4 * (4 * trained + 4 * batch_size * aug.n_labels)  # weights, gradients and two moments; logits, targets and two gradients
    what = f"fit: {trained:,} parameters in batches of {batch_size} x {aug.n_labels:,} labels"
    require_memory(needed, what, "give a smaller --budget or --batch-size", aug.classifier.weight.device)
    alone = aug.heads is not None and not recipe.residual
    groups = [] if alone else [{"params": list(aug.classifier.parameters()), "lr": classifier_learning_rate}]
    taught = teacher_of(teacher, aug, order, store) if recipe.soft_targets else None
    heads = aug.heads

    def forward(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        at_heads, at_classifier = (part.to(aug.classifier.weight) for part in store.batch(rows))
        how = seen.in_training
        if alone and aug.dispatch is None:  # the classifier's scores count for nothing, and take as long as the heads do
            logits = seen.shift + aug.added(at_heads, by_group=order is not None)
        else:
            with _divided(aug.dispatch, processes):
                logits = aug.from_features(at_heads, at_classifier, how) if order is None else aug.by_group(at_heads, at_classifier, order, how)
        return logits, None if taught is None else taught(rows, at_classifier)

    aug.eval()
    with _unless_it_fails(aug, aug.new_parameters()):
        if heads is not None:
            named = list(heads.named_parameters())
            if copies:
                groups.append({"params": [p for name, p in named if ".copy." in name], "lr": finetune_learning_rate})
            groups.append({"params": [p for name, p in named if ".copy." not in name], "lr": learning_rate})
            transform = store.input_transform(head_input, copies)
            store = store.transformed(transform)
            held_out = None if held_out is None else held_out.transformed(transform)
            heads.unfold(transform)
        try:
            if aug.dispatch is not None and recipe.residual != 1:
                aug.dispatch.shift = join.folded_shift
            if epochs:
                batches = Order(len(store), batch_size, seed, draw_of(store.permutation, store.targets, recipe.balanced_sampling))
                objective = Objective.of(recipe, targets, aug.output, store.n_views)
                watched = None if held_out is None else _watched(aug, held_out, recipe, join)
                training = Training(
                    groups, batches, epochs, forward, targets, objective, recipe, history, "heads", watched=watched, checkpoint=kept, processes=processes,
                    drawing=None if aug.dispatch is None else aug.dispatch.drawing,
                )
                training.run(None if log is None else lambda step: TrainingLog(log, tensorboard, step))
        finally:
            if heads is not None:
                heads.fold(transform)
            if epochs:
                join.fold(aug)
            if aug.dispatch is not None:
                aug.dispatch.shift = None
    processes.equalise(aug.new_parameters())  # the transform may have been computed with other rounding
    if finetune and store.examples is not None:  # without those that could not be read
        fit_whole(
            aug, store.examples, epochs=finetune_epochs, batch_size=batch_size, learning_rate=finetune_learning_rate, seed=seed, recipe=recipe, history=history
        )
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
    output: Output | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    history: History | None = None,
) -> History:
    """Trains the whole augmented network on inputs, BatchNorm and dropout in training mode: the second stage, or with
    an empty plan the `finetune` control.

    Args:
        aug: changed in place.
        train: examples.
        epochs: passes, where `seconds` is not given; none for 0.
        seconds: train this long instead; the schedule anneals over that time.
        batch_size: examples per step.
        learning_rate: peak of the schedule.
        seed: of the order of examples and of dropout.
        output: which loss, as in `fit`.
        recipe: schedule, optimizer, losses, sampling and averaging; what is of heads beside a base (`residual`), of a teacher and of patience has
            no part here.
    """
    check_labels(aug.net, train)
    batch_size, seed = whole_number("batch_size", batch_size), seed_of(seed)
    epochs, learning_rate = _at_least_zero(epochs=epochs, learning_rate=learning_rate)
    history, recipe = history or History(), replace(Recipe.of(recipe), soft_targets=0.0, patience=0)
    _check_epsilon(recipe, aug)
    if seconds is None and not epochs:
        return history
    aug.output = output or aug.output or guess_output(train.targets)
    trained = [parameter for parameter in aug.all_parameters() if parameter.is_floating_point() or parameter.is_complex()]
    for parameter in trained:
        parameter.requires_grad_(True)
    with seeded(seed, (parameter.device for parameter in trained)):
        aug.train()

        def forward(rows: torch.Tensor) -> tuple[torch.Tensor, None]:
            inputs = train.read(rows.tolist())
            with told_of(inputs, aug.net.example_inputs):
                return aug(inputs), None

        def shuffled(generator: torch.Generator) -> torch.Tensor:
            return torch.randperm(len(train), generator=generator, device="cpu")

        order = Order(len(train), batch_size, seed, draw_of(shuffled, train.targets, recipe.balanced_sampling), least=2)  # BatchNorm knows no single one
        groups = [{"params": trained, "lr": learning_rate}]
        start = time.perf_counter()
        objective = Objective.of(recipe, train.targets, aug.output, train.n_views)
        try:
            with _unless_it_fails(aug, [*aug.parameters(), *aug.buffers()]):
                aug.base_was_tuned = True
                Training(groups, order, epochs, forward, train.targets, objective, recipe, history, "whole network", seconds=seconds).run()
        finally:
            aug.eval()
            for parameter in trained:
                parameter.requires_grad_(any(parameter is new for new in aug.new_parameters()))
    history.seconds += time.perf_counter() - start
    return history


def guess_output(targets: Targets) -> Output:
    """Softmax where every example carries exactly one label, else logistic."""
    return "softmax" if targets.single else "logistic"


def check_training(who: str, training: Mapping[str, Any], *more: str) -> None:
    """That the options of each of several trainings are some of `fit`'s that all may share, or `more`, before anything is computed for them.

    Raises:
        SelfInformedError: an option is none of these, or cannot be so.
    """
    known = ("batch_size", "learning_rate", "classifier_learning_rate", "head_input", "output", "recipe", "teacher", *more)
    if unknown := [name for name in training if name not in known]:
        hint = near(unknown[0], known, f"expected some of {', '.join(known)}")
        raise SelfInformedError(f"{who}: its trainings share no option {unknown[0]!r}; {hint}")
    Recipe.of(training.get("recipe"))
    whole_number("batch_size", training.get("batch_size", 1))
    _at_least_zero(**{name: training[name] for name in known if name.endswith("learning_rate") and name in training})
    _check_kinds(training.get("head_input", "whitened"), training.get("output"))


def _check_kinds(head_input: HeadInput, output: Output | None) -> None:
    one_of("head_input", head_input, get_args(HeadInput))
    if output is not None:
        one_of("output", output, get_args(Output))


def _at_least_zero(**numbers: float) -> list[float]:
    return [real_number(name, number, least=0) for name, number in numbers.items()]


def _check_epsilon(recipe: Recipe, aug: AugmentedClassifier) -> None:
    kind = aug.classifier.weight.dtype
    if torch.tensor(recipe.epsilon, dtype=torch.float64, device="cpu").to(kind) == 0:
        name = str(kind).removeprefix("torch.")
        raise SelfInformedError(f"fit: AdamW's epsilon {recipe.epsilon:g} is zero in {name}; wrap model.float(), or give recipe={{'epsilon': 1e-4}}")


@contextmanager
def _unless_it_fails(aug: AugmentedClassifier, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Training that changes these tensors of a network; where it fails, the network is given back what it was: what had been trained before is not lost."""
    values, base_was_tuned = [tensor.detach().clone() for tensor in tensors], aug.base_was_tuned
    trained_heads = 0 if aug.heads is None else aug.heads.trained
    try:
        yield
    except BaseException:  # Ctrl-C too: going on from a checkpoint wants the network as it was
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        aug.base_was_tuned = base_was_tuned
        if aug.heads is not None:
            aug.heads.trained = trained_heads
        raise


def _by_group(aug: AugmentedClassifier, targets: Targets) -> tuple[torch.Tensor | None, Targets]:
    """The network's group order, if it has one, and the targets with their labels renumbered to stand in it."""
    order = aug.group_order
    if order is None:
        return None, targets
    place = np.empty(aug.n_labels, dtype=np.int64)
    place[order.numpy()] = np.arange(aug.n_labels)
    return order.to(aug.classifier.weight.device), Targets(targets.offsets, place[targets.labels], targets.n_labels)


def _watched(aug: AugmentedClassifier, holdout: FeatureStore, recipe: Recipe, join: Join) -> tuple[str, Callable[[], float], bool]:
    """The figure that patience watches: its name, what measures it, and whether lower is better."""
    output = aug.output
    assert output is not None

    def batches() -> Iterator[tuple[torch.Tensor, Targets]]:
        with torch.no_grad():
            for rows in torch.arange(len(holdout), device="cpu").split(_AT_ONCE):  # type: ignore[no-untyped-call]
                at_heads, at_classifier = (part.to(aug.classifier.weight) for part in holdout.batch(rows))
                yield aug.from_features(at_heads, at_classifier, join.trained).cpu(), holdout.targets.take(rows.numpy())

    def loss() -> float:
        return sum(loss_of(scores, targets, output).item() * len(targets) for scores, targets in batches()) / len(holdout)

    def precision() -> float:
        metrics = metrics_of(aug)
        for scores, targets in batches():
            metrics.update(scores, targets)
        return metrics.compute().mean_average_precision

    return f"holdout_{recipe.watch}", loss if recipe.watch == "loss" else precision, recipe.watch == "loss"


@contextmanager
def _divided(dispatch: Dispatch | None, processes: Processes) -> Iterator[None]:
    """Within this context a dispatch sees a batch in parts, as the processes divide it."""
    if dispatch is None or processes.world == 1:
        yield
        return
    dispatch.divided = processes
    try:
        yield
    finally:
        dispatch.divided = None


def _starting(aug: AugmentedClassifier) -> str:
    """Of the plan and the weights to train."""
    modules = torch.nn.ModuleList([module for module in (aug.classifier, aug.heads) if module is not None])
    return hashlib.sha256(f"{fingerprint_of(modules)} {json.dumps(aug.plan.to_dict(), sort_keys=True)}".encode()).hexdigest()[:16]


def _digest(store: FeatureStore) -> str:
    """Of the network, all annotations and some of the features."""
    digest = hashlib.sha256(f"{store.fingerprint} {len(store)}".encode())
    digest.update(store.targets.offsets.tobytes() + store.targets.labels.tobytes())
    for part in store.batch(torch.arange(0, len(store), max(1, len(store) // _SAMPLED), device="cpu")):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]
