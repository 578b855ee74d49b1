"""Whether one method is better than another: what all users reached, resampled with the seeds. Pure functions.

A method reached x[s, u] on a task: the value of user u in the model of seed s. Every method is judged on the same
users, and so is every seed, but where users are cut into folds and each seed tests another one. One resample draws

    users    with replacement, once for all methods, tasks and seeds: a user drawn twice counts twice everywhere
    seeds    with replacement, out of those the method (or both methods of a pair) was run with

    m* = mean_s x[s, drawn users] + f (mean_{drawn s} x[s, all users] - mean_s x[s, all users]),   f^2 = S / (S - 1)

so that both errors add up, for each task. Drawing users anew within each drawn seed would count one user tested S
times as S users, and make intervals too narrow. Drawn seeds vary less than new ones would, by 1 / f^2 in variance,
which f undoes; with folds, whose seeds differ by their users, too, f is 1. What S seeds tell of how far seeds lie
apart is itself unsure: where seeds moved all that users reach by a fifth of how users differ, p < .05 came in .20, .13
and .07 of the cases without any difference with 2, 3 and 5 seeds (.50, .39 and .30 by the t-test below). With one seed
an interval tells of users alone. A user's own luck in a seed is in both errors and counts up to 2 times in variance;
with folds all that users do is of this kind. Intervals are then rather too wide.

    interval    the middle 95 % of the resamples; of a score, which cannot be beyond, at most from 0 to 1
    p           (1 + #{|d* - d| >= |d|}) / (B + 1): how often resamples d* of a difference d, moved to a mean of zero,
                lie as far out as d itself (paired bootstrap, two-sided)
    t           mean(d) / (s(d) / sqrt(n)) of the n users' differences d_u, s with n - 1, against Student's t with n - 1
                degrees of freedom, two-sided: the paired t-test that papers give. It takes seeds as fixed
    Holm        p of M tests, smallest first: p'(i) = max(p'(i - 1), min(1, (M - i + 1) p(i)))
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from perdure.errors import UsageError
from perdure.evaluation.matrix import Matrix

__all__ = ["SCORES", "Reached", "Resampled", "holm", "p_value", "resample", "spread", "t_test", "transfers"]

SCORES = (0.0, 1.0)  # ends of every measure
AT_ONCE = 2**22  # draws in memory
Test = TypeVar("Test", bound=Hashable)


@dataclass(frozen=True)
class Reached:
    """What a method reached on the test users of its tasks.

    Attributes:
        seeds: S of them.
        values: K arrays (S, n_k) float64, NaN where a seed did not test that user.
        users: K arrays (n_k,) int64: whose example each is, 0 to U - 1; one user may have several.
    """

    seeds: tuple[int, ...]
    values: tuple[np.ndarray, ...]
    users: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        for values, users in zip(self.values, self.users, strict=True):
            if values.shape != (len(self.seeds), len(users)) or not len(users):
                raise UsageError(
                    f"values {values.shape} of {len(users)} examples in {len(self.seeds)} seeds",
                    expected="a row for each seed, a column for each example, one or more",
                    where="Reached",
                )

    @property
    def folds(self) -> bool:
        """Whether a seed did not test everyone."""
        return any(bool(np.isnan(values).any()) for values in self.values)

    @property
    def means(self) -> np.ndarray:
        """(S, K): per seed and task."""
        return np.stack([np.nanmean(values, 1) for values in self.values], 1)


@dataclass(frozen=True)
class Resampled:
    """The resamples of a method, before seeds are drawn.

    Attributes:
        means: (B, S, K) of the drawn users. all: (S, K) of all.
        folds: seeds test other users.
    """

    seeds: tuple[int, ...]
    means: np.ndarray
    all: np.ndarray
    folds: bool = False

    def drawn(self, seeds: Sequence[int] | None = None, seed: int = 0) -> np.ndarray:
        """(B, K): m* of drawn users and seeds; of `seeds` alone where given. The same `seeds` are drawn alike."""
        chosen = self.seeds if seeds is None else tuple(seeds)
        rows = [self.seeds.index(one) for one in chosen]
        rng, n = np.random.default_rng(seed), len(chosen)
        counts = rng.multinomial(n, np.full(n, 1 / n), len(self.means))  # (B, S')
        f = 1.0 if self.folds or n == 1 else math.sqrt(n / (n - 1))
        return self.means[:, rows].mean(1) + f * (counts - 1) / n @ self.all[rows]


def resample(reached: Mapping[str, Reached], resamples: int = 2000, seed: int = 0) -> dict[str, Resampled]:
    """Every method's means under the same drawn users.

    Args:
        reached: method -> what it reached. resamples: B. seed: of the draws.
    """
    n_users = 1 + max(int(users.max()) for one in reached.values() for users in one.users)
    means = {name: np.empty((resamples, *one.means.shape)) for name, one in reached.items()}  # (B, S, K)
    at = 0
    for counts in _counts(n_users, resamples, seed):
        for k in range(len(next(iter(reached.values())).users)):
            owners, drawn = np.zeros(0), counts  # those of the method before: as a rule the same
            for name, one in reached.items():
                if not np.array_equal(owners, one.users[k]):
                    owners, drawn = one.users[k], counts[:, one.users[k]]  # (n_k,), (b, n_k)
                means[name][at : at + len(counts), :, k] = _mean(one.values[k], drawn)
        at += len(counts)
    return {name: Resampled(one.seeds, means[name], one.means, one.folds) for name, one in reached.items()}


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(S, n) values under (b, n) counts -> (b, S) means; NaN where nobody was drawn."""
    tested = ~np.isnan(values)  # (S, n)
    total = counts @ tested.T.astype(np.float64)  # (b, S)
    return np.where(total > 0, counts @ np.where(tested, values, 0.0).T / np.maximum(total, 1), np.nan)


def _counts(n_users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(b, U) float64: how often each user is drawn, some resamples at a time."""
    rng, step = np.random.default_rng(seed), max(1, AT_ONCE // n_users)
    for at in range(0, resamples, step):
        size = min(step, resamples - at)
        cells = rng.integers(n_users, size=(size, n_users)) + n_users * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * n_users).reshape(size, n_users).astype(np.float64)


def spread(
    value: float, draws: np.ndarray | None, level: float = 0.95, within: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float | None]:
    """{"mean", "low", "high"}: a value and the middle `level` of its draws (B,), None without draws.

    Args:
        within: what the value can be at all, as SCORES of a score. A resample adds errors up, and can lie beyond.
    """
    finite = draws[np.isfinite(draws)].clip(*within) if draws is not None else np.zeros(0)
    if not len(finite):
        return {"mean": float(value), "low": None, "high": None}
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(value), "low": float(low), "high": float(high)}


def p_value(difference: float, draws: np.ndarray) -> float:
    """Two-sided p of a difference under its (B,) draws; see above."""
    finite = draws[np.isfinite(draws)]
    slack = 1e-7 * max(1.0, abs(difference))  # a tie up to rounding is a tie: values of users are stored as float32
    return float((1 + (np.abs(finite - difference) >= abs(difference) - slack).sum()) / (len(finite) + 1))


def t_test(mine: Reached, theirs: Reached, task: int, seeds: Sequence[int]) -> float | None:
    """Two-sided p of the paired t-test on one task: users that both were tested on, means over these seeds and over a
    user's examples; None with fewer than two users, 1 where all differences are 0.

    Args:
        task: its place. seeds: that both have.
    """
    a, b = (_of_users(one, task, seeds) for one in (mine, theirs))
    d = np.array([a[user] - b[user] for user in a if user in b])  # (n,)
    if len(d) < 2:
        return None
    spread = d.std(ddof=1)
    if spread == 0:
        return 1.0 if not d.any() else 0.0
    t, free = d.mean() / spread * math.sqrt(len(d)), len(d) - 1
    return _incomplete_beta(free / 2, 0.5, free / (free + t * t))


def _of_users(reached: Reached, task: int, seeds: Sequence[int]) -> dict[int, float]:
    """User -> the mean over some seeds and the user's examples; users that none of the seeds tested are left out."""
    rows = [reached.seeds.index(seed) for seed in seeds]
    values = reached.values[task][rows]  # (S', n_k)
    tested = ~np.isnan(values)  # (S', n_k)
    sums = np.bincount(reached.users[task], np.where(tested, values, 0.0).sum(0))  # (U,)
    counts = np.bincount(reached.users[task], tested.sum(0))  # (U,)
    return {int(user): float(sums[user] / counts[user]) for user in np.flatnonzero(counts)}


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised, by its continued fraction (NIST Handbook 8.17.22), taken from the front as by Lentz."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    up, down, value, tiny = 1.0, 0.0, 1.0, 1e-300
    for m in range(1000):
        k, odd = divmod(m, 2)
        if odd:
            part = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        else:
            part = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)) if m else 1.0
        down = 1 / ((1 + part * down) or tiny)
        up = (1 + part / up) or tiny
        value *= up * down
        if abs(1 - up * down) < 1e-15 and m:
            break
    return min(1.0, math.exp(log_front) * (value - 1) / a)


def holm(p: Mapping[Test, float]) -> dict[Test, float]:
    """Holm's corrected p of each test."""
    told, least = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        told[name] = least
    return told


def transfers(matrix: Matrix, alone: Mapping[str, float], without: Sequence[str] = ()) -> dict[str, float | None]:
    """Forgetting, backward and forward transfer of one run, with some tasks left out of the means; None where the run
    learned all tasks at once.

    Args:
        alone: task -> value of a model that learned it alone; None comes for forward transfer where it is empty.
        without: tasks of random labels, say: there is nothing to forget.
    """
    now, learned, lost = dict(zip(matrix.tasks, matrix.rows[-1], strict=True)), matrix.learned(), matrix.forgotten()
    older = [task for task in lost if task not in without]
    none = 0.0 if len(matrix.tasks) < 2 else None
    return {
        "forgetting": _average([lost[task] for task in older], none),
        "backward_transfer": _average([now[task] - learned[task] for task in older], none),
        "forward_transfer": _average([learned[task] - alone[task] for task in alone if task not in without]),
    }


def _average(values: Sequence[float], none: float | None = None) -> float | None:
    return math.fsum(values) / len(values) if values else none
