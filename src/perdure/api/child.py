"""Processes that this library starts for itself: what parent and child say to each other, a line of JSON each.

The child reads one request from its standard input and tells its progress and its answer on standard output. It ends
when its standard input does: a killed parent leaves no orphan. Signals reach the parent alone, as the child leads a
session of its own. The calling program is not run again in it.                                   [reads, writes]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import perdure
from perdure import errors
from perdure.errors import Interrupted, MachineError, PerdureError

__all__ = ["Teller", "answer", "end", "fault_of", "listen", "say", "start"]

EVERY = 0.2  # seconds between two steps told


# -- the parent --------------------------------------------------------------------------------------------------------


def start(module: str) -> subprocess.Popen[str]:
    """A process that runs `serve` of a module of this library."""
    source = str(Path(perdure.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-W", "ignore", "-c", f"from {module} import serve; serve()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, encoding="utf-8", env=environment, start_new_session=True)


def end(child: subprocess.Popen[str]) -> None:
    """Whatever it does, it is over, and its pipes are closed."""
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    child.wait()


def say(pipe: IO[str] | None, line: Mapping[str, Any]) -> None:
    """One line for a child."""
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):  # it has died: its exit code tells
            pipe.write(json.dumps(line) + "\n")
            pipe.flush()


def listen(pipe: IO[str] | None, show: Any = None) -> dict[str, Any] | None:
    """Pass on what is shown; the last line, with the answer or the fault, or None where there is none."""
    for line in pipe or ():
        try:
            told = json.loads(line)
        except ValueError:  # a signal tore it
            continue
        if "show" not in told:
            return told
        if hasattr(show, told["show"]):  # phase is told to whoever has it
            getattr(show, told["show"])(*told["given"], **told["named"])
    return None


def fault_of(told: Mapping[str, Any]) -> PerdureError:
    """The error a child ended with."""
    kind = getattr(errors, str(told["error"]), PerdureError)
    return kind(told["found"], expected=told["expected"], where=told["where"], fix=told["fix"])


# -- the child ---------------------------------------------------------------------------------------------------------


class Teller:
    """A display whose lines go to the parent."""

    def __init__(self, pipe: IO[str]) -> None:
        self.pipe, self._said = pipe, 0.0

    def tell(self, line: Mapping[str, Any]) -> None:
        """One line."""
        self.pipe.write(json.dumps(line) + "\n")
        self.pipe.flush()

    def step(self, *given: Any, **named: Any) -> None:
        """After every step; told a few times a second."""
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self.tell({"show": "step", "given": given, "named": named})

    def phase(self, *given: Any, **named: Any) -> None:
        """While something long goes on besides the steps."""
        self.tell({"show": "phase", "given": given, "named": named})

    def epoch(self, *given: Any, **named: Any) -> None:
        """After every epoch."""
        self.tell({"show": "epoch", "given": given, "named": named})

    def counted(self, *given: Any, **named: Any) -> None:
        """After what a method counts once a task is trained."""
        self.tell({"show": "counted", "given": given, "named": named})

    def row(self, *given: Any, **named: Any) -> None:
        """After every task."""
        self.tell({"show": "row", "given": given, "named": named})


@contextlib.contextmanager
def _told(teller: Teller) -> Iterator[None]:
    """Whatever goes wrong is told to the parent."""
    try:
        yield
    except PerdureError as fault:
        teller.tell({"fault": fault.as_dict()})
    except KeyboardInterrupt:
        teller.tell({"fault": Interrupted("stopped").as_dict()})
    except MemoryError:
        fix = "make batch_size, width or max_length smaller"
        teller.tell({"fault": MachineError("out of memory", fix=fix).as_dict()})
    except Exception as fault:
        import traceback

        traceback.print_exc()
        text = str(fault).splitlines()[0] if str(fault) else ""
        teller.tell({"fault": PerdureError(f"{type(fault).__name__}: {text}").as_dict()})


def answer(verbs: Mapping[str, Callable[[Mapping[str, Any], Teller], Any]]) -> None:
    """The child: do what standard input asks. What libraries print goes to standard error."""
    teller = Teller(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with _told(teller):
        teller.tell({"answer": verbs[told["verb"]](told["request"], teller)})


def _leave_with_parent() -> None:
    """Wait until standard input ends, then stop at once: what was saved stands, and the run can be resumed."""
    sys.stdin.read()
    os._exit(Interrupted.exit_code)
