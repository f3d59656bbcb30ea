"""Tables in terminals wide and narrow, in pipes, and in notebooks."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.tabular import Column, Table, frame, harmless, one_line, percent

ROWS = [
    {"arm": f"arm {i}", "words": "some words that go on " * 3, "a": 0.1 * i, "gain": gain, "tone": tone, "n": 10**i}
    for i, (gain, tone) in enumerate(((0.1, "good"), (-0.1, "bad"), (0.0, "")))
]  # fmt: skip
TABLE = Table("a title", ROWS, (
    Column("arm", lambda row: row["arm"], words=True), Column("words", lambda row: row["words"], words=True),
    *(Column(f"figure {i}", lambda row: f"{row['n']:,}") for i in range(8)),
    Column("gain", lambda row: percent(row["gain"], "+"), tone=lambda row: row["tone"]),
))  # fmt: skip


def printed(table: Table, width: int = 80, terminal: bool = True, **options) -> str:
    file = io.StringIO()
    table.print(Console(file=file, width=width, force_terminal=terminal, **options))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_lost(width: int) -> None:
    text = printed(TABLE, width, color_system=None)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    for i in range(8):
        assert f"figure {i}" in text
    assert text.count("+10.00") == text.count("-10.00") == 1
    assert len(re.findall(r"\b100\b", text)) == 8
    pieces = len(re.findall(r"^arm {2,}", text, re.M))
    assert text.count("arm 1") == pieces
    assert (pieces > 1) == (width < 200)


def test_a_table_of_nothing_is_its_title() -> None:
    assert printed(Table.of("nothing", [])) == "\nnothing\n"
    assert [line.split() for line in printed(Table("none", [], TABLE.columns[:2]), terminal=False).split("\n") if line] == [["none"], ["arm", "words"]]


def test_what_is_surely_above_or_below_zero_has_a_colour() -> None:
    text = printed(TABLE, 200, color_system="standard")
    assert re.search(r"\x1b\[32m *\+10\.00", text)
    assert re.search(r"\x1b\[31m *-10\.00", text)
    assert len(re.findall(r"\x1b\[3[0-9]m", text)) == 2


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[(3|4|9|10)\d", printed(TABLE, 200))


@pytest.mark.parametrize("width", [20, 60, 80])
def test_a_pipe_gets_plain_whole_columns(width: int) -> None:
    text = printed(TABLE, width, terminal=False)
    assert text.isascii()
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 2 + len(ROWS)
    head, *rows = [re.split(r" {2,}", line.strip()) for line in lines[1:]]
    assert head == [column.title for column in TABLE.columns]
    assert rows[0] == ["arm 0", ("some words that go on " * 3).strip(), *["1"] * 8, "+10.00"]


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_on_a_real_terminal(environment: dict[str, str], coloured: bool, tmp_path) -> None:
    import os
    import pty
    import subprocess
    import termios

    script = tmp_path / "shown.py"
    script.write_text(
        "from selfinformed.runtime.tabular import Column, Table\n"
        "row = {'word': '\\x1b[35m漢字[bold]'}\n"
        "Table('t', [row], (Column('word', lambda r: r['word'], True), Column('gain', lambda r: '+10.00', tone=lambda r: 'good'))).print()\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    done = subprocess.run([sys.executable, str(script)], stdout=theirs, env=clean | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    text = shown.decode()
    assert done.returncode == 0
    assert ("\x1b[32m+10.00" in text) == coloured
    assert "\x1b[35m" not in text  # a name cannot steer the terminal
    assert "[35m漢字[bold]" in text


def _read(handle: int) -> bytes:
    import os

    try:
        return os.read(handle, 4096)
    except OSError:  # the other end is closed
        return b""


def test_html_is_escaped_and_short() -> None:
    rows = [{"name": "<script>alert('&')</script>", "multiply_adds": 1000 + i, "share": 0.123456, "none": None, "yes": True} for i in range(40)]
    text = Table.of("<b>title</b>", rows, ("name",)).to_html(most=30)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in text
    assert re.findall(r"<td[^>]*>([^<]*)</td>", text)[1:5] == ["1,000", "0.1235", "-", "True"]
    assert "<th>multiply-adds</th>" in text
    assert text.count("<tr>") == 31
    assert "and 10 more" in text
    assert Table.of("nothing", []).to_html().count("<tr>") == 1


def test_harmless_text_keeps_its_lines() -> None:
    assert harmless("a\nb\x1b[0m\x00漢") == "a\nb [0m 漢"


def test_one_line_takes_the_power_from_control_characters() -> None:
    assert one_line("a\nb\x1b[0m\u2028\x00\u202e漢") == "a b [0m   漢"


def test_shares_are_shown_as_percent() -> None:
    assert [percent(0.12345), percent(0.1, "+"), percent(-0.1, "+", 0), percent(None), percent(float("nan")), percent(float("inf"))] == [
        "12.35", "+10.00", "-10", "-", "-", "-",
    ]  # fmt: skip


def test_frames_without_pandas_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SelfInformedError, match=r"to_frame: pandas is not installed; run: pip install 'selfinformed\[pandas\]'$"):
        frame(ROWS)
