"""The nouns of a task: which users take part, what of their log is input, what is asked, and the proof that no answer
leaks.

All tasks share one history a user: the input. A task's answers never stand in its own input; `check_no_leak` proves it.

    next_item    the next event of the history itself; every item is a possible answer
    item         one of many: items (or values of a column) met outside the history, several positives a user
    one_of       classes: a user attribute, a value of the first answering event outside the history, or random labels
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from perdure.errors import DataError, SettingsError, shorten
from perdure.events.ids import Ids
from perdure.events.splits import PARTS, TEST, TRAIN, VALID, ragged

if TYPE_CHECKING:
    from perdure.events.friends import Friends
    from perdure.events.marks import Marked
    from perdure.events.profiles import Profiles

# A task's name becomes a file's name on every system: names that differ only in case are one, `con` is none at all.
TASK_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NAME_RULE = "1 to 64 letters, digits, _ and -, a letter or digit first; not con, nul, ..."
NOISE = "noise"  # the answer that nobody can know


@dataclass(frozen=True)
class History:
    """What of a user's log is input, the same for all tasks.

    Attributes:
        share: above 0 to 1; the first `share` of a user's events that satisfy `where` (rounded down, at least one).
        where: a filter over events (see Filters, below); None takes all.
        min_length: users with a shorter history are left out of every task; 0 or more.
        cold_share: this share of the users, drawn by their ids, is made cold: only their first `cold_events` events are
            history, for logs that have no new users. From 0 to below 1. The attribute `cold` tells who.
        cold_events: 1 or more.
        cold_seed: another seed draws other users.
    """

    share: float = 1.0
    where: str | None = None
    min_length: int = 1
    cold_share: float = 0.0
    cold_events: int = 9
    cold_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cold_share < 1 or self.cold_events < 1:
            raise SettingsError(
                f"cold_share = {self.cold_share!r}, cold_events = {self.cold_events!r}",
                expected="a share of 0 to below 1, and 1 event or more",
                where="[history]",
            )
        if not 0 < self.share <= 1:
            raise SettingsError(f"share = {self.share!r}", expected="above 0 to 1", where="[history], key share")
        if self.min_length < 0:
            raise SettingsError(
                f"min_length = {self.min_length!r}", expected="0 or more", where="[history], key min_length"
            )


@dataclass(frozen=True)
class Task:
    """One thing to learn about a user.

    Attributes:
        name: 1 to 64 letters, digits, `_`, `-`, a letter or digit first; it becomes a file name, so no two tasks may
            have names that differ only in case.
        kind: "next_item", "item" or "one_of".
        description: a sentence in words; some methods read it.
        answer: what is to be told: "item", an event column, "item.<attribute>" or "user.<attribute>" (a column of
            lists gives several answers); or "noise", a class drawn at random for every user: nothing to learn. Of a
            column or attribute of events one_of takes that of the user's first answering event.
        where: a filter over events: which events outside the history are answers. Not for next_item, nor for user
            attributes.
        users: a filter over user attributes, `n_events` (events of the user in the log) and `cold`: who takes part.
        min_answers: users with fewer answers are left out; 1 or more.
        classes: of answer "noise": how many, 2 or more; 50 where not given.
        share: of answer "noise": share of the users who have a label, drawn, above 0 to 1; all where not given.
        judge: of next_item, divided by user: what a held-out user is asked: the "last" event of the history, the
            "first" (zero-shot: no event before it), every one "later" than the first (few-shot), or "all" of them.
        crop: of next_item: so many of the events before an answer are shown of a held-out user (k-shot), 1 or more; all
            where not given.
    """

    name: str
    kind: Literal["next_item", "item", "one_of"]
    description: str = ""
    answer: str = "item"
    where: str | None = None
    users: str | None = None
    min_answers: int = 1
    classes: int | None = None
    share: float | None = None
    judge: Literal["last", "first", "later", "all"] = "last"
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.kind != "next_item" and (self.judge != "last" or self.crop is not None):
            raise SettingsError(
                "judge and crop belong to next_item tasks",
                where=self.place("judge" if self.judge != "last" else "crop"),
                fix="leave it out",
            )
        if self.judge not in ("last", "first", "later", "all"):
            raise SettingsError(
                f"judge = {self.judge!r}", expected='"last", "first", "later" or "all"', where=self.place("judge")
            )
        if self.crop is not None and self.crop < 1:
            raise SettingsError(f"crop = {self.crop!r}", expected="1 or more", where=self.place("crop"))
        if not TASK_NAME.fullmatch(self.name):
            raise SettingsError(f"task name {shorten(self.name)!r}", expected=NAME_RULE, where="[[tasks]], key name")
        if self.kind not in ("next_item", "item", "one_of"):
            raise SettingsError(
                f"kind = {self.kind!r}", expected='"next_item", "item" or "one_of"', where=self.place("kind")
            )
        if self.min_answers < 1:
            raise SettingsError(
                f"min_answers = {self.min_answers!r}", expected="1 or more", where=self.place("min_answers")
            )
        if self.kind == "next_item" and (self.answer != "item" or self.where is not None):
            raise SettingsError(
                "a next_item task takes its answers from the history itself",
                expected="no answer and no where",
                where=self.place("answer" if self.answer != "item" else "where"),
                fix="choose the events with [history] where, or make the kind item",
            )
        if self.kind == "one_of" and self.answer == "item":
            raise SettingsError(
                "a one_of task needs the column that holds the classes",
                expected='"user.<attribute>" or an event column',
                where=self.place("answer"),
                fix='set answer, or make the kind "item"',
            )
        if self.answer.startswith("user.") and self.where is not None:
            raise SettingsError(
                f"where chooses events, but the answer {self.answer!r} belongs to the user",
                where=self.place("where"),
                fix="use the key users",
            )
        self._check_noise()

    def _check_noise(self) -> None:
        """Random labels are classes of users; only they have `classes` and `share`."""
        if self.answer != NOISE:
            for key in ("classes", "share"):
                if getattr(self, key) is not None:
                    raise SettingsError(
                        f"{key} belongs to random labels, and the answer is {shorten(self.answer)!r}",
                        expected=f'answer = "{NOISE}"',
                        where=self.place(key),
                        fix="leave it out",
                    )
            return
        if self.kind != "one_of" or self.where is not None:
            raise SettingsError(
                "random labels are one class a user",
                expected='kind = "one_of" and no where',
                where=self.place("kind" if self.kind != "one_of" else "where"),
            )
        if self.classes is not None and self.classes < 2:
            raise SettingsError(f"classes = {self.classes!r}", expected="2 or more", where=self.place("classes"))
        if self.share is not None and not 0 < self.share <= 1:
            raise SettingsError(f"share = {self.share!r}", expected="above 0 to 1", where=self.place("share"))

    @property
    def attribute(self) -> str:
        """The user attribute that is the answer, "" where another is."""
        return self.answer.removeprefix("user.") if self.answer.startswith("user.") else ""

    def place(self, key: str) -> str:
        """Where in the settings a key of this task stands, for messages."""
        return f"[[tasks]] {self.name!r}, key {key}"


@dataclass(frozen=True)
class Sequences:
    """The history all tasks share, ragged: user u owns items[starts[u]:starts[u + 1]], oldest first.

    Attributes:
        items: (H,) int32 item rows; a view of the memory map where the history is the whole log.
        starts: (U + 1,) int64.
        times: (H,) int64 seconds, or None.
        events: (H,) int64, the log's row of each, ascending; None where the history is the whole log.
        marks: what else is told of each, where the settings ask for it.
    """

    items: np.ndarray
    starts: np.ndarray
    times: np.ndarray | None = None
    events: np.ndarray | None = None
    marks: Marked | None = None

    @property
    def n_users(self) -> int:
        """Users of the log, those with an empty history too."""
        return len(self.starts) - 1

    def with_marks(self, told: Marked) -> Sequences:
        """The same with the marks of its events, `told` of all events of the log."""
        return replace(self, marks=told if self.events is None else told.kept(self.events))

    def before(self, event_rows: np.ndarray) -> np.ndarray:
        """(n,) int64: the place in `items` of the first history event at or after each log row."""
        return event_rows.astype(np.int64) if self.events is None else np.searchsorted(self.events, event_rows)


@dataclass(frozen=True)
class Examples:
    """What is asked: one input range a row, and its right answers.

    Attributes:
        users: (n,) int32 user rows.
        begin, end: (n,) int64; the input is sequences.items[begin:end] (the loader keeps the last max_length of them).
        answers: (A,) int32 label rows, -1 outside the label space; of one row each at most once.
        answer_starts: (n + 1,) int64; row i owns answers[answer_starts[i]:answer_starts[i + 1]]. None where the
            targets are the input shifted by one (next_item, train).
        answer_events: (A,) int64, the log's row that gave each answer; None for user attributes and shifted inputs.
    """

    users: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    answers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    answer_starts: np.ndarray | None = None
    answer_events: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def of(self, rows: np.ndarray) -> Examples:
        """Those in some rows, in their order."""
        inputs = self.users[rows], self.begin[rows], self.end[rows]
        if self.answer_starts is None:
            return Examples(*inputs)
        counts = np.diff(self.answer_starts)[rows]
        at = ragged(self.answer_starts[:-1][rows], counts)  # (A,)
        events = None if self.answer_events is None else self.answer_events[at]
        return Examples(*inputs, self.answers[at], np.append(0, np.cumsum(counts)), events)


@dataclass(frozen=True)
class TaskData:
    """A task made ready: inputs, label space and three sets of examples.

    Attributes:
        task: what was asked for.
        sequences: the shared history.
        labels: (Y,) text ids of the possible answers. next_item: all items, label row = item row - 2. Else: the
            answers that occur in train, in the order of their text.
        label_items: (Y,) int32 item row of each label, -1 where a label is no item.
        train, valid, test: the examples.
        notes: counts of users, examples, answers, answers outside the label space, users left out by reason, warnings.
        by: how this task was divided: "user", "last", "time" or "example" ("user" where the split asked for cannot
            apply). By "example" a user may own several examples, in different parts.
        cuts: (valid_from, test_from) seconds where the split is by time, else None.
        clock: (E,) int64 seconds of every row of the log where this task was divided by time, else None.
        profiles: of all users of the log, where the settings ask for them.
        friends: who of the log's users knows whom, where the settings tell.
    """

    task: Task
    sequences: Sequences
    labels: Ids
    label_items: np.ndarray
    train: Examples
    valid: Examples
    test: Examples
    notes: dict = field(default_factory=dict)
    by: str = "user"
    cuts: tuple[int, int] | None = None
    clock: np.ndarray | None = None
    profiles: Profiles | None = None
    friends: Friends | None = None

    def part(self, name: str) -> Examples:
        """The examples of "train", "valid" or "test"."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def history(self, user_row: int) -> np.ndarray:
        """(h,) int32: the whole history of a user row."""
        return np.asarray(self.sequences.items[self.sequences.starts[user_row] : self.sequences.starts[user_row + 1]])


def check_no_leak(data: TaskData | Mapping[str, TaskData]) -> None:
    """Proves that no answer was shown: passes silently or fails loudly.

    Checked: an input reaches into another user's events; an answer's event lies in its own input; a user stands in two
    parts of the partition of users, in one task or across tasks; with a split by last events, train or valid reads or
    learns what a later part asks of the same user; with a split by time, an input holds an event of the moment its part
    begins or later (train and valid end before valid_from, test before test_from), an answer lies outside the time of
    its part, or an input reaches to its own answers.

    Raises:
        DataError: naming the task, the part, the user row and the event.
    """
    tasks = data if isinstance(data, Mapping) else {data.task.name: data}
    part_of: np.ndarray | None = None
    for name, one in tasks.items():
        sequences = one.sequences
        for at, part in enumerate(PARTS):
            examples = one.part(part)
            where = f"task {name!r}, {part}"
            _check_inputs(sequences, examples, where)
            _check_answers(sequences, examples, where)
            if one.by == "time" or one.cuts is not None:
                _check_cut(one, at, where)
            if one.by == "time":
                _check_window(one, at, where)
            if one.by == "last":
                _check_last(one, at, where)
            if one.by == "user":
                if part_of is None:
                    part_of = np.full(sequences.n_users, -1, np.int8)
                before = part_of[examples.users]
                if (bad := (before != -1) & (before != at)).any():
                    user = int(examples.users[bad][0])
                    raise _leak(f"user row {user} is in {part} here and in {PARTS[part_of[user]]} elsewhere", where)
                part_of[examples.users] = at


def _check_inputs(sequences: Sequences, examples: Examples, where: str) -> None:
    begin, end, users = examples.begin, examples.end, examples.users
    bad = (begin > end) | (begin < sequences.starts[users]) | (end > sequences.starts[users.astype(np.int64) + 1])
    if bad.any():
        raise _leak(f"the input of user row {int(users[bad][0])} reaches outside that user's history", where)


def _places(sequences: Sequences, examples: Examples, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(A,) the example of each answer, and the place in the history where its event stands or would stand."""
    if examples.answer_events is None or examples.answer_starts is None:
        raise _leak("answers of which nobody knows where in the log they stand", where)
    row = np.repeat(np.arange(len(examples)), np.diff(examples.answer_starts))  # (A,)
    return row, sequences.before(examples.answer_events)


def _check_answers(sequences: Sequences, examples: Examples, where: str) -> None:
    if examples.answer_events is None or examples.answer_starts is None or not len(examples.answer_events):
        return
    events = examples.answer_events
    row, place = _places(sequences, examples, where)  # (A,), (A,)
    in_history = np.ones(len(events), bool)
    if sequences.events is not None:
        held = np.minimum(place, max(len(sequences.events) - 1, 0))
        in_history = sequences.events[held] == events if len(sequences.events) else np.zeros(len(events), bool)
    bad = in_history & (place >= examples.begin[row]) & (place < examples.end[row])
    if bad.any():
        user, event = int(examples.users[row[bad][0]]), int(events[bad][0])
        raise _leak(f"event {event} of user row {user} is an answer and stands in its own input", where)


def _check_last(data: TaskData, at: int, where: str) -> None:
    """What one part reads, and in train learns, ends before what a later part asks of the same user."""
    first = np.full(data.sequences.n_users, np.iinfo(np.int64).max)  # (U,)
    for later in PARTS[at + 1 :]:
        asked = data.part(later)
        row, place = _places(data.sequences, asked, where)
        np.minimum.at(first, asked.users[row], place)
    examples = data.part(PARTS[at])
    bad = examples.end > first[examples.users]
    if examples.answer_starts is not None:
        row, place = _places(data.sequences, examples, where)
        bad[row[place >= first[examples.users[row]]]] = True
    if bad.any():
        user = int(examples.users[bad][0])
        raise _leak(f"user row {user} reads or learns here what is asked of that user in a later part", where)


def _check_window(data: TaskData, at: int, where: str) -> None:
    """Answers lie in the time of their part, behind their input."""
    examples = data.part(PARTS[at])
    if data.cuts is None or data.clock is None:
        raise _leak("a split by time without times or cuts", where)
    if at == TRAIN and examples.answer_starts is None:
        return  # the targets are the input itself
    row, place = _places(data.sequences, examples, where)
    when = np.asarray(data.clock)[examples.answer_events]  # (A,)
    edges = (np.iinfo(np.int64).min, *data.cuts, np.iinfo(np.int64).max)
    for bad, found in (
        ((when < edges[at]) | (when > edges[at + 1] - (at < TEST)), "lies outside the time of its part"),
        (place < examples.end[row], "lies before the end of its own input"),
    ):
        if bad.any():
            event, user = int(examples.answer_events[bad][0]), int(examples.users[row[bad][0]])  # type: ignore[index]
            raise _leak(f"event {event} of user row {user} is an answer and {found}", where)


def _check_cut(data: TaskData, at: int, where: str) -> None:
    examples, times = data.part(PARTS[at]), data.sequences.times
    if data.cuts is None or times is None:
        raise _leak("a split by time without times or cuts", where)
    cut = data.cuts[0] if at in (TRAIN, VALID) else data.cuts[1]
    full = examples.end > examples.begin
    newest = times[examples.end[full] - 1]
    if (newest >= cut).any():
        user = int(examples.users[full][newest >= cut][0])
        raise _leak(f"the input of user row {user} holds an event of the moment the part begins, or later", where)


def _leak(found: str, where: str) -> DataError:
    return DataError(
        found,
        expected="answers that are not in their own input",
        where=where,
        fix="please report: this is a fault of perdure",
    )
