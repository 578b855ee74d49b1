"""Work in a process of its own, so that its peak memory is its own and its crash is nobody else's.   [reads, writes]

The child reads one request (a line of JSON) from its standard input and tells its progress and its answer on standard
output, a line of JSON each. It ends when its standard input does: a killed parent leaves no orphan. Signals reach the
parent alone (the child leads a session of its own), which passes the first one on and waits until all is saved.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import perdure
from perdure import errors
from perdure.errors import Interrupted, MachineError, PerdureError

__all__ = ["ask", "serve"]

EVERY = 0.2  # seconds between two steps told


# -- the parent --------------------------------------------------------------------------------------------------------


def ask(verb: str, request: Mapping[str, Any], signals: Any, show: Any = None) -> dict[str, Any]:
    """Let a child do something and give its answer.

    Args:
        verb: a function of `perdure.api.work`. request: what it is given, JSON.
        signals: an entered `training.signals.Signals`: the first signal lets the child save and stop.
        show: told the child's progress.

    Raises:
        PerdureError: what the child ended with. Interrupted: it was stopped. MachineError: it was killed.
    """
    from perdure.training.signals import Asked

    source = str(Path(perdure.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-W", "ignore", "-c", "from perdure.api.apart import serve; serve()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(command, **pipes, text=True, encoding="utf-8", env=environment, start_new_session=True)
    try:
        try:
            with signals.raising():
                _write(child.stdin, {"verb": verb, "request": request})
                end = _follow(child.stdout, show)
        except Asked:
            child.terminate()
            end = _follow(child.stdout, show)  # a second signal raises Interrupted here
        code = child.wait()
    finally:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        child.wait()
    fault = _died(code) if end is None else _fault(end["fault"]) if "fault" in end else None
    if fault is not None:
        raise signals.interrupted() if signals.asked is not None else fault
    return end["answer"]  # type: ignore[index]


def _write(pipe: IO[str] | None, line: Mapping[str, Any]) -> None:
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):  # it has died: its exit code tells
            pipe.write(json.dumps(line) + "\n")
            pipe.flush()


def _follow(pipe: IO[str] | None, show: Any) -> dict[str, Any] | None:
    """Pass on what is shown; the last line, with the answer or the fault, or None where there is none."""
    for line in pipe or ():
        try:
            told = json.loads(line)
        except ValueError:  # a signal tore it
            continue
        if "show" not in told:
            return told
        if show is not None:
            getattr(show, told["show"])(*told["given"], **told["named"])
    return None


def _fault(told: Mapping[str, Any]) -> PerdureError:
    """The error a child ended with."""
    kind = getattr(errors, str(told["error"]), PerdureError)
    return kind(told["found"], expected=told["expected"], where=told["where"], fix=told["fix"])


def _died(code: int) -> PerdureError:
    if code < 0:
        return MachineError(
            f"the process that learned was ended by signal {-code}", fix="was there enough memory? run it again"
        )
    return PerdureError(f"the process that learned ended with code {code} and said nothing", fix="see standard error")


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

    def epoch(self, *given: Any, **named: Any) -> None:
        """After every epoch."""
        self.tell({"show": "epoch", "given": given, "named": named})

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


def serve() -> None:
    """The child: do what standard input asks. What libraries print goes to standard error."""
    teller = Teller(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with _told(teller):
        from perdure.api import work

        answer = {"survey": work.survey, "learn": work.learn}[told["verb"]](told["request"], teller)
        teller.tell({"answer": answer})


def _leave_with_parent() -> None:
    """Wait until standard input ends, then stop at once: what was saved stands, and the run can be resumed."""
    sys.stdin.read()
    os._exit(Interrupted.exit_code)
