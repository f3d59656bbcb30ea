"""Wall-clock of two networks, measured in alternation so that a drift of the machine's speed meets both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.runtime.device import wait_for


def paired_seconds(
    one: Callable[[Any], Any], other: Callable[[Any], Any], inputs: Any, repeats: int = 20, warm: int = 5
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Seconds [repeats] of either call on the same inputs, after some that are not counted, and the median of other over one."""
    seconds = np.array([[_timed(one, inputs), _timed(other, inputs)] for _ in range(repeats + warm)])[warm:]
    return seconds[:, 0], seconds[:, 1], float(np.median(seconds[:, 1] / seconds[:, 0]))


def _timed(call: Callable[[Any], Any], inputs: Any) -> float:
    start = time.perf_counter()
    wait_for(call(inputs))
    return time.perf_counter() - start
