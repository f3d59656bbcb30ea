"""One process at a time: a lock on a folder that the system lets go of when its process ends, however that ends."""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from selfinformed.runtime.errors import InUseError, SelfInformedError
from selfinformed.runtime.files import cannot_write, read_object, write_json
from selfinformed.runtime.work import remove_old

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_SHORT = 60.0  # seconds, for which a file is locked at most while it is read and written
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # as `written_atomically` calls them


class FolderLock:
    """The right to write artefacts of a folder, held by one process of all that share its file system. Taken again by its holder, it counts.

    Args:
        folder: it holds `.lock`, which is locked, and `.lock.json`, which says by whom.
        inner: folders in it that are written too.
    """

    def __init__(self, folder: Path, inner: Sequence[str] = ()) -> None:
        self.folder, self._inner = folder, inner
        self._lock = FileLock(folder / ".lock")
        self._owner = folder / ".lock.json"

    @contextmanager
    def held(self, work: str) -> Iterator[None]:
        """Holds the lock within this context.

        Args:
            work: what is done, for whoever finds the folder locked.

        Raises:
            InUseError: another process holds it; the message names it.
            SelfInformedError: the folder cannot be written or locked, or is not there any more.
        """
        if not self.folder.is_dir():  # the lock would make it anew
            raise SelfInformedError(f"{self.folder} was moved or deleted while it was in use; start again with the folder as it is named now")
        _acquire(self._lock, 0, self.folder, lambda: f"{self._other()}, or choose another --output")
        try:
            if self._lock.lock_counter == 1:
                command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
                left = (path for place in ("*", *(f"{name}/**/*" for name in self._inner)) for path in self.folder.glob(place) if _PART.fullmatch(path.name))
                remove_old(left, self.folder)  # since some stages take no lock, a writer may live
                write_json(self._owner, {"host": socket.gethostname(), "process": os.getpid(), "work": work, "command": command})
            yield
        finally:
            if self._lock.lock_counter == 1:
                with suppress(OSError):
                    self._owner.unlink(missing_ok=True)
            self._lock.release()

    def _other(self) -> str:
        """Who holds the lock, and what to do about it."""
        try:
            owner = read_object(self._owner, "lock")
            who, host = "process {process} on {host} ({work}: {command})".format(**owner), owner["host"]
        except (SelfInformedError, KeyError):  # it has just begun, or just ended
            who, host = "another process", None
        return f"{who}; wait for it{_if_gone(self._lock) if host != socket.gethostname() else ''}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within this context no other process that asks for it changes a file; `.NAME.lock` beside it is what is locked.

    Raises:
        InUseError: another process has it, and does not let go of it.
        SelfInformedError: the folder cannot be written or locked.
    """
    lock = FileLock(path.parent / f".{path.name}.lock")
    _acquire(lock, _SHORT, path, lambda: f"another process; wait for it{_if_gone(lock)}")
    try:
        yield
    finally:
        lock.release()


def _if_gone(lock: FileLock) -> str:
    """What to do about a lock that is a mere file, where the file system knows no others: nobody removes it for a process of another host that was killed."""
    return f", or, if that process is gone, delete {lock.lock_file}" if isinstance(lock, SoftFileLock) else ""


def _acquire(lock: FileLock, timeout: float, path: Path, other: Callable[[], str]) -> None:
    """Takes the lock of a path, for which it waits some seconds at most; `other` says who else has it, and what to do about it."""
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise InUseError(f"{path} is in use by {other()}") from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            hint = "its file system is mounted without locks, mount it with them or choose another"
            raise SelfInformedError(f"{path} cannot be locked: {error.strerror}; {hint}") from None
        raise cannot_write(path, error) from None
