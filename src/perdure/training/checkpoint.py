"""Checkpoints of a run: numbered folders, each complete and verified, at least two kept; the newest sound one counts.

    checkpoints/000007/checkpoint.json   digests, and what `state.json` belongs to
                       state.json        where the run stands
                       model.safetensors optimizer.safetensors best.safetensors generator.safetensors

Nothing older is deleted before the newer one was read back and verified. [writes]
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perdure.errors import MachineError, ModelError, SettingsError
from perdure.model.disk import DISK, Disk
from perdure.model.files import Folder, parse, read_folder, remove_tree, tidy, write_folder
from perdure.training.loop import ALONE, Keeper, Snapshot
from perdure.training.processes import Processes
from perdure.training.runlog import RunLog
from perdure.training.signals import Asked, Signals

MANIFEST = "checkpoint.json"
FORMAT = 1
NUMBER = re.compile(r"\d{6,}")
TRIES = 3  # a disk that is full for a moment should not end a run


@dataclass
class Checkpoint:
    """One read back: tensors[file][name] and the state document."""

    number: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: `checkpoints/` of the run.
        keep: how many to keep, 2 or more: with one, a crash in the wrong moment could leave none.
        sweep: remove what killed saves left; only the process that writes here may.

    Attributes:
        notes: what was found wrong and left out, for the log.
    """

    def __init__(self, folder: Path, keep: int = 2, disk: Disk = DISK, sweep: bool = True) -> None:
        if keep < 2:
            raise SettingsError(
                f"keep = {keep} checkpoints", expected="2 or more", fix="a single one may be half written"
            )
        self.folder, self.keep, self.disk, self.notes = Path(folder), keep, disk, []
        if sweep:
            self._clean()

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints on disk, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if NUMBER.fullmatch(path.name))

    def path(self, number: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"{number:06d}"

    def save(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> int:
        """Write the next checkpoint, verified, then drop the oldest beyond `keep`.

        Raises:
            MachineError: three tries failed; all older checkpoints still stand.
            NonFiniteError: a tensor is not finite; nothing was written.
        """
        number = max(self.numbers(), default=0) + 1
        for left in reversed(range(TRIES)):
            try:
                write_folder(
                    self.path(number), tensors, {"state.json": state}, {"format": FORMAT}, name=MANIFEST, disk=self.disk
                )
                break
            except MachineError:
                if left == 0:
                    raise
                time.sleep(0.05)
        for old in self.numbers()[: -self.keep]:
            with contextlib.suppress(OSError):
                remove_tree(self.path(old), self.disk)
        return number

    def latest(self) -> Checkpoint | None:
        """The newest sound checkpoint, or None when there is none at all. Newer ones are deleted, if proven damaged.

        Raises:
            ModelError: there are checkpoints and every one is damaged, or one is of another release.
            MachineError: one cannot be read, which may pass: it may be sound.
        """
        damaged: list[int] = []
        fault: ModelError | None = None
        for number in reversed(self.numbers()):
            try:
                found = self._folder(number)
            except ModelError as error:
                if isinstance(error.__cause__, OSError):
                    fix = "try again; where it stays so, remove this checkpoint to go on from the one before"
                    raise MachineError(error.found, where=str(self.path(number)), fix=fix) from error
                damaged.append(number)
                fault = error
                continue
            for bad in damaged:
                self.notes.append(f"checkpoint {bad} is damaged and was dropped; {number} is used")
                remove_tree(self.path(bad), self.disk)
            return self._of_this_release(number, found)
        if fault is not None:
            raise fault
        return None

    def agreed(self, processes: Processes) -> Checkpoint | None:
        """`latest`, the same one in all processes."""
        first = self.latest() if processes.first else None
        number = int(processes.told(lambda: first.number if first is not None else 0))
        return self.read(number) if number and first is None else first

    def read(self, number: int) -> Checkpoint:
        """One checkpoint. Raises ModelError where it is damaged, or of another release."""
        return self._of_this_release(number, self._folder(number))

    def _folder(self, number: int) -> Folder:
        return read_folder(self.path(number), name=MANIFEST, disk=self.disk)

    def _of_this_release(self, number: int, found: Folder) -> Checkpoint:
        if found.manifest.get("format") != FORMAT:
            raise ModelError(
                f"checkpoint format {found.manifest.get('format')}",
                expected=f"format {FORMAT}",
                where=str(self.path(number)),
                fix="resume with the release of perdure that wrote it",
            )
        state = parse(found.documents["state.json"], f"{self.path(number)}/state.json")
        return Checkpoint(number, found.tensors, state)

    def _clean(self) -> None:
        """Remove what killed saves left."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                name = re.fullmatch(r"\.(\d{6,})\.(new|old)", path.name)
                if name and path.exists():
                    tidy(self.folder / name[1], self.disk)


class Saver(Keeper):
    """What `fit` talks to in a real run: checkpoints by the minute and at every epoch's end, signals, log, display.

    Where several processes train, all of them save together and the first one writes; a signal to one stops them all.

    Args:
        life: tensors and state of everything outside the running fit.
        minutes: longest time between two checkpoints.
        show: anything with `step(**)` and `epoch(**)`, or None.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        run: RunLog,
        signals: Signals,
        life: Callable[[], Snapshot],
        *,
        minutes: float = 5.0,
        metric: str = "",
        show: Any = None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.checkpoints, self.run, self.signals, self.life = checkpoints, run, signals, life
        self.seconds, self.metric, self.show = minutes * 60, metric, show
        self._saved = time.monotonic()

    def due(self) -> bool:
        return self.signals.asked is not None or time.monotonic() - self._saved >= self.seconds

    def save(self, snapshot: Snapshot) -> None:
        tensors, state = self.life()
        if self.processes.first:
            self.run.sync()
            where = {**state, "log": self.run.offset, "fit": snapshot[1]}
            self.checkpoints.save({**tensors, **snapshot[0]}, where)
        self._saved = time.monotonic()
        if self.processes.any(self.signals.asked is not None):
            raise self.signals.interrupted()

    def work(self, work: Callable[[], float], snapshot: Callable[[], Snapshot]) -> float:
        found = self.processes.told(lambda: self._uncut(work))
        if math.isnan(found):
            self.save(snapshot())
            raise self.signals.interrupted()
        return found

    def _uncut(self, work: Callable[[], float]) -> float:
        """The result, or nan where a signal came."""
        try:
            with self.signals.raising():
                return work()
        except Asked:
            return math.nan

    def log(self, **line: Any) -> None:
        self.run.log("epoch", **line, metric=self.metric)
        if self.show is not None:
            self.show.epoch(**line, metric=self.metric)

    def tick(self, **line: Any) -> None:
        if self.show is not None:
            self.show.step(**line)


def global_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators, which dropout draws from."""
    states = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_global_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Put `global_state` back."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
