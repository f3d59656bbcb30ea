"""The training loop: passes and steps, schedule, averages, the best pass, and going on from a checkpoint."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter

from selfinformed.data.targets import Targets
from selfinformed.runtime.errors import NotFiniteError, SelfInformedError
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import reason_of
from selfinformed.runtime.tabular import frame
from selfinformed.training.checkpoints import Checkpoint
from selfinformed.training.logs import TrainingLog
from selfinformed.training.losses import Objective
from selfinformed.training.processes import Processes
from selfinformed.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
_LOSS_EVERY = 4  # steps; training needs only its gradient
_SAVE_EVERY, _SAVE_SHARE = 60.0, 0.05  # seconds of training that may be lost, and the share of the time that writing may take
_ALONE = Processes()


@dataclass
class History:
    """What training did: a row {stage, epoch, loss, seconds, steps} per epoch, and the seconds it took in all.

    The loss is the mean over every fourth step of the epoch. With `Recipe.patience` rows also have `holdout_mean_average_precision` or
    `holdout_loss`, and `kept`: whether these are the weights that training gave.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def to_frame(self) -> pd.DataFrame:
        """The rows as a frame; needs the extra `pandas`."""
        return frame(self.rows)


class Order:
    """Batches of example numbers, drawn anew each pass; the last batch of a pass may be smaller, and fewer than `least` join the batch before."""

    def __init__(self, n: int, batch_size: int, seed: int, draw: Callable[[torch.Generator], torch.Tensor], least: int = 1) -> None:
        self.batch_size, self.draw = batch_size, draw
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = math.ceil(n / batch_size)
        self.joined = self.steps > 1 and 0 < n % batch_size < least
        self.steps -= self.joined

    def __iter__(self) -> Iterator[torch.Tensor]:
        batches = list(self.draw(self.generator).split(self.batch_size))  # type: ignore[no-untyped-call]
        if self.joined:
            batches[-2:] = [torch.cat(batches[-2:])]
        return iter(batches)


@dataclass
class _State:
    """Where training stands, as JSON holds it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    step: int = 0
    epoch: int = 0  # passes begun
    within: int = 0  # steps done of the present pass
    losses: list[float] = field(default_factory=list)  # of the present pass
    best: float | None = None
    best_epoch: int = 0
    finished: bool = False
    seconds: float = 0.0


class Training:
    """One stage of training. `run` does what is left of it.

    Args:
        groups: parameters and peak learning rates, as optimisers take them.
        order: batches of example numbers.
        epochs: passes.
        forward: example numbers to logits [b, C], and the teacher's where the objective needs them.
        targets: of all examples.
        objective: what to lower.
        recipe: schedule, weight decay, averaging, patience.
        history: takes a row per pass.
        stage: its name there.
        seconds: train this long instead of `epochs`.
        watched: name and value of the figure on held-out examples, and whether lower is better.
        checkpoint: where the state is kept.
        processes: those that divide each batch.
        drawing: a generator that `forward` draws from, whose state the checkpoint then holds.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        order: Order,
        epochs: float,
        forward: Forward,
        targets: Targets,
        objective: Objective,
        recipe: Recipe,
        history: History,
        stage: str,
        *,
        seconds: float | None = None,
        watched: tuple[str, Callable[[], float], bool] | None = None,
        checkpoint: Checkpoint | None = None,
        processes: Processes = _ALONE,
        drawing: torch.Generator | None = None,
    ) -> None:
        if objective.output == "softmax" and not targets.single:
            raise SelfInformedError("fit: softmax outputs need exactly one label per example; use output='logistic' for several")
        self.order, self.forward, self.targets, self.objective, self.recipe = order, forward, targets, objective, recipe
        self.history, self.stage, self.limit, self.watched, self.checkpoint, self.processes = history, stage, seconds, watched, checkpoint, processes
        self.drawing = drawing
        self.total = max(1, round(epochs * order.steps))
        self.parameters: list[torch.Tensor] = [parameter for group in groups for parameter in group["params"]]
        if torch.is_inference_mode_enabled():
            raise SelfInformedError("fit: within torch.inference_mode() nothing can be trained; call it outside")
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise SelfInformedError("fit: nothing to train: no parameter of heads and classifier asks for gradients; call requires_grad_() on one of them")
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, eps=recipe.epsilon, fused=True)
        self.peaks = [group["lr"] for group in groups]
        self.share = SCHEDULES[recipe.schedule]
        self.state = _State()
        self.average: list[torch.Tensor] | None = None
        self.before_tail = 0  # steps that a tail's average leaves out
        self.best: list[torch.Tensor] | None = None
        self.drawn_from = order.generator.get_state()  # the present pass
        self.log: TrainingLog | None = None
        processes.equalise(self.parameters)
        self.was_finite = self._finite()
        self._restore()

    def run(self, log: Callable[[int], TrainingLog] | None = None) -> None:
        """Trains to the end; `log` opens the log, given the steps already done."""
        self.log = log(self.state.step) if log is not None and self.processes.rank == 0 else None
        self.start = time.perf_counter()
        self.save_at = self.start + _SAVE_EVERY
        try:
            with torch.enable_grad():
                while not self._over():
                    self._one_pass()
            if not self.state.finished:
                self._finish()
        finally:
            if self.log is not None:
                self.log.close()

    def _over(self) -> bool:
        state = self.state
        lost_patience = self.watched is not None and not state.within and state.epoch - state.best_epoch >= self.recipe.patience
        return state.finished or self._done() >= 1 or (state.epoch > 0 and lost_patience)

    def _done(self) -> float:
        return self.state.step / self.total if self.limit is None else (time.perf_counter() - self.start) / self.limit

    def _one_pass(self) -> None:
        state = self.state
        if state.within:
            self.order.generator.set_state(self.drawn_from)
        else:
            state.epoch, state.losses, self.drawn_from = state.epoch + 1, [], self.order.generator.get_state()
        batches: Iterator[torch.Tensor] = itertools.islice(self.order, state.within, None)
        if self.processes.rank == 0:
            batches = progress(batches, self.order.steps - state.within, f"training {self.stage} {state.epoch}")
        for rows in batches:
            if self._done() >= 1:
                break
            self._step(rows)
            state.within += 1
            if self.checkpoint is not None and (self.checkpoint.due(state.step) or time.perf_counter() >= self.save_at):
                self._save()
        if state.losses:  # none where the time was up before the first step
            seconds = round(state.seconds + time.perf_counter() - self.start, 2)
            row = {"stage": self.stage, "epoch": state.epoch, "loss": sum(state.losses) / len(state.losses), "seconds": seconds, "steps": state.step}
            self.history.rows.append(row | self._watch())
        state.within = 0
        if self.checkpoint is not None:
            self._save()

    def _step(self, rows: torch.Tensor) -> None:
        state = self.state
        share = self.share(self._done())
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        mine = self.processes.share(rows)
        logits, teacher = self.forward(mine)
        wanted = self.targets.take(mine.numpy())
        self.optimizer.zero_grad()
        if logits.requires_grad:  # else not one of these examples runs a head
            logits.backward(self.objective.gradient(logits, wanted, teacher, len(rows)))  # type: ignore[no-untyped-call]
        self.processes.sum_gradients(self.parameters)
        self.optimizer.step()
        if not state.losses or state.step % _LOSS_EVERY == 0 or state.step + 1 == self.total:
            loss = self._loss(logits.detach(), wanted, teacher, len(rows))
            state.losses.append(loss)
            if not math.isfinite(loss):
                raise NotFiniteError(f"fit: the loss became {loss} at step {state.step + 1}; lower the learning rate (now {self.peaks[-1]})")
            if self.log is not None:
                self.log.add({"step": state.step + 1, "epoch": state.epoch, "loss": loss, "learning_rate": self.peaks[-1] * share})
        state.step += 1
        if self.recipe.ema or self.recipe.tail_average:
            self._update_average()

    def _loss(self, logits: torch.Tensor, wanted: Targets, teacher: torch.Tensor | None, n: int) -> float:
        if self.processes.world == 1:
            return self.objective.loss(logits, wanted, teacher).item()
        mine = self.objective.loss(logits, wanted, teacher).item() * len(logits) / n if len(logits) else 0.0
        return self.processes.sum(mine, logits)

    def _update_average(self) -> None:
        step, tail = self.state.step, self.recipe.tail_average
        if tail and self.limit is None:
            self.before_tail = self.total - math.ceil(self.total * tail)
        elif tail and self.average is None:  # how many steps there will be is not known
            self.before_tail = step - 1 if self._done() > 1 - tail else step
        if tail and step <= self.before_tail:
            return
        amount = 1 / (step - self.before_tail) if tail else 1 - min(self.recipe.ema, (1 + step) / (10 + step))
        if self.average is None:
            self.average = [_at_least_float(parameter).detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter.to(average), amount)

    def _watch(self) -> dict[str, Any]:
        """Judges the weights that training would give now, and keeps them if they are the best."""
        if self.watched is None:
            return {}
        name, measure, lower = self.watched
        with self._averaged():
            value = self.processes.first(measure(), self.parameters[0])
            figure = -value if lower else value
            if self.state.best is None or figure > self.state.best:
                self.state.best, self.state.best_epoch, self.best = figure, self.state.epoch, _copies(self.parameters)
        if self.log is not None:
            self.log.add({"step": self.state.step, "epoch": self.state.epoch, name: value})
        return {name: value}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        kept = _copies(self.parameters)
        _copy(self.average, self.parameters)
        yield
        _copy(kept, self.parameters)

    def _finite(self) -> list[bool]:
        """Of each parameter, whether all its weights are finite."""
        return [bool(torch.isfinite(parameter).all()) for parameter in self.parameters]

    def _finish(self) -> None:
        given = self.best if self.best is not None else self.average
        if given is not None:
            _copy(given, self.parameters)
        if any(before and not now for before, now in zip(self.was_finite, self._finite(), strict=True)):  # of the last step nobody computed the loss
            raise NotFiniteError(f"fit: after step {self.state.step} weights are not finite; lower the learning rate (now {self.peaks[-1]})")
        if self.watched is not None:
            for row in self.history.rows:
                row["kept"] = row["epoch"] == self.state.best_epoch
        self.state.finished = True
        if self.checkpoint is not None:
            self._save()

    def _save(self) -> None:
        if self.checkpoint is None or self.processes.rank:
            return
        start = time.perf_counter()
        tensors = {"drawn_from": self.drawn_from if self.state.within else self.order.generator.get_state()}
        if self.drawing is not None:
            tensors["drawing"] = self.drawing.get_state()
        for name, values in (("weights", self.parameters), ("average", self.average or []), ("best", self.best or [])):
            tensors |= {f"{name}.{i}": value for i, value in enumerate(values)}
        for i, parameter in enumerate(self.parameters):
            tensors |= {f"adamw.{i}.{name}": value for name, value in self.optimizer.state.get(parameter, {}).items()}
        seconds = self.state.seconds + start - self.start
        self.checkpoint.write(tensors, asdict(self.state) | {"seconds": seconds, "rows": self.history.rows})
        self.save_at = (now := time.perf_counter()) + max(_SAVE_EVERY, (now - start) / _SAVE_SHARE)

    @torch.no_grad()
    def _restore(self) -> None:
        found = self.checkpoint.read() if self.checkpoint is not None else None
        done = found[1].get("step", 0) if found is not None else 0
        if self.processes.first(done, self.parameters[0]) != done:
            raise SelfInformedError("fit: not all processes see the same checkpoint; put it in a folder that they share")
        if found is None:
            return
        try:
            self._take(*found)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            assert self.checkpoint is not None
            raise SelfInformedError(f"{self.checkpoint.path} does not fit this training ({reason_of(error)}); delete it to train from the start") from None

    def _take(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        rows = state.pop("rows")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("rows: expected a list of objects")
        self.history.rows[:] = rows
        self.state = TypeAdapter(_State).validate_json(json.dumps(state), strict=True)
        self.drawn_from = tensors["drawn_from"]
        self.order.generator.set_state(self.drawn_from)
        if self.drawing is not None:
            self.drawing.set_state(tensors["drawing"])
        _copy([tensors[f"weights.{i}"] for i in range(len(self.parameters))], self.parameters)
        for i, parameter in enumerate(self.parameters):
            if f"adamw.{i}.step" in tensors:
                step, *moments = (tensors[f"adamw.{i}.{name}"].to(parameter.device) for name in ("step", "exp_avg", "exp_avg_sq"))
                first, second = (moment.to(parameter) for moment in moments)
                self.optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        self.average, self.best = (
            [tensors[f"{name}.{i}"].to(like(parameter)) for i, parameter in enumerate(self.parameters)] if f"{name}.0" in tensors else None
            for name, like in (("average", _at_least_float), ("best", lambda parameter: parameter))
        )


def one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Share of the peak learning rate after a share `done` of training: cosine up over the first tenth, cosine down to zero."""
    if done < warm_up:
        return 0.04 + 0.48 * (1 - math.cos(math.pi * done / warm_up))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up))))


def _cosine(done: float) -> float:
    return one_cycle(done, warm_up=0.0)


def _constant(_: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": one_cycle, "cosine": _cosine, "constant": _constant}


def _at_least_float(parameter: torch.Tensor) -> torch.Tensor:
    """In float32 where its own type is shorter, in which a mean of many would stop where its steps fall below the last bit."""
    return parameter.float() if parameter.dtype in (torch.float16, torch.bfloat16) else parameter


def _copies(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(values: list[torch.Tensor], to: list[torch.Tensor]) -> None:
    for value, tensor in zip(values, to, strict=True):
        tensor.copy_(value)
