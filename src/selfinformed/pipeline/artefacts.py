"""What the JSON artefacts of a run folder must hold to be used: read here, checked here, so that none that is damaged gets further."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from selfinformed.evidence.rows import OPEN, Count, Figures, Share
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_json, read_lines
from selfinformed.runtime.reading import MOST_LABELS, reason_of, shown

Label = Annotated[int, Field(ge=0, lt=MOST_LABELS)]
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
Gain = Annotated[float, Field(ge=-1, le=1)]


@with_config(OPEN)
class Bin(TypedDict):
    low: Share
    high: Share
    n: Count
    confidence: Share | None
    accuracy: Share | None


@with_config(OPEN)
class Calibration(TypedDict):
    bins: list[Bin]
    expected_calibration_error: Share | None


@with_config(OPEN)
class JudgedLabel(TypedDict):
    label: str
    positives: Count
    average_precision: Share | None


@with_config(OPEN)
class JudgedGroup(TypedDict):
    group: str
    labels: Count
    mean_average_precision: Share | None


@with_config(OPEN)
class Judged(Figures):
    top_k: Count
    n_examples: Count
    groups: list[JudgedGroup]
    recall_at: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Share]
    labels: list[JudgedLabel]
    calibration: NotRequired[Calibration]


@with_config(OPEN)
class Mistake(TypedDict):
    taken: str
    annotated: str
    base: Count
    augmented: Count


@with_config(OPEN)
class ConfidentMistakes(TypedDict):
    example: list[Count]
    name: list[str]
    taken: list[Label]
    annotated: list[Label]
    confidence: list[Share | None]


@with_config(OPEN)
class MistakesInAll(TypedDict):
    base: Count
    augmented: Count


@with_config(OPEN)
class Evaluation(Judged):
    """evaluation.json"""

    base: Judged
    mistakes: NotRequired[list[Mistake]]
    n_mistakes: NotRequired[MistakesInAll]
    confident_mistakes: NotRequired[ConfidentMistakes]
    training_positives: NotRequired[list[Count]]


@with_config(OPEN)
class Wide(TypedDict):
    base: Share | None
    classifier: Share | None
    dense: Share | None


@with_config(OPEN)
class Forecast(TypedDict):
    gain: Gain
    interval: Annotated[list[Gain], Field(min_length=2, max_length=2)]
    choice: str
    budget: Figure
    optimism: NotRequired[Gain]


@with_config(OPEN)
class Place(TypedDict):
    attach: str
    residual: NotRequired[Share]
    mean_average_precision: Share | None
    gain: Gain | None
    budget_gain: Gain | None


@with_config(OPEN)
class GainOfGroup(TypedDict):
    group: str
    labels: Count
    gain: Gain | None
    share: Figure | None


@with_config(OPEN)
class Probe(TypedDict):
    """probe.json"""

    verdict: str
    attach: str
    width: Count
    residual: NotRequired[Share]
    residuals: NotRequired[list[Share]]
    mean_average_precision: Wide
    limited_by: str
    forecast: Forecast
    attach_points: list[Place]
    groups: list[GainOfGroup]
    earlier_points: NotRequired[Count]


@with_config(OPEN)
class Stability(TypedDict):
    """stability.json"""

    halves: Gain | None
    bootstraps: list[Gain]
    text: str


@with_config(OPEN)
class SweepRow(TypedDict):
    """A row of sweep.json"""

    n_groups: Count
    gap: Figure | None
    sizes: Annotated[list[Count], Field(min_length=1)]
    within_share: Share | None
    eigenvalues: list[Figure]


@with_config(OPEN)
class ConditionalRow(Figures):
    """A row of conditional.json"""

    top_groups: Count


@with_config(OPEN)
class LatencyRow(TypedDict):
    batch_size: Count
    base_p50: Figure
    base_p95: Figure
    augmented_p50: Figure
    augmented_p95: Figure
    ratio: Figure


@with_config(OPEN)
class Latency(TypedDict):
    """latency.json"""

    rows: list[LatencyRow]
    extra_computation: Figure


@with_config(OPEN)
class Best(TypedDict):
    plan: dict[str, Any]
    description: str


@with_config(OPEN)
class Choice(TypedDict):
    grouping: str | None


@with_config(OPEN)
class Trial(TypedDict):
    structure: str
    choice: NotRequired[Choice]
    epochs: Figure
    mean_average_precision: Share | None
    extra_computation: Figure
    seconds: Figure


@with_config(OPEN)
class Search(TypedDict):
    """search.json"""

    format: Literal["selfinformed.search/1"]
    verdict: str
    best: Best
    trials: list[Trial]


@with_config(OPEN)
class Skipped(TypedDict):
    """A row of skipped-SPLIT.json"""

    example: Count
    reason: str


@with_config(ConfigDict(strict=True, extra="ignore", allow_inf_nan=False))
class Pass(TypedDict):
    """A row of history.jsonl, or of log/training.jsonl"""

    stage: NotRequired[str]
    epoch: NotRequired[Count | Figure]
    step: NotRequired[Count]
    steps: NotRequired[Count]
    loss: NotRequired[Figure | None]
    learning_rate: NotRequired[Figure]
    holdout_mean_average_precision: NotRequired[Share | None]
    holdout_loss: NotRequired[Figure | None]
    kept: NotRequired[bool]
    seconds: NotRequired[Figure]


_KINDS: Mapping[str, Any] = {
    "evaluation": Evaluation, "probe": Probe, "stability": Stability, "sweep": list[SweepRow], "conditional": list[ConditionalRow], "latency": Latency,
    "search": Search, "skipped": list[Skipped],
}  # fmt: skip


def read_artefact(path: Path) -> Any:
    """Reads evaluation.json, probe.json, stability.json, sweep.json, conditional.json, latency.json, search.json or skipped-SPLIT.json.

    Raises:
        SelfInformedError: it is damaged or of another version; the message names the file, the field, and says to delete it.
    """
    kind = path.stem.partition("-")[0]
    content, expected = read_json(path, kind), f"selfinformed.{kind}/1"
    if isinstance(content, dict):
        if content.get("format", expected) != expected:  # the first versions wrote none
            raise SelfInformedError(f"{path}: expected {expected}, found {shown(content['format'])}; delete it to have it made again")
        content = content.get("rows") if kind in ("sweep", "conditional", "skipped") else content
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise SelfInformedError(f"{path}: damaged or of another version ({reason_of(error)}); delete it to have it made again") from None


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of history.jsonl or log/training.jsonl; those that are damaged are left out."""
    rows = []
    for row in read_lines(path):
        try:
            rows.append(dict(_adapter("pass").validate_python(row)))
        except ValidationError:
            continue
    return rows


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(Pass if kind == "pass" else _KINDS[kind])
