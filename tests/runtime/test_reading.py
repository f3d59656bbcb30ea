"""One door: what is no regular file, too large or too deep stops there, by name."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from conftest import refused
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_DEPTH, check_tensors, first_line, naming, opened, parsed, read_text, reason_of, shown


@pytest.mark.parametrize(("said", "line"), [("", "RuntimeError"), ("\n \n", "RuntimeError"), ("\nreal reason\nmore", "real reason"), ("one", "one")])
def test_the_first_line_says_something(said, line):
    assert first_line(RuntimeError(said)) == line


def test_a_file_is_read_and_so_is_a_link_to_it(tmp_path):
    (tmp_path / "a").write_bytes(b"\xc3\xa9\r\n")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_text(tmp_path / "a", "x") == read_text(tmp_path / "link", "x") == "é\n"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path, said in ((tmp_path / "pipe", "a pipe or a device"), ("/dev/zero", "a pipe or a device"), (tmp_path, "is a folder"), (tmp_path / "no",
    "does not exist")):
        with refused(f"x: {path}", said):
            read_text(path, "x")
    with refused("cannot be read", "null"):
        read_text("a\0b", "x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_size_is_checked_before_reading(tmp_path):
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(2**40)
    with refused("hole has 1,099,511,627,776 bytes; expected at most 10"), opened(tmp_path / "hole", "x", 10):
        pass


def test_text_of_another_encoding_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff")
    with refused("a cannot be read", "utf-8"):
        read_text(tmp_path / "a", "x")


nested = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner,
max_size=3), max_leaves=9)


@settings(max_examples=60)
@given(nested)
def test_json_of_any_content_is_parsed(content):
    assert parsed(json.dumps(content)) == content
    assert parsed(json.dumps(content, ensure_ascii=False, indent=1)) == content


def test_json_is_as_deep_as_allowed_and_no_deeper():
    assert parsed("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    for opening, text in (("[", "[" * (MOST_DEPTH + 1)), ('{"a":', '{"a":' * (MOST_DEPTH + 1)), ("[", "[" * 1_000_000)):
        with pytest.raises(ValueError, match="nested more than"):
            parsed(text + opening)
    assert parsed(json.dumps("[" * 1_000 + '\\"')) == "[" * 1_000 + '\\"'  # a label may be called so


def test_headers_of_tensors_are_no_longer_than_their_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(3)}, path)
    check_tensors(path, "x")
    content = path.read_bytes()
    for length in (len(content) - 7, 2**40, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + content[8:])
        with pytest.raises(ValueError, match="a header of"):
            check_tensors(path, "x")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="a header of"):
        check_tensors(path, "x")


def test_errors_name_the_file_once():
    with refused("^a: b$"), naming("a"):
        raise SelfInformedError("b")
    with refused("^b a$"), naming("a"):
        raise SelfInformedError("b a")


def test_what_errors_show_is_short():
    assert shown("x\n" * 1_000) == f"{('x' + chr(92) + 'n') * 1_000!r}"[:1] + ("x\\n" * 40)[:79] + "…"
    assert shown(list(range(1_000))) == "list of 1000"
    assert len(reason_of(ValueError("a\n" * 1_000))) == 301
    assert reason_of(KeyError("a")) == "it has no 'a'"
