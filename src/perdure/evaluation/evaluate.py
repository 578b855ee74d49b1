"""A model and a task -> a Score.

Goes through inference.represent and model.score_of, as recommend does: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from perdure.errors import DataError, ModelError, UsageError
from perdure.evaluation import bootstrap, metrics
from perdure.evaluation.own_measure import own_measure
from perdure.evaluation.ranking import Sampled, rank_blocks, users_at_once
from perdure.inference.represent import blank, label_of_item, popular, represent, scores_of, seen_cells

if TYPE_CHECKING:
    from perdure.events.examples import Examples, TaskData
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PRIMARY", "Score", "evaluate"]

RANKING = {
    "hr": metrics.hit_rate,
    "ndcg": metrics.ndcg,
    "mrr": metrics.reciprocal_rank,
    "recall": metrics.recall,
}
PRIMARY = {"next_item": "ndcg@10", "item": "ndcg@10", "one_of": "accuracy"}
USERS = 2**16  # user vectors in memory at a time
MOST_KEPT = 2**26  # class scores kept for the AUC; above, it is left out
# users from, to; and from, to within them -> fresh (B, Y) scores
Answers = Iterator[tuple[int, int, Callable[[int, int], Tensor]]]


@dataclass(frozen=True)
class Score:
    """How good a model is at one task.

    Attributes:
        task, split: what was measured, on which examples.
        n: examples that had an answer to be found, as a rule one a user.
        values: measure -> mean over them (F1, precision, recall and AUC of classes: one number of all users).
        per_user: measure -> (n,) float64.
        users: (n,) int32 user rows, in the order of `per_user`; several times whoever has several examples.
        primary: the measure that stands for the task in the matrix R.
        protocol: "full ranking", "sampled: 100 uniform negatives, seed 0", "all classes", or the objective's name.
        notes: what a reader of the numbers must know.
        confusion: (Y + 1, Y) counts for one_of, else None; see metrics.confusion.
        popularity: the primary measure of whoever answers everybody with what is popular in training; None where it was
            not asked for, or nothing is ranked.
        history: (n,) events of each input, in the order of `users`; None where `evaluate` did not make the score.
    """

    task: str
    split: str
    n: int
    values: Mapping[str, float]
    per_user: Mapping[str, np.ndarray]
    users: np.ndarray
    primary: str
    protocol: str
    notes: tuple[str, ...] = ()
    confusion: np.ndarray | None = field(default=None, repr=False)
    popularity: float | None = None
    history: np.ndarray | None = field(default=None, repr=False)

    @property
    def value(self) -> float:
        """The primary measure."""
        return self.values[self.primary]

    @property
    def label(self) -> str:
        """The name of the primary measure, and the protocol where the ranking is a sampled one."""
        return f"{self.primary} ({self.protocol})" if self.protocol.startswith("sampled") else self.primary

    def by(self, metric: str | None) -> Score:
        """The same score with `metric` standing for the task; its own default, noted, where it was not measured."""
        if metric is None or metric in self.values:
            return replace(self, primary=metric or self.primary)
        return replace(self, notes=(*self.notes, f"{metric} was not measured here: {self.primary} stands for the task"))

    def _counted(self, name: str) -> bool:
        """Whether a measure is one of the table of classes."""
        return self.confusion is not None and name in self.values and name in metrics.OF_TABLE

    def interval(
        self, name: str | None = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap percentile interval (low, high) of a measure: how far it would move with other users.

        Raises:
            UsageError: no such measure, or one without an interval (AUC of classes).
        """
        name = name or self.primary
        bootstrap.check(level, resamples)
        if self._counted(name):
            draws = bootstrap.tables(self.confusion, resamples, seed, metrics.OF_TABLE[name])  # type: ignore[arg-type]
            return bootstrap.interval(draws, level)
        return bootstrap.interval(bootstrap.means(_of(self, name), resamples, seed, self.users), level)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, without the users: task, split, n, metric, value, low, high, popularity, values,
        protocol, notes.

        low and high are None for the AUC of classes, which has no interval here.
        """
        alone = self.primary not in self.per_user and not self._counted(self.primary)
        low, high = (None, None) if alone else self.interval()
        told = {"task": self.task, "split": self.split, "n": self.n, "metric": self.primary, "value": self.value}
        return {**told, "low": low, "high": high, "popularity": self.popularity, "values": dict(self.values),
                "protocol": self.protocol, "notes": list(self.notes)}  # fmt: skip


def evaluate(
    model: UserModel,
    data: TaskData,
    split: str = "test",
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    seen: Literal["drop", "keep"] = "drop",
    sampled: Sampled | int | str | None = None,
    metric: str | None = None,
    popularity: bool = False,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Score:
    """Measures a model on the examples of a task.

    Tasks whose labels are ranked (next_item, item) give hr@k, ndcg@k, mrr@k, recall@k for each k and auc; one_of gives
    accuracy, macro_f1, log_loss and auc. Formulas: metrics.py; ties and left-out labels: ranking.py. A next_item task
    whose objective ranks nothing gives what the objective measures of users: own_measure.py.

    Args:
        data: the task made ready, over the store whose items the model reads.
        split: "train", "valid" or "test".
        ks: cut-offs; 10 is added, as the primary measure needs it, and that of `metric`.
        seen: "drop": labels that are items of the user's own input are no candidates, unless they are right.
        sampled: None ranks among all labels. A number, "100 uniform", "100 popularity" or a Sampled ranks among so
            many drawn wrong labels; the result says so in `protocol` and must not be compared with full ranking.
        metric: the measure that stands for the task; ndcg@10, or accuracy for one_of, where None or not measured.
        popularity: measure what is popular, too: the same answers for everybody.
        batch_size: histories the encoder sees at once; changes no result beyond rounding.
        generator: its initial seed is the seed of the sampled ranking (0 without).

    Raises:
        UsageError: unknown task or split, ks, seen or sampled out of range. DataError: nobody to measure.
        ModelError: the task's labels differ between model and data. NonFiniteError: a score is NaN or infinite.
    """
    asked = cuts(ks, metric)
    card, drawn = model.card(data.task.name), _sampled(sampled, generator)
    if seen not in ("drop", "keep") or split not in ("train", "valid", "test"):
        raise UsageError(
            f"split = {split!r}, seen = {seen!r}",
            expected='"train", "valid" or "test"; "drop" or "keep"',
            where="evaluate",
        )
    if card.kind != data.task.kind or len(card.labels) != len(data.labels) or card.labels.digest != data.labels.digest:
        raise ModelError(
            f"task {card.name!r}: the model answers with {len(card.labels)} labels of kind {card.kind}, "
            f"the data with {len(data.labels)} of kind {data.task.kind}, and they differ",
            expected="the store and the tasks this model was trained on",
            where="evaluate",
        )
    examples, notes = _judged(data.part(split), card.name, split)
    if not model.ranks(card.name):
        return _by_objective(model, data, examples, split, notes, batch_size).by(metric)
    profiles = None if data.profiles is None else data.profiles.of(examples.users)
    empty = int(blank(model, card.name, examples.begin, examples.end, profiles).sum())
    if empty:
        notes.append(f"{empty} users without input events were answered by popularity")
    outside = int((examples.answers < 0).sum())
    if outside:
        notes.append(f"{outside} right answers are no labels of the task (never met in training): misses")

    def measured(answers: Answers) -> Score:
        if card.kind == "one_of":
            return _classes(card, examples, split, notes, answers).by(metric)
        labels = label_of_item(card, model.backbone.n_items) if seen == "drop" else None
        return _ranked(card, data, examples, split, notes, answers, asked, labels, drawn).by(metric)

    score = replace(measured(_answers(model, card.name, data, examples, batch_size)), history=_lengths(examples))
    if not popularity:
        return score
    return replace(score, popularity=measured(_popular(card, examples)).values.get(score.primary))


def cuts(ks: Sequence[int], metric: str | None) -> tuple[int, ...]:
    """All cut-offs that are measured: 10 is added, as the primary measure needs it, and that of `metric`. Raises
    UsageError where one is no whole number of 1 or more."""
    cut = (metric or "").partition("@")[2]
    return metrics.check_ks([*ks, 10, *([int(cut)] if cut.isdecimal() else [])])


def _ranked(card, data, examples, split, notes, stretches: Answers, ks, labels, sampled) -> Score:
    """Score of a task whose labels are ranked; those of `labels`, the label of each item, are left out where met."""
    notes = [*notes]
    label_of, items = labels if labels is not None else np.zeros(0, np.int64), np.asarray(data.sequences.items)
    parts = []
    for low, high, scores in stretches:
        begin, end, starts = examples.begin[low:high], examples.end[low:high], examples.answer_starts[low : high + 1]

        def seen(a: int, b: int, begin: np.ndarray = begin, end: np.ndarray = end) -> tuple[np.ndarray, np.ndarray]:
            return seen_cells(label_of, items, begin[a:b], end[a:b])

        block = Sampled(sampled.negatives, sampled.by, sampled.seed + low) if sampled else None
        answers = examples.answers[starts[0] : starts[-1]]
        cells = None if labels is None else seen
        own = starts - starts[0]
        found = rank_blocks(
            scores, len(card.labels), answers, own, seen=cells, sampled=block, popularity=card.popularity
        )
        parts.append(found)
    rank, auc = np.concatenate([p.rank for p in parts]), np.concatenate([p.auc for p in parts])
    starts, per_user = examples.answer_starts, {}
    for name, measure in RANKING.items():
        per_user |= {f"{name}@{k}": measure(rank, starts, k) for k in ks}
    per_user["auc"] = metrics.mean_per_user(auc, starts)
    if labels is not None:
        notes.append("items of a user's own input are left out of the ranking, unless they are right")
        if met := sum(p.met for p in parts):
            notes[-1] += f": {met} of {len(rank)} are, which recommend never gives unless seen is keep"
    ranked = min(len(card.labels), sampled.negatives + 1) if sampled else len(card.labels)
    if beyond := [str(k) for k in ks if k >= ranked]:
        notes.append(f"hr and recall at {', '.join(beyond)} say nothing: {ranked} answers are ranked")
    if sampled and sampled.negatives >= len(card.labels):
        notes.append(
            f"the task has {len(card.labels)} answers: all that can be drawn are, and {sampled.negatives} cannot"
        )
    protocol = str(sampled) if sampled else "full ranking"
    values = {name: float(v.mean()) for name, v in per_user.items()}
    n, users, primary = len(examples), examples.users, PRIMARY[card.kind]
    return Score(card.name, split, n, values, per_user, users, primary, protocol, tuple(notes))


def _classes(card, examples, split, notes, stretches: Answers) -> Score:
    """Score of a one_of task."""
    notes = [*notes]
    n, n_labels = len(examples), len(card.labels)
    right = np.asarray(examples.answers, np.int64)[examples.answer_starts[:-1]]  # (n,)
    predicted, probability = np.zeros(n, np.int64), np.zeros(n)
    kept = np.zeros((n, n_labels), np.float32) if n * n_labels <= MOST_KEPT else None
    step = users_at_once(n_labels)
    for low, high, scores in stretches:
        for a in range(low, high, step):
            b = min(a + step, high)
            predicted[a:b], probability[a:b], odds = class_told(scores(a - low, b - low), right[a:b])
            if kept is not None:
                kept[a:b] = odds.cpu().numpy()
    values, per_user, table = class_values(right, predicted, probability, kept, n_labels)
    if "auc" not in values:
        notes.append("no AUC: " + ("too many users times classes" if kept is None else "all users have one class"))
    if n_labels == 2:
        notes.append(f"precision, recall and f1 are those of {card.labels.text(np.array([1]))[0]!r}")
    users, primary = examples.users, PRIMARY[card.kind]
    return Score(card.name, split, n, values, per_user, users, primary, "all classes", tuple(notes), table)


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


def class_values(
    right: np.ndarray, predicted: np.ndarray, probability: np.ndarray, odds: np.ndarray | None, n_labels: int
) -> tuple[dict[str, float], dict[str, np.ndarray], np.ndarray]:
    """Values, per user, confusion, from what `class_told` gives; without auc where there are no odds (n, Y), or all
    users have one class."""
    table = metrics.confusion(right, predicted, n_labels)
    per_user = {"accuracy": (predicted == right).astype(np.float64), "log_loss": metrics.log_loss(probability)}
    values = {name: float(value.mean()) for name, value in per_user.items()} | metrics.of_table(table)
    area = metrics.area_of_classes(odds, right) if odds is not None else float("nan")
    return values | ({} if np.isnan(area) else {"auc": area}), per_user, table


def _by_objective(model, data, examples, split, notes, batch_size) -> Score:
    """Score of a task whose objective learns user vectors and ranks nothing."""
    per_user, kept = own_measure(model, data, examples, batch_size)
    if not len(kept):
        raise DataError(f"no {split} user of {data.task.name!r} has an input event", where=f"evaluate, split {split!r}")
    if len(kept) < len(examples):
        notes.append(f"{len(examples) - len(kept)} users without input events, or of an incomplete batch, are left out")
    name, protocol = model.objective.measure, f"{model.objective.name}, {min(batch_size, len(kept))} users a batch"
    examples, values = examples.of(kept), {name: float(per_user.mean())}
    told = Score(
        data.task.name, split, len(kept), values, {name: per_user}, examples.users, name, protocol, tuple(notes)
    )
    return replace(told, history=_lengths(examples))


def _lengths(examples: Examples) -> np.ndarray:
    return (examples.end - examples.begin).astype(np.int32)  # (n,)


def _answers(model: UserModel, task: str, data: TaskData, examples: Examples, batch_size: int) -> Answers:
    """What the model answers, one stretch of users after the other."""
    for low in range(0, len(examples), USERS):
        high = min(low + USERS, len(examples))
        begin, end = examples.begin[low:high], examples.end[low:high]
        profiles = None if data.profiles is None else data.profiles.of(examples.users[low:high])
        vectors = represent(model, task, data.sequences, begin, end, batch_size, profiles)
        none = blank(model, task, begin, end, profiles)

        def scores(a: int, b: int, u: Tensor = vectors, empty: np.ndarray = none) -> Tensor:
            return scores_of(model, task, u[a:b], empty[a:b])

        yield low, high, scores


def _popular(card: TaskCard, examples: Examples) -> Answers:
    """The same answers for everybody: what is popular in training."""
    row = popular(card)  # (Y,)
    yield 0, len(examples), lambda a, b: row.repeat(b - a, 1)


def _judged(examples: Examples, task: str, split: str) -> tuple[Examples, list[str]]:
    """The examples that have an answer, and notes on those that have none and on users with several."""
    starts = examples.answer_starts
    if starts is None:
        raise UsageError(
            f"the {split} examples of {task!r} are every shift of the input",
            expected='split "valid" or "test"',
            where="evaluate, split",
        )
    asked = np.diff(starts) > 0
    if not asked.any():
        raise DataError(
            f"task {task!r} has no {split} user with an answer",
            expected="at least one",
            where=f"evaluate, split {split!r}",
            fix="give the split a larger share, or take more users into the task",
        )
    notes = []
    if not asked.all():
        examples = examples.of(np.flatnonzero(asked))
        notes.append(f"{int((~asked).sum())} users without any answer are left out")
    if (users := len(np.unique(examples.users))) < len(examples):
        notes.append(f"n counts examples, of {users} users")
    return examples, notes


def _sampled(asked: Sampled | int | str | None, generator: torch.Generator | None) -> Sampled | None:
    """What the caller wrote, as Sampled."""
    if asked is None or isinstance(asked, Sampled):
        return asked
    seed = generator.initial_seed() if generator is not None else 0
    words = str(asked).split()
    by = words[1] if len(words) > 1 else "uniform"
    clear = not isinstance(asked, bool) and len(words) in (1, 2) and words[0].isdecimal()
    if not clear or by not in ("uniform", "popularity"):
        raise UsageError(
            f"sampled = {asked!r}", expected='a number, "100 uniform" or "100 popularity"', where="evaluate, sampled"
        )
    return Sampled(int(words[0]), "popularity" if by == "popularity" else "uniform", seed)


def _of(score: Score, name: str) -> np.ndarray:
    if name in score.per_user:
        return score.per_user[name]
    why = "is one number of all users and has no interval here" if name in score.values else "was not measured"
    raise UsageError(f"{name!r} {why}", expected="one of " + ", ".join(score.per_user), where=f"score of {score.task}")
