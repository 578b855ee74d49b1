"""What users answered outside their history: items, values of columns, attributes, or random labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from perdure.errors import SettingsError
from perdure.events.columns import Columns
from perdure.events.examples import NOISE, Task
from perdure.events.filters import nearest
from perdure.events.ids import Ids, nfc
from perdure.events.values import as_text

CLASSES = 50  # of random labels, where the task does not say


@dataclass(frozen=True)
class Answers:
    """Answers of all users, in user order.

    Attributes:
        users: (A,) int64 user rows, ascending.
        codes: (A,) int64 item rows, or places in a list of texts.
        events: (A,) int64, the log's row that gave each; None for attributes and random labels.
    """

    users: np.ndarray
    codes: np.ndarray
    events: np.ndarray | None

    def take(self, which: np.ndarray) -> Answers:
        """Those at `which`, a mask or places."""
        return Answers(self.users[which], self.codes[which], None if self.events is None else self.events[which])

    def distinct(self) -> Answers:
        """Each answer of a user once, the oldest, in the order met."""
        if not len(self.users):
            return self
        key = self.users * (int(self.codes.max()) + 1) + self.codes
        return self.take(np.sort(np.unique(key, return_index=True)[1]))


def collect(log: Columns, held: np.ndarray | None, task: Task, seed: int) -> tuple[Answers, list[str] | None]:
    """All answers outside the history, and the text of each code (None: codes are item rows).

    Args:
        log: what may be read.
        held: (E,) bool, the events of the history; None: all.
        task: of kind item or one_of.
        seed: of random labels.

    Raises:
        SettingsError: no such column, or a filter that cannot be read.
    """
    if task.answer == NOISE:
        return _drawn(log, task, seed)
    if task.answer.startswith("user."):
        users = log.users
        name = task.answer.removeprefix("user.")
        if users is None or name not in users.columns:
            raise _no_column(task, log.of_users)
        at, codes, texts = _coded(np.arange(log.events.n_users), users[name])
        return Answers(at, codes, None), texts
    known = ["item", *log.own, *log.of_items]
    if task.answer not in known:
        raise _no_column(task, list(dict.fromkeys([*known, *log.of_users])))
    outside = ~held if held is not None else np.zeros(log.events.n_events, bool)
    if task.where is not None:
        outside = outside & log.select(task.where, task.place("where"))
    rows = np.flatnonzero(outside)  # (A,)
    texts = None
    if task.answer == "item":
        codes = np.asarray(log.events.items)[rows].astype(np.int64)
    else:
        rows, codes, texts = _coded(rows, log.column(task.answer, rows))
    owner = np.searchsorted(np.asarray(log.events.starts), rows, side="right") - 1
    return Answers(owner.astype(np.int64), codes, rows), texts


def _drawn(log: Columns, task: Task, seed: int) -> tuple[Answers, list[str]]:
    """Random labels: a user's depends on the user's id, the task's name and the seed; on no other user, on no order."""
    if NOISE in log.own:
        raise SettingsError(
            f'answer = "{NOISE}" means random labels, and the log has a column of that name',
            where=task.place("answer"),
            fix="leave the column out of [data] features",
        )
    classes = task.classes or CLASSES
    lots = log.events.user_ids.lots(f"{seed} {task.name}")  # (U, 2)
    users = np.flatnonzero(lots[:, 0] / 2.0**64 < (task.share or 1.0))
    digits = len(str(classes - 1))
    return Answers(users, (lots[users, 1] % classes).astype(np.int64), None), [f"{c:0{digits}}" for c in range(classes)]


def _coded(rows: np.ndarray, column: pl.Series) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows repeated for lists and without missing values, their codes, and the text of each code."""
    if isinstance(column.dtype, pl.List | pl.Array):
        column = column.cast(pl.List(column.dtype.inner)) if isinstance(column.dtype, pl.Array) else column
        lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        rows, column = np.repeat(rows, lengths), column.filter(lengths > 0).explode()
    present = column.is_not_null().to_numpy()
    text = nfc(as_text(column.filter(present)))
    distinct = text.unique().sort()
    codes = Ids(distinct).rows(text).astype(np.int64)
    return rows[present], codes, distinct.to_list()


def _no_column(task: Task, known: list[str]) -> SettingsError:
    near = nearest(task.answer, known)
    return SettingsError(
        f"no column {task.answer!r} to answer from",
        expected="one of " + (", ".join(known) or "(there are none)"),
        where=task.place("answer"),
        fix=f"did you mean {near}?" if near else "",
    )
