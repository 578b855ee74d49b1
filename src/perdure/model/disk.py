"""Every operation on files that a save performs, in one small class, so that a test can fail each of them.  [writes]"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from perdure.errors import MachineError


class Disk:
    """Every operation on files that a save performs, one method each, so that a test can fail any one of them."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def append(self, path: Path, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)
            file.flush()

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def sync_folder(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()


DISK = Disk()


@contextlib.contextmanager
def machine_faults(where: Path):
    """Turn what the operating system refuses into MachineError (exit 5)."""
    try:
        yield
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        raise MachineError(
            f"cannot write: {fault.strerror or fault}",
            where=str(where),
            fix="free some space on this disk, then start again" if full else "",
        ) from fault
