"""The matrix of lifelong learning: how good the model is at every task after learning each.

    R[k][i]              quality on task i after learning task k (k >= i), higher is better
    average              mean_i R[K][i]                                     after the last task
    forgetting           mean_{i<K} (max_{k>=i} R[k][i] - R[K][i])          0: nothing was lost; never negative
    backward transfer    mean_{i<K} (R[K][i] - R[i][i])                     negative: later tasks harmed earlier ones
    forward transfer     mean_i (R[i][i] - alone_i)                         against one model per task

With a single task learned, forgetting and backward transfer are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perdure.errors import ModelError, UsageError

__all__ = ["Matrix"]


@dataclass(frozen=True)
class Matrix:
    """Qualities of tasks in the order they were learned. A value: `grown` makes a new one.

    Attributes:
        tasks: K names in the order learned.
        rows: K rows; row k holds R[k][0..k].
        metrics: task -> name of the measure in its column.
        protocols: task -> how its column was measured; what is sampled must not be compared with what is not.
    """

    tasks: Sequence[str] = ()
    rows: Sequence[Sequence[float]] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        sizes = [len(row) for row in self.rows]
        if len(set(self.tasks)) != len(self.tasks) or sizes != list(range(1, len(self.tasks) + 1)):
            raise UsageError(
                f"{len(self.tasks)} tasks and rows of {sizes} values",
                expected="distinct tasks, and row k with k values",
                where="Matrix",
            )

    @property
    def R(self) -> np.ndarray:
        """(K, K) float64; NaN above the diagonal, where a task was not yet learned."""
        whole = np.full((len(self.tasks), len(self.tasks)), np.nan)
        for k, row in enumerate(self.rows):
            whole[k, : k + 1] = row
        return whole

    def grown(self, task: str, values: Mapping[str, float], metric: str = "", protocol: str = "") -> Matrix:
        """The matrix after one more task.

        Args:
            task: the task just learned.
            values: quality on every task learned so far, this one included.
            metric: name of the measure of this task. protocol: how it was measured.

        Raises:
            UsageError: a task is learned twice, a value is missing or not finite.
        """
        tasks = (*self.tasks, task)
        missing = [name for name in tasks if name not in values or not math.isfinite(values[name])]
        if missing:
            raise UsageError(
                f"no finite value for {', '.join(missing)}", expected="one for each task so far", where="Matrix"
            )
        metrics = {**self.metrics, task: metric} if metric else self.metrics
        protocols = {**self.protocols, task: protocol} if protocol else self.protocols
        return Matrix(tasks, (*self.rows, tuple(float(values[name]) for name in tasks)), metrics, protocols)

    def average(self) -> float:
        """Mean over all tasks after the last; NaN where none was learned."""
        return float(np.mean(self.rows[-1])) if self.rows else math.nan

    def forgotten(self) -> dict[str, float]:
        """For each task but the last: the best it ever was, less what it is now."""
        r = self.R
        return {name: float(np.nanmax(r[i:, i]) - r[-1, i]) for i, name in enumerate(self.tasks[:-1])}

    def forgetting(self) -> float:
        """Mean of `forgotten`; 0 with fewer than two tasks."""
        lost = list(self.forgotten().values())
        return float(np.mean(lost)) if lost else 0.0

    def backward_transfer(self) -> float:
        """Mean over all tasks but the last of what it is now, less what it was when learned; 0 with fewer than two."""
        change = [self.rows[-1][i] - self.rows[i][i] for i in range(len(self.tasks) - 1)]
        return float(np.mean(change)) if change else 0.0

    def forward_transfer(self, alone: Mapping[str, float]) -> float:
        """Mean of how much better each task was when learned than a model that learned it alone.

        Args:
            alone: task -> quality of its own model; tasks not named are left out of the mean.

        Raises:
            UsageError: `alone` names a task that is not here, or none.
        """
        strangers = [name for name in alone if name not in self.tasks]
        if strangers or not alone:
            raise UsageError(
                f"alone names {', '.join(strangers) or 'no task'}",
                expected="some of " + ", ".join(self.tasks),
                where="alone",
            )
        gains = [self.rows[i][i] - alone[name] for i, name in enumerate(self.tasks) if name in alone]
        return float(np.mean(gains))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: tasks, R (rows of growing length), metrics, protocols, and what is made of R."""
        return {
            "tasks": list(self.tasks),
            "R": [list(row) for row in self.rows],
            "metrics": dict(self.metrics),
            "protocols": dict(self.protocols),
            "average": self.average() if self.rows else None,
            "forgetting": self.forgetting(),
            "forgotten": self.forgotten(),
            "backward_transfer": self.backward_transfer(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Matrix:
        """The matrix of `to_dict`; rows may be filled up with None. Raises ModelError for anything else."""
        try:
            rows = tuple(tuple(float(v) for v in row if v is not None) for row in found["R"])
            told = [dict(found.get(key, {})) for key in ("metrics", "protocols")]
            matrix = cls(tuple(str(t) for t in found["tasks"]), rows, *told)
        except (KeyError, TypeError, ValueError, UsageError) as fault:
            raise ModelError(f"this is no matrix: {fault}", expected="tasks and R", where="matrix") from None
        if not all(math.isfinite(v) for row in rows for v in row):
            raise ModelError("a value is not finite", where="matrix")
        return matrix
