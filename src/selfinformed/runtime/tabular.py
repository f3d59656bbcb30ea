"""Tables for people, in a terminal and in a notebook; and rows as a pandas frame."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfinformed.runtime.extras import extra

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

Row = Mapping[str, Any]
_WIDEST = 30  # characters of words on one line where a terminal is narrow


@dataclass(frozen=True)
class Column:
    """How one column reads.

    Attributes:
        title: its heading.
        text: what the cell of a row says.
        words: whether it holds words, which are set left and may be folded, or figures.
        tone: whether what the cell of a row says is surely `good` or `bad`; else empty.
    """

    title: str
    text: Callable[[Row], str]
    words: bool = False
    tone: Callable[[Row], str] = lambda row: ""


@dataclass(frozen=True)
class Table:
    """Rows of plain values (what CSV holds), and the columns that people see.

    Attributes:
        title: one line.
        rows: flat mappings with the same keys; figures are not rounded, shares go from 0 to 1.
        columns: what is shown of them.
    """

    title: str
    rows: Sequence[Row]
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, title: str, rows: Iterable[Row], words: Collection[str] = ()) -> Table:
        """A column for each key of the first row; `words` names those that hold words."""
        rows = list(rows)
        return cls(title, rows, tuple(_column(key, key in words) for key in (rows or [{}])[0]))

    def cells(self) -> list[list[str]]:
        """What is shown, each cell on one line."""
        return [[one_line(column.text(row)) for column in self.columns] for row in self.rows]

    def to_html(self, most: int = 30) -> str:
        """A small HTML table, escaped, of at most so many rows."""
        head = "".join(f"<th>{html.escape(one_line(column.title))}</th>" for column in self.columns)
        sides = ["left" if column.words else "right" for column in self.columns]
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:{side}">{html.escape(cell)}</td>' for side, cell in zip(sides, cells, strict=True)) + "</tr>"
            for cells in self.cells()[:most]
        )
        more = f"<p>and {len(self.rows) - most:,} more</p>" if len(self.rows) > most else ""
        return f"<p>{html.escape(self.title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"

    def print(self, console: Console | None = None) -> None:
        """On a terminal ruled, in colour, and cut into as many pieces as its width asks for; elsewhere plain columns, however wide."""
        from rich import box, table
        from rich.console import Console
        from rich.text import Text

        console = console or Console()
        if not console.is_terminal:
            console = Console(file=console.file, width=_ENOUGH, color_system=None)
        console.print(Text(f"\n{one_line(self.title)}"), soft_wrap=True)
        for columns in self._pieces(console.width) if self.columns else []:
            drawn = table.Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
            for column in columns:
                drawn.add_column(Text(column.title), justify="left" if column.words else "right", no_wrap=not column.words, overflow="fold")
            for row in self.rows:
                drawn.add_row(*(Text(one_line(column.text(row)), _STYLES[column.tone(row)]) for column in columns))
            console.print(drawn)
            console.print()

    def _pieces(self, width: int) -> list[tuple[Column, ...]]:
        """The columns in pieces no wider than `width`, each led by the first."""
        from rich.cells import cell_len

        lengths = [max(map(cell_len, column)) for column in zip([c.title for c in self.columns], *self.cells(), strict=True)]
        first, *others = [min(n, _WIDEST) if column.words else n for n, column in zip(lengths, self.columns, strict=True)]
        pieces, used = [[self.columns[0]]], first
        for column, length in zip(self.columns[1:], others, strict=True):
            if used + 3 + length > width and len(pieces[-1]) > 1:
                pieces.append([self.columns[0]])
                used = first
            pieces[-1].append(column)
            used += 3 + length
        return [tuple(piece) for piece in pieces]


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a pandas frame.

    Raises:
        SelfInformedError: the extra `pandas` is not installed.
    """
    return extra("pandas", "to_frame").DataFrame(list(rows))


def percent(value: float | None, sign: str = "", digits: int = 2) -> str:
    """A share as percent; `-` where there is none."""
    return f"{100 * value:{sign}z.{digits}f}" if value is not None and math.isfinite(value) else "-"


def harmless(text: str) -> str:
    """Control characters that steer a terminal as spaces; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def one_line(text: str) -> str:
    """Line breaks and control characters, those that steer a terminal among them, as spaces."""
    return harmless(text).replace("\n", " ")


_STYLES = {"good": "green", "": "", "bad": "red"}
_ENOUGH = 100_000  # columns of output that nobody folds


def _column(key: str, words: bool) -> Column:
    return Column(key.replace("multiply_adds", "multiply-adds").replace("_", " "), lambda row: _text(row[key]), words)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
