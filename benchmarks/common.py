"""What every benchmark shares: data of known structure, medians, peak memory in a process of its own, and the JSON it leaves."""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfinformed.runtime.files import plain, write_json
from selfinformed.runtime.versions import machine, versions

RESULTS = Path(__file__).parent / "results"


def spread_detections(n: int, n_labels: int, top_k: int, seed: int = 0) -> np.ndarray:
    """Distinct detections int64 [n, top_k], all over the labels: the least kind to caches."""
    rng = np.random.default_rng(seed)
    start, step = rng.integers(0, n_labels, (n, 1)), rng.integers(1, n_labels // top_k, (n, 1))
    return rng.permutation(n_labels)[(start + step * np.arange(top_k)) % n_labels]


def planted(
    n: int, n_labels: int, n_groups: int, top_k: int, n_true: int, inside: float, seed: int = 0, part: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples of planted groups plus noise: detections [n, top_k], annotated labels [n, n_true], and each label's group [n_labels].

    An example has a group; its annotated labels and a share `inside` of its detections come from there, the others from all labels. Other
    examples of the same groups come with another `part`.
    """
    group = np.random.default_rng(seed).permutation(np.arange(n_labels) % n_groups)
    rng = np.random.default_rng([seed, part])
    order = np.argsort(group, kind="stable")
    first, size = np.searchsorted(group[order], np.arange(n_groups)), np.bincount(group)

    def within(groups: np.ndarray, number: int) -> np.ndarray:
        return order[first[groups][:, None] + rng.integers(0, size[groups][:, None], (len(groups), number))]

    ids, true = np.empty((n, top_k), np.int64), np.empty((n, n_true), np.int64)
    for a in range(0, n, 50_000):
        own = rng.integers(0, n_groups, min(50_000, n - a))
        drawn = np.where(rng.random((len(own), 4 * top_k)) < inside, within(own, 4 * top_k), rng.integers(0, n_labels, (len(own), 4 * top_k)))
        ids[a : a + len(own)] = _first_distinct(drawn, top_k)
        true[a : a + len(own)] = _first_distinct(within(own, 8 * n_true), n_true)
    return ids, true, group


def median_seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """Median of several runs after one that is not counted."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def bandwidth() -> float:
    """Bytes a second read and written by a copy on all threads."""
    source = torch.ones(50_000_000)
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / median_seconds(lambda: target.copy_(source))


def peak_bytes(work: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """(most bytes that `work` added to a fresh process, what it returned)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    result: tuple[int, Any] = ours.recv()
    process.join()
    return result


def save(name: str, row: dict[str, Any]) -> None:
    """Writes benchmarks/results/NAME.json and prints it."""
    row = {"benchmark": name, "date": date.today().isoformat(), "versions": versions(), "machine": machine(), **row}
    write_json(RESULTS / f"{name}.json", row)
    print(json.dumps(plain(row), indent=1))


def resident_bytes() -> int:
    """Bytes this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _measured(pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = work(*arguments)  # what it holds before it starts, and what it gives back
    before, value = result
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))  # ru_maxrss counts the parent's
    pipe.send((int(peak.split()[1]) * 1024 - before, value))


def _first_distinct(drawn: np.ndarray, number: int) -> np.ndarray:
    """The first `number` different entries of each row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    repeated = np.zeros(drawn.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    place = np.argsort(repeated, axis=1, kind="stable")[:, :number]
    assert not np.take_along_axis(repeated, place, 1).any(), "too few different draws; draw more"
    return np.take_along_axis(drawn, place, 1)
