"""Progress bars with an estimate of the time left; silent without a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selfinformed.runtime.device import rank

T = TypeVar("T")

console = Console(stderr=True)


def say(line: str) -> None:
    """Prints a line about what is being done, once among the processes of torchrun."""
    if rank() == 0:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items` under a bar named `what`; the bar is drawn only on a terminal and is gone when done."""
    if not console.is_terminal:
        yield from items
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
