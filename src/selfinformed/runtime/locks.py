"""One process at a time: a lock on a folder that the system lets go of when its process ends, however that ends."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_object, write_json
from selfinformed.runtime.work import remove_old

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
        try:
            owner = read_object(self._owner, "lock")
            return "process {process} on {host} ({work}: {command})".format(**owner)
        except (SelfInformedError, KeyError):  # it has just begun, or just ended
            return "another process"
