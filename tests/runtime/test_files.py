"""Files are whole or absent, and what cannot be read or written is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import (
    Chunks,
    plain,
    read_json,
    read_lines,
    read_tensors,
    to_line,
    write_json,
    write_tensors,
    write_text,
    written_atomically,
)  # fmt: skip

FORMAT = "selfinformed.test/1"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_whole_in_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b" / "file.txt", "é")
    assert (tmp_path / "a" / "b" / "file.txt").read_text("utf-8") == "é"
    assert names_in(tmp_path / "a" / "b") == ["file.txt"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "content")
    finally:
        os.umask(old)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", ["old", None])
def test_a_failure_inside_the_context_changes_nothing(tmp_path, failure, before):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)

    def write_half() -> None:
        with written_atomically(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert names_in(tmp_path) == ([] if before is None else ["file.txt"])
    assert before is None or path.read_text() == before


def test_a_full_disk_is_named_and_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SelfInformedError, match=r"file\.txt cannot be written: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("number", "written"), [(errno.EOPNOTSUPP, True), (errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_may_sync_files_alone(tmp_path, monkeypatch, number, written):
    whole = os.fsync

    def of_files_alone(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        whole(handle)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    with nullcontext() if written else pytest.raises(SelfInformedError, match=r"file\.txt cannot be written"):
        write_text(tmp_path / "file.txt", "new")


def test_a_disk_that_fills_up_under_safetensors_is_named(tmp_path):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(SelfInformedError, match=r"big\.safetensors cannot be written"):
            write_tensors(tmp_path / "big.safetensors", {"a": np.zeros(10_000)}, {"format": FORMAT})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(SelfInformedError, match=r"taken/file\.txt cannot be written"):
        write_text(tmp_path / "taken" / "file.txt", "content")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SelfInformedError, match=r"file\.txt cannot be written: Permission denied"):
        write_text(tmp_path / "file.txt", "content")


def test_a_refused_temporary_file_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SelfInformedError, match=r"file\.txt cannot be written: Permission denied"):
        write_text(tmp_path / "file.txt", "content")


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SelfInformedError, match="folder cannot be written"):
        write_text(tmp_path / "folder", "content")
    assert names_in(tmp_path) == ["folder"]


def test_tensors_come_back(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3).T, "empty": np.zeros((0, 4), np.float32)}
    write_tensors(tmp_path / "t.safetensors", arrays, {"format": FORMAT, "seed": "3"})
    found, metadata = read_tensors(tmp_path / "t.safetensors", FORMAT)
    assert metadata == {"format": FORMAT, "seed": "3"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@settings(max_examples=30)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_tensors_are_named(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("truncated") / "t.safetensors"
    write_tensors(path, {"a": np.arange(50)}, {"format": FORMAT})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SelfInformedError, match=r"t\.safetensors is not a whole safetensors file"):
        read_tensors(path, FORMAT)


def test_other_formats_are_named(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"a": np.arange(3)}, {"format": "selfinformed.other/1"})
    with pytest.raises(SelfInformedError, match=rf"t\.safetensors: expected a file of format {FORMAT}, this one is selfinformed\.other/1"):
        read_tensors(tmp_path / "t.safetensors", FORMAT)
    save_file({"a": np.arange(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(SelfInformedError, match=r"foreign\.safetensors.*none of selfinformed's"):
        read_tensors(tmp_path / "foreign.safetensors", FORMAT)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(SelfInformedError, match=r"t\.safetensors does not exist"):
        read_tensors(tmp_path / "t.safetensors", FORMAT)
    with pytest.raises(SelfInformedError, match=r"plan: .*plan\.json does not exist"):
        read_json(tmp_path / "plan.json", "plan")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"[" * 100_000])
def test_bad_json_is_named(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(SelfInformedError, match=r"plan: .*plan\.json cannot be read as JSON"):
        read_json(tmp_path / "plan.json", "plan")


def test_plain_knows_numpy_nesting_and_nan():
    content = {
        "nan": float("nan"), "infinite": [np.float32("inf"), -np.inf], "count": np.int64(3), "flag": np.bool_(True), 7: "number",
        "array": np.array([[1.0, np.nan]]), "scalar": np.array(2), "path": Path("a/b"), "nested": ({"x": (np.arange(2),)},), "none": None,
    }  # fmt: skip
    assert plain(content) == {
        "nan": None, "infinite": [None, None], "count": 3, "flag": True, "7": "number",
        "array": [[1.0, None]], "scalar": 2, "path": "a/b", "nested": [{"x": [[0, 1]]}], "none": None,
    }  # fmt: skip
    assert type(plain(np.int64(3))) is int
    assert type(plain(np.bool_(True))) is bool


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(json_like)
def test_json_comes_back_plain(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, content)
    assert read_json(path, "x") == plain(content)
    json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@settings(max_examples=200)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_noticed(tmp_path_factory, share, bit):
    """In a checksum's own name it may go unnoticed, where it does no harm."""
    folder = tmp_path_factory.getbasetemp()
    arrays, row = {"a": np.arange(20.0), "b": np.arange(7, dtype=np.int8)}, {"names": ["é", "b"], "number": 0.1}
    write_tensors(folder / "flipped.safetensors", arrays, {"format": FORMAT, "n": "20"})
    write_json(folder / "flipped.json", row)
    (folder / "flipped.jsonl").write_text(to_line(row) + "\n")
    for path in (folder / "flipped.safetensors", folder / "flipped.json", folder / "flipped.jsonl"):
        data = bytearray(path.read_bytes())
        data[int(share * len(data))] ^= 1 << bit
        path.write_bytes(data)
    try:
        found, metadata = read_tensors(folder / "flipped.safetensors", FORMAT)
        assert {k: v for k, v in metadata.items() if len(v) != 64} == {"format": FORMAT, "n": "20"}
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    except SelfInformedError as error:
        assert "delete it" in str(error) or "expected a file of format" in str(error)
    for found in ([read_json(folder / "flipped.json", "test")] if unchanged(folder / "flipped.json") else []) + read_lines(folder / "flipped.jsonl"):
        assert {key: found[key] for key in row} == row


def unchanged(path: Path) -> bool:
    try:
        read_json(path, "test")
    except SelfInformedError as error:
        assert "delete it" in str(error)
        return False
    return True


def test_the_checksum_is_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": Chunks((4, 3), np.dtype("float32"), (np.full((2, 3), n, np.float32) for n in range(2)))}, {"format": FORMAT})
    with safe_open(str(path), "np") as file:
        claimed = file.metadata()["checksum"]
    assert hashlib.sha256(path.read_bytes().replace(claimed.encode(), b"0" * 64)).hexdigest() == claimed
    assert "checksum" not in read_tensors(path, FORMAT)[1]


def test_an_object_carries_the_checksum_of_its_sorted_compact_content(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 0.5], "a": "é"})
    content = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert content.pop("checksum") == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert read_json(tmp_path / "a.json", "test") == content == {"b": [1, 0.5], "a": "é"}
