"""Ranks in a ready score matrix, for tests that make one."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from perdure.evaluation.ranking import Ranks, rank_blocks


def rank(
    scores: Tensor,
    answers: np.ndarray,
    answer_starts: np.ndarray | None = None,
    *,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
) -> Ranks:
    """Ranks in a ready score matrix, which is left as it is.

    Args:
        scores: (n, Y).
        answers: (A,) label rows or -1; of one user each label at most once.
        answer_starts: (n + 1,); None: one answer a user.
        seen: cells (user, label) that are no candidates, repeats allowed; a right answer always stays one.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    starts = np.arange(len(scores) + 1) if answer_starts is None else np.asarray(answer_starts)
    order = np.argsort(seen[0], kind="stable") if seen is not None else None
    users, labels = (np.asarray(cell)[order] for cell in seen) if seen is not None else (np.zeros(0), np.zeros(0))

    def cells(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        a, b = np.searchsorted(users, [low, high])
        return users[a:b] - low, labels[a:b]

    def block(low: int, high: int) -> Tensor:
        return scores[low:high].clone()

    return rank_blocks(block, scores.shape[1], answers, starts, seen=None if seen is None else cells)
