"""Ctrl-C and SIGTERM: the first asks a run to save and stop, the second stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from perdure.errors import Interrupted

NAMES = ("SIGTERM", "SIGINT", "SIGHUP")


def heeded(number: int) -> bool:
    """Whether a signal is not ignored, as `nohup` has some, and a shell those of what it puts into the background."""
    return signal.getsignal(number) is not signal.SIG_IGN


class Asked(BaseException):
    """Raised by the first signal inside `Signals.raising`, where nothing is lost by stopping in the middle."""


class Signals:
    """`with Signals() as signals:` installs the handlers and puts the old ones back; only the main thread can.

    Attributes:
        asked: name of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._raising = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name, None)
                if number is not None and heeded(number):
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: C code had set it

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise Interrupted(
                "stopped at once by a second signal", fix='resume="auto" continues from the last checkpoint'
            )
        self.asked = signal.Signals(number).name
        if self._raising:
            raise Asked

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, the first signal raises Asked; one that came before does so on entry."""
        self._raising = True
        try:
            if self.asked is not None:
                raise Asked
            yield
        finally:
            self._raising = False

    def interrupted(self) -> Interrupted:
        """The error to raise once everything is saved."""
        by = self.asked or "a signal to another process"
        return Interrupted(f"stopped by {by}; everything is saved", fix='resume="auto" continues')
