"""The other processes of a run that trains in several ([run] processes).                            [reads, writes]

The process that was asked to learn is the first one: it alone holds the lock, writes, measures and shows. It starts the
others once the log is prepared; each builds the same model from the same settings and seed, and they meet. What the
others hold the first one holds too, so they are ended without ceremony when it is done, and end by themselves when it
dies. Where one of them dies the run ends with one error, and goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.api import child
from perdure.errors import MachineError, PerdureError
from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.training.processes import Processes
    from perdure.training.runlog import RunLog

__all__ = ["together"]

GRACE = 5.0  # seconds for a process to end whose connection was lost
MEETING = ".processes-"  # folders in the run's, while it lasts


@contextmanager
def together(settings: Settings, store: Path, log: RunLog) -> Iterator[Processes]:
    """Inside, this process is the first of `run.processes`.

    Args:
        store: the folder of the prepared log. log: the entered run.

    Raises:
        PerdureError: what one of the others ended with; MachineError where it was killed.
    """
    from perdure.training.processes import Processes, joined

    count = settings.run.processes
    if count == 1:
        yield Processes()
        return
    tables, where = settings.as_dict(), {"folder": str(settings.folder), "file": settings.file, "overrides": []}
    run = {"out": str(log.folder), "store": str(store), "identity": log.identity}
    run |= {"resuming": log.resuming, "same_machine": log.same_machine}
    others: list[subprocess.Popen[str]] = []
    for left in log.folder.glob(f"{MEETING}*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=MEETING, dir=log.folder) as folder:
        try:
            for number in range(1, count):
                others.append(child.start("perdure.api.following"))
                request = {"tables": tables, **where, **run, "number": number, "meeting": folder}
                child.say(others[-1].stdin, {"verb": "follow", "request": request})
            for number, other in enumerate(others, 1):
                told = child.listen(other.stdout)
                if told is None or "ready" not in told:
                    raise _ended(number, count, other, told)
            with joined(Path(folder), 0, count, cuda=settings.run.device == "cuda") as processes:
                try:
                    yield processes
                except RuntimeError as fault:  # perhaps of a connection
                    raise _lost(others, fault) or fault from fault
                finally:
                    for other in others:
                        other.kill()
        finally:
            for other in others:
                child.end(other)


def _ended(number: int, count: int, other: subprocess.Popen[str], told: Mapping[str, Any] | None) -> PerdureError:
    """The error of process `number`, given its last words."""
    if told is not None and "fault" in told:
        return child.fault_of(told["fault"])
    code = other.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code} and said nothing"
    fix = 'was there enough memory? resume="auto" continues from the last checkpoint'
    return MachineError(f"process {number + 1} of {count} {how}", where="[run] processes", fix=fix)


def _lost(others: Sequence[subprocess.Popen[str]], fault: RuntimeError) -> PerdureError | None:
    """What ended one of the others before this fault; None where the fault is this process's own."""
    found: list[PerdureError] = []
    for number, other in enumerate(others, 1):
        try:
            other.wait(GRACE if not found else 0)
        except subprocess.TimeoutExpired:
            continue
        found.append(_ended(number, len(others) + 1, other, child.listen(other.stdout)))
    found.sort(key=lambda one: type(one) is PerdureError)  # those that only lost the connection come last
    same = f"{type(fault).__name__}: {fault}".splitlines()[0]
    return found[0] if found and found[0].found != same else None
