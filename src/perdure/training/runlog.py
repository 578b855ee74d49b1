"""A run's folder: who writes it, what it is a run of, and its log.                            [reads, writes]

run.json      settings, versions, data digest, seed, threads, state       log.jsonl   one JSON object a line
lock          pid and start time of the writer; held by the system, so a killed writer's lock opens alone
checkpoints/  model/  matrix.json  scores.json  cost.json
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from perdure import __version__
from perdure.errors import Interrupted, MachineError, SettingsError, UsageError, shorten
from perdure.model.disk import DISK, Disk, machine_faults
from perdure.model.files import parse, render, tidy, write_file
from perdure.training.lock import Lock

IDENTITY = ("settings", "data_digest", "seed", "versions", "device")  # a resumed run must agree in these
LIES = ("data.path", "data.users.path", "data.items_table.path")  # what lies there is told by data_digest
MACHINE = ("threads", "cpu")  # in these a difference only costs bit-equality

Resume = Literal["never", "auto", "must"]


def machine() -> dict[str, Any]:
    """Versions, threads and processor: what bit-identical numbers depend on besides data, settings and seed."""
    versions = {"perdure": __version__, "python": platform.python_version(), "torch": torch.__version__}
    versions["numpy"] = np.__version__
    return {"versions": versions, "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """Every leaf in which two documents differ, as `place: before -> now`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now}, key=str)
        return [
            d for key in keys for d in differences(before.get(key), now.get(key), f"{at}.{key}" if at else str(key))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, (a, b) in enumerate(zip(before, now, strict=True)) for d in differences(a, b, f"{at}[{i}]")]
    return [] if before == now else [f"{at}: {_said(before)} -> {_said(now)}"]


def _said(value: Any) -> str:
    """A value in a line; of named tables, such as [[tasks]], the names."""
    named = isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value)
    return shorten(", ".join(str(one["name"]) for one in value) if named else value, 60)


def weighed(settings: Any, at: str = "") -> Any:
    """Settings without those that change no result: where the files of the log lie, and how often is saved."""
    if isinstance(settings, list):
        return [weighed(one) for one in settings]
    if not isinstance(settings, Mapping):
        return settings
    placed = {key: (f"{at}.{key}" if at else str(key), one) for key, one in settings.items()}
    free = {key for key, (place, _) in placed.items() if place in LIES or key == "checkpoint_minutes"}
    return {key: weighed(one, place) for key, (place, one) in placed.items() if key not in free}


def completed(before: Any, now: Any, origin: Mapping[str, str], at: str = "") -> Any:
    """Settings as they were, with those of `now` that are missing there and have their default.

    Args:
        origin: dotted key -> "default", or who set it.
    """
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):  # [[tasks]]
        return [completed(a, b, origin, f"{at}.{n}") for n, (a, b) in enumerate(zip(before, now, strict=True))]
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return before
    told = dict(before)
    for key, value in now.items():
        place = f"{at}.{key}" if at else key
        if key in told:
            told[key] = completed(told[key], value, origin, place)
        elif all(how == "default" for one, how in origin.items() if one == place or one.startswith(f"{place}.")):
            told[key] = value
    return told


class RunLog:
    """The one writer of a run folder. Use as a context: `with RunLog(folder, {...}, resume="auto") as run:`.

    Args:
        identity: what this is a run of: settings, data_digest, seed, device ("cpu"), and what else run.json should say
            (origin, data card, name). Versions, threads and processor are added.
        resume: "never" refuses a folder that holds something; "auto" goes on where a run stands and begins otherwise;
            "must" refuses when there is nothing to go on with.
        expected: names the folder may hold before a run begins (a prepared store, say).
        tensorboard: also write epochs for TensorBoard into `tensorboard/`.

    Attributes:
        resuming: a run stands here and is to be continued.
        same_machine: threads and processor are those the run began with.
        notes: warnings of the opening, for the log.

    Raises (on entering):
        RunLocked: another process writes here. UsageError: see `resume`. SettingsError: data, settings, seed or
        versions differ from those of the run, each difference listed; or TensorBoard is not installed.
        MachineError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        identity: Mapping[str, Any],
        *,
        resume: Resume = "never",
        expected: tuple[str, ...] = (),
        tensorboard: bool = False,
        disk: Disk = DISK,
    ) -> None:
        self.folder, self.resume, self.expected, self.disk = Path(folder), resume, expected, disk
        self.identity = json.loads(render({**identity, **machine()}))
        self.resuming, self.same_machine = False, True
        self.notes: list[str] = []
        self._tensorboard, self._writer, self._lock = tensorboard, None, Lock(self.folder)

    # -- opening and closing ----------------------------------------------------------------------------------------

    def __enter__(self) -> RunLog:
        if self._tensorboard:
            summary_writer()
        with machine_faults(self.folder):
            self.disk.make_folder(self.folder)
            self._lock.take(now())
        try:
            with machine_faults(self.folder):
                for name in ("run.json", "matrix.json", "scores.json", "cost.json", "model"):
                    tidy(self.folder / name, self.disk)
            self._begin()
        except BaseException:
            self._lock.leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        try:
            if kind is not None:
                self.state("interrupted" if issubclass(kind, Interrupted) else "failed")
        except MachineError:  # what went wrong first is the news
            pass
        finally:
            self._lock.leave()

    def _begin(self) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            names = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
            held = sorted(name for name in names if name not in (*self.expected, "lock"))
            if self.resume == "must":
                raise UsageError(
                    "there is no run to resume here", where=str(self.folder), fix='resume="auto" begins one'
                )
            if held:
                raise UsageError(
                    f"the folder is not empty: {shorten(', '.join(held))}",
                    expected="a new or empty folder, or one with a run",
                    where=str(self.folder),
                    fix="choose another folder",
                )
            self.state("running", started=now())  # first of all: a folder with run.json is a run
            self.disk.write(self.folder / "log.jsonl", b"")
        elif self.resume == "never":
            raise UsageError(
                "there is a run here already",
                where=str(self.folder),
                fix='resume="auto" continues it; a new run needs another folder',
            )
        else:
            self._continue(parse(self.disk.read(path), str(path)))
        if self._tensorboard:
            self._writer = summary_writer()(str(self.folder / "tensorboard"))

    def _continue(self, before: dict[str, Any]) -> None:
        if "origin" in self.identity:
            then, given = before.get("settings"), self.identity.get("settings")
            before = {**before, "settings": completed(then, given, self.identity["origin"])}
        then, given = ({**one, "settings": weighed(one.get("settings"))} for one in (before, self.identity))
        changed = [d for key in IDENTITY for d in differences(then.get(key), given.get(key), key)]
        if changed:
            more = [f"and {len(changed) - 20} more"] if len(changed) > 20 else []
            raise SettingsError(
                "this is not the run that stands here:\n  " + "\n  ".join(changed[:20] + more),
                expected="the data, settings, seed and versions the run began with",
                where=str(self.folder / "run.json"),
                fix="resume with those, or choose another folder",
            )
        moved = [d for key in MACHINE for d in differences(before.get(key), self.identity.get(key), key)]
        if "log_from" not in before:  # killed before its first step: nothing was begun
            self.disk.write(self.folder / "log.jsonl", b"")
            self.state("running", started=now())
            return
        self.same_machine, self.resuming = not moved, True
        if moved:
            self.notes.append("resumed on another machine, numbers may differ in the last bits: " + "; ".join(moved))
        known = {k: v for k, v in before.items() if k not in self.identity and k != "state"}
        self.state("running", **{**known, "resumed": before.get("resumed", 0) + 1})

    # -- writing ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The life begins: from here on the run can be resumed, and its log goes back to here at the most."""
        self.state("running", log_from=self.offset)

    def state(self, state: str, **more: Any) -> None:
        """Rewrite run.json: "running", "interrupted", "finished" or "failed"."""
        self.identity.update(more)
        self.write("run.json", {**self.identity, "state": state})

    def write(self, name: str, document: Any) -> None:
        """One JSON document of the run, atomically."""
        write_file(self.folder / name, render(document), self.disk)

    def log(self, event: str, **fields: Any) -> None:
        """One line of log.jsonl: event ("epoch", "counted", "row", "warning"), fields, and `at`."""
        line = json.dumps({"event": event, **fields, "at": now()}, ensure_ascii=False, allow_nan=False)
        with machine_faults(self.folder / "log.jsonl"):
            self.disk.append(self.folder / "log.jsonl", line.encode() + b"\n")
        if self._writer is not None and event == "epoch":
            for key in ("loss", "valid"):
                if fields.get(key) is not None:
                    self._writer.add_scalar(f"{fields['task']}/{fields['stage']}/{key}", fields[key], fields["epoch"])

    @property
    def offset(self) -> int:
        """Bytes of log.jsonl."""
        path = self.folder / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def sync(self) -> None:
        """Make the log durable."""
        with machine_faults(self.folder / "log.jsonl"), (self.folder / "log.jsonl").open("ab") as file:
            os.fsync(file.fileno())

    def rewind(self, offset: int) -> None:
        """Cut the log to where a checkpoint was taken. A note where it has not as much."""
        if self.offset < offset:
            self.notes.append("log.jsonl is shorter than it was: what it told of epochs before is lost")
        with machine_faults(self.folder / "log.jsonl"), (self.folder / "log.jsonl").open("ab") as file:
            file.truncate(min(offset, self.offset))

    def need(self, size: int) -> None:
        """Raises MachineError when less than `size` bytes are free on the disk of this folder."""
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if free < size:
            raise MachineError(
                f"{free / 2**20:,.2f} MiB free, {size / 2**20:,.2f} MiB needed for checkpoints and model",
                where=str(self.folder),
                fix="free some space or choose another disk",
            )


class Silent(RunLog):
    """A run in a process that writes nothing, because another one of it does.

    Args:
        folder: of the run; read alone.
        identity, resuming, same_machine: as the writer has them.
    """

    def __init__(self, folder: Path | str, identity: Mapping[str, Any], resuming: bool, same_machine: bool) -> None:
        super().__init__(folder, {})
        self.identity, self.resuming, self.same_machine = dict(identity), resuming, same_machine

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, name: str, document: Any) -> None:
        """Nothing."""

    def log(self, event: str, **fields: Any) -> None:
        """Nothing."""

    def rewind(self, offset: int) -> None:
        """Nothing."""


def now() -> str:
    """The moment, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def summary_writer() -> Any:
    """The class that writes for TensorBoard. SettingsError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SettingsError(
            "TensorBoard is not installed", where="[run] tensorboard", fix='pip install "perdure[track]"'
        ) from None
    return SummaryWriter
