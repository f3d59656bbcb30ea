"""A folder of units is filled once, by however many processes, whatever dies, fails or is full on the way."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from selfinformed.runtime import work as module
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.runtime.work import do_units

FORMAT, N = "selfinformed.test/1", 8
MANIFEST = {"format": FORMAT, "model": "a", "sizes": (2, 3)}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(module, "_POLL", 0.01)
    monkeypatch.delenv("RANK", raising=False)


def tripled(unit: int):
    return {"value": np.array([3 * unit])}, {"format": FORMAT}


def fill(folder: Path, work=tripled, n: int = N, manifest=MANIFEST, factor: int = 3) -> None:
    """Fills a folder without waiting for a lease, and looks at every result."""
    start = time.monotonic()
    paths = do_units(folder, manifest, n, work, "tripling")
    assert time.monotonic() - start < 15
    assert paths == [folder / f"unit-{unit:06d}.safetensors" for unit in range(n)]
    assert [int(read_tensors(path, FORMAT)[0]["value"][0]) for path in paths] == [factor * unit for unit in range(n)]


def fill_only(folder: Path, *units: int, n: int = N) -> None:
    """Fills a folder in which just these units are missing."""
    done = []
    fill(folder, lambda unit: (done.append(unit), tripled(unit))[1], n)
    assert done == list(units)


def fill_noting(folder: Path, n: int, rank: int = 0) -> None:
    """In a process of its own: appends each unit and the process's number to a file, and keeps a unit while `stop-UNIT` is there."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}

    def work(unit: int):
        with (folder / "done.txt").open("a") as file:
            file.write(f"{unit} {os.getpid()}\n")
        while (folder / f"stop-{unit}").exists():
            time.sleep(0.01)
        return tripled(unit)

    fill(folder, work, n)


def noted(folder: Path) -> list[list[int]]:
    return [[int(number) for number in line.split()] for path in folder.glob("done.txt") for line in path.read_text().splitlines()]


def started(*arguments):
    process = multiprocessing.get_context("spawn").Process(target=fill_noting, args=arguments)
    process.start()
    return process


def wait_for(condition) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def claim(folder: Path, text: str | None = None, **changes) -> Path:
    """A claim of unit 0 by this living process, except for the changes."""
    path = folder / "claims" / "000000.json"
    path.parent.mkdir(exist_ok=True)
    owner = {"host": socket.gethostname(), "process": os.getpid(), "started": module._started(os.getpid())}
    path.write_text(json.dumps(owner | changes) if text is None else text)
    return path


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("n", [N, 1, 0])
def test_results_come_in_order_and_are_made_once(tmp_path, n):
    fill_only(tmp_path, *range(n), n=n)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["claims"][:n] + ["manifest.json", *(f"unit-{unit:06d}.safetensors" for unit in range(n))]
    assert list(tmp_path.glob("claims/*")) == []
    fill_only(tmp_path, n=n)


@pytest.mark.parametrize(("rank", "world", "order"), [(0, 2, "01234567"), (1, 2, "45670123"), (2, 3, "56701234"), (0, 0, "01234567"), (7, 20, "23456701")])
def test_each_rank_begins_at_another_place(tmp_path, monkeypatch, rank, world, order):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    fill_only(tmp_path, *map(int, order))
    assert module.rank() == rank


def test_threads_fill_a_folder_together(tmp_path):
    done = Counter()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: fill(tmp_path, lambda unit: done.update([unit]) or time.sleep(0.005) or tripled(unit), 40), range(6)))
    assert done == dict.fromkeys(range(40), 1)


def test_processes_fill_a_folder_together(tmp_path):
    (tmp_path / "stop-0").touch()  # whoever has unit 0 waits until the others have done the rest
    processes = [started(tmp_path, 30, rank) for rank in range(3)]
    wait_for(lambda: len(noted(tmp_path)) == 30)
    (tmp_path / "stop-0").unlink()
    assert [process.join() or process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(unit for unit, _ in noted(tmp_path)) == list(range(30))
    assert len({process for _, process in noted(tmp_path)}) > 1
    fill_only(tmp_path, n=30)


@pytest.mark.parametrize("dies", [False, True])
def test_a_claim_is_respected_while_its_process_lives(tmp_path, dies):
    (tmp_path / "stop-0").touch()
    process = started(tmp_path, 1)
    wait_for(lambda: noted(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        ours = thread.submit(fill_only, tmp_path, *[0][: int(dies)], n=1)
        time.sleep(0.2)
        assert not ours.done()
        process.kill() if dies else (tmp_path / "stop-0").unlink()  # killed, it stays a zombie: nobody asks yet how it ended
        ours.result()
    process.join()


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"host": "HOST", "process": "\\u0000", "started": 0}'])
def test_a_claim_of_nobody_is_taken_over_at_once(tmp_path, text):
    path = claim(tmp_path, text and text.replace("HOST", socket.gethostname()), started="12345")  # its number belongs to another process by now
    fill_only(tmp_path, *range(N))
    assert not path.exists()


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link without end", "deep"])
def test_a_claim_that_is_no_file_keeps_nobody_waiting(tmp_path, kind):
    path = claim(tmp_path, "[" * 4000)
    if kind != "deep":
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero" if "end" in kind else "nowhere")
    fill_only(tmp_path, *range(N))
    assert not os.path.lexists(path)


def test_a_claim_left_behind_by_a_unit_that_is_done_goes(tmp_path):
    fill(tmp_path)
    path = claim(tmp_path, host="elsewhere")
    fill(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("seconds", [100, -100], ids=["silent", "from the future"])
def test_another_hosts_claim_is_respected_until_it_is_silent_for_the_lease(tmp_path, monkeypatch, seconds):
    path = claim(tmp_path, host="elsewhere")
    with ThreadPoolExecutor(1) as thread:
        ours = thread.submit(fill, tmp_path)
        wait_for(lambda: len(list(tmp_path.glob("unit-*"))) == N - 1)
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: 9e9)  # nobody asks this host's clock
            time.sleep(0.1)
        assert not ours.done()
        age(path, seconds)
        ours.result()


def test_whoever_works_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEASE", 0.3)

    def work(unit: int):
        path = tmp_path / "claims" / f"{unit:06d}.json"
        age(path, 1000)
        wait_for(lambda: path.stat().st_mtime > time.time() - 500)
        return tripled(unit)

    fill(tmp_path, work, 2)


def test_the_first_result_stays(tmp_path):
    fill(tmp_path, lambda unit: write_tensors(tmp_path / f"unit-{unit:06d}.safetensors", *tripled(100 * unit)) or tripled(unit), 3, factor=300)


@pytest.mark.parametrize(("error", "said"), [(ValueError("no"), "ValueError: no"), (SelfInformedError("data: 3.png is bad"), "data: 3.png is bad")])
def test_a_unit_is_tried_three_times_and_the_others_are_kept(tmp_path, error, said):
    tries = Counter()

    def failing(unit: int):
        tries[unit] += 1
        if unit in bad or (unit == 0 and tries[0] == 1):
            raise error
        return tripled(unit)

    for bad, more, expected in (([5, 3], r" \(and 1 more\)", [2, 1, 1, 3, 1, 3, 1, 1]), ([3], "", [0, 0, 0, 3, 0, 1, 0, 0])):
        tries.clear()
        kept = f"the {N - len(bad)} others are kept, run again to resume"
        with pytest.raises(SelfInformedError, match=f"^tripling: unit 3 of 8{more} failed 3 times: {said}; {kept}$"):
            fill(tmp_path, failing)
        assert [tries[unit] for unit in range(N)] == expected
    fill_only(tmp_path, 3)


STOPS = [(None, "^$", 3), ((os, "fsync"), "unit-000003.safetensors cannot be written: No space", 3), ((Path, "write_text"), "000004.json cannot be", 4)]


@pytest.mark.parametrize(("what", "said", "kept"), STOPS, ids=["Ctrl-C", "disk too full for a unit", "disk too full for a claim"])
def test_what_stops_the_work_keeps_earlier_results_and_holds_no_claim(tmp_path, monkeypatch, what, said, kept):
    def stopping(unit: int):
        if unit == 3:
            monkeypatch.setattr(*what, full) if what else os.kill(os.getpid(), signal.SIGINT)
        return tripled(unit)

    with pytest.raises((KeyboardInterrupt, SelfInformedError), match=said):
        fill(tmp_path, stopping)
    monkeypatch.undo()
    assert list(tmp_path.glob("claims/*")) == list(tmp_path.glob(".*")) == []
    fill_only(tmp_path, *range(kept, N))


def test_file_systems_without_links_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", full)  # any error
    fill(tmp_path, lambda unit: tripled(1 // 0 if module._claim(tmp_path / "claims" / f"{unit:06d}.json") else unit))


def test_what_was_left_half_written_is_removed_after_the_lease_and_not_before(tmp_path):
    left = [tmp_path / name for name in (".unit-000001.safetensors.a.part", ".manifest.json.a.part", ".unit-000001.safetensors.b.part", ".clock-a")]
    for path, leases in zip(left, [0.5, 0.5, 1.5, 1.5]):
        path.touch()
        age(path, leases * module.LEASE)
    fill(tmp_path)
    assert [path.exists() for path in left] == [True, True, False, False]


def test_work_of_another_run_is_refused_by_what_differs(tmp_path):
    fill(tmp_path)
    for changed, n, said in (
        ({"model": "b"}, N, "model 'a', now 'b'"), ({"sizes": [2, 4]}, N, "sizes [2, 3], now [2, 4]"), ({"seed": 1}, N, "seed None, now 1"),
        ({}, 9, "n_units 8, now 9"), ({"model": "b"}, 9, "model 'a', now 'b', n_units 8, now 9"),
    ):  # fmt: skip
        with pytest.raises(SelfInformedError) as refused:
            fill(tmp_path, n=n, manifest=MANIFEST | changed)
        assert str(refused.value) == f"{tmp_path} holds work of another run ({said}); choose another --output, or delete {tmp_path}"
    for text, said in (("[]", r"manifest\.json holds list where an object was expected"), ("{", r"manifest\.json cannot be read as JSON")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(SelfInformedError, match=said):
            fill(tmp_path)


def test_waiting_for_others_takes_looks_now_and_then(tmp_path, monkeypatch):
    """One between work and the next look, and none while there is work."""
    claim(tmp_path, host="elsewhere")
    path, slept = tmp_path / "claims" / "000000.json", []

    def looked(seconds: float) -> None:
        slept.append(len(list(tmp_path.glob("unit-*"))))
        if len(slept) == 4:
            age(path, 100)

    monkeypatch.setattr(module.time, "sleep", looked)
    fill(tmp_path)
    assert slept == [N - 1] * 4


def test_a_manifest_that_another_writes_meanwhile_is_kept(tmp_path, monkeypatch):
    write = module.write_json

    def after_another(path: Path, content, **options) -> None:
        write(path, {**content, "model": "another"})
        write(path, content, **options)

    monkeypatch.setattr(module, "write_json", after_another)
    with pytest.raises(SelfInformedError, match="model 'another', now 'a'"):
        fill(tmp_path)


def test_a_claim_that_was_taken_over_is_not_missed(tmp_path):
    fill(tmp_path, lambda unit: (tmp_path / "claims" / f"{unit:06d}.json").unlink() or tripled(unit))


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_claim_at_once_one_does(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", full)
    path, create = tmp_path / "claims" / "000000.json", module._create
    monkeypatch.setattr(module, "_create", lambda *given: (create(*given), create(*given)))  # between a look and the link another came
    assert not module._claim(path)
    assert path.exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_proc_a_process_is_asked_for_by_a_signal_that_does_nothing(monkeypatch):
    assert module._alive(os.getpid()) is None  # here there is /proc
    monkeypatch.setattr(Path, "exists", lambda path: False)
    asked = []
    monkeypatch.setattr(os, "kill", lambda *given: asked.append(given))
    assert module._alive(4711) == "alive"
    assert asked == [(4711, 0)]
    monkeypatch.setattr(os, "kill", full)
    assert module._alive(4711) is None

    def not_ours(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    assert module._alive(4711) == "alive"
    monkeypatch.setattr(module, "os", SimpleNamespace(name="nt"))  # where that signal ends a process
    assert module._alive(4711) is None


def test_asking_for_the_time_leaves_nothing(tmp_path):
    assert abs(module._clock(tmp_path) - time.time()) < 60
    assert list(tmp_path.iterdir()) == []
