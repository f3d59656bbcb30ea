"""What is free is what the system says, or less where a container says less."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfinformed.runtime import memory as module
from selfinformed.runtime.memory import free_memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Says how much the system has, and a container of it allows and holds."""

    def system(available: int | None, limit: str | None = None, used: int = 0, cached: int = 0) -> int:
        if available is not None:
            (tmp_path / "meminfo").write_text(f"MemTotal:       999 kB\nMemAvailable:   {available} kB\n")
        if limit is not None:
            (tmp_path / "memory.max").write_text(f"{limit}\n")
            (tmp_path / "memory.current").write_text(f"{used}\n")
            (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
        return free_memory()

    monkeypatch.setattr(module, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_GROUP", tmp_path)
    return system


def test_the_least_of_system_and_container_is_free(system):
    assert system(500) == 500 * 1024
    assert system(500, "max") == 500 * 1024
    assert system(500, "4000", used=3000, cached=1500) == 2500
    assert system(500, "4000", used=5000) == 0


def test_elsewhere_it_is_half_of_what_there_is(system, monkeypatch):
    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.__getitem__)
    assert system(None) == 204_800


def test_here_it_is_something():
    assert 2**20 < free_memory() < 2**50 or not Path("/proc/meminfo").exists()
