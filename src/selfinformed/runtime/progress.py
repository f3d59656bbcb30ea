"""Progress bars with an estimate of the time left; without a terminal a line each minute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selfinformed.runtime.device import rank
from selfinformed.runtime.tabular import harmless

T = TypeVar("T")

console = Console(stderr=True)
_EVERY = 60.0  # seconds between two lines


def say(line: str) -> None:
    """Prints a line about what is being done, once among the processes of torchrun."""
    if rank() == 0:
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items` under a bar named `what`, which is gone when done; without a terminal that can redraw a line it says each minute how far it is."""
    if not console.is_interactive:
        start = said = time.monotonic()
        for n, item in enumerate(items, 1):
            yield item
            if n < total and (now := time.monotonic()) - said >= _EVERY:
                said = now
                say(f"           {what}: {n:,} of {total:,}, about {max(1, round((now - start) / n * (total - n) / 60)):,} min left")
        return
    columns = (
        TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)
