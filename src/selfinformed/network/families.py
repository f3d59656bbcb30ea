"""What timm, torchvision and Hugging Face transformers call things: making a model by name, its classifiers, its label names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.reading import first_line

FAMILIES = ("timm", "torchvision", "transformers")
_TASKS = ("ForImageClassification", "ForSequenceClassification", "ForAudioClassification")
_ATTENTIONS = ("eager", "sdpa", "batched_mm", "grouped_mm")  # of transformers itself; a name with a slash is a kernel on the hub
_OPTIONS = ("dtype", "ignore_mismatched_sizes", "revision", "subfolder", "local_files_only")
_NAMES = ("classifier", "cls_classifier", "distillation_classifier", "score", "fc", "head", "heads", "logits_proj", "sequence_summary")


def family_of(model: nn.Module) -> str | None:
    """`timm`, `torchvision` or `transformers` where the model's class comes from there, or from a class of theirs."""
    for base in type(model).__mro__:
        package = base.__module__.partition(".")[0]
        if package in FAMILIES:
            return package
    return None


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the linear layers that a family's convention calls the classifier; two in a distilled network, none where unknown."""
    family = family_of(model)
    if family == "timm":
        given: Any = getattr(model, "get_classifier", tuple)()
        modules = list(given) if isinstance(given, tuple | list | nn.ModuleList) else [given]
    elif family is not None:
        modules = [getattr(model, name) for name in _NAMES if isinstance(getattr(model, name, None), nn.Module)]
        modules = modules if len(modules) == 2 and "distillation_classifier" in dict(model.named_children()) else modules[:1]
    else:
        modules = []
    linear = [_last_linear(module) for module in modules if isinstance(module, nn.Module)]
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(names[id(module)] for module in linear if module is not None)


def labels_of(model: nn.Module, n_labels: int = 0) -> list[str] | None:
    """The label names that a transformers model carries in its `id2label`, or one inside of another module that has just so many; None where they are
    placeholders."""
    named = ((module, _labels_of(module)) for module in model.modules())  # the model itself first
    return next((labels for module, labels in named if labels is not None and (module is model or len(labels) == n_labels)), None)


def _labels_of(model: nn.Module) -> list[str] | None:
    names = getattr(getattr(model, "config", None), "id2label", None)
    if family_of(model) != "transformers" or not isinstance(names, Mapping) or sorted(names) != list(range(len(names))):
        return None
    labels = [str(names[i]) for i in range(len(names))]
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) or len(set(labels)) < len(labels) else labels


def open_family(family: str, name: str, n_labels: int | None, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Makes a model by its family and name: random weights, unless the options or a transformers folder say otherwise.

    Args:
        family: timm, torchvision or transformers.
        name: as `timm.create_model` or `torchvision.models.get_model` take it; for transformers a folder with config.json (and with
            model.safetensors its weights), or a name on the hub.
        n_labels: number of outputs; None for the model's own.
        options: further keyword arguments.

    Raises:
        SelfInformedError: the package is not installed, or there is no such model.
    """
    package = extra(family)
    options = dict(options or {})
    if family == "transformers":
        return _open_transformers(package, name, n_labels, options)
    counted = {} if n_labels is None else {"num_classes": n_labels}
    try:
        if family == "timm":
            model = package.create_model(name, **counted, **options)
        else:
            model = package.models.get_model(name, **counted, **options)
    except Exception as error:  # an unknown name or option, or weights that cannot be fetched
        import difflib

        known = package.list_models() if family == "timm" else package.models.list_models()
        near = difflib.get_close_matches(name, known, 3)
        hint = "" if name in known else f"; did you mean {' or '.join(near)}?" if near else f"; see {family}'s list_models()"
        raise SelfInformedError(f"model: {family}:{name} cannot be made ({type(error).__name__}: {error}){hint}") from None
    assert isinstance(model, nn.Module)
    return model


def _open_transformers(transformers: Any, name: str, n_labels: int | None, options: dict[str, Any]) -> nn.Module:
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise SelfInformedError(f"model: transformers:{name} has no config.json that transformers can read ({first_line(error)})") from None
    _check_closed(config, name, options)
    made = [a for a in config.architectures or () if isinstance(a, str)]
    known = [a for a in made if a.endswith(_TASKS) and not a.startswith("Auto") and hasattr(transformers, a)]
    if not known:
        raise SelfInformedError(
            f"model: transformers:{name} is a {', '.join(made) or 'model without `architectures` in its config.json'}; expected a class of transformers "
            f"that ends in {', '.join(_TASKS)}"
        )
    if n_labels is not None and n_labels != config.num_labels:
        raise SelfInformedError(f"labels: {n_labels} label names for transformers:{name}, whose config.json has {config.num_labels}")
    cls, folder = getattr(transformers, known[0]), Path(name)
    if folder.is_dir() and not any(folder.glob("model*.safetensors")):
        if any(folder.glob("*.bin")):
            raise SelfInformedError(
                f"model: {folder} holds its weights as a pickle (.bin), which may run code; save them as safetensors: model.save_pretrained(FOLDER)"
            )
        try:
            return cls(config)  # type: ignore[no-any-return]
        except Exception as error:  # sizes that cannot be
            raise SelfInformedError(f"model: transformers:{name} cannot be made ({first_line(error)})") from None
    try:
        return cls.from_pretrained(name, trust_remote_code=False, use_safetensors=True, **options)  # type: ignore[no-any-return]
    except Exception as error:
        raise SelfInformedError(f"model: transformers:{name} cannot be loaded ({first_line(error)})") from None


def _check_closed(config: Any, name: str, options: Mapping[str, Any]) -> None:
    """Stops at what would fetch or run more than the package itself: attention by a kernel from the hub, options that are none of the model's."""
    for part in (config, *(getattr(config, sub) for sub in getattr(config, "sub_configs", ()) if getattr(config, sub, None) is not None)):
        for attention in {getattr(part, "_attn_implementation", None), getattr(part, "_experts_implementation", None)} - {None}:
            if attention not in _ATTENTIONS:
                raise SelfInformedError(f"model: transformers:{name} asks for the implementation {attention!r}; expected one of {', '.join(_ATTENTIONS)}")
    if getattr(config, "quantization_config", None) is not None:
        raise SelfInformedError(f"model: transformers:{name} is quantised; its weights cannot be read as they are: save them in full precision")
    own = config.to_dict()
    for option in options:
        if option not in _OPTIONS and option not in own:
            raise SelfInformedError(f"model_options: {option!r} is none of transformers:{name}'s; expected {', '.join(_OPTIONS)} or one of its config.json")


def _last_linear(module: nn.Module) -> nn.Linear | None:
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else None
