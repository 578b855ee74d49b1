"""A model and a task -> a Score.

Goes through inference.represent and model.score_of, as recommend does: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from perdure.errors import DataError, ModelError, UsageError
from perdure.evaluation import bootstrap, metrics
from perdure.evaluation.measured import Answers, Measured, classes, ranked
from perdure.evaluation.own_measure import own_measure
from perdure.evaluation.ranking import Sampled
from perdure.events.detect import Told, untold
from perdure.inference.represent import blank, label_of_item, popular, represent, scores_of

if TYPE_CHECKING:
    from perdure.events.examples import Examples, TaskData
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PRIMARY", "Score", "evaluate"]

PRIMARY = {"next_item": "ndcg@10", "item": "ndcg@10", "one_of": "accuracy"}
USERS = 2**16  # user vectors in memory at a time
MOST_KEPT = 2**26  # class scores kept for the AUC; above, it is left out


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
        history: (n,) events of each input, in the order of `users`; None of a score that was not measured here.
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

    @staticmethod
    def of(found: Measured, card: TaskCard, examples: Examples, split: str, notes: Sequence[str]) -> Score:
        """What was measured on all `examples` of a task."""
        return Score(
            task=card.name,
            split=split,
            n=len(examples),
            values=found.values,
            per_user=found.per_user,
            users=examples.users,
            primary=PRIMARY[card.kind],
            protocol=found.protocol,
            notes=tuple(notes),
            confusion=found.confusion,
            history=_lengths(examples),
        )

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
    told: Told = untold,
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
        told: how many examples are measured.

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
        notes.append(f"users without input events, answered with what is popular: {empty:,}")
    notes += outside(examples)

    def measured(answers: Answers) -> Measured:
        if card.kind == "one_of":
            return classes(card, examples, answers, area=len(examples) * len(card.labels) <= MOST_KEPT)
        labels = label_of_item(card, model.backbone.n_items) if seen == "drop" else None
        return ranked(card, examples, answers, asked, data.sequences.items, labels, drawn)

    def at(done: int) -> None:
        told(f"{card.name}: measuring among {len(card.labels):,} answers", done, len(examples), f"{split} examples")

    found = measured(_answers(model, card.name, data, examples, batch_size, at))
    score = Score.of(found, card, examples, split, [*notes, *found.notes]).by(metric)
    if not popularity:
        return score
    return replace(score, popularity=measured(_popular(card, examples)).values.get(score.primary))


def outside(examples: Examples) -> list[str]:
    """A note on right answers that are no labels, where there are any."""
    count = int((examples.answers < 0).sum())
    return [f"right answers that are no labels of the task (never met in training), misses: {count:,}"] if count else []


def cuts(ks: Sequence[int], metric: str | None) -> tuple[int, ...]:
    """All cut-offs that are measured: 10 is added, as the primary measure needs it, and that of `metric`. Raises
    UsageError where one is no whole number of 1 or more."""
    cut = (metric or "").partition("@")[2]
    return metrics.check_ks([*ks, 10, *([int(cut)] if cut.isdecimal() else [])])


def _by_objective(
    model: UserModel, data: TaskData, examples: Examples, split: str, notes: list[str], batch_size: int
) -> Score:
    """Score of a task whose objective learns user vectors and ranks nothing."""
    per_user, kept = own_measure(model, data, examples, batch_size)
    if not len(kept):
        raise DataError(f"no {split} user of {data.task.name!r} has an input event", where=f"evaluate, split {split!r}")
    if len(kept) < len(examples):
        notes.append(f"users left out, without input events or of an incomplete batch: {len(examples) - len(kept):,}")
    name, examples = model.objective.measure, examples.of(kept)
    return Score(
        task=data.task.name,
        split=split,
        n=len(kept),
        values={name: float(per_user.mean())},
        per_user={name: per_user},
        users=examples.users,
        primary=name,
        protocol=f"{model.objective.name}, {min(batch_size, len(kept))} users a batch",
        notes=tuple(notes),
        history=_lengths(examples),
    )


def _lengths(examples: Examples) -> np.ndarray:
    return (examples.end - examples.begin).astype(np.int32)  # (n,)


def _answers(
    model: UserModel, task: str, data: TaskData, examples: Examples, batch_size: int, at: Callable[[int], None]
) -> Answers:
    """What the model answers, one stretch of users after the other; `at` hears how many it has answered."""
    items = np.asarray(data.sequences.items)
    for low in range(0, len(examples), USERS):
        at(low)
        high = min(low + USERS, len(examples))
        begin, end = examples.begin[low:high], examples.end[low:high]
        profiles = None if data.profiles is None else data.profiles.of(examples.users[low:high])
        vectors = represent(model, task, data.sequences, begin, end, batch_size, profiles)
        none = blank(model, task, begin, end, profiles)

        def scores(
            a: int, b: int, u: Tensor = vectors, of: tuple[np.ndarray, ...] = (none, begin, end), before: int = low
        ) -> Tensor:
            at(before + a)
            empty, first, last = (one[a:b] for one in of)
            found = scores_of(model, task, u[a:b], empty, items, first, last)  # (B, Y)
            if empty.any():
                row = _popular_row(model.card(task), found.device)  # (Y,)
                found = found.to(row.dtype)
                found[torch.from_numpy(empty).to(found.device)] = row
            return found

        yield low, high, scores


def _popular(card: TaskCard, examples: Examples) -> Answers:
    """The same answers for everybody: what is popular in training."""
    row = _popular_row(card)  # (Y,)
    yield 0, len(examples), lambda a, b: row.repeat(b - a, 1)


def _popular_row(card: TaskCard, device: torch.device | str = "cpu") -> Tensor:
    """(Y,) scores of what is popular, equals apart; of classes, whose shares count, by next to nothing (float64)."""
    row = popular(card, device)
    return row.double() + 1e-12 * apart(row) if card.kind == "one_of" else apart(row)


def apart(scores: Tensor) -> Tensor:
    """(Y,) the places of scores from the best, 0, down: of equals the first is before, as it is when answers are given.
    As scores that many share, such as counts, all would be beaten by each other."""
    return -scores.argsort(descending=True, stable=True).argsort().float()  # (Y,)


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
        notes.append(f"users left out, without any answer: {int((~asked).sum()):,}")
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
