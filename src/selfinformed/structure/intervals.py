"""How sure a mean is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of the mean of values [n], over seeds or over labels, by Student's t; fewer than two give (-inf, inf)."""
    from scipy.stats import t

    if len(values) < 2:
        return (float("-inf"), float("inf"))
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return (float(values.mean()) - half, float(values.mean()) + half)
