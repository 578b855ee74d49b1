"""The command line: parse, call one verb, turn errors into exit codes.

    0 done · 1 cells of a comparison failed · 2 usage or settings · 3 data refused · 4 model damaged or unsafe
    5 not enough machine · 6 interrupted, can be resumed · 7 numbers not finite · 8 locked by another run · 70 our bug

Nothing heavy is imported here: torch, polars and pydantic load inside the verbs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from perdure.cli.asking import app
from perdure.errors import Interrupted, MachineError, PerdureError, UsageError

__all__ = ["app", "main"]

LINES = 6
PACKAGE = Path(__file__).parents[1]
AGAIN = {  # what to do after a command was stopped
    "learn": "continue with --resume auto",
    "compare": "run the same command again: it goes on",
    "search": "run the same command again: it goes on",
    "quickstart": "begin again in a new folder",
}


def command() -> NoReturn:
    """The console script. A signal that comes while the interpreter ends has nothing left to stop, and is ignored."""
    _streams("--json" in sys.argv)
    raise SystemExit(main(afterwards=signal.SIG_IGN))


def main(arguments: Sequence[str] | None = None, *, afterwards: signal.Handlers | None = None) -> int:
    """Run one command; the exit code.

    Args:
        arguments: of the command line by default.
        afterwards: what signals do when the command has ended; None: what they did before.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    trace = _taken(given, "--trace")
    if not trace:
        warnings.simplefilter("ignore")
    before = _listen()
    try:
        code = app(args=given or ["--help"], prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # whoever read us has seen enough
        return _quiet()
    except BaseException as fault:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # the fault is being told; there is nothing left to stop
        if trace and not isinstance(fault, SystemExit) and not hasattr(fault, "format_message"):
            traceback.print_exc()
        return _failed(fault, "--json" in given, next((word for word in given if not word.startswith("-")), ""))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if afterwards is None else afterwards)


def _streams(as_json: bool) -> None:
    """Whatever the locale, an id is no fault: what it cannot say is escaped, and JSON is UTF-8. What was closed before
    the command began is nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    if as_json:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]


def _taken(given: list[str], flag: str) -> bool:
    """Remove a flag wherever it stands before `--`; whether it was there."""
    end = given.index("--") if "--" in given else len(given)
    if flag not in given[:end]:
        return False
    given.remove(flag)
    return True


def _listen() -> dict[int, Any]:
    """Signals end a command with exit code 6; a run in training takes over to save first. The old handlers."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}")

    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, stop) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}


def _failed(fault: BaseException, as_json: bool, verb: str) -> int:
    """Tell a fault of a command in at most six lines; its exit code."""
    if isinstance(fault, SystemExit):
        if isinstance(fault.__context__, BrokenPipeError):  # typer met the closed pipe first
            return _quiet()
        return fault.code if isinstance(fault.code, int) else 0
    error = _named(fault)
    if error is None:
        return int(getattr(fault, "exit_code", 0))  # `--help` and typer.Exit
    if isinstance(error, Interrupted):
        error.fix = AGAIN.get(verb, "run it again")
    _as_options(error, verb)
    lines = "\n".join(error.lines()).split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... and {len(lines) - LINES + 1} more lines: --json tells all"]
    try:
        print("error: " + "\n".join(lines), file=sys.stderr)
        if as_json:
            print(json.dumps(error.as_dict(), ensure_ascii=False, indent=1))
    except OSError:
        _quiet()
    return error.exit_code


def _as_options(error: PerdureError, verb: str) -> None:
    """What the API tells of its arguments, as options: where `store` is `--store`, and `resume="auto"` is to be written
    `--resume auto`."""
    from typer.main import get_command

    params = getattr(getattr(get_command(app), "commands", {}).get(verb), "params", ())
    options = {one.name: max(one.opts, key=len) for one in params if one.param_type_name == "option"}
    if all(word in options for word in error.where.split(", ")):
        error.where = ", ".join(options[word] for word in error.where.split(", "))

    def option(told: re.Match[str]) -> str:
        name, value = told.groups()
        return " ".join([options[name], value] if value else [options[name]]) if name in options else told[0]

    error.fix = re.sub(r'\b(\w+)=(?:"(\w+)"|True)', option, error.fix)


def _quiet() -> int:
    """Nobody reads standard output any more, or its disk is full: what is left goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _named(fault: BaseException) -> PerdureError | None:
    """Any exception as one of ours; None for what is no fault."""
    if isinstance(fault, PerdureError):
        return fault
    if hasattr(fault, "format_message"):  # a wrong option or argument, told by typer
        context = getattr(fault, "ctx", None)
        fix = f"{context.command_path} --help" if context is not None else "perdure --help"
        return UsageError(fault.format_message().replace("Value error, ", ""), fix=fix)  # type: ignore[attr-defined]
    if isinstance(fault, KeyboardInterrupt) or type(fault).__name__ == "Abort":
        return Interrupted("stopped by Ctrl-C")
    if type(fault).__name__ == "Exit":
        return None
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            f"cannot write: {fault.strerror}", where=fault.filename or "", fix="free some space on disk"
        )
    if isinstance(fault, MemoryError):
        return MachineError("out of memory", fix="make batch_size, width or max_length smaller")
    said = str(fault).splitlines()[0] if str(fault) else ""
    return PerdureError(f"{type(fault).__name__}: {said}", where=_place(fault), fix="run again with --trace")


def _place(fault: BaseException) -> str:
    """Where in the package it happened, or in what was called from there: `tuning/pcl.py, line 60`."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(fault.__traceback__)]
    ours = [(file.relative_to(PACKAGE), line) for file, line in frames if file.is_relative_to(PACKAGE)]
    return f"{ours[-1][0].as_posix()}, line {ours[-1][1]}" if ours else ""


if __name__ == "__main__":
    command()
