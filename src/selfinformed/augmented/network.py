"""The augmented network: the base, a classifier of its own, and heads in parallel with the stack."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from selfinformed.augmented.dispatch import Dispatch
from selfinformed.augmented.heads import Heads
from selfinformed.augmented.slot import AveragedWith, ClassifierSlot, Joined, Keep, NewClassifier
from selfinformed.data.inputs import InputsLike
from selfinformed.data.labels import LabelSpace
from selfinformed.network.averaged import AveragedClassifier
from selfinformed.network.calls import call, evaluating, logits_of, told_of
from selfinformed.network.state import fingerprint_of, state_of, tensors_of
from selfinformed.network.wrap import Output, WrappedClassifier, check_wrapped
from selfinformed.runtime.arguments import expect, one_of, real_number, seed_of, whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.memory import require_memory
from selfinformed.runtime.reading import reason_of
from selfinformed.runtime.seeds import seeded
from selfinformed.structure.plans import HeadPlan


class AugmentedClassifier(nn.Module):
    """A base network with heads. Made by `augment`; `forward` gives logits [B, C].

    Attributes:
        base: a copy of the model, in whose classifier's place the new classifier and the heads stand.
        net: the wrapped original, which is never changed.
        plan: what the heads are.
        top_groups, above: which heads run on an example; see `run_conditionally`.
    """

    def __init__(
        self,
        net: WrappedClassifier,
        plan: HeadPlan,
        classifier: NewClassifier | nn.Linear | AveragedClassifier = "keep",
        heads: Heads | None = None,
    ) -> None:
        """`classifier` and `heads` may be modules that stand in for what would be made: a control's (see `controls`)."""
        super().__init__()
        if plan.feature_size != net.feature_size or plan.groups.n_labels != net.n_labels:
            raise SelfInformedError(
                f"plan: made for {plan.feature_size} features and {plan.groups.n_labels} labels; "
                f"the network has {net.feature_size} and {net.n_labels}"
            )
        self.net, self.plan = net, plan
        self.output: Output | None = net.output
        try:
            self.base = copy.deepcopy(net.model).requires_grad_(False)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            kept = "where it keeps a tensor of an earlier call, call model.train().eval() and wrap it anew"
            raise SelfInformedError(f"augment: the network cannot be copied ({reason_of(error)}); {kept}") from None
        self.is_control = heads is not None or not isinstance(classifier, str)
        slot = ClassifierSlot(net, plan, classifier, heads)
        for number, name in enumerate(net.classifier_names):
            replaced, stand_in = self.base.get_submodule(name), slot if name == net.classifier_name else AveragedWith(slot, number)
            for other, module in list(self.base.named_modules(remove_duplicate=False)):
                if module is replaced:  # which may have several names
                    parent, _, child = other.rpartition(".")
                    setattr(self.base.get_submodule(parent), child, stand_in)
        self._slot_name = net.classifier_name
        self.top_groups: int | None = None
        self.above: float | None = None
        self._tuned = False
        self._compared: tuple[Any, bool] | None = None
        self.base.register_forward_pre_hook(slot.forget)
        self.base.register_forward_hook(slot.forget)
        for number, point in enumerate(net.attach_points):
            reader, keep = self.base.get_submodule(point.module), Keep(slot, point, number)
            reader.register_forward_pre_hook(keep) if point.side == "input" else reader.register_forward_hook(keep)
        self.eval()
        self._prove_that_it_is_called()

    def _prove_that_it_is_called(self) -> None:
        """Runs the example inputs through, once for each wrapped network: a model that finds its classifier otherwise would go on as it was."""
        if self.net.is_replaceable:
            return
        called: list[bool] = []
        with evaluating(self), self._slot.register_forward_hook(lambda *_: called.append(True)):
            try:
                self(self.net.example_inputs)
            except AttributeError as error:
                if ClassifierSlot.__name__ not in str(error):
                    raise
                called.clear()
        if len(called) != 1:
            name = self._slot_name
            raise SelfInformedError(
                f"classifier: nothing can stand in the place of {name!r}, since the model's forward does more than call it by its name, or finds it elsewhere "
                f"(in a list, in a function, by its weight); write self.{name}(...) there"
            )
        self.net.is_replaceable = True

    def train(self, mode: bool = True) -> AugmentedClassifier:
        """Training mode for what is trained: BatchNorm and dropout of the base stay in eval mode unless its parameters ask for gradients."""
        super().train(mode)
        own = {id(parameter) for parameter in self._slot.parameters()}
        if not any(parameter.requires_grad for parameter in self.base.parameters() if id(parameter) not in own):
            self.base.eval()
            self._slot.train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> AugmentedClassifier:
        """As in PyTorch, of `all_parameters`: the base's own classifier, which no call reads but within `heads_disabled`, never asks for gradients."""
        super().requires_grad_(requires_grad)
        self._slot.original.requires_grad_(False)
        return self

    @property
    def _slot(self) -> ClassifierSlot:
        slot = self.base.get_submodule(self._slot_name)
        assert isinstance(slot, ClassifierSlot)
        return slot

    @property
    def heads(self) -> Heads | None:
        """The heads, or None where the plan has none (only the classifier is retrained)."""
        return self._slot.heads

    @property
    def classifier(self) -> nn.Linear | AveragedClassifier:
        """The augmented network's own classifier."""
        return self._slot.classifier

    @property
    def n_labels(self) -> int:
        """C."""
        return self.net.n_labels

    @property
    def labels(self) -> LabelSpace:
        """The network's."""
        return self.net.labels

    @property
    def dispatch(self) -> Dispatch | None:
        """What chooses heads and counts their multiply-adds, within `conditional` or after `run_conditionally`; None where all heads run."""
        return self._slot.dispatch

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that the logits depend on."""
        if self.is_base:
            return self.net.fingerprint
        run = "" if self.dispatch is None else f" {self.dispatch.told()}"
        return hashlib.sha256(f"{fingerprint_of(self)} {self.plan.to_dict()}{run}".encode()).hexdigest()

    @property
    def is_base(self) -> bool:
        """Whether it is the base now, within `heads_disabled`."""
        return self._slot.disabled

    @property
    def base_was_tuned(self) -> bool:
        """Whether the whole network was trained on, in a second stage or a loop of one's own, or the model since: its copy has other weights, buffers or
        modules, but for the classifier. Then the base is not what it was, nor what features of the model are for."""
        if self._tuned:
            return True
        state = [state_of(model, self.net.changing) for model in (self.base, self.net.model)]
        if self._compared is None or self._compared[0] != state:
            own, wrapped = self.around_the_classifier(self.base), self.around_the_classifier(self.net.model)
            same = own.keys() == wrapped.keys()
            same = same and all(torch.equal(own[name], tensor.to(own[name])) for name, tensor in wrapped.items() if name not in self.net.changing)
            self._compared = state, not same
        return self._compared[1]

    @base_was_tuned.setter
    def base_was_tuned(self, tuned: bool) -> None:
        self._tuned = tuned

    def compare_base(self) -> bool:
        """`base_was_tuned`, with all values compared once more: what is written through `.data` leaves no other trace."""
        self._compared = None
        return self.base_was_tuned

    def around_the_classifier(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Parameters and persistent buffers of the base or of the model of which it is a copy, but for what stands where the classifier stood."""
        stand_ins = [f"{name}." for name, module in self.base.named_modules(remove_duplicate=False) if isinstance(module, ClassifierSlot | AveragedWith)]
        return {name: tensor for name, tensor in tensors_of(model).items() if not name.startswith(tuple(stand_ins))}

    def forward(self, inputs: InputsLike | None = None, /, *more: Any, **named: Any) -> torch.Tensor:
        """Inputs as the base takes them, or its keyword arguments as one dictionary, to logits [B, C]."""
        return logits_of(call(self.base, inputs, *more, **named))

    def logits(self, inputs: InputsLike) -> torch.Tensor:
        """Logits [B, C] in eval mode, without gradients."""
        with evaluating(self), told_of(inputs, self.net.example_inputs):
            return self(inputs)  # type: ignore[no-any-return]

    @property
    def own_classifier(self) -> nn.Linear | AveragedClassifier:
        """The base's, as it was; never trained."""
        return self._slot.original

    def from_features(self, attached: torch.Tensor, penultimate: torch.Tensor, join: Joined = torch.add) -> torch.Tensor:
        """The same logits [B, C] from cached features: attached [B, D] and the classifier's input [B, P].

        `join` makes them of the classifier's logits and what the heads add; training may have another.
        """
        return self._slot.combine(attached, penultimate, join)

    def by_group(self, attached: torch.Tensor, penultimate: torch.Tensor, order: torch.Tensor, join: Joined = torch.add) -> torch.Tensor:
        """The logits [B, C] of `from_features` with the labels in `group_order`: column p is label order[p].

        Permuting the classifier's rows costs much less than permuting the columns of a batch of logits, forward and backward.
        """
        bias = self.classifier.bias
        logits = torch.nn.functional.linear(penultimate, self.classifier.weight[order], None if bias is None else bias[order])
        return logits if self.heads is None else join(logits, self.added(attached, by_group=True))

    def added(self, attached: torch.Tensor, by_group: bool = False) -> torch.Tensor:
        """What all heads add to the logits, attached [B, D] -> [B, C], in the order of the labels or in `group_order`."""
        assert self.heads is not None
        if not by_group:
            return self.heads(attached)  # type: ignore[no-any-return]
        units = self.heads.by_group(attached)
        return torch.nn.functional.pad(units, (0, self.n_labels - units.shape[1]))

    @property
    def group_order(self) -> torch.Tensor | None:
        """int64 [C]: all labels, group by group, then those in no group. None for a cover, and where it is the labels' own order."""
        groups = self.plan.groups
        order = torch.from_numpy(np.concatenate([*groups.members, groups.ungrouped]))
        is_cover = len(order) != self.n_labels
        return None if is_cover or self.dispatch is not None or bool((order.diff() == 1).all()) else order

    def new_parameters(self) -> list[nn.Parameter]:
        """What `fit` trains: the heads and the classifier."""
        return [*self.classifier.parameters(), *(self.heads.parameters() if self.heads else ())]

    def all_parameters(self) -> list[nn.Parameter]:
        """What training the whole network trains: everything but the base's original classifier, kept for `heads_disabled`."""
        kept = {id(p) for p in self._slot.original.parameters()}
        return [p for p in self.parameters() if id(p) not in kept]

    @contextmanager
    def heads_disabled(self) -> Iterator[AugmentedClassifier]:
        """Within this context the network is, to this thread, the base: its own classifier, no heads.

        Raises:
            SelfInformedError: the whole network was trained on, so that the base is only in `net`.
        """
        if self.base_was_tuned:
            raise SelfInformedError("heads_disabled: the whole network was trained on, so without heads it is not the base; the base as it was is aug.net")
        overrides = self._slot.overrides
        before, overrides.disabled = overrides.disabled, True  # it may already be disabled around this context
        try:
            yield self
        finally:
            overrides.disabled = before

    @contextmanager
    def conditional(
        self, top_groups: int | None = None, *, share: float | None = None, above: float | None = None, chance: int | None = None
    ) -> Iterator[Dispatch]:
        """Within this context each example, of this thread, runs only the `top_groups` heads that its scores point to (default: all); see `Dispatch`.

        With `share`, of each batch only that share of the examples run heads, those the classifier is least sure of; with `above`, those
        with more `uncertainty` than that; with `chance`, a seed, the share is drawn at random. With all groups chosen the logits are those
        of full evaluation. `fit` within the context trains the heads on the examples they will see. What the context gives counts the
        multiply-adds that were executed.
        """
        self._needs_heads("conditional")
        overrides = self._slot.overrides
        number = len(self.plan.groups) if top_groups is None else top_groups
        dispatch = Dispatch(self.plan, number, self.output, share, above, chance)
        before, overrides.dispatch = overrides.dispatch, dispatch
        try:
            yield dispatch
        finally:
            overrides.dispatch = before

    def run_conditionally(self, top_groups: int | None = None, above: float | None = None) -> None:
        """From now on each example runs, outside of `conditional`, only the `top_groups` heads that its scores point to (default: all), and none
        where its `uncertainty` is not above that (default: always): the way these heads were trained for. `save_pretrained` keeps it, and an
        export gives the same logits. With neither all heads run, as in a network that `augment` made.
        """
        self._needs_heads("run_conditionally")
        n = len(self.plan.groups)
        self.top_groups = None if top_groups is None else whole_number("top_groups", top_groups, n, ", the heads", least=0)
        self.above = None if above is None else real_number("above", above)
        number = n if self.top_groups is None else self.top_groups
        self._slot.standing = None if self.top_groups is self.above is None else Dispatch(self.plan, number, self.output, above=self.above)

    @contextmanager
    def quantized_heads(self) -> Iterator[AugmentedClassifier]:
        """Within this context the heads' large layers run in 8 bits for batches of up to 8 examples, without gradients, on a CPU.

        A network answering one request at a time waits for the weights to come from memory; these are a quarter of the bytes. The
        weights are rounded to 1/127 of each unit's largest, activations to bfloat16; what is saved, exported and trained stays as it is.
        Threads that share the network share this too, until the last that entered has left.
        """
        self._needs_heads("quantized_heads")
        if self.heads is not None and self.classifier.weight.device.type != "cpu":
            raise SelfInformedError(f"quantized_heads: these run on a CPU; the network is on {self.classifier.weight.device}")
        if self.heads is not None:
            self.heads.quantize(True)
        try:
            yield self
        finally:
            if self.heads is not None:
                self.heads.quantize(False)

    def save_pretrained(self, folder: str | Path, made_with: Mapping[str, Any] | None = None) -> None:
        """Writes heads.safetensors (new weights and classifier) and config.json (plan, versions, the base's fingerprint, and `made_with` as it is given)."""
        from selfinformed.augmented.saved import save

        self._needs_heads("save_pretrained")
        save(self, folder, made_with)

    def _needs_heads(self, what: str) -> None:
        if self.is_control:
            raise SelfInformedError(f"{what}: this network is a control, made to be compared; it has no heads on label groups; use one that augment made")


def check_classifier(classifier: str) -> None:
    """That it is what `augment` can do with the classifier."""
    one_of("classifier", classifier, get_args(NewClassifier))


def augment(
    net: WrappedClassifier,
    plan: HeadPlan,
    *,
    classifier: NewClassifier = "keep",
    seed: int = 0,
    onto: AugmentedClassifier | None = None,
) -> AugmentedClassifier:
    """Builds the augmented network; the model itself is left alone.

    With `classifier="keep"` and before training it equals the base bit for bit, since the heads' output weights start at zero.

    Args:
        net: the wrapped network.
        plan: groups and widths.
        classifier: `keep` starts from the trained classifier's weights, `reinitialise` from random ones (the paper's choice).
        seed: of the new weights.
        onto: an augmented network of the same model, whose heads and classifier are taken over: the method applied again, with groups
            from its own mistakes (`measure(onto, ...)`). `net` is the model wrapped with its attach points first and then further ones, and
            `classifier` is `keep`.
    """
    check_wrapped(net)
    expect(plan, HeadPlan, "plan", "what plan gave")
    seed = seed_of(seed)
    check_classifier(classifier)
    if onto is not None:
        first = onto.net.attach_points
        if net.attach_points[: len(first)] != first or onto.net.fingerprint != net.fingerprint or onto.compare_base():
            raise SelfInformedError(
                f"onto: expected an augmented network of the same model, its base as it was, and net wrapped with attach points that begin with "
                f"{', '.join(map(str, first))}"
            )
        if classifier != "keep":
            raise SelfInformedError("classifier: with onto its trained classifier is taken over, which 'reinitialise' would throw away; leave it at 'keep'")
        if onto.dispatch is not None:
            raise SelfInformedError("onto: there each example runs some heads only, and beside further ones all would; call run_conditionally() on it first")
        plan = replace(onto.plan, feature_size=net.feature_size) + plan
    require_memory(4 * (plan.parameters - plan.base_parameters), "augment: the heads' weights", "lower the budget or hidden", net.classifier.weight.device)
    with torch.inference_mode(False), seeded(seed):  # or its weights could not be trained
        aug = AugmentedClassifier(net, plan, classifier)
    if onto is not None:
        aug.classifier.load_state_dict(onto.classifier.state_dict())
        if onto.heads is not None and aug.heads is not None:
            aug.heads.take(onto.heads)
    return aug
