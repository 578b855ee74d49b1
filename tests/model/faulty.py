"""A disk that fails at one chosen operation."""

from __future__ import annotations

import errno

from perdure.model.disk import Disk

OPERATIONS = ("make_folder", "write", "append", "read", "sync_folder", "rename", "remove", "remove_folder")


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


class Faulty(Disk):
    """A disk on which operation number `at` goes wrong in the way `fault` says; after a kill nothing works."""

    def __init__(self, at: int = -1, fault: str = "") -> None:
        self.at, self.fault, self.count, self.dead, self.log = at, fault, 0, False, []

    def __getattribute__(self, name: str):
        real = super().__getattribute__(name)
        return self.guard(name, real) if name in OPERATIONS else real

    def guard(self, name: str, real):
        def operation(*args):
            if self.dead:
                raise Killed
            number, self.count = self.count, self.count + 1
            self.log.append(name)
            if number == self.at:
                if self.fault in ("kill", "torn"):
                    self.dead = True
                    if self.fault == "torn" and name == "write":
                        args[0].write_bytes(args[1][: len(args[1]) // 2])
                    raise Killed
                if self.fault in ("ENOSPC", "EIO"):
                    code = getattr(errno, self.fault)
                    raise OSError(code, self.fault)
                if name == "write":  # short write: half the bytes reach the disk and nobody says so
                    return real(args[0], args[1][: len(args[1]) // 2])
            return real(*args)

        return operation
