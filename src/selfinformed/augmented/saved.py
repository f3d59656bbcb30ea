"""Saving only what is new, and loading it onto the base it was made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from selfinformed.augmented.heads import Heads
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.data.inputs import InputsLike
from selfinformed.data.labels import LabelSpace
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import Output, WrappedClassifier, wrap
from selfinformed.runtime.arguments import expect
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_object, read_tensors, write_json, write_tensors
from selfinformed.runtime.reading import naming, reason_of, shown
from selfinformed.runtime.versions import versions
from selfinformed.structure.plans import HeadPlan

CONFIG_FORMATS = ("selfinformed.heads/1", "selfinformed.heads/2")  # the second where each example runs some heads only, which the first did not know
WEIGHTS_FORMAT = "selfinformed.weights/1"


def save(aug: AugmentedClassifier, folder: str | Path, made_with: Mapping[str, Any] | None = None) -> None:
    """Writes `heads.safetensors` and `config.json`.

    A network whose base weights were fine-tuned carries them all, since the base alone no longer gives them back.
    """
    folder, net = Path(folder), aug.net
    weights = {f"classifier.{k}": v for k, v in aug.classifier.state_dict().items()}
    if aug.heads is not None:
        weights |= {f"heads.{k}": v for k, v in aug.heads.to_weights().items()}
    if tuned := aug.compare_base():
        if others := aug.around_the_classifier(aug.base).keys() ^ aug.around_the_classifier(net.model).keys():
            said = f"{shown(min(others))} is in one of the two only"
            raise SelfInformedError(f"save_pretrained: the base has other modules than the network that was wrapped ({said}); merge or remove what was added")
        weights |= {f"base.{k}": v for k, v in aug.base.state_dict().items()}
    # numpy has no bfloat16: float32 holds it exactly, and loading casts it back
    arrays = {name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy() for name, tensor in weights.items()}
    conditional = aug.top_groups is not None or aug.above is not None
    run = {"run": f"top_groups {aug.top_groups}, above {aug.above}"} if conditional else {}  # so that an export of these weights run otherwise is told
    write_tensors(folder / "heads.safetensors", arrays, {"format": WEIGHTS_FORMAT, "base": net.fingerprint, **run})
    config = {
        "format": CONFIG_FORMATS[conditional], "base_fingerprint": net.fingerprint, "base_class": type(net.model).__name__,
        "classifier": list(net.classifier_names), "attach": [vars(point) for point in net.attach_points], "output": aug.output, "wrapped_output": net.output,
        "base_was_tuned": tuned, "top_groups": aug.top_groups, "above": aug.above,
        "labels": list(net.labels.names), "plan": aug.plan.to_dict(), "versions": versions(), **({"made_with": dict(made_with)} if made_with else {}),
    }  # fmt: skip
    write_json(folder / "config.json", config)


def load(folder: str | Path, model: nn.Module | WrappedClassifier, example_inputs: InputsLike | None = None) -> AugmentedClassifier:
    """Loads what `AugmentedClassifier.save_pretrained` wrote onto its base model.

    Args:
        folder: with `heads.safetensors` and `config.json`.
        model: the base the heads were trained on, with the same weights, or what `wrap` made of it.
        example_inputs: a small batch; needed where `model` is not wrapped.

    Raises:
        SelfInformedError: the files are missing or damaged, or the model is another one (its fingerprint differs).
    """
    expect(folder, str | Path, "load", "a folder, then the model")
    folder = Path(folder)
    config = read_object(folder / "config.json", "heads")
    try:
        if config["format"] not in CONFIG_FORMATS:
            raise SelfInformedError(f"{folder / 'config.json'}: expected {' or '.join(CONFIG_FORMATS)}, found {shown(config['format'])}")
        with naming(folder / "config.json"):
            labels, given = LabelSpace(config["labels"]), config["attach"]  # one, where written before there could be several
            attach = tuple(AttachPoint(**point) for point in ([given] if isinstance(given, dict) else given))
            classifier = (config["classifier"],) if isinstance(config["classifier"], str) else tuple(config["classifier"])
            plan = HeadPlan.from_dict(config["plan"], str(folder / "config.json"))
            output, tuned, expected = config["output"], bool(config["base_was_tuned"]), config["base_fingerprint"]
            top_groups, above, wrapped_output = config.get("top_groups"), config.get("above"), config.get("wrapped_output", output)
            for kind in (output, wrapped_output):
                if kind not in (None, *get_args(Output)):
                    raise ValueError(f"output: expected {' or '.join(get_args(Output))}, found {shown(kind)}")
            net = _wrapped(model, example_inputs, labels, classifier, attach, wrapped_output)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SelfInformedError(f"{folder / 'config.json'}: not a valid heads config ({reason_of(error)})") from None
    if (place := net.labels.first_other(labels)) is not None:
        here, there = (shown(space.names[place]) if place < len(space) else "no label" for space in (net.labels, labels))
        raise SelfInformedError(f"{folder}: label {place} was {there} where these heads were trained, and is {here} in the wrapped network; name it alike")
    if "wrapped_output" in config and net.output != wrapped_output:  # earlier versions did not say
        was, now = (f"output={kind!r}" for kind in (wrapped_output, net.output))
        raise SelfInformedError(f"{folder}: these heads were trained on the network wrapped with {was}, and it is wrapped with {now}; wrap it alike")
    if net.fingerprint != expected:
        raise SelfInformedError(
            f"{folder}: these heads were trained on another base: its fingerprint is {str(expected)[:12]}…, this model's "
            f"{net.fingerprint[:12]}…; load the weights the heads were trained on"
        )
    arrays, metadata = read_tensors(folder / "heads.safetensors", WEIGHTS_FORMAT)
    if metadata.get("base") != expected:
        raise SelfInformedError(f"{folder}: heads.safetensors and config.json are of different runs; copy both from one run folder")
    if sum(array.size for array in arrays.values()) < plan.parameters - plan.base_parameters:  # before so many are made
        raise SelfInformedError(f"{folder / 'heads.safetensors'} does not fit its config (it has fewer numbers than the plan's heads)")
    with naming(folder / "config.json"):
        aug = augment(net, plan)
        aug.output, aug.base_was_tuned = output, tuned
        aug.run_conditionally(top_groups, above)
        if config["format"] == CONFIG_FORMATS[0]:  # which kept `above` for `Structure.evaluating`, and ran all heads by itself
            above = aug.above
            aug.run_conditionally()
            aug.above = above
    if aug.heads is not None:
        aug.heads.trained = len(plan.groups)  # so that training them on, in another input transform, starts from what was saved
    parts: Sequence[tuple[str, nn.Module | None]] = (
        ("base.", aug.base if tuned else None), ("classifier.", aug.classifier), ("heads.", aug.heads),
    )  # fmt: skip
    for prefix, module in parts:
        if module is not None:
            state = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
            try:
                module.set_weights(state) if isinstance(module, Heads) else module.load_state_dict(state)
            except (RuntimeError, SelfInformedError) as error:
                raise SelfInformedError(f"{folder / 'heads.safetensors'} does not fit its config ({str(error).splitlines()[-1].strip()})") from None
    return aug


def _wrapped(
    model: nn.Module | WrappedClassifier, inputs: InputsLike | None, labels: LabelSpace, classifier: tuple[str, ...], attach: tuple[AttachPoint, ...],
    output: Output | None,
) -> WrappedClassifier:
    if isinstance(model, WrappedClassifier):
        if (model.classifier_names, model.attach_points) != (classifier, attach):
            points = ", ".join(map(str, attach))
            raise SelfInformedError(f"load: the heads attach at {points}, with the classifier {', '.join(classifier)}; the model is wrapped otherwise")
        return model
    if inputs is None:
        raise SelfInformedError("load: give example_inputs=, a small batch as the model takes it, or a wrapped model")
    return wrap(model, inputs, labels=labels, classifier=classifier, attach=attach, output=output)
