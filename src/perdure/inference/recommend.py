"""What a model answers when it is asked about people: the best labels of a task for raw histories of item ids.

    history with a known event      the model's scores; for one_of the probabilities of the classes
    history without a known event   the model's scores too, where the task reads profiles and one is known; else what is
                                    popular in the task's training answers; `source` says "popularity"

Ids the model does not know are ignored and listed. Items of the history are left out of answers that are items, unless
asked for. Equal scores go by label row. The answer to one history is the same alone or in a crowd (up to rounding in
the last digits of the scores).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from perdure.errors import UsageError, shorten
from perdure.events.marks import UNTOLD, Marked, Marks
from perdure.events.profiles import Fields, Profiles
from perdure.inference.represent import (
    HasItems,
    blank,
    label_of_item,
    represent,
    scores_of,
    seen_cells,
    users_at_once,
)
from perdure.inference.topk import top

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["Answer", "Histories", "Met", "checked", "forbidden", "histories", "met_before", "ranked", "recommend"]


@dataclass(frozen=True)
class Answer:
    """What the model says about one history.

    Attributes:
        items: text ids of the best labels, best first.
        scores: their scores; probabilities for one_of; training counts where source is "popularity" and labels are
            ranked.
        source: "model", or "popularity" when no event of the history is known.
        unknown: ids of the history, allow and deny lists that the model does not know, in order, each once.
        truncated: fewer than k labels were left to give.
    """

    items: list[str]
    scores: list[float]
    source: Literal["model", "popularity"]
    unknown: list[str]
    truncated: bool


@dataclass(frozen=True)
class Histories:
    """Raw histories as rows of a model: the known events of history u are items[starts[u]:starts[u + 1]].

    Attributes:
        items: (H,) int64. starts: (n + 1,) int64. unknown: per history the ids that were ignored, each once, and the
            marks that were.
        times: (H,) int64 seconds, where the time of every event is told; else None.
        marks: what else is told of the events, or None.
    """

    items: np.ndarray
    starts: np.ndarray
    unknown: list[list[str]]
    times: np.ndarray | None = None
    marks: Marked | None = None


Told = Marked | Sequence[Sequence[Mapping[str, Any]]]


def histories(model: UserModel, raw: Sequence[Sequence[str]], told: Told | None = None) -> Histories:
    """Text ids -> item rows; what the model does not know is set aside.

    Args:
        told: of every event, column -> value, and "time" -> seconds: what a model with [input] reads besides items.

    Raises:
        UsageError: a single history instead of a list of histories, an id that is no text, or events told of that are
            not those of the histories.
    """
    if isinstance(raw, str) or any(isinstance(h, str) for h in raw):
        raise UsageError(
            f"histories = {shorten(repr(raw))}",
            expected="a list of lists of item ids",
            where="histories",
            fix="write [[...]]",
        )
    flat = list(chain.from_iterable(raw))
    wrong = [value for value in flat if not isinstance(value, str)]
    if wrong:
        raise UsageError(
            f"id {shorten(repr(wrong[0]))} is no text", expected="ids as text", where="histories", fix="str()"
        )
    counts = np.array([len(h) for h in raw], np.int64)
    rows = model.item_ids.rows(flat).astype(np.int64) if flat else np.zeros(0, np.int64)  # (E,)
    owner = np.repeat(np.arange(len(raw)), counts)  # (E,)
    strange: list[dict[str, None]] = [{} for _ in raw]  # each id once, in order
    for at in np.flatnonzero(rows < 0):
        strange[owner[at]][flat[at]] = None
    unknown, known = [list(ids) for ids in strange], rows >= 0
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner[known], minlength=len(raw)))]).astype(np.int64)
    marks = None if told is None else _marks(model, told, counts, unknown).kept(np.flatnonzero(known))
    times = None if marks is None or marks.times is None or (marks.times == UNTOLD).any() else marks.times
    return Histories(rows[known], starts, unknown, times, marks)


def _marks(model: UserModel, told: Told, counts: np.ndarray, unknown: list[list[str]]) -> Marked:
    """What is told of all events of histories with `counts` (n,) of them; values nobody had are added to `unknown`."""
    if isinstance(told, Marked):
        return told
    if [len(events) for events in told] != counts.tolist():
        raise UsageError(
            "other events are told of than the histories have", expected="one for each event", where="marks"
        )
    found, strange = (model.marks or Marks()).told(told)
    for ids, values in zip(unknown, strange, strict=True):
        ids += dict.fromkeys(values)
    return found


def recommend(
    model: UserModel,
    task: str,
    raw: Sequence[Sequence[str]],
    k: int = 10,
    *,
    seen: Literal["drop", "keep"] = "drop",
    allow: Sequence[str] | None = None,
    deny: Sequence[str] | None = None,
    profiles: Profiles | Sequence[Mapping[str, str | None]] | None = None,
    marks: Told | None = None,
) -> list[Answer]:
    """The k best labels of a task for each history.

    Args:
        raw: histories, each a list of item ids as text, oldest first; a user need not have been seen in training.
        k: 1 or more.
        seen: "drop" leaves out labels that are items of the history (of tasks whose labels are items).
        allow: only these labels may be given. deny: these may not. A label in both is not given.
        profiles: of the same users, for models that read them: field -> value, what is left out is missing.
        marks: of every event of the histories, for models that read them: column -> value, and "time" -> seconds.

    Returns:
        One Answer a history, in order.

    Raises:
        UsageError: unknown task (says the nearest), a task that ranks nothing, k below 1, ids that are no text.
        NonFiniteError: the model gave a NaN or an infinity.
    """
    card = checked(model, task, k, seen)
    asked = histories(model, raw, marks)
    begin, end = asked.starts[:-1], asked.starts[1:]
    barred, strangers = forbidden(card, allow, deny)
    known, strange = _profiles(model, profiles, len(begin))
    met = met_before(model, card, asked.items, begin, end) if seen == "drop" else []
    answers = []
    for part, values, columns, empty in ranked(model, task, asked, begin, end, k, barred, met, known):
        unknown = [[*h, *p, *strangers] for h, p in zip(asked.unknown[part], strange[part], strict=True)]
        answers += _answers(card, values, columns, k, empty, unknown)
    return answers


def checked(model: UserModel, task: str, k: int, seen: str) -> TaskCard:
    """The card of a task that can be asked like this. UsageError: as `recommend`."""
    card = model.card(task)
    if not model.ranks(task):
        raise UsageError(
            f"task {task!r} was learned with {model.objective.name}, which makes user vectors and ranks no items",
            expected="one of " + (", ".join(t for t in model.tasks if model.ranks(t)) or "(the model ranks nothing)"),
            where="recommend, task",
            fix="perdure embed gives the vectors",
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k = {k!r}", expected="a whole number of 1 or more", where="recommend, k")
    if seen not in ("drop", "keep"):
        raise UsageError(f"seen = {seen!r}", expected='"drop" or "keep"', where="recommend, seen")
    return card


@dataclass(frozen=True)
class Met:
    """What n users have met already, and are not to be answered with: user u the labels of items[begin[u]:end[u]].

    Attributes:
        labels: label row of each row that may stand in `items`, -1 where none.
    """

    labels: np.ndarray
    items: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def cells(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """(user of the part, label row), an entry each; entries may repeat."""
        return seen_cells(self.labels, self.items, self.begin[part], self.end[part])


def met_before(model: UserModel, card: TaskCard, items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> list[Met]:
    """The items of histories items[begin:end], where the labels of the task are items."""
    labels = label_of_item(card, model.backbone.n_items)
    return [] if labels is None else [Met(labels, items, begin, end)]


def ranked(
    model: UserModel,
    task: str,
    source: HasItems,
    begin: np.ndarray,
    end: np.ndarray,
    k: int,
    barred: np.ndarray | None,
    met: Sequence[Met],
    profiles: Profiles | None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """The k best labels of n histories, a block of them at a time.

    Args:
        source, begin, end, profiles: as in `represent`.
        barred: label rows that are no answers; None: all are. met: what are none of each.

    Yields:
        Which histories, then of each the values and label rows of the best, both (B, k'), with values of -inf where no
        more are left, and (B,) bool: whether what is popular answers.
    """
    card = model.card(task)
    u = represent(model, task, source, begin, end, profiles=profiles)  # (n, d)
    empty, items = blank(model, task, begin, end, profiles), np.asarray(source.items)  # (n,), (H,)
    step = users_at_once(len(card.labels))
    for low in range(0, len(begin), step):
        part = slice(low, low + step)
        scores = scores_of(model, task, u[part], empty[part], items, begin[part], end[part])  # (B, Y)
        if card.kind == "one_of":
            scores = scores.softmax(1)
        if barred is not None:
            scores[:, torch.from_numpy(barred).to(scores.device)] = -torch.inf
        for one in met:
            scores[tuple(torch.from_numpy(c).to(scores.device) for c in one.cells(part))] = -torch.inf
        values, columns = (t.cpu().numpy() for t in top(scores, k))  # (B, k')
        yield part, values, columns, empty[part]


def _profiles(
    model: UserModel, told: Profiles | Sequence[Mapping[str, str | None]] | None, n: int
) -> tuple[Profiles | None, list[list[str]]]:
    """What is told of n users as rows, and the values nobody had."""
    if told is None:
        return None, [[] for _ in range(n)]
    if len(told) != n:
        raise UsageError(f"{len(told)} profiles for {n} histories", expected="one for each", where="profiles")
    if isinstance(told, Profiles):
        return told, [[] for _ in range(n)]
    return (model.fields or Fields({})).told(told)


def _answers(
    card: TaskCard, values: np.ndarray, columns: np.ndarray, k: int, empty: np.ndarray, unknown: list[list[str]]
) -> list[Answer]:
    """What `ranked` gives, as text."""
    kept = values > -np.inf  # (B, k'), a prefix of every row
    texts = card.labels.text(columns[kept])
    ends = np.cumsum(kept.sum(1))
    found = []
    for row, stop in enumerate(ends.tolist()):
        size = int(kept[row].sum())
        source = "popularity" if empty[row] else "model"
        items, given = texts[stop - size : stop], values[row, :size].tolist()
        found.append(Answer(items, given, source, list(dict.fromkeys(unknown[row])), size < k))
    return found


def forbidden(
    card: TaskCard, allow: Sequence[str] | None, deny: Sequence[str] | None
) -> tuple[np.ndarray | None, list[str]]:
    """Label rows that may not be given, and the ids of both lists that are no labels."""
    if allow is None and deny is None:
        return None, []
    open_, strangers = np.full(len(card.labels), allow is None), []
    for ids, verdict in ((allow, True), (deny, False)):
        if ids is None:
            continue
        if isinstance(ids, str) or not isinstance(ids, Iterable) or not all(isinstance(one, str) for one in ids):
            raise UsageError(
                f"{'allow' if verdict else 'deny'} = {shorten(repr(ids))}",
                expected="a list of ids as text",
                where="recommend",
            )
        texts = list(ids)
        rows = card.labels.rows(texts) if texts else np.zeros(0, np.int64)
        open_[rows[rows >= 0]] = verdict
        strangers += [text for text, row in zip(texts, rows, strict=True) if row < 0]
    return np.flatnonzero(~open_), strangers
