"""From a log and task settings to examples: every step is an array operation over all users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from perdure.errors import DataError, SettingsError
from perdure.events.answers import Answers, collect
from perdure.events.columns import Columns
from perdure.events.examples import NOISE, Examples, History, Sequences, Task, TaskData, check_no_leak
from perdure.events.ids import Ids
from perdure.events.splits import PARTS, TEST, TRAIN, VALID, Split, counts_in, partition, partition_by_id, ragged

if TYPE_CHECKING:
    from perdure.events.sequences import Events

__all__ = ["Examples", "History", "Sequences", "Split", "Task", "TaskData", "check_no_leak", "compile_tasks"]


def compile_tasks(
    events: Events, tasks: Sequence[Task], history: History | None = None, split: Split | None = None
) -> dict[str, TaskData]:
    """Inputs, label spaces and examples of all tasks, over one history and one partition of users.

    Args:
        events: the log.
        tasks: in the order they will be learned; names differ in more than case.
        history: what is input (default: the whole log).
        split: who is judged (default: by user, 80/5/15).

    Returns:
        {task name: TaskData}, in the order of `tasks`, checked by `check_no_leak`.

    Raises:
        SettingsError: two tasks of one name, a filter or column that cannot be read, a split by time on a log without
            times.
        DataError: a task without a single training example, with the counts of why.
    """
    history, split = history or History(), split or Split()
    names = [task.name.lower() for task in tasks]
    for task in tasks:
        if names.count(task.name.lower()) > 1:
            raise SettingsError(f"two tasks are named {task.name!r}", where="[[tasks]], key name")
    if split.kind == "time" and events.times is None:
        raise SettingsError(
            "a split by time on a log without times",
            where="[split], key kind",
            fix='name the time column, or kind = "last"',
        )
    log, sequences, held = _shared(events, history)
    parts = partition_by_id(events.user_ids, split) if split.by_id else partition(events.n_users, split)  # (U,)
    shop = _Workshop(log, sequences, held, history, split, parts)
    data = {task.name: shop.compile(task) for task in tasks}
    check_no_leak(data)
    return data


def cold_users(events: Events, history: History) -> np.ndarray:
    """(U,) bool: the users who are made cold, drawn by their ids."""
    if not history.cold_share:
        return np.zeros(events.n_users, bool)
    lots = events.user_ids.lots(f"{history.cold_seed} cold")[:, 0]  # (U,)
    return lots < np.uint64(history.cold_share * 2.0**64)


def history_of(events: Events, history: History) -> Sequences:
    """What of a log is input, the same for all tasks. SettingsError: a filter that cannot be read."""
    return _shared(events, history)[1]


def known_answers(events: Events, task: Task, history: History) -> tuple[Answers, Ids]:
    """What a log tells of all users' answers to a task of kind item, and the ids that they are rows of: every event
    outside the history that answers it, whoever takes part in the task. There may be none.

    Raises:
        SettingsError: no such column, or a filter that cannot be read.
    """
    log, _, held = _shared(events, history)
    answers, texts = collect(log, held, task, 0)
    return answers.distinct(), events.item_ids if texts is None else Ids(texts)


def _shared(events: Events, history: History) -> tuple[Columns, Sequences, np.ndarray | None]:
    """The log's columns, the shared history, and (E,) bool which events are in it (None: all)."""
    log, cold = Columns(events), cold_users(events, history)
    log.facts = {"n_events": np.diff(np.asarray(events.starts)), "cold": cold}
    if history.where is None and history.share == 1 and not cold.any():
        return log, Sequences(events.items, events.starts, events.times), None
    starts = np.asarray(events.starts)
    rows: np.ndarray | None = None
    if history.where is not None:
        mask = log.select(history.where, "[history], key where")
        starts, rows = np.concatenate([[0], np.cumsum(counts_in(mask, starts))]), np.flatnonzero(mask)
    counts = np.diff(starts)
    kept = np.minimum(np.maximum((history.share * counts + 1e-9).astype(np.int64), 1), counts)  # (U,)
    kept = np.where(cold, np.minimum(kept, history.cold_events), kept)  # (U,)
    chosen = ragged(starts[:-1], kept)  # (H,)
    rows = chosen if rows is None else rows[chosen]
    held = np.zeros(events.n_events, bool)
    held[rows] = True
    times = None if events.times is None else np.asarray(events.times)[rows]
    starts = np.concatenate([[0], np.cumsum(kept)])  # (U + 1,)
    return log, Sequences(np.asarray(events.items)[rows], starts, times, rows), held


class _Workshop:
    """Makes the examples of one task after the other from what all tasks share."""

    def __init__(
        self,
        log: Columns,
        sequences: Sequences,
        held: np.ndarray | None,
        history: History,
        split: Split,
        parts: np.ndarray,
    ) -> None:
        self.log, self.sequences, self.held, self.split, self.parts = log, sequences, held, split, parts
        self.min_length, self.filter = history.min_length, history.where
        self.starts = np.asarray(sequences.starts)

    def compile(self, task: Task) -> TaskData:
        self.left_out: dict[str, int] = {}
        self.several = 0  # users with more than one value of an attribute that is a class
        selected = np.ones(self.sequences.n_users, bool)
        if task.users is not None:
            selected = self.log.select_users(task.users, task.place("users"))
            self._leave("not selected by users", ~selected)
        data = self._next_item(task, selected) if task.kind == "next_item" else self._answered(task, selected)
        data.notes.update(self._notes(data))
        if not len(data.train):
            never = [text for one in (task.where, task.users, self.filter) if one for text in self.log.absent(one)]
            outside = task.kind != "next_item" and not task.attribute and task.answer != NOISE
            if outside and (self.held is None or self.held.all()):
                never.append("the history is the whole log, and answers lie outside it: set [history] where or share")
            elif outside and task.where is not None and self.held is not None:
                asked = self.log.select(task.where, task.place("where"))  # (E,)
                if asked.any() and self.held[asked].all():
                    never.append("all events that its where selects are history, and answers lie outside it")
            left = "; ".join(f"{why}: {n}" for why, n in self.left_out.items()) or "none"
            raise DataError(
                f"task {task.name!r} has no training example",
                expected="at least one user with an input and an answer",
                where=f"[[tasks]] {task.name!r}",
                fix="; ".join([*never, f"users left out: {left}"]),
            )
        return data

    def _leave(self, reason: str, which: np.ndarray) -> None:
        if n := int(np.count_nonzero(which)):
            self.left_out[reason] = self.left_out.get(reason, 0) + n

    # ---- next_item -------------------------------------------------------------------------------------------------

    def _next_item(self, task: Task, selected: np.ndarray) -> TaskData:
        ids, n_items = self.log.events.item_ids, self.log.events.n_items
        label_items = np.arange(2, n_items + 2, dtype=np.int32)  # (Y,)
        need = max(self.min_length, task.min_answers + 1, 2)
        enough = np.diff(self.starts) >= need  # (U,)
        self._leave(f"history shorter than {need}", selected & ~enough)
        users = np.flatnonzero(selected & enough)  # (n,)
        kind = self.split.kind
        if kind in ("user", "user-each", "example"):
            parts = partition(len(users), self.split, task.name) if kind == "example" else self.parts[users]
            train, valid, test = self._next_by_user(task, users, parts)
        elif task.judge != "last" or task.crop is not None:
            raise SettingsError(
                f"task {task.name!r} judges {task.judge!r} events of held-out users",
                expected='a split by user, or judge = "last" without crop',
                where=task.place("judge"),
                fix=f'the split is by "{kind}"',
            )
        else:
            train, valid, test = {"last": self._next_by_last, "time": self._next_by_time}[kind](users)
        cuts = self.split.cuts if kind == "time" else None
        return TaskData(
            task,
            self.sequences,
            Ids(ids.text(label_items)),
            label_items,
            train,
            valid,
            test,
            {"split": _SAID["user" if kind == "user-each" else kind]},
            "user" if kind == "user-each" else kind,
            cuts,
            self._clock(kind),
        )

    def _shifted(self, users: np.ndarray, end: np.ndarray) -> Examples:
        """Training rows whose targets are the inputs shifted by one."""
        long = end - self.starts[users] >= 2
        self._leave("train: fewer than 2 events", ~long)
        return Examples(users[long].astype(np.int32), self.starts[users[long]], end[long])

    def _targets(self, users: np.ndarray, end: np.ndarray, count: int) -> Examples:
        """Rows judged on the `count` history events from `end` on, with all events before as input."""
        places = ragged(end, np.full(len(users), count))  # (A,)
        codes = np.asarray(self.sequences.items)[places].astype(np.int64) - 2
        events = places if self.sequences.events is None else self.sequences.events[places]
        answers = Answers(np.repeat(users, count), codes, events).distinct()
        return self._examples(users, self.starts[users], end, answers, None)

    def _next_by_user(self, task: Task, users: np.ndarray, parts: np.ndarray) -> tuple[Examples, Examples, Examples]:
        train, *held = (users[parts == part] for part in (TRAIN, VALID, TEST))
        valid, test = (self._judged(task, who) for who in held)
        return self._shifted(train, self.starts[train + 1]), valid, test

    def _judged(self, task: Task, users: np.ndarray) -> Examples:
        """What held-out users are asked: one row for each event that is judged."""
        begin, end = self.starts[users], self.starts[users + 1]  # (n,)
        start = {"last": end - 1, "later": begin + 1}.get(task.judge, begin)  # (n,)
        counts = np.ones(len(users), np.int64) if task.judge in ("first", "last") else np.maximum(end - start, 0)
        places, owner = ragged(start, counts), np.repeat(users, counts)  # (m,)
        shown = self.starts[owner] if task.crop is None else np.maximum(self.starts[owner], places - task.crop)
        answers = np.asarray(self.sequences.items)[places] - 2
        events = places if self.sequences.events is None else self.sequences.events[places]
        rows = np.arange(len(places) + 1, dtype=np.int64)
        return Examples(owner.astype(np.int32), shown, places, answers.astype(np.int32), rows, events)

    def _next_by_last(self, users: np.ndarray) -> tuple[Examples, Examples, Examples]:
        n, end = self.split.last, self.starts[users + 1]
        m = n if self.split.valid_last is None else self.split.valid_last  # nothing validates where m = 0
        judged = end - self.starts[users] >= n + m + 1  # shorter histories only train
        who, stop = users[judged], end[judged]
        train = self._shifted(users, np.where(judged, end - n - m, end))
        valid = self._targets(who, stop - n - m, m) if m else self._targets(who[:0], stop[:0], 1)
        return train, valid, self._targets(who, stop - n, n)

    def _next_by_time(self, users: np.ndarray) -> tuple[Examples, Examples, Examples]:
        first, second = (self._until(cut)[users] for cut in self.split.cuts)  # (n,) places
        begin, end = self.starts[users], self.starts[users + 1]
        in_valid, in_test = (first > begin) & (first < second), (second > begin) & (second < end)
        self._leave("valid: no history before valid_from", (first == begin) & (first < second))
        self._leave("test: no history before test_from", (second == begin) & (second < end))
        return (
            self._shifted(users, first),
            self._targets(users[in_valid], first[in_valid], 1),
            self._targets(users[in_test], second[in_test], 1),
        )

    def _until(self, cut: int) -> np.ndarray:
        """(U,) int64: the place after each user's last history event before the moment `cut`."""
        times = self.sequences.times
        if times is None:  # checked in compile_tasks
            raise SettingsError("a split by time on a log without times", where="[split], key kind")
        return self.starts[:-1] + counts_in(np.asarray(times) < cut, self.starts)

    # ---- item, one_of ----------------------------------------------------------------------------------------------

    def _answered(self, task: Task, selected: np.ndarray) -> TaskData:
        answers, texts = collect(self.log, self.held, task, self.split.seed)
        kind = self.split.kind
        by = "time" if kind == "time" and answers.events is not None else "example" if kind == "example" else "user"
        each = kind in ("example", "user-each")
        notes = {"split": _SAID[kind if each else by]}
        if by != kind and not each:
            notes["split"] += f' ("{kind}" does not apply to these answers)'
        answers = answers.take(selected[answers.users])
        cuts = self.split.cuts if kind == "time" else None
        if by == "time":
            rows = [self._in_window(task, answers, part) for part in (TRAIN, VALID, TEST)]
        else:
            ends = [self._until(c) for c in cuts] if cuts else [self.starts[1:]] * 2
            end = np.where(self.parts == TEST, ends[1], ends[0])  # (U,)
            kept, found = self._enough(task, answers, end, selected, "")
            parts = self.parts[found.users] if by == "user" else partition(len(found.users), self.split, task.name)
            taken = [found.take(parts == part) for part in (TRAIN, VALID, TEST)]  # answers of each part
            who = [one.users if each else kept[self.parts[kept] == part] for part, one in enumerate(taken)]
            rows = [(users, end[users], one) for users, one in zip(who, taken, strict=True)]
        labels, label_items, lookup = self._labels(task, rows[TRAIN][2], texts)
        make = self._one_each if each else self._examples
        return TaskData(
            task,
            self.sequences,
            labels,
            label_items,
            *(make(users, self.starts[users], ends, one, lookup) for users, ends, one in rows),
            notes=notes,
            by=by,
            cuts=cuts,
            clock=self._clock(by),
        )

    def _clock(self, by: str) -> np.ndarray | None:
        """(E,) times of the log, for `check_no_leak`."""
        return self.log.events.times if by == "time" else None

    def _in_window(self, task: Task, answers: Answers, part: int) -> tuple[np.ndarray, np.ndarray, Answers]:
        """Users, input ends and answers of one window of time.

        An input ends before the window; in train, before the answers.
        """
        first, second = self.split.cuts
        low, high = [(None, first), (first, second), (second, None)][part]
        when = np.asarray(self.log.events.times)[answers.events]  # (A,)
        inside = (when >= low if low is not None else True) & (when < high if high is not None else True)
        answers = answers.take(np.flatnonzero(inside))
        end = self._until(first if part in (TRAIN, VALID) else second)  # (U,)
        if part == TRAIN and answers.events is not None:
            who, at = np.unique(answers.users, return_index=True)
            end[who] = np.clip(self.sequences.before(answers.events[at]), self.starts[who], end[who])
        had = np.zeros(self.sequences.n_users, bool)
        had[answers.users] = True
        self._leave(f"{PARTS[part]}: no answer in that time", ~had)
        kept, found = self._enough(task, answers, end, had, f"{PARTS[part]}: ")
        return kept, end[kept], found

    def _enough(
        self, task: Task, answers: Answers, end: np.ndarray, among: np.ndarray, prefix: str
    ) -> tuple[np.ndarray, Answers]:
        """The users of `among` with history and answers enough, and their answers.

        Answers are distinct (item) or the first only (one_of).
        """
        if task.kind == "item":
            answers = answers.distinct()
        given = np.bincount(answers.users, minlength=self.sequences.n_users)  # (U,)
        short = (end - self.starts[:-1]) < self.min_length
        empty = short & (end == self.starts[:-1])
        self._leave(prefix + "empty history", among & empty)
        self._leave(prefix + f"history shorter than {self.min_length}", among & short & ~empty)
        self._leave(prefix + "no answer", among & ~short & (given == 0))
        self._leave(
            prefix + f"fewer than {task.min_answers} answers", among & ~short & (given > 0) & (given < task.min_answers)
        )
        good = among & ~short & (given >= task.min_answers)
        answers = answers.take(good[answers.users])
        if task.kind == "one_of":
            self.several += int((given[good] > 1).sum()) if task.attribute else 0
            answers = answers.take(np.unique(answers.users, return_index=True)[1])
        return np.flatnonzero(good), answers

    def _labels(self, task: Task, train: Answers, texts: list[str] | None) -> tuple[Ids, np.ndarray, np.ndarray]:
        """The label space of train, the item row of each label, and code -> label row (-1: outside)."""
        codes = np.unique(train.codes)  # (Y,)
        names = self.log.events.item_ids.text(codes) if texts is None else [texts[c] for c in codes]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        size = self.log.events.n_items + 2 if texts is None else len(texts)
        lookup = np.full(size, -1, np.int32)
        lookup[codes[order]] = np.arange(len(codes), dtype=np.int32)
        items = codes[order].astype(np.int32) if texts is None else np.full(len(codes), -1, np.int32)
        return Ids([names[i] for i in order]), items, lookup

    def _examples(
        self, users: np.ndarray, begin: np.ndarray, end: np.ndarray, answers: Answers, lookup: np.ndarray | None
    ) -> Examples:
        """Examples of ascending `users`, whose answers are all in `answers`, in user order."""
        counts = np.bincount(np.searchsorted(users, answers.users), minlength=len(users))[: len(users)]
        codes = answers.codes.astype(np.int32) if lookup is None else lookup[answers.codes]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Examples(users.astype(np.int32), begin, end, codes, starts, answers.events)

    def _one_each(
        self, users: np.ndarray, begin: np.ndarray, end: np.ndarray, answers: Answers, lookup: np.ndarray
    ) -> Examples:
        """Examples of one answer each."""
        starts = np.arange(len(users) + 1, dtype=np.int64)
        return Examples(users.astype(np.int32), begin, end, lookup[answers.codes], starts, answers.events)

    def _notes(self, data: TaskData) -> dict:
        parts = {name: data.part(name) for name in PARTS}
        shifted = data.train.answer_starts is None
        answers = {name: len(e.answers) for name, e in parts.items()}
        if shifted:
            answers["train"] = int((data.train.end - data.train.begin - 1).sum())
        return {
            "kind": data.task.kind,
            "users": {name: len(np.unique(e.users)) for name, e in parts.items()},
            "examples": {name: len(e) for name, e in parts.items()},
            "answers": answers,
            "answers_outside_labels": {
                name: int((e.answers < 0).sum()) for name, e in parts.items() if name != "train"
            },
            "labels": len(data.labels),
            "several": self.several,
            "left_out": dict(self.left_out),
            "warnings": [f"{name} is empty" for name in ("valid", "test") if not len(parts[name])],
        }


_SAID = {
    "user": "one partition of users for all tasks",
    "last": "the last events of every user: test, those before: valid",
    "time": "two moments for all users",
    "example": "each task's examples for themselves, one answer an example: it leaks",
    "user-each": "one partition of users for all tasks, one answer an example",
}
