"""How sure a mean over users is: percentile intervals from resampled users, drawn all at once, seeded.

A user with several examples is drawn with all of them, which are no news of other users.
A resample of n users with replacement counts how often each distinct value is drawn, and those counts are multinomial.
Where users share few distinct values (a hit rate has two, NDCG@10 with one answer eleven) only the counts are drawn,
which is the same distribution at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from perdure.errors import UsageError
from perdure.evaluation.metrics import OF_TABLE, Counts

__all__ = ["check", "interval", "means", "tables"]

AT_ONCE = 2**22  # draws in memory


def check(level: float, resamples: int) -> None:
    """Raises UsageError unless 0 < level < 1 and resamples >= 1."""
    if not 0 < level < 1 or resamples < 1:
        raise UsageError(
            f"level = {level!r}, resamples = {resamples!r}",
            expected="a level between 0 and 1, one resample or more",
            where="interval",
        )


def interval(draws: np.ndarray, level: float) -> tuple[float, float]:
    """The middle `level` of the draws: (low, high). NaN where there are none."""
    if not len(draws) or np.isnan(draws).any():
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def means(values: np.ndarray, resamples: int = 1000, seed: int = 0, users: np.ndarray | None = None) -> np.ndarray:
    """Means of `resamples` resamples of the n values, (resamples,) float64.

    Args:
        users: (n,) whose values they are; None: each another user's.
    """
    values, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    n = len(values)
    if not n:
        return np.full(resamples, np.nan)
    owners, at, each = np.unique(np.arange(n) if users is None else users, return_inverse=True, return_counts=True)
    if len(owners) < n:
        sums = np.bincount(at, values)  # (U,)
        rows = [rng.integers(len(owners), size=(size, len(owners))) for size in _pieces(resamples, len(owners))]
        return np.concatenate([sums[some].sum(1) / each[some].sum(1) for some in rows])
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) * 8 <= n:
        drawn = [rng.multinomial(n, counts / n, size) @ levels / n for size in _pieces(resamples, len(levels))]
    else:
        drawn = [values[rng.integers(n, size=(size, n))].mean(1) for size in _pieces(resamples, n)]
    return np.concatenate(drawn)


def tables(
    table: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    measure: Callable[[Counts], np.ndarray] = OF_TABLE["macro_f1"],
) -> np.ndarray:
    """A measure of `resamples` resamples of the users counted in a confusion table (Y + 1, Y): (resamples,).

    Only cells that hold anyone are drawn and summed: a table of many classes is nearly empty.
    """
    rng, n, labels = np.random.default_rng(seed), int(table.sum()), table.shape[1]
    if not n:
        return np.full(resamples, np.nan)
    rows, columns = np.nonzero(table)  # (F,), (F,)
    shares, hit, known = table[rows, columns] / n, rows == columns, rows < labels  # (F,)
    drawn = []
    for size in _pieces(resamples, max(len(rows), labels)):
        cells = rng.multinomial(n, shares, size)  # (S, F)
        outside = cells[:, ~known].sum(1)  # (S,)
        right = _grouped(cells[:, known], rows[known], labels)  # (S, Y)
        hits, said = _grouped(cells[:, hit], rows[hit], labels), _grouped(cells, columns, labels)  # (S, Y), (S, Y)
        drawn.append(measure(Counts(hits, right, said, outside)))
    return np.concatenate(drawn)


def _grouped(cells: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """(S, F) numbers -> (S, n) sums of those of each group (F,)."""
    sums = np.zeros((len(cells), n), cells.dtype)
    if len(group):
        order = np.argsort(group, kind="stable")  # (F,)
        there, begin = np.unique(group[order], return_index=True)
        sums[:, there] = np.add.reduceat(cells[:, order], begin, axis=1)
    return sums


def _pieces(resamples: int, width: int) -> Iterator[int]:
    """Resamples to draw at a time so that no piece has more than AT_ONCE numbers."""
    step = max(1, AT_ONCE // max(width, 1))
    for at in range(0, resamples, step):
        yield min(step, resamples - at)
