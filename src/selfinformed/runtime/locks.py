"""One process at a time: a lock on a folder that the system lets go of when its process ends, however that ends."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_object, write_json
from selfinformed.runtime.work import remove_old


class FolderLock:
    """The right to write artefacts of a folder, held by one process of all that share its file system. Taken again by its holder, it counts.

    Args:
        folder: it holds `.lock`, which is locked, and `.lock.json`, which says by whom.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock")
        self._owner = folder / ".lock.json"

    @contextmanager
    def held(self, work: str) -> Iterator[None]:
        """Holds the lock within this context.

        Args:
            work: what is done, for whoever finds the folder locked.

        Raises:
            SelfInformedError: another process holds it; the message names it. The folder cannot be written.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SelfInformedError(f"{self.folder} is in use by {self._other()}; wait for it, or choose another --output") from None
        except OSError as error:
            raise SelfInformedError(f"{self.folder} cannot be written: {error.strerror}; free the disk or choose another folder") from None
        try:
            if self._lock.lock_counter == 1:
                command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
                remove_old(self.folder.rglob(".*.part"), self.folder)  # since some stages take no lock, a writer may live
                write_json(self._owner, {"host": socket.gethostname(), "process": os.getpid(), "work": work, "command": command})
            yield
        finally:
            if self._lock.lock_counter == 1:
                with suppress(OSError):
                    self._owner.unlink(missing_ok=True)
            self._lock.release()

    def _other(self) -> str:
        try:
            owner = read_object(self._owner, "lock")
            return "process {process} on {host} ({work}: {command})".format(**owner)
        except (SelfInformedError, KeyError):  # it has just begun, or just ended
            return "another process"
