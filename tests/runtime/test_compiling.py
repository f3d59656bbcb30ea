"""Compiled loops are kept on disk where there is a folder to write to, and run where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from numba import config
from numba.core.caching import FunctionCache

from selfinformed.runtime.compiling import compiled


def double(n: int) -> int:
    return 2 * n


def test_what_was_compiled_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiled(double)(3) == 6
    assert list(tmp_path.rglob("*double*.nbi"))


def test_without_a_folder_to_keep_it_in_a_function_is_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FunctionCache._impl_class, "_locator_classes", [])
    function = compiled(double)
    assert (function(3), function.stats.cache_path) == (6, None)  # type: ignore[attr-defined]
