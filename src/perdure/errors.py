"""Every error perdure raises on purpose, grouped by whose turn it is.

    PerdureError
    ├── SettingsError     your settings          exit 2
    ├── UsageError        your call              exit 2
    ├── DataError         your data              exit 3
    ├── ModelError        this model folder      exit 4
    ├── MachineError      this machine           exit 5
    ├── Interrupted       you asked to stop      exit 6
    ├── NonFiniteError    the numbers broke      exit 7
    ├── RunLocked         another run is here    exit 8
    └── PromiseBroken     a method moved what it promised to keep   exit 70

Each says what was found, what was expected, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PerdureError(Exception):
    """Base of all errors raised on purpose.

    Args:
        found: what was met, at most a sentence; long values are cut to 100 characters by the caller.
        expected: what would have been right.
        where: file and line, section and key, or argument.
        fix: the next thing to do.
    """

    exit_code = 70

    def __init__(self, found: str, *, expected: str = "", where: str = "", fix: str = "") -> None:
        super().__init__(found)
        self.found, self.expected, self.where, self.fix = found, expected, where, fix

    def lines(self) -> list[str]:
        """The message as at most four short lines: what, expected, where, what to do."""
        parts = [("", self.found), ("expected: ", self.expected), ("where: ", self.where), ("fix: ", self.fix)]
        return [label + text for label, text in parts if text]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def as_dict(self) -> dict[str, object]:
        """The same for `--json` and for servers."""
        return {
            "error": type(self).__name__,
            "found": self.found,
            "expected": self.expected,
            "where": self.where,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class SettingsError(PerdureError):
    """A recipe or an override is wrong. `found` may list several faults, one a line."""

    exit_code = 2


class UsageError(PerdureError):
    """A command or function was called with arguments that cannot be answered."""

    exit_code = 2


class DataError(PerdureError):
    """The event log or an attribute table cannot be used as it is."""

    exit_code = 3


class ModelError(PerdureError):
    """A model or run folder is damaged, unsafe, unknown or too new."""

    exit_code = 4


class MachineError(PerdureError):
    """Not enough memory or disk, or a device that is not there."""

    exit_code = 5


class Interrupted(PerdureError):
    """The run was asked to stop; what it had, if it had begun a task, is saved and can be resumed."""

    exit_code = 6


class NonFiniteError(PerdureError):
    """A loss, gradient or weight is NaN or infinite; nothing was updated or saved with it."""

    exit_code = 7


class RunLocked(PerdureError):
    """Another process writes this run folder."""

    exit_code = 8


class PromiseBroken(PerdureError):
    """A method that keeps older tasks moved a tensor they depend on: a fault of the method."""

    exit_code = 70


def shorten(value: object, limit: int = 100) -> str:
    """`value` as one printable line of at most `limit` characters, control characters escaped."""
    text = (
        str(value).encode("unicode_escape", "backslashreplace").decode("ascii")
        if not str(value).isprintable()
        else str(value)
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def closest(name: object, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `names` that `name` was likely meant to be, or "": letter case, spaces, `_` and `-` do not count."""
    plain = {_plain(one): one for one in reversed(list(names))}
    near = difflib.get_close_matches(_plain(str(name)), plain, n=1, cutoff=cutoff)
    return plain[near[0]] if near else ""


def _plain(name: str) -> str:
    return name.casefold().translate(dict.fromkeys(map(ord, " _-")))
