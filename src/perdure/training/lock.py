"""One writer a folder. The lock is held by the system, so that a killed writer's lock opens alone.  [reads, writes]"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from perdure.errors import MachineError, RunLocked
from perdure.model.files import parse, render

__all__ = ["Lock"]


class Lock:
    """The file `lock` of a folder, with pid and start of its writer.

    Args:
        folder: it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._handle = folder, -1

    def take(self, since: str) -> None:
        """Raises RunLocked where another process writes in the folder; MachineError where its disk holds no locks."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(handle)
        except OSError as fault:
            told = os.read(handle, 4096)
            os.close(handle)
            if not isinstance(fault, BlockingIOError):
                raise MachineError(
                    f"the folder cannot be locked: {fault.strerror}", where=str(self.folder), fix="choose another disk"
                ) from None
            other = parse(told or b"{}", str(self.folder / "lock"))
            raise RunLocked(
                f"another run writes this folder (process {other.get('pid')}, since {other.get('since')})",
                where=str(self.folder),
                fix="wait for it, stop it, or choose another folder",
            ) from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, render({"pid": os.getpid(), "since": since, "host": platform.node()}), 0)
        except OSError:
            os.close(handle)  # and with it the lock
            raise
        self._handle = handle

    def leave(self) -> None:
        """Let go of it; nothing where it was not taken."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1


def _hold(handle: int) -> None:
    """Lock an open file for this process; the system lets go of it when the process ends, however it ends."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
