"""What a person sees while a run goes on: a moving bar on a terminal, a plain line every few seconds in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perdure.errors import UsageError, shorten

EVERY = 5.0  # seconds between two plain lines


def check_show(show: Any) -> None:
    """Refuse what cannot be told the progress, before anything is made."""
    if show is not None and not all(callable(getattr(show, name, None)) for name in ("step", "epoch", "row")):
        raise UsageError(
            f"show = {shorten(repr(show))}",
            expected="None, or something with the methods step, epoch and row",
            where="show",
            fix="from perdure.training.display import Display; show=Display() writes a line an epoch",
        )


def phase_of(show: Any) -> Callable[..., None]:
    """What `show` is told of long work besides the steps: its `phase`, where it has one."""
    return getattr(show, "phase", lambda *_: None)


def say_of(show: Any) -> Callable[[str], None]:
    """What `show` is told of what should be known before it goes on: its `say`, where it has one."""
    return getattr(show, "say", lambda _: None)


class Display:
    """Progress of a run on standard error. Use as a context. A closed pipe makes it silent, nothing else.

    Args:
        to: where to; standard error when None.
    """

    def __init__(self, to: TextIO | None = None) -> None:
        self.console = Console(file=to or sys.stderr, highlight=False, emoji=False)
        self.bar: Progress | None = None
        self._row: Any = None
        self._whole: Any = None
        self._label, self._said, self._closed = "", 0.0, False

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        """One line."""
        if self._closed:
            return
        try:
            self.console.print(text, markup=False, soft_wrap=True)
        except (OSError, ValueError):  # nobody reads any more
            self._closed = True

    def whole(self, done: int, cells: int, name: str) -> None:
        """Before each run of a comparison."""
        if self.bar is not None:
            if self._whole is None:
                self._whole = self.bar.add_task("comparison", total=cells)
            self.bar.update(self._whole, completed=done, description=name)
        self.say(f"{done} of {cells} done; now {name}")

    def phase(self, what: str, done: int, of: int, unit: str) -> None:
        """While something long goes on besides the steps."""
        if self.bar is not None:
            self._move(self.bar, what, done, of, f"{what} ({unit})")
        else:
            if what != self._label:
                self._label, self._said = what, time.monotonic()
            if time.monotonic() - self._said > EVERY:
                self._said = time.monotonic()
                self.say(f"{what}: {done:,} of {of:,} {unit}")

    def _move(self, bar: Progress, label: str, done: int, of: float, description: str) -> None:
        """The row of the bar for what goes on now, in place of that of what went on before."""
        if label != self._label:
            if self._row is not None:
                bar.remove_task(self._row)
            self._row, self._label = bar.add_task(label, total=of), label
        bar.update(self._row, completed=done, total=of, description=description)

    def step(self, task: str, stage: str, step: int, steps: float, loss: float) -> None:
        """After every step of the loop."""
        label = task if stage == "train" else f"{task} ({stage})"
        if self.bar is not None:
            self._move(self.bar, label, step, steps, f"{label}  loss {loss:.4f}")
        elif time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            self.say(f"{label}: step {step} of at most {steps:.0f}, loss {loss:.4f}")

    def epoch(self, task: str, stage: str, epoch: int, loss: float, valid: float | None, **line: Any) -> None:
        """After every epoch."""
        self._said = time.monotonic()
        judged = "" if valid is None else f", {line.get('metric') or 'validation'} {valid:.4f}"
        rate = line.get("targets_per_second")
        speed = "" if rate is None else f", {rate:,.0f} targets/s"
        label = task if stage == "train" else f"{task} ({stage})"
        self.say(f"{label}: epoch {epoch}, loss {loss:.4f}{judged}{speed}")

    def counted(self, task: str, metric: str, valid: float) -> None:
        """After what a method counts once a task is trained: the validation score with it."""
        self.say(f"{task}: with what was counted after training, {metric or 'validation'} {valid:.4f}")

    def row(self, task: str, scores: dict[str, float], protocols: Mapping[str, str] | None = None) -> None:
        """After a task: the new row of R; what was sampled says so."""
        how = {name: f" ({told})" for name, told in (protocols or {}).items() if told.startswith("sampled")}
        told = [f"{name} {value:.4f}{how.get(name, '')}" for name, value in scores.items()]
        self.say(f"after {task}: " + ", ".join(told))
