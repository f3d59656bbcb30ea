"""Every option of a run, documented once; the command line's --help and the run folder's config.yaml come from here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from selfinformed.runtime.arguments import near
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_LABELS, MOST_TEXT, opened, reason_of, shown


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RunConfig:
    """What is run on what, and where the results go."""

    output: str = _option("runs/run", "run folder that takes every artefact")
    model: str = _option(
        "",
        "timm:NAME, torchvision:NAME, transformers:FOLDER; FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns the trained nn.Module; "
        "demo:budget, demo:converged",
    )
    model_options: dict[str, Any] | None = _option(None, "further arguments of a model named by its family, e.g. in_chans=1,img_size=64")  # noqa: RUF009
    checkpoint: str | None = _option(None, "weights to load into the model: .safetensors, or .pt read with weights_only=True")
    classifier: str | None = _option(None, "dotted name of the last linear layer, or of two whose average counts, parted by a comma (default: found)")
    attach: str | None = _option(
        None,
        "dotted name of the module whose output the heads read (default: the trunk's output), or several, each perhaps with its own reduce: "
        "layer3:map,avgpool",
    )
    reduce: Literal["flatten", "mean", "channels_first_mean", "channels_last_mean", "first", "map"] = _option(
        "flatten", "how a map or token sequence at the attach point becomes a vector; map: heads convolve over it"
    )
    outputs: Literal["auto", "softmax", "logistic"] = _option(
        "auto", "softmax: one label per example, ranked by probability; logistic: several, ranked by logit; auto: as the hold-out labels are"
    )
    labels: str | None = _option(None, "text file with one label name per line, in the order of the network's outputs")
    train: str = _option("", "training examples: folder of images, .csv or .parquet manifest, .tar shards, .npz; or glyphs")
    holdout: str = _option("", "held-out examples for counts, probe, search and early stopping; or glyphs")
    test: str = _option("", "test examples, judged once at the end; or glyphs")
    second_view: str | None = _option(
        None, "the test examples seen once more, in their order, for the arm `views` of a comparison: mirrored, or a source like test"
    )
    predictions: str | None = _option(None, "saved top-K predictions to count instead of running the network: .safetensors, .npz, .parquet, .csv")
    n_labels: int | None = _option(None, "number of labels, for saved predictions that do not say it and without label names")
    image_size: int | None = _option(None, "side in pixels to which images are resized and cropped (default: as they are)")
    pixel_mean: tuple[float, float, float] | None = _option(
        None, "taken from pixels of 0 to 1, red, green and blue, e.g. 0.5,0.5,0.5 (default: a timm network's own, else ImageNet's)"
    )
    pixel_std: tuple[float, float, float] | None = _option(None, "what pixels are then divided by (default: likewise)")
    skip_bad: int = _option(0, "how many unreadable images per data set may be set aside")
    fonts: str | None = _option(None, "folder of typefaces for the glyphs (default: matplotlib's)")
    views: int = _option(2, "views of each training glyph, all distorted, or with augmentation of each training image, the first as it is")
    augmentation: Literal["crop", "crop_mirror"] | None = _option(
        None, "distorted views of training images: crop (random parts, resized), or crop_mirror where left and right do not matter; docs/your-data.md"
    )
    mapping: str | None = _option(None, "CSV with source,target label names: recall at k on that subset (the paper's Figure 2)")
    top_groups: tuple[int, ...] | None = _option(
        None, "heads that an example may run, those its scores point to, e.g. 1,2,4: conditional.json and figures/conditional.png"
    )
    top_k: int | None = _option(None, "detections per example (default: min(100, max(5, labels // 150)))")
    map_k: int = _option(50, "K of mAP@K, labels kept of each example")
    n_groups: int | Literal["auto"] = _option(6, "label groups, or auto for the largest eigengap")
    grouping: Literal["spectral", "codetections", "balanced", "hinton", "greedy", "leiden", "random"] = _option(
        "spectral", "how labels are grouped: the paper's spectral clustering of confusions, the same of codetections, which needs no annotations, "
        "or another of docs/groupings.md (hinton: always on co-detections)"
    )
    cover_share: float | None = _option(None, "a label joins each group in which it has more than this share of its confusions (default: a partition)")
    bootstraps: int = _option(3, "samples with replacement on which the groups are found again, to see how stable they are")
    sweep: tuple[int, ...] | None = _option(None, "numbers of groups to compare, by spectral clustering, e.g. 2,4,8,16: sweep.json and figures/sweep.png")
    budget: float = _option(0.03, "extra multiply-adds as a share of the base's")
    hidden: tuple[int, ...] | None = _option(None, "widths of every head's ReLU layers, e.g. 512,512, instead of a budget")
    depth: int = _option(1, "ReLU layers per head when a budget sets the widths")
    capacity: Literal["uniform", "labels", "examples", "confusions"] = _option("uniform", "how the budget is divided among groups")
    dense_share: float = _option(0.0, "share of the budget, 0 to 1, for one more head over all labels")
    structure: Literal["planned", "searched"] = _option(
        "planned", "what fit trains and everything after it uses: heads on the groups of the plan, or the structure that search finds"
    )
    keep_classifier: bool = _option(True, "start from the trained classifier's weights (false: the paper's re-initialisation)")
    head_input: Literal["whitened", "standardised", "raw"] = _option("whitened", "transform of the heads' input, folded in after training")
    epochs: int = _option(2, "passes over the cached training features")
    batch_size: int = _option(256, "examples per training step")
    forward_batch_size: int = _option(64, "examples per forward pass of the network")
    feature_dtype: Literal["float32", "float16"] = _option("float32", "type of the cached features; float16 takes half the disk and memory")
    learning_rate: float = _option(6e-3, "peak learning rate of the heads")
    classifier_learning_rate: float = _option(3e-3, "peak learning rate of the classifier")
    finetune: bool = _option(False, "train the whole network for one pass after the heads")
    residual: float | Literal["auto"] = _option(
        1.0, "share of the network's own scores, 0 to 1, that heads see in training; 0 or 0.25, where it knows its training examples by heart, has them "
        "learn the labels beside it instead of its mistakes; auto: what the probe found better"
    )  # fmt: skip
    schedule: Literal["one_cycle", "cosine", "constant"] = _option("one_cycle", "of the learning rates over all passes")
    weight_decay: float = _option(1e-4, "weight decay of AdamW")
    epsilon: float = _option(1e-8, "epsilon of AdamW; 1e-4 to 1e-3, with higher learning rates, where thousands of labels are logistic")
    label_smoothing: float = _option(0.0, "share of each target, 0 to 1, that is spread over all labels")
    logit_adjustment: float = _option(0.0, "tau: train on scores plus tau times the log of the labels' frequencies, for rare labels (Menon et al. 2021)")
    class_weights: float = _option(0.0, "beta, 0 to 1, e.g. 0.999: weight examples by their labels' effective numbers (Cui et al. 2019)")
    balanced_sampling: float = _option(0.0, "draw examples by label frequency to minus this power, 0 (as they are) to 1 (labels equally often)")
    soft_targets: float = _option(0.0, "share of the loss, 0 to 1, that is cross-entropy with the teacher's outputs (the paper's section 3)")
    teacher: str | None = _option(None, "network for the same inputs and labels, named like the model, whose outputs are the soft targets (default: the base)")
    teacher_checkpoint: str | None = _option(None, "weights to load into the teacher")
    temperature: float = _option(2.0, "of the soft targets")
    ema: float = _option(0.0, "decay, 0 (off) to 1, of a moving average of the weights, which is what training then gives")
    tail_average: float = _option(0.0, "share of the last steps, 0 (off) to 1, whose weights' mean is what training gives")
    patience: int = _option(0, "passes without a better figure on held-out examples after which training stops, keeping the best pass (0: off)")
    watch: Literal["mean_average_precision", "loss"] = _option("mean_average_precision", "the held-out figure that patience watches")
    log: bool = _option(False, "write TensorBoard events beside log/training.jsonl while the heads train, if TensorBoard is installed")
    probe_width: int = _option(256, "units of the dense head that probes the headroom")
    candidates: int = _option(32, "structures in a search's first round")
    rounds: int = _option(3, "rounds of a search; a third of the structures goes on to the next, trained three times as long")
    budget_of: Literal["multiply_adds", "latency"] = _option("multiply_adds", "what the budget of a search binds")
    latency_batch: int = _option(1, "held-out examples at once whose time a search by latency measures: as many as will be computed at once")
    attach_points: int = _option(0, "earlier points of the network at which the probe tries heads too; their features are cached once more")
    seeds: int = _option(3, "seeds of the comparison")
    arms: tuple[str, ...] | None = _option(None, "arms of the comparison, e.g. base,confusions,dense (default: all)")
    tuning: int | None = _option(None, "learning rates, powers of two about those given, that each arm of the comparison tries on hold-out data first, e.g. 3")
    seed: int = _option(0, "of clustering, weights and the order of examples")
    opset: int | None = _option(None, "of the ONNX operators that export writes, 18 to 23 (default: torch's choice)")
    device: str = _option("auto", "auto, cpu, cuda, mps, ...")

    def with_changes(self, changes: dict[str, Any]) -> RunConfig:
        """A copy with some options changed, checked."""
        return _checked(asdict(self) | changes, "options")

    def to_dict(self) -> dict[str, Any]:
        """As config.yaml holds it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_yaml(self) -> str:
        """The resolved configuration, each option under its explanation."""
        import yaml

        lines = []
        for option in fields(self):
            value = yaml.safe_dump({option.name: self.to_dict()[option.name]}, width=1000)
            lines.append(f"# {option.metadata['help']}\n{value}")
        return "\n".join(lines)

    def differences(self, other: RunConfig) -> list[str]:
        """Names of the options in which two configurations differ and for which a run needs another folder: not the folder itself, nor what
        changes one artefact only, which is then made again. With `residual: auto` heads are made from what the probe found."""
        free = {"output", "top_groups", "attach_points", *MAKES_AGAIN} - ({"probe_width", "attach_points"} if self.residual == "auto" else set())
        return [name for name in self._differing(other) if name not in free]

    def made_again(self, other: RunConfig) -> list[str]:
        """The artefacts that the options in which two configurations differ make out of date."""
        return sorted({artefact for name in self._differing(other) for artefact in MAKES_AGAIN.get(name, ())})

    def _differing(self, other: RunConfig) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


# Options that change these artefacts and nothing that others are made from.
MAKES_AGAIN = {
    "seeds": ("comparison.json",), "arms": ("comparison.json",), "tuning": ("comparison.json",),
    "second_view": ("comparison.json",), "candidates": ("search.json",), "rounds": ("search.json",),
    "budget_of": ("search.json",), "latency_batch": ("search.json",), "bootstraps": ("stability.json",), "sweep": ("sweep.json",),
    "probe_width": ("probe.json",),
    "mapping": ("evaluation.json",), "structure": ("config.json", "evaluation.json", "conditional.json", "latency.json"), "log": (), "device": (), "opset": (),
    "skip_bad": (),
}  # fmt: skip


def demo_config(base: str, fonts: str | None, output: str) -> RunConfig:
    """The demo: a shipped base on glyphs."""
    glyphs = dict.fromkeys(("train", "holdout", "test"), "glyphs")
    arms = ("base", "classifier", "confusions", "codetections", "random", "dense", "finetune")  # all would take twice as long
    return replace(RunConfig(), model=f"demo:{base}", fonts=fonts, output=output, **glyphs, mapping="characters", arms=arms)  # type: ignore[arg-type]


def read_config(path: str | Path) -> RunConfig:
    """Reads a config.yaml, or the one in a run folder.

    Raises:
        SelfInformedError: it cannot be read, an option is unknown (the nearest names are given) or has the wrong type or range.
    """
    import yaml

    path = folder = Path(path)
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise SelfInformedError(f"{path} is no run folder: it has no config.yaml; start one with: selfinformed run CONFIG.yaml")
        path = path / "config.yaml"
    if not path.exists():
        raise SelfInformedError(f"{path} does not exist; expected a config.yaml or a run folder")
    with opened(path, "config", MOST_TEXT) as file:
        read = file.read()
    try:
        text = read.decode()
        _check_plain(text)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or a number that is none is a ValueError
        raise SelfInformedError(f"{path} cannot be read as YAML ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise SelfInformedError(f"{path}: expected options as `name: value` lines, got {type(content).__name__}")
    if folder.is_dir():
        content["output"] = str(folder)  # a run folder may have been moved, or be named from elsewhere
    elif path.name == "config.yaml" and (path.parent / ".lock").exists():  # the one of a run folder, named itself
        content["output"] = str(path.parent)
    return _checked(content, str(path))


def _check_plain(text: str) -> None:
    """Stops at what no configuration needs: aliases, which can stand for more than any memory holds, tags, deep nesting, an option named twice."""
    import yaml

    depth, names, at_name = 0, set(), True
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(f"line {line} has an anchor, an alias or a tag; write the value itself")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MOST_CHARACTERS:
            raise ValueError(f"line {line} has a value of {len(event.value):,} characters; expected at most {_MOST_CHARACTERS:,}")
        if depth == 1 and not isinstance(event, yaml.CollectionEndEvent):
            if at_name and isinstance(event, yaml.ScalarEvent):
                if event.value in names:
                    raise ValueError(f"line {line} names {shown(event.value)} a second time")
                names.add(event.value)
            at_name = not at_name
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise ValueError(f"line {line} is nested more than {_MOST_DEPTH} deep")


def _checked(content: dict[str, Any], where: str) -> RunConfig:
    from pydantic import TypeAdapter, ValidationError

    known = {option.name: option.metadata["help"] for option in fields(RunConfig)}
    for name in content:
        if name not in known:
            raise SelfInformedError(f"{where}: unknown option {shown(name)}; {near(name, known, 'see selfinformed run --help')}")
    try:
        config = TypeAdapter(RunConfig).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        raise SelfInformedError(f"{where}: {name} = {shown(content.get(name))}: {first['msg'].lower()} ({known.get(name, '')})") from None
    for name in known:
        value = getattr(config, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, str) and not _is_text(part):
                raise SelfInformedError(f"{where}: {name} = {shown(value)}: expected text that a file could be called by ({known[name]})")
            if isinstance(part, int | float) and not part >= _LEAST.get(name, part if part == part else 0):
                raise SelfInformedError(f"{where}: {name} = {shown(value)}: expected at least {_LEAST.get(name)} ({known[name]})")
            if isinstance(part, int | float) and part > (most := _MOST.get(name, _MOST_NUMBER)):
                raise SelfInformedError(f"{where}: {name} = {shown(value)}: expected at most {most:,} ({known[name]})")
            if isinstance(part, int | float) and ((name in _ABOVE_ZERO and part == 0) or (name in _BELOW_ONE and part == 1)):
                raise SelfInformedError(f"{where}: {name} = {shown(value)}: expected {'less than 1' if part else 'more than 0'} ({known[name]})")
        if value == ():
            raise SelfInformedError(f"{where}: {name} is empty; name at least one, or leave it out ({known[name]})")
    for others, (wrong, why) in _TOGETHER.items():
        if wrong(config):
            raise SelfInformedError(f"{where}: {others}: {why}")
    return config


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


_MOST_DEPTH = 8
_MOST_CHARACTERS = 3_500  # of a value: a number of as many digits can still be shown, of base 16 too
_SHARES = ("residual", "label_smoothing", "class_weights", "balanced_sampling", "soft_targets", "ema", "tail_average")
_MOST = dict.fromkeys(_SHARES, 1) | {"n_labels": MOST_LABELS, "top_k": MOST_LABELS, "image_size": 2**14, "hidden": 2**20, "depth": 64,
         "dense_share": 1, "cover_share": 1, "attach_points": 64, "views": 1_000, "seed": 2**32 - 1}
_MOST_NUMBER = 2**31 - 1  # of every other option
_ABOVE_ZERO = ("temperature", "epsilon", "budget", "pixel_std")
_BELOW_ONE = ("label_smoothing", "class_weights", "ema", "dense_share")
_TOGETHER: dict[str, tuple[Callable[[RunConfig], bool], str]] = {
    "hidden": (
        lambda c: c.hidden is not None and (c.depth, c.capacity, c.dense_share) != (1, "uniform", 0.0),
        "depth, capacity and dense_share say how a budget becomes widths; leave them out, or hidden",
    ),
    "views": (
        lambda c: c.views != RunConfig.views and c.train != "glyphs" and not c.augmentation,
        "distorted views of images want augmentation: crop or crop_mirror beside it",
    ),
    "augmentation": (
        lambda c: c.augmentation is not None and (c.train == "glyphs" or c.train.endswith(".npz") or c.views < 2),
        "it makes distorted views of images: give images as files, and at least 2 views",
    ),
    "output": (
        lambda c: c.output in ("softmax", "logistic"),
        "this is the run's folder; what the network's outputs are for is said by outputs: softmax, or outputs: logistic",
    ),
    "structure": (
        lambda c: c.structure == "searched" and c.finetune,
        "what a search found is trained on cached features, and finetune trains the whole network; leave finetune at false",
    ),
    "latency_batch": (lambda c: c.latency_batch != 1 and c.budget_of != "latency", "it is of a search by time; give budget_of: latency beside it"),
    "keep_classifier": (lambda c: c.residual == 0 and not c.keep_classifier, "with residual 0 the classifier stays as it is; leave keep_classifier at true"),
    "arms": (
        lambda c: "views" in (c.arms or ()) and not c.second_view,
        "views needs the test examples seen once more; give second_view: mirrored, or a source like test",
    ),
    "teacher": (
        lambda c: (c.teacher is not None and not c.soft_targets) or (c.teacher_checkpoint is not None and c.teacher is None),
        "soft_targets says how much of the loss is the teacher's, and teacher_checkpoint holds a teacher's weights; give them together",
    ),
    "teacher_checkpoint": (
        lambda c: (c.teacher or "").startswith(("timm:", "torchvision:")) and not c.teacher_checkpoint,
        "a teacher named by timm or torchvision has random weights; give those that it was trained to",
    ),
    "ema": (lambda c: bool(c.ema and c.tail_average), "ema and tail_average are two ways of averaging the weights; leave one of them at 0"),
}  # fmt: skip
_LEAST = {
    "n_groups": 1, "top_groups": 0, "bootstraps": 0, "cover_share": 0.0, "sweep": 1,
    "n_labels": 1, "hidden": 1, "top_k": 1, "map_k": 1, "views": 1, "skip_bad": 0, "depth": 1, "epochs": 0, "batch_size": 1,
    "forward_batch_size": 1, "probe_width": 1, "seeds": 1, "seed": 0, "budget": 0.0, "dense_share": 0.0, "learning_rate": 0.0,
    "classifier_learning_rate": 0.0, "image_size": 1, "candidates": 1, "rounds": 1, "tuning": 1, "attach_points": 0, "latency_batch": 1, "opset": 18,
    "pixel_std": 0.0, "weight_decay": 0.0, "residual": 0.0, "epsilon": 0.0, "label_smoothing": 0.0, "logit_adjustment": 0.0, "class_weights": 0.0,
    "balanced_sampling": 0.0, "soft_targets": 0.0, "temperature": 0.0, "ema": 0.0, "tail_average": 0.0, "patience": 0,
}  # fmt: skip
