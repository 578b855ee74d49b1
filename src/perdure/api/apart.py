"""Work in a process of its own, so that its peak memory is its own and its crash is nobody else's.

The parent passes the first signal on to the child and waits until all is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.api import child
from perdure.errors import MachineError, PerdureError

__all__ = ["ask", "serve"]


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

    process = child.start("perdure.api.apart")
    try:
        try:
            with signals.raising():
                child.say(process.stdin, {"verb": verb, "request": request})
                end = child.listen(process.stdout, show)
        except Asked:
            process.terminate()
            end = child.listen(process.stdout, show)  # a second signal raises Interrupted here
        code = process.wait()
    finally:
        child.end(process)
    fault = _died(code) if end is None else child.fault_of(end["fault"]) if "fault" in end else None
    if fault is not None:
        raise signals.interrupted() if signals.asked is not None else fault
    return end["answer"]  # type: ignore[index]


def _died(code: int) -> PerdureError:
    if code < 0:
        return MachineError(
            f"the process that learned was ended by signal {-code}", fix="was there enough memory? run it again"
        )
    return PerdureError(f"the process that learned ended with code {code} and said nothing", fix="see standard error")


def serve() -> None:
    """The child."""
    from perdure.api import work

    child.answer({"survey": work.survey, "learn": work.learn})
