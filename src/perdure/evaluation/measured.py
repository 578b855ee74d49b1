"""Scores of a task's labels -> what is measured of them: where the right ones rank, or which class is told.

The scores are a model's (evaluate.py) or those of a head on vectors that stand still (vectors.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from perdure.evaluation import metrics
from perdure.evaluation.ranking import Sampled, Scores, Seen, rank_blocks, users_at_once
from perdure.inference.represent import seen_cells

if TYPE_CHECKING:
    from perdure.events.examples import Examples
    from perdure.model.user_model import TaskCard

__all__ = ["Answers", "Measured", "class_told", "classes", "ranked"]

RANKING = {
    "hr": metrics.hit_rate,
    "ndcg": metrics.ndcg,
    "mrr": metrics.reciprocal_rank,
    "recall": metrics.recall,
}
Answers = Iterable[tuple[int, int, Scores]]  # stretches of examples, from and to; their scores, by place in the stretch


@dataclass(frozen=True)
class Measured:
    """What was measured on the examples of a task.

    Attributes:
        values, per_user, protocol, confusion: as a Score has them.
        notes: what a reader of the numbers must know of how they came about.
    """

    values: Mapping[str, float]
    per_user: Mapping[str, np.ndarray]
    protocol: str
    notes: list[str]
    confusion: np.ndarray | None = field(default=None, repr=False)


def ranked(
    card: TaskCard,
    examples: Examples,
    answers: Answers,
    ks: Sequence[int],
    items: np.ndarray,
    labels: np.ndarray | None,
    sampled: Sampled | None = None,
) -> Measured:
    """A task whose labels are ranked.

    Args:
        examples: each with an answer.
        ks: cut-offs.
        items: (H,) item rows of the histories.
        labels: label row of each item row; labels that are items of the user's own input are no candidates, unless
            they are right. None: all labels are candidates.
        sampled: rank among drawn wrong answers instead of all.
    """
    starts, n_labels, parts = np.asarray(examples.answer_starts), len(card.labels), []
    for low, high, scores in answers:
        own = starts[low : high + 1]
        parts.append(
            rank_blocks(
                scores,
                n_labels,
                examples.answers[own[0] : own[-1]],
                own - own[0],
                seen=_seen(labels, np.asarray(items), examples.begin[low:high], examples.end[low:high]),
                sampled=replace(sampled, seed=sampled.seed + low) if sampled else None,
                popularity=card.popularity,
            )
        )
    rank, auc = np.concatenate([p.rank for p in parts]), np.concatenate([p.auc for p in parts])
    per_user = {f"{name}@{k}": measure(rank, starts, k) for name, measure in RANKING.items() for k in ks}
    per_user["auc"] = metrics.mean_per_user(auc, starts)
    notes = []
    if labels is not None:
        notes.append("items of a user's own input are left out of the ranking, unless they are right")
        if met := sum(p.met for p in parts):
            notes[-1] += f": {met} of {len(rank)} are, which recommend never gives unless seen is keep"
    among = min(n_labels, sampled.negatives + 1) if sampled else n_labels
    if beyond := [str(k) for k in ks if k >= among]:
        notes.append(f"hr and recall at {', '.join(beyond)} say nothing: {among} answers are ranked")
    if sampled and sampled.negatives >= n_labels:
        notes.append(f"the task has {n_labels} answers: all that can be drawn are, and {sampled.negatives} cannot")
    values = {name: float(v.mean()) for name, v in per_user.items()}
    return Measured(values, per_user, str(sampled) if sampled else "full ranking", notes)


def _seen(labels: np.ndarray | None, items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Seen | None:
    """What is left out of each ranking: labels met in the inputs items[begin:end]."""
    return None if labels is None else lambda low, high: seen_cells(labels, items, begin[low:high], end[low:high])


def classes(card: TaskCard, examples: Examples, answers: Answers, *, area: bool = True) -> Measured:
    """A one_of task.

    Args:
        examples: each with an answer.
        area: measure AUC too, for which the scores of all users are kept.
    """
    n, n_labels = len(examples), len(card.labels)
    right = np.asarray(examples.answers, np.int64)[np.asarray(examples.answer_starts)[:-1]]  # (n,)
    predicted, probability = np.zeros(n, np.int64), np.zeros(n)
    kept = np.zeros((n, n_labels), np.float32) if area else None
    step = users_at_once(n_labels)
    for low, high, scores in answers:
        for a in range(low, high, step):
            b = min(a + step, high)
            predicted[a:b], probability[a:b], odds = class_told(scores(a - low, b - low), right[a:b])
            if kept is not None:
                kept[a:b] = odds.cpu().numpy()
    table = metrics.confusion(right, predicted, n_labels)
    per_user = {"accuracy": (predicted == right).astype(np.float64), "log_loss": metrics.log_loss(probability)}
    values = {name: float(value.mean()) for name, value in per_user.items()} | metrics.of_table(table)
    auc = metrics.area_of_classes(kept, right) if kept is not None else float("nan")
    notes = []
    if np.isnan(auc):
        notes.append("no AUC: " + ("too many users times classes" if kept is None else "all users have one class"))
    else:
        values["auc"] = auc
    if n_labels == 2:
        notes.append(f"precision, recall and f1 are those of {card.labels.text(np.array([1]))[0]!r}")
    return Measured(values, per_user, "all classes", notes, table)


def class_told(scores: Tensor, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Of scores (B, Y) and right classes (B,), -1 outside: the class told (B,), the chance given to the right one (B,),
    and log(p / (1 - p)) of all chances p (B, Y), which tells users apart to whom all but the whole chance is given. A
    wrong class with the same score as the right one wins, as in ranking."""
    at = torch.from_numpy(right.clip(0)).to(scores.device)[:, None]  # (B, 1)
    known = torch.from_numpy(right >= 0).to(scores.device)  # (B,)
    log_p, theirs = scores.log_softmax(1), scores.gather(1, at)[:, 0]  # (B, Y), (B,)
    wrong = torch.where(known[:, None], scores.scatter(1, at, -torch.inf), scores)  # (B, Y)
    best, column = wrong.max(1)  # (B,), (B,)
    told = torch.where(known & (theirs > best), at[:, 0], column)  # (B,)
    top, first = scores.max(1, keepdim=True)  # (B, 1), (B, 1)
    others = scores.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)  # (B, 1)
    odds = (log_p - torch.log1p(-log_p.exp())).scatter(1, first, top - others)  # (B, Y): but the first, p <= 1/2
    return told.cpu().numpy(), torch.where(known, log_p.gather(1, at)[:, 0].exp(), 0.0).cpu().numpy(), odds
