"""Where a life stands and what it gave; and its small arithmetic: seeds, memory, JSON.                     [reads]"""

from __future__ import annotations

import contextlib
import hashlib
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.evaluation.matrix import Matrix

__all__ = ["Learned", "Life", "as_json", "geometric_mean", "peak_rss", "seed_of"]


@dataclass(frozen=True)
class Learned:
    """What a life gave.

    Attributes:
        matrix: R, the primary metric of every task on its test users after each task learned.
        scores: one entry per cell of R: `after`, and what `Score.to_dict` tells.
        costs: per task: task, bytes (what it adds to the model folder: its own file, and what the method's file grew
            by), seconds, epochs, trainable, peak_rss (bytes, the process so far). Tasks learned at once also have
            `together`, their names; what was spent on all of them stands with the last and is None with the others.
    """

    matrix: Matrix
    scores: list[dict[str, Any]]
    costs: list[dict[str, Any]]


@dataclass
class Life:
    """Where a life stands; JSON."""

    task: int = 0  # tasks learned: the index of the one being learned, or of the first of a group
    stage: int = 0  # index of the stage being trained
    rows: list[list[float]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    probes: dict[str, str] = field(default_factory=dict)  # task -> digest of its answers when it was learned
    ground: dict[str, str] = field(default_factory=dict)  # digests at the beginning of the running stage
    fits: list[dict[str, Any]] = field(default_factory=list)  # finished stages of the running task
    trainable: int = 0
    kept: int = 0  # bytes of the method's file when the last task was published
    relations: dict[str, dict[str, float]] = field(default_factory=dict)  # task -> how much it draws on earlier ones
    judged: dict[str, str] = field(default_factory=dict)  # task -> label of its validation measure

    def spent(self, group: Sequence[str], model: Path, capacity: float | None = None) -> list[dict[str, Any]]:
        """What each new task of a group just learned cost: an entry of `Learned.costs`, given the model folder that was
        published then, and the `capacity` that the method has left, where it has one.

        What was spent on all at once is not divided: it stands with the last, as does what the method stores of them.
        """
        files = {task: model / "tasks" / f"{task}.safetensors" for task in group}
        sizes, method = {task: file.stat().st_size for task, file in files.items()}, model / "method.safetensors"
        before, self.kept = self.kept, method.stat().st_size if method.exists() else 0
        sizes[group[-1]] += self.kept - before
        spent = {
            "seconds": round(sum(f["seconds"] for f in self.fits), 3),
            "epochs": sum(f["epoch"] for f in self.fits),
            "trainable": self.trainable,
            "bytes": 0,
            "peak_rss": peak_rss(),
        } | ({} if capacity is None else {"capacity": capacity})
        told, together = [], {"together": list(group)} if len(group) > 1 else {}
        for task in group:
            if all(task != cost["task"] for cost in self.costs):
                mine = spent if task == group[-1] else dict.fromkeys(spent)
                told.append({"task": task, **mine, "bytes": sizes[task], **together})
        return told


def seed_of(seed: int, *names: str) -> int:
    """A seed of its own for every use, so that no task's chance depends on the tasks before it."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:8], "big") >> 1


def peak_rss() -> int:
    """Largest memory this process has held so far, bytes; on Linux without what the process it came from had held."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def geometric_mean(values: Sequence[float]) -> float:
    """Of measures of several tasks, each counted as at least 1e-6; one value alone is given back as it is.

    It ranks alike whatever each measure is divided by.
    """
    if len(values) == 1:
        return values[0]
    return math.exp(sum(math.log(max(value, 1e-6)) for value in values) / len(values))


def as_json(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
