"""Numbers on the report's page: each says where it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from selfinformed.runtime.files import plain

SEEN = 5e-5  # of a share: what two digits of a percentage show


@dataclass(frozen=True)
class Number:
    """A number as text and, for HTML, as a `<data>` element.

    Attributes:
        value: None, NaN or infinite: a dash.
        source: FILE#POINTER, the JSON pointer of the value in an artefact; empty for what is computed from several.
        form: how it is written.
        scale: what it is multiplied by to be written.
    """

    value: float | None
    source: str = ""
    form: str = "{}"
    scale: float = 1

    def __str__(self) -> str:
        if self.value is None or not np.isfinite(self.value):
            return "–"
        return self.form.format(self.scale * self.value if self.scale != 1 else self.value)

    def __html__(self) -> str:
        from markupsafe import Markup

        if self.value is None or not np.isfinite(self.value):
            return "–"
        source = Markup(' data-from="{}"').format(self.source) if self.source else ""
        return Markup('<data value="{}"{}>{}</data>').format(json.dumps(plain(self.value)), source, str(self))

    @staticmethod
    def pair(low: Number, high: Number, unit: str = "") -> str:
        """From one to the other, in HTML; nothing where there is no such interval, as of a single seed."""
        from markupsafe import Markup

        if any(end.value is None or not np.isfinite(end.value) for end in (low, high)):
            return ""
        return Markup("{} to {}{}").format(low, high, unit and f" {unit}")


def percent(value: float | None, source: str = "", digits: int = 2) -> Number:
    """A share, 0 to 1, in percent."""
    return Number(value, source, f"{{:.{digits}f}}", 100)


def points(value: float | None, source: str = "") -> Number:
    """A difference of shares in points, with its sign."""
    return Number(value, source, "{:+z.2f}", 100)


def tone(low: float, high: float, least: float = 0.0) -> str:
    """`good` where an interval is above zero, and by more than `least`, `bad` where below."""
    return "good" if low > least else "bad" if high < -least else ""
