"""The command line: parse, call one verb, turn errors into exit codes.

    0 done · 2 usage or settings · 3 data refused · 4 model damaged or unsafe · 5 not enough machine
    6 interrupted, can be resumed · 7 numbers not finite · 8 locked by another run · 70 our bug

Nothing heavy is imported here: torch, polars and pydantic load inside the verbs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from perdure.cli.verbs import app
from perdure.errors import Interrupted, MachineError, PerdureError, UsageError

__all__ = ["app", "main"]

LINES = 6
AGAIN = "run it again; a run continues with --resume auto"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    trace = _taken(given, "--trace")
    if not trace:
        warnings.simplefilter("ignore")
    _listen()
    try:
        code = app(args=given, prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as fault:
        if trace and not isinstance(fault, SystemExit) and not hasattr(fault, "format_message"):
            traceback.print_exc()
        return _failed(fault, "--json" in given)


def _taken(given: list[str], flag: str) -> bool:
    """Remove a flag wherever it stands before `--`; whether it was there."""
    end = given.index("--") if "--" in given else len(given)
    if flag not in given[:end]:
        return False
    given.remove(flag)
    return True


def _listen() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a run in training takes over to save first."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}", fix="run it again; a run continues with --resume auto"
        )

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


def _failed(fault: BaseException, as_json: bool) -> int:
    """Tell a fault in at most six lines; its exit code."""
    if isinstance(fault, SystemExit):
        return fault.code if isinstance(fault.code, int) else 0
    error = _named(fault)
    if error is None:
        return int(getattr(fault, "exit_code", 0))  # `--help` and typer.Exit
    lines = "\n".join(error.lines()).split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... and {len(lines) - LINES + 1} more lines: --json tells all"]
    try:
        print("error: " + "\n".join(lines), file=sys.stderr)
        if as_json:
            print(json.dumps(error.as_dict(), ensure_ascii=False, indent=1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return error.exit_code


def _named(fault: BaseException) -> PerdureError | None:
    """Any exception as one of ours; None for what is no fault."""
    if isinstance(fault, PerdureError):
        return fault
    if hasattr(fault, "format_message"):  # a wrong option or argument, told by typer
        context = getattr(fault, "ctx", None)
        fix = f"{context.command_path} --help" if context is not None else "perdure --help"
        return UsageError(fault.format_message(), fix=fix)  # type: ignore[attr-defined]
    if isinstance(fault, KeyboardInterrupt) or type(fault).__name__ == "Abort":
        return Interrupted("stopped by Ctrl-C", fix=AGAIN)
    if type(fault).__name__ == "Exit":
        return None
    if isinstance(fault, MemoryError):
        return MachineError("out of memory", fix="make batch_size, width or max_length smaller")
    return PerdureError(
        f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}", fix="run again with --trace"
    )


if __name__ == "__main__":
    sys.exit(main())
