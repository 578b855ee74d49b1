"""Where each right answer stands among all others, by counting: no sort, and never all scores of all users at once.

For a user with right answers P and the candidates C (all labels, less those left out; P is never left out):

    worse-or-equal rule   rank(p) = #{c in C \\ P : s_c >= s_p} + place of p within P, best first, from 1

Ties are pessimistic: a wrong answer with the same score stands before a right one, so a model that gives every label
the same score gets the worst ranks there are. Right answers never push each other down by a tie. An answer outside the
label space (-1) has no rank (0 here) and counts as a miss everywhere.

    AUC(p) = (#{c in C \\ P : s_c < s_p} + 1/2 #{c in C \\ P : s_c = s_p}) / #(C \\ P)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from perdure.errors import NonFiniteError, UsageError
from perdure.inference.represent import users_at_once

__all__ = ["Ranks", "Sampled", "rank_blocks", "ranks_in"]

PAIR_CELLS = 2**20  # scores looked at together where users have several right answers
COUNTED = 2**17  # scores compared together on a CPU: what is compared, and what came of it, stay in the cache


@dataclass(frozen=True)
class Sampled:
    """Sampled ranking: each user's right answers among a few drawn wrong ones. Not comparable with full ranking.

    Attributes:
        negatives: drawn per user without replacement; all candidates where fewer are left.
        by: "uniform", or "popularity" (in proportion to training counts; labels never seen in training are not drawn).
        seed: of the draw.
    """

    negatives: int = 100
    by: Literal["uniform", "popularity"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.by not in ("uniform", "popularity"):
            raise UsageError(
                f"sampled ranking with {self.negatives} negatives by {self.by!r}",
                expected='1 or more, by "uniform" or "popularity"',
                where="sampled",
            )

    def __str__(self) -> str:
        return f"sampled: {self.negatives} {self.by} negatives, seed {self.seed}"


@dataclass(frozen=True)
class Ranks:
    """Ranks of n users' right answers, one after the other.

    Attributes:
        rank: (A,) int64 from 1; 0 for an answer outside the label space. Within a user in the order given.
        auc: (A,) float64 in [0, 1]; 0 for an answer outside the label space, 1/2 where there is no wrong answer.
        starts: (n + 1,) int64; user i owns rank[starts[i]:starts[i + 1]].
        met: how many of the answers are labels that were to be left out.
    """

    rank: np.ndarray
    auc: np.ndarray
    starts: np.ndarray
    met: int = 0


Scores = Callable[[int, int], Tensor]  # users from, to -> fresh (B, Y) scores that may be written into
Seen = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # users from, to -> cells (user from 0, label) to leave out


def rank_blocks(
    scores: Scores,
    n_labels: int,
    answers: np.ndarray,
    starts: np.ndarray,
    *,
    seen: Seen | None = None,
    sampled: Sampled | None = None,
    popularity: np.ndarray | None = None,
) -> Ranks:
    """Ranks of all users, a block of scores at a time.

    Args:
        scores: gives the scores of a range of users when asked; ranges come in ascending order.
        n_labels: Y. answers, starts: as in `rank`.
        seen: gives the cells to leave out of a range of users.
        sampled: rank among drawn wrong answers instead of all.
        popularity: (Y,) training counts, for negatives drawn by popularity.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    answers, starts = np.asarray(answers, np.int64), np.asarray(starts, np.int64)
    found, auc = np.zeros(len(answers), np.int64), np.zeros(len(answers))
    rng, met = np.random.default_rng(sampled.seed if sampled else 0), 0
    step = users_at_once(n_labels)
    for low in range(0, len(starts) - 1, step):
        high = min(low + step, len(starts) - 1)
        block = scores(low, high)  # (B, Y)
        part = slice(int(starts[low]), int(starts[high]))
        rows = np.repeat(np.arange(high - low), np.diff(starts[low : high + 1]))  # (A',)
        inside = np.flatnonzero(answers[part] >= 0)
        at = (_index(rows[inside], block), _index(answers[part][inside], block))
        left_out = None if seen is None else tuple(_index(cell, block) for cell in seen(low, high))
        target, held = _leave_out(block, at, left_out)
        met += held
        if sampled is not None:
            _draw(block, at, target, sampled, popularity, rng)
        places = inside + part.start
        found[places], auc[places] = ranks_in(block, at[0], target)
    return Ranks(found, auc, starts, met)


def ranks_in(scores: Tensor, rows: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rank and AUC of right answers within one block.

    Args:
        scores: (B, Y); -inf where a label is no candidate.
        rows: (A,) int64, ascending: whose answer. target: (A,) its score, which stands in scores[row] too.

    Returns:
        rank (A,) int64 from 1, auc (A,) float64.
    """
    at_least, above = _count(scores, rows, target)  # (A,), the right answers themselves counted
    candidates = _true(torch.gt, scores, scores.new_tensor(-torch.inf))[rows.cpu().numpy()]  # (A,)
    user, value = rows.cpu().numpy(), target.cpu().numpy()
    n = len(user)
    order = np.lexsort((-value, user))  # (A,) each user's right answers, best first
    user, value, place = user[order], value[order], np.arange(n)
    opens = np.append(True, user[1:] != user[:-1])[:n]  # (A,) the first of a user
    ties = opens | np.append(True, value[1:] != value[:-1])[:n]  # (A,) the first of equals
    first = np.maximum.accumulate(np.where(opens, place, 0))  # (A,) where the user begins
    better = np.maximum.accumulate(np.where(ties, place, 0)) - first  # (A,) right answers with a higher score
    closes = np.append(ties[1:], True)[:n]
    as_good = np.minimum.accumulate(np.where(closes, place, n)[::-1])[::-1] - first + 1  # (A,) ... at least as high
    total = np.bincount(user, minlength=len(scores))[user]  # (A,) right answers of the user
    wrong_at_least, wrong_above = at_least[order] - as_good, above[order] - better
    wrong = candidates[order] - total
    rank, auc = np.empty(n, np.int64), np.empty(n)
    rank[order] = wrong_at_least + place - first + 1
    below = wrong - wrong_at_least + 0.5 * (wrong_at_least - wrong_above)
    auc[order] = np.where(wrong > 0, below / np.maximum(wrong, 1), 0.5)
    return rank, auc


def _count(scores: Tensor, rows: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How many of each answer's row are at least, and above, its score: two (A,) int64."""
    if len(rows) == len(scores) and bool((rows == torch.arange(len(scores), device=rows.device)).all()):
        bar = target[:, None]  # (B, 1): one answer a user, no copies
        return _true(torch.ge, scores, bar), _true(torch.gt, scores, bar)
    at_least, above = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    step = max(1, PAIR_CELLS // max(scores.shape[1], 1))
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        theirs, bar = scores[rows[part]], target[part, None]  # (b, Y), (b, 1)
        at_least[part], above[part] = _true(torch.ge, theirs, bar), _true(torch.gt, theirs, bar)
    return at_least, above


def _true(compare: Callable[..., Tensor], scores: Tensor, bar: Tensor) -> np.ndarray:
    """(b,) int64: in how many columns compare(scores (b, Y), bar) holds, some columns after the other. Zeros and ones
    as floats are summed many times faster than as truth values, and exactly: float32 counts to 2^24."""
    most = COUNTED // max(len(scores), 1) if scores.device.type == "cpu" else 2**24
    step = max(1, min(most, scores.shape[1]))
    held = scores.new_empty(len(scores), step, dtype=torch.float32)  # (b, step)
    found = np.zeros(len(scores), np.int64)  # (b,)
    for low in range(0, scores.shape[1], step):
        some = scores[:, low : low + step]
        found += compare(some, bar, out=held[:, : some.shape[1]]).sum(1).cpu().numpy().astype(np.int64)
    return found


def _leave_out(scores: Tensor, answers: tuple[Tensor, Tensor], seen: tuple[Tensor, ...] | None) -> tuple[Tensor, int]:
    """Marks seen labels with -inf, right answers excepted; the right answers' scores (A,), and how many were seen."""
    if not bool(torch.isfinite(scores.sum())) and not bool(torch.isfinite(scores).all()):
        raise NonFiniteError("scores are not finite", expected="finite numbers", where="ranking")
    target, met = scores[answers], 0  # (A,)
    if seen is not None:
        scores[seen] = -torch.inf
        met = int((scores[answers] == -torch.inf).sum())
        scores[answers] = target
    return target, met


def _draw(
    scores: Tensor,
    answers: tuple[Tensor, Tensor],
    target: Tensor,
    sampled: Sampled,
    popularity: np.ndarray | None,
    rng: np.random.Generator,
) -> None:
    """Marks all but the drawn candidates with -inf. Drawing = the largest of log-weight + Gumbel noise: exact."""
    noise = torch.from_numpy(rng.gumbel(size=tuple(scores.shape)).astype(np.float32)).to(scores.device)  # (B, Y)
    if sampled.by == "popularity":
        if popularity is None:
            raise UsageError("negatives by popularity without training counts", where="sampled")
        noise += torch.as_tensor(np.asarray(popularity), dtype=torch.float32, device=scores.device).log()
    noise[scores == -torch.inf] = -torch.inf
    noise[answers] = -torch.inf
    few = min(sampled.negatives, scores.shape[1])
    keys, drawn = noise.topk(few, sorted=False)  # (B, few)
    kept = torch.where(keys > -torch.inf, scores.gather(1, drawn), -torch.inf)  # (B, few)
    scores.fill_(-torch.inf)
    scores.scatter_(1, drawn, kept)
    scores[answers] = target


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(rows, np.int64)).to(like.device)
