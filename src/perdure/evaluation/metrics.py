"""Measures of one user, from the ranks of that user's right answers. Pure functions of arrays.

Let P be a user's right answers (those outside the label space counted), r_1 < r_2 < ... their ranks from 1 (an answer
outside the label space has none), and [.] 1 or 0.

    hr@k      [r_1 <= k]                                   is any right answer among the first k?
    mrr@k     [r_1 <= k] / r_1
    recall@k  #{j : r_j <= k} / |P|                        not divided by min(k, |P|): 1 may be out of reach
    ndcg@k    sum_j [r_j <= k] / log2(1 + r_j)  /  sum_{i = 1..min(k, |P|)} 1 / log2(1 + i)
    auc       mean over P of the share of wrong answers that stand below, ties half

and for classes, with p the probability given to the right class:

    accuracy  [the right class has the highest score, alone]
    log_loss  -ln max(p, 2^-23)                            at most 15.94, also for a class outside the label space
    precision TP / (TP + FP), 0 where nobody was predicted so;  recall  TP / (TP + FN), 0 where nobody is so;
    f1        2 TP / (2 TP + FP + FN); of all users together. Told of two classes alone: of the second, in the order of
              their text ("0" and "1", "no" and "yes")
    macro_f1  and macro_precision, macro_recall: means over the classes that were right or predicted anywhere
    auc       mean over classes, each against the rest, of P(score of a user in it > of one not in it), ties half
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perdure.errors import UsageError

__all__ = [
    "OF_TABLE",
    "Counts",
    "area",
    "area_of_classes",
    "check_ks",
    "confusion",
    "hit_rate",
    "log_loss",
    "mean_per_user",
    "ndcg",
    "of_table",
    "recall",
    "reciprocal_rank",
]

LEAST = 2.0**-23  # of a probability, in log_loss


def check_ks(ks: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """Cut-offs as a tuple, ascending and distinct. Raises UsageError unless each is a whole number of 1 or more."""
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise UsageError(f"ks = {ks!r}", expected="whole numbers of 1 or more", where="evaluate, ks")
    return tuple(sorted(set(ks)))


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(A,) values -> (n,) sums of each user's, 0 where a user has none."""
    return np.diff(np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[starts])


def _within(rank: np.ndarray, k: int) -> np.ndarray:
    return (rank >= 1) & (rank <= k)  # (A,)


def mean_per_user(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(A,) values of right answers -> (n,) mean of each user's; 0 for a user without."""
    users = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.bincount(users, values, len(starts) - 1) / np.maximum(np.diff(starts), 1)


def hit_rate(rank: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """hr@k: (A,) ranks, 0 for none, of users CSR starts (n + 1,) -> (n,) float64, 0 or 1."""
    return (_sums(_within(rank, k), starts) > 0).astype(np.float64)


def recall(rank: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """recall@k: (n,) float64 in [0, 1]."""
    return _sums(_within(rank, k), starts) / np.maximum(np.diff(starts), 1)


def reciprocal_rank(rank: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """mrr@k: (n,) float64, 0 or 1/1 to 1/k."""
    best = np.zeros(len(starts) - 1)  # (n,)
    users = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    inside = _within(rank, k)
    np.maximum.at(best, users[inside], 1.0 / rank[inside])
    return best


def ndcg(rank: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """ndcg@k: (n,) float64 in [0, 1]. The ideal counts answers outside the label space: they can not be reached."""
    gain = np.where(_within(rank, k), 1.0 / np.log2(1.0 + np.maximum(rank, 1)), 0.0)  # (A,)
    users = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    counts = np.diff(starts)  # (n,)
    most = int(min(k, counts.max(initial=1)))
    ideal = np.concatenate([[1.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, most + 1)))])  # (most + 1,)
    return np.bincount(users, gain, len(counts)) / ideal[np.minimum(counts, most)]


def log_loss(probability: np.ndarray) -> np.ndarray:
    """(n,) probability of the right class (0 where it is outside the label space) -> (n,) float64 in [0, 15.95]."""
    return -np.log(np.clip(probability.astype(np.float64), LEAST, 1.0))


def confusion(right: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(Y + 1, Y) int64 counts: row = right class (the last row: outside the label space, -1), column = predicted."""
    rows = np.where(right < 0, n_classes, right).astype(np.int64)
    return np.bincount(rows * n_classes + predicted, minlength=(n_classes + 1) * n_classes).reshape(-1, n_classes)


@dataclass(frozen=True)
class Counts:
    """What a table of `confusion` tells of each class; of any number of tables at once.

    Attributes:
        hits: (..., Y) TP. right: (..., Y) TP + FN. said: (..., Y) TP + FP.
        outside: (...) users whose class is no label.
    """

    hits: np.ndarray
    right: np.ndarray
    said: np.ndarray
    outside: np.ndarray

    @staticmethod
    def of(table: np.ndarray) -> Counts:
        """Of (..., Y + 1, Y) counts."""
        labels, outside = table[..., :-1, :], table[..., -1, :]  # (..., Y, Y), (..., Y)
        hits = np.diagonal(labels, axis1=-2, axis2=-1)  # (..., Y)
        return Counts(hits, labels.sum(-1), table.sum(-2), outside.sum(-1))

    @property
    def precision(self) -> np.ndarray:
        """(..., Y)"""
        return self.hits / np.maximum(self.said, 1)

    @property
    def recall(self) -> np.ndarray:
        """(..., Y)"""
        return self.hits / np.maximum(self.right, 1)

    @property
    def f1(self) -> np.ndarray:
        """(..., Y)"""
        return 2.0 * self.hits / np.maximum(self.right + self.said, 1)

    def macro(self, each: np.ndarray) -> np.ndarray:
        """(...) mean of (..., Y) over the classes that are right or predicted anywhere; right ones that are no labels,
        which nobody can tell, are together one of them, of value 0."""
        there = self.right + self.said > 0  # (..., Y)
        return (each * there).sum(-1) / np.maximum(there.sum(-1) + (self.outside > 0), 1)


OF_TABLE: dict[str, Callable[[Counts], np.ndarray]] = {
    "precision": lambda counts: counts.precision[..., 1],
    "recall": lambda counts: counts.recall[..., 1],
    "f1": lambda counts: counts.f1[..., 1],
    "macro_precision": lambda counts: counts.macro(counts.precision),
    "macro_recall": lambda counts: counts.macro(counts.recall),
    "macro_f1": lambda counts: counts.macro(counts.f1),
}  # the first three: of two classes


def of_table(table: np.ndarray) -> dict[str, float]:
    """Every measure of OF_TABLE there is for the counts (Y + 1, Y) of `confusion`."""
    names = [name for name in OF_TABLE if table.shape[-1] == 2 or name.startswith("macro")]
    counts = Counts.of(table)
    return {name: float(OF_TABLE[name](counts)) for name in names}


def area(scores: np.ndarray, right: np.ndarray) -> float:
    """P(a score where `right` is True > one where it is False), ties half; NaN where one of the two is missing.

    Args:
        scores: (n,) finite. right: (n,) bool.
    """
    positives = int(right.sum())
    negatives = len(right) - positives
    if not positives or not negatives:
        return float("nan")
    _, level, counts = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts  # scores under each level
    ranks = below + (counts + 1) / 2  # mean rank from 1
    return float((ranks[level[right]].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def area_of_classes(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean over classes of `area`, one class against the rest; NaN where no class has both.

    Args:
        scores: (n, Y). right: (n,) class rows, -1 outside.
    """
    areas = np.array([area(scores[:, y], right == y) for y in np.unique(right[right >= 0])])
    return float(np.nanmean(areas)) if len(areas) and not np.isnan(areas).all() else float("nan")
