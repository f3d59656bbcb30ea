"""What a row of a comparison must hold to be counted, wherever it was kept."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

Share = Annotated[float, Field(ge=0, le=1)]


@with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
class ComparisonRow(TypedDict):
    """One arm at one seed; a figure that is not finite is null."""

    arm: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    mean_average_precision: Share | None
    mean_average_precision_per_example: Share | None
    top1: Share | None
    top5: Share | None
    multiply_adds: Annotated[int, Field(ge=0, lt=2**63)] | Annotated[float, Field(ge=0, le=1e30)]
    extra_computation: Annotated[float, Field(ge=0, le=1e30)]
    parameters: Annotated[int, Field(ge=0, lt=2**63)]
    seconds: Annotated[float, Field(ge=0, le=1e30)]
    head_seconds: NotRequired[Annotated[float, Field(ge=0, le=1e30)]]


def read_row(content: Any) -> dict[str, Any]:
    """The row, checked; `pydantic.ValidationError`, a `ValueError`, says what is wrong with it."""
    return dict(_adapter().validate_python(content))


@cache
def _adapter() -> TypeAdapter[ComparisonRow]:
    return TypeAdapter(ComparisonRow)
