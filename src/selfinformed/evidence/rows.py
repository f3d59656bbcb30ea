"""What a row of a comparison must hold to be counted, wherever it was kept."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

OPEN = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)  # a later version may add fields; a figure that is not finite is null
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1)]


@with_config(OPEN)
class Figures(TypedDict):
    """Of one network on test data."""

    mean_average_precision: Share | None
    mean_average_precision_per_example: Share | None
    top1: Share | None
    top5: Share | None
    multiply_adds: Count | Amount
    extra_computation: Amount
    parameters: Count


@with_config(OPEN)
class ComparisonRow(Figures):
    """One arm at one seed."""

    arm: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    seconds: Amount
    head_seconds: NotRequired[Amount]


def read_row(content: Any) -> dict[str, Any]:
    """The row, checked; `pydantic.ValidationError`, a `ValueError`, says what is wrong with it."""
    return dict(_adapter().validate_python(content))


@cache
def _adapter() -> TypeAdapter[ComparisonRow]:
    return TypeAdapter(ComparisonRow)
