"""The matrix of lifelong learning: how good the model is at every task after learning each.

    R[k][i]              quality on task i after learning task k (k >= i), higher is better
    average              mean_i R[K][i]                                     after the last task
    forgetting           mean_{i<K} (max_{k>=i} R[k][i] - R[K][i])          0: nothing was lost; never negative
    backward transfer    mean_{i<K} (R[K][i] - R[i][i])                     negative: later tasks harmed earlier ones
    forward transfer     mean_i (R[i][i] - alone_i)                         against one model per task

With a single task learned, forgetting and backward transfer are 0. Tasks learned at once have one row, that of the last
of them; then the first row that has task i stands for R[i][i], and the means over i < K are over the tasks that were
measured before the last row. Where there are none (everything was learned at once) they are not defined: NaN, in
documents None.
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
    """Qualities of tasks in the order they were learned.

    Attributes:
        tasks: K names in the order learned.
        rows: K rows; row k holds R[k][0..k], or nothing where task k was learned at once with later ones.
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
        count, sizes = len(self.tasks), [len(row) for row in self.rows]
        whole = list(range(1, count + 1))
        torn = [size for size, full in zip(sizes, whole, strict=False) if size not in (0, full)]
        if len(set(self.tasks)) != count or len(sizes) != count or torn or sizes[-1:] != whole[-1:]:
            raise UsageError(
                f"{count} tasks and rows of {sizes} values",
                expected="distinct tasks, and row k with k values (or none, unless it is the last)",
                where="Matrix",
            )

    @property
    def R(self) -> np.ndarray:
        """(K, K) float64; NaN above the diagonal, where a task was not yet learned, and in rows without values."""
        whole = np.full((len(self.tasks), len(self.tasks)), np.nan)
        for k, row in enumerate(self.rows):
            whole[k, : len(row)] = row
        return whole

    def learned(self) -> dict[str, float]:
        """For each task what it was when it was learned: R[i][i], or its value in the first row that has one."""
        return {name: self.rows[self._first(i)][i] for i, name in enumerate(self.tasks)}

    def _first(self, i: int) -> int:
        """The first row that has task i."""
        return next(k for k in range(i, len(self.rows)) if self.rows[k])

    def _older(self) -> list[int]:
        """The tasks that were measured before the last row."""
        return [i for i in range(len(self.tasks)) if self._first(i) < len(self.rows) - 1]

    def average(self) -> float:
        """Mean over all tasks after the last; NaN where none was learned."""
        return float(np.mean(self.rows[-1])) if self.rows else math.nan

    def forgotten(self) -> dict[str, float]:
        """For each task measured before the last row: the best it ever was, less what it is now."""
        r = self.R
        return {self.tasks[i]: float(np.nanmax(r[i:, i]) - r[-1, i]) for i in self._older()}

    def forgetting(self) -> float:
        """Mean of `forgotten`; 0 with fewer than two tasks, NaN where none was measured before the last row."""
        return self._over_older(list(self.forgotten().values()))

    def backward_transfer(self) -> float:
        """Mean over the tasks of `forgotten` of what each is now, less what it was when learned; 0 and NaN as there."""
        learned = self.learned()
        return self._over_older([self.rows[-1][i] - learned[self.tasks[i]] for i in self._older()])

    def _over_older(self, values: list[float]) -> float:
        if not values:
            return 0.0 if len(self.tasks) < 2 else math.nan
        return float(np.mean(values))

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
        learned = self.learned()
        return float(np.mean([learned[name] - alone[name] for name in self.tasks if name in alone]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: tasks, R (rows of growing length, or empty), metrics, protocols, what is made of R."""
        forgetting, transfer = self.forgetting(), self.backward_transfer()
        return {
            "tasks": list(self.tasks),
            "R": [list(row) for row in self.rows],
            "metrics": dict(self.metrics),
            "protocols": dict(self.protocols),
            "average": self.average() if self.rows else None,
            "forgetting": None if math.isnan(forgetting) else forgetting,
            "forgotten": self.forgotten(),
            "backward_transfer": None if math.isnan(transfer) else transfer,
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
