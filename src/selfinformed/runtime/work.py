"""Work units: work divided into files of a folder that any number of processes fill together, however often they are killed.

No process needs to know of the others. A manifest says what the results depend on; whoever starts first writes it, everyone else must agree
with it. A process claims a unit by creating a file, does it, and writes its result whole or not at all; the first result of a unit stays. A
claim whose process is gone is taken over. Claims only save work: a unit done twice gives the same file twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.runtime.device import rank, world_size
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import Chunks, cannot_write, differences, read_object, write_json, write_tensors
from selfinformed.runtime.progress import progress
from selfinformed.runtime.reading import parsed

Result = tuple[Mapping[str, np.ndarray | Chunks], Mapping[str, str]]

ATTEMPTS = 3  # times a process tries a unit
LEASE = 60.0  # seconds without a sign of life after which a claim of another host is taken over
_POLL = 0.5  # seconds between looks at what others have done


def do_units(folder: Path, manifest: Mapping[str, Any], n_units: int, work: Callable[[int], Result], what: str) -> list[Path]:
    """Does every unit that has no result yet, together with all processes that call this for the same folder.

    Args:
        folder: where manifest, claims and results are; shared by all processes.
        manifest: everything the results depend on, as JSON values.
        n_units: how many units there are.
        work: takes a unit's number and gives its result as arrays and metadata for `write_tensors`.
        what: name of the work, for the progress bar and errors.

    Returns:
        The file of each unit, in order; all are there.

    Raises:
        SelfInformedError: the folder's manifest differs; a file cannot be written; a unit failed three times, in which case all others
            are done and kept.
    """
    _agree(folder / "manifest.json", {**manifest, "n_units": n_units})
    remove_leftovers(folder)
    results = [folder / f"unit-{unit:06d}.safetensors" for unit in range(n_units)]
    failed: dict[int, Exception] = {}
    for unit in progress(_turns(folder / "claims", results, failed), sum(not result.exists() for result in results), what):
        try:
            arrays, metadata = _attempted(work, unit)
        except Exception as error:  # whatever the network or the data do
            failed[unit] = error
        else:
            write_tensors(results[unit], arrays, metadata, keep=True)
    if failed:
        unit, reason = min(failed.items(), key=lambda item: item[0])
        text = str(reason) if isinstance(reason, SelfInformedError) else f"{type(reason).__name__}: {reason}"
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise SelfInformedError(
            f"{what}: unit {unit} of {n_units}{others} failed {ATTEMPTS} times: {text}; the {n_units - len(failed)} others are kept, run again to resume"
        )
    return results


def _turns(claims: Path, results: list[Path], failed: Mapping[int, Exception]) -> Iterator[int]:
    """Units claimed one after another until each has a result or failed here; each process begins at another place."""
    world = world_size()
    first = rank() % world * len(results) // world
    order = [*range(first, len(results)), *range(first)]
    while left := [unit for unit in order if unit not in failed and not results[unit].exists()]:
        worked = False
        for unit in left:
            with _claimed(claims / f"{unit:06d}.json") as mine:
                if mine and not results[unit].exists():
                    worked = True
                    yield unit
        if not worked:
            time.sleep(_POLL)


def _attempted(work: Callable[[int], Result], unit: int) -> Result:
    for attempt in range(1, ATTEMPTS):
        try:
            return work(unit)
        except Exception:  # tried again; the last time it is let through
            time.sleep(0.1 * attempt)
    return work(unit)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written, or claimed and done: all hidden files here are temporary."""
    remove_old([*folder.glob(".*"), *folder.glob("claims/.*")], folder)
    for claim in folder.glob("claims/*.json"):  # of a process that ended between its result and its claim
        if (folder / f"unit-{claim.stem}.safetensors").exists():
            claim.unlink(missing_ok=True)


def remove_old(temporary: Iterable[Path], folder: Path) -> None:
    """Removes temporary files below a folder whose writers must be gone; of younger ones they may live."""
    for path in temporary:
        with contextlib.suppress(OSError):
            if _clock(folder) - path.stat().st_mtime > LEASE:
                path.unlink()


def _agree(path: Path, manifest: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, manifest, keep=True)
    if changes := differences(read_object(path, "manifest"), manifest):
        raise SelfInformedError(f"{path.parent} holds work of another run ({changes}); choose another --output, or delete {path.parent}")


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process now holds the claim; while it does, it shows a sign of life."""
    if not _claim(path):
        yield False
        return
    done = threading.Event()

    def live() -> None:
        while not done.wait(LEASE / 6):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        done.set()
        thread.join()
        path.unlink(missing_ok=True)


def _claim(path: Path) -> bool:
    me = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": _started(os.getpid())})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if os.path.lexists(path):
            if not _stale(path):
                return False
            path.unlink(missing_ok=True)  # another may do so too: then a unit is done twice, and the first result stays
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(me, "utf-8")
        _create(path, temporary, me)
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create(path: Path, temporary: Path, content: str) -> None:
    try:
        os.link(temporary, path)  # with its content, or not at all
    except FileExistsError:
        raise
    except OSError:  # no links on this file system, or it is full: then this fails too
        with path.open("x", encoding="utf-8") as file:
            file.write(content)


_MOST_CLAIM = 4096  # bytes


def _stale(path: Path) -> bool:
    """Whether the process that made a claim is gone: known on its own host, elsewhere taken from its silence."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # a pipe would keep whoever reads it waiting, a link to nothing is never gone
            return True
        with path.open("rb") as file:
            owner = parsed(file.read(_MOST_CLAIM).decode())
        gone = owner["host"] == socket.gethostname() and _started(owner["process"]) != owner["started"]
        return bool(gone or abs(_clock(path.parent) - path.stat().st_mtime) > LEASE)  # from the future: of a clock set back
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # no claim of ours
        return True


def _started(process: int) -> str | None:
    """When a process of this host began, in the kernel's ticks; None if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return _alive(process)
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _alive(process: int) -> str | None:
    """Where there is no /proc: only whether it lives."""
    if Path("/proc/self").exists() or os.name == "nt":
        return None
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return "alive"
    except OSError:
        return None
    return "alive"


def _clock(folder: Path) -> float:
    """The time as the folder's file system has it, which all hosts share."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now
