"""What a comparison must know before it begins: does anything that is asked stand in what is trained on?

`audit` looks at the examples alone and believes nothing that made them. What it can find:

    history   a test history stands in training of the same task: the same user's, or event for event another's
    user      a user is test in one task and train in another
    input     an answer stands in its own input: the very event, or (a note) its item, met before
    future    an input holds events from after its answer; a part of a split by time reaches past its end
    target    what one task asks of a user in test stands in what a task trains on, as input or as answer
    profile   a field of the profile is a copy of a task's answer, or nearly, under another name (`age_band` of `age`)

A "leak" gives away what is measured. A "note" is what a reader of the numbers should know, and may be right as it is:

- Histories shorter than LONG events agree by chance, so between different users these are a note.
- Where one task is divided by users and another by last events or by time, users cross by design: a note. What would
  give an answer away then is its event, and that is `target`.
- A log without times has only the order of its rows: an input from after its answer is a note.
- What a profile field tells is looked for among the users of train: whether, of those who share a value of it with
  others, the others' commonest answer is right, for all but a share ALMOST of those whom the commonest answer of all
  gets wrong. So ids, where no value repeats, tell nothing, and neither does any field where all answer alike.

Never reported: one user in train of all tasks; a held-out item in another task's input that nobody trains on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from perdure.errors import DataError
from perdure.events.splits import PARTS, TEST, TRAIN, VALID, ragged

if TYPE_CHECKING:
    from perdure.events.examples import Examples, Sequences, TaskData
    from perdure.events.sequences import Events

__all__ = ["Finding", "audit", "mend", "refuse"]

LONG = 10  # events in which two people do not agree by chance
MANY, FEW = 20, 5  # users, and those of them who do not answer as most do, of whom a field tells all by chance if fewer
ALMOST = 0.02  # of the answers that are not the commonest one; of those a copy may miss so many
STEP = 2**21  # events looked at together: bounds memory
SHARED = ("user", "example")  # divided by whom, not by when: users must not be on both sides

Kind = Literal["history", "user", "input", "future", "target", "profile"]


@dataclass(frozen=True)
class Finding:
    """One thing the audit found.

    Attributes:
        kind: "history", "user", "input", "future", "target" or "profile".
        severity: "leak" or "note".
        task: whose examples are touched.
        other: the task whose training gives them away, where it matters which; for several, the one with most.
        count, of: examples, users or answers touched, of how many.
        text: one sentence, with a user for example.
    """

    kind: Kind
    severity: Literal["leak", "note"]
    task: str
    other: str | None
    count: int
    of: int
    text: str


def audit(events: Events, datas: Mapping[str, TaskData]) -> list[Finding]:
    """Everything found, leaks first, else in the order of the kinds and tasks.

    Takes time and memory in proportion to events and examples (for `target`, times tasks), and no Python per user.

    Args:
        events: the log the tasks were made from.
        datas: as `compile_tasks` gives them.
    """
    marks: dict[int, np.ndarray] = {}
    for data in datas.values():
        if id(data.sequences) not in marks:
            marks[id(data.sequences)] = _fingerprints(data.sequences)
    found = [one for data in datas.values() for one in _histories(events, data, marks[id(data.sequences)])]
    found += _crossing(events, datas)
    for look in (_inputs, _futures):
        found += [one for data in datas.values() for one in look(events, data)]
    found += _targets(events, datas)
    found += [one for data in datas.values() for one in _profiles(events, data)]
    return sorted(found, key=lambda one: one.severity)  # "leak" < "note", and the order is kept within


def refuse(findings: Sequence[Finding]) -> None:
    """Stops a comparison that would measure a leak; notes pass.

    Raises:
        DataError: naming the first leaks.
    """
    leaks = [finding for finding in findings if finding.severity == "leak"]
    if not leaks:
        return
    told = "; ".join(finding.text for finding in leaks[:3])
    more = f"; and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    raise DataError(
        told + more,
        expected="nothing that is asked in test stands in what is trained on",
        where="leakage audit",
        fix=f"{mend(leaks)}; allow_leaks=True measures it all the same",
    )


def mend(leaks: Sequence[Finding]) -> str:
    """What to do about them."""
    fixes = {
        "profile": "leave the copy out of [profile]",
        "future": '[history] where = "... and time < T" and the task\'s where = "... and time >= T", T in seconds; '
        'or [split] kind = "time" with valid_from and test_from, where users who test a task may train others',
    }
    other = '[split] kind = "user", and a history from before the answers'
    return "; ".join(dict.fromkeys(fixes.get(one.kind, other) for one in leaks))


# -- one task ----------------------------------------------------------------------------------------------------------


def _histories(events: Events, data: TaskData, marks: np.ndarray) -> Iterator[Finding]:
    """Test histories that stand in train, by user and by content."""
    if data.by not in SHARED:
        return
    name, users = data.task.name, data.test.users
    trained = _member(data.sequences.n_users, data.train.users)  # (U,)
    length = np.diff(data.sequences.starts)[users]  # (n,)
    own = trained[users]  # (n,)
    twin = ~own & (length > 0) & np.isin(marks[users], marks[trained])  # (n,)
    told = "test histories stand in train, with other answers"
    if own.any():
        yield _finding(events, "history", "leak", name, None, users, own, told)
    told = "test histories are those of another user in train, event for event"
    if (which := twin & (length >= LONG)).any():
        yield _finding(events, "history", "leak", name, None, users, which, told)
    if (which := twin & (length < LONG)).any():
        yield _finding(events, "history", "note", name, None, users, which, f"{told} (under {LONG} events)")


def _inputs(events: Events, data: TaskData) -> Iterator[Finding]:
    """Answers that stand in their own input."""
    name, sequences = data.task.name, data.sequences
    found, users = [], []
    for part in PARTS:
        examples = data.part(part)
        if examples.answer_events is None or examples.answer_starts is None:
            continue
        row, place, held = _places(sequences, examples)
        found.append(held & (place >= examples.begin[row]) & (place < examples.end[row]))
        users.append(examples.users[row])
    if found and (bad := np.concatenate(found)).any():
        told = "answers are events of their own input"
        yield _finding(events, "input", "leak", name, None, np.concatenate(users), bad, told)
    if data.test.answer_starts is None:
        return
    met = _met_before(data, data.test)
    if met.any():
        told = "test answers are items that stand in their own input, met before"
        users_of = np.repeat(data.test.users, np.diff(data.test.answer_starts))  # (A,)
        yield _finding(events, "input", "note", name, None, users_of, met, told)


def _futures(events: Events, data: TaskData) -> Iterator[Finding]:
    """Inputs from after their answers, and parts of a split by time that reach past their end."""
    name, late, past, users = data.task.name, [], [], []
    for at, part in enumerate(PARTS):
        examples = data.part(part)
        late.append(_late(events, data.sequences, examples))
        past.append(_past(events, data, examples, at))
        users.append(examples.users)
    everyone = np.concatenate(users)
    if (bad := np.concatenate(late)).any():
        timed = events.times is not None
        told = "inputs hold events from after an answer" + ("" if timed else ", by the order of a log without times")
        yield _finding(events, "future", "leak" if timed else "note", name, None, everyone, bad, told)
    if (bad := np.concatenate(past)).any():
        told = "examples hold events from after the moment at which their part of a split by time ends"
        yield _finding(events, "future", "leak", name, None, everyone, bad, told)


def _late(events: Events, sequences: Sequences, examples: Examples) -> np.ndarray:
    """(n,) bool: the newest input event comes after an answer."""
    late = np.zeros(len(examples), bool)
    if examples.answer_events is None or examples.answer_starts is None or not len(examples.answer_events):
        return late
    row = np.repeat(np.arange(len(examples)), np.diff(examples.answer_starts))  # (A,)
    full = examples.end[row] > examples.begin[row]
    row, answers = row[full], examples.answer_events[full]
    newest = _log_rows(sequences, examples.end[row] - 1)  # (A,)
    after = newest > answers if events.times is None else events.times[newest] > events.times[answers]
    late[row[after]] = True
    return late


def _past(events: Events, data: TaskData, examples: Examples, at: int) -> np.ndarray:
    """(n,) bool: of a split by time, the input is not from before its part (train: before valid), or, where the answers
    are divided by time too, an answer lies behind its part."""
    past = np.zeros(len(examples), bool)
    if data.cuts is None or events.times is None:
        return past
    full = np.flatnonzero(examples.end > examples.begin)
    newest = events.times[_log_rows(data.sequences, examples.end[full] - 1)]
    past[full[newest >= data.cuts[0 if at in (TRAIN, VALID) else 1]]] = True
    if data.by == "time" and at < TEST and examples.answer_starts is not None and examples.answer_events is not None:
        row = np.repeat(np.arange(len(examples)), np.diff(examples.answer_starts))  # (A,)
        past[row[events.times[examples.answer_events] >= data.cuts[at]]] = True
    return past


def _profiles(events: Events, data: TaskData) -> Iterator[Finding]:
    """Fields that tell the answer of the users of train; the field that is the answer is read by nobody."""
    train, profiles = data.train, data.profiles
    if profiles is None or train.answer_starts is None:
        return
    key = np.repeat(train.users.astype(np.int64), np.diff(train.answer_starts)) * len(data.labels) + train.answers
    users, answers = np.divmod(np.unique(key[train.answers >= 0]), len(data.labels))  # (A,) each answer of a user once
    alone = np.bincount(users, minlength=events.n_users)[users] == 1
    users, answers = users[alone], answers[alone]  # (n,) of users with one
    for place, field in enumerate(profiles.fields.values):
        values = profiles.rows[users, place]  # (n,) 0 where it is not known
        shared = (values > 0) & (np.bincount(values)[values] > 1)
        if f"user.{field}" == data.task.answer or np.count_nonzero(shared) < MANY:
            continue
        told = _foretold(values[shared], answers[shared])
        others = len(told) - np.bincount(answers[shared]).max()  # who do not answer as most do
        if others >= FEW and np.count_nonzero(~told) <= ALMOST * others:
            what = f"answers of users in train are told by the profile field {field!r}, nearly a copy"
            yield _finding(events, "profile", "leak", data.task.name, None, users[shared], told, what)


def _foretold(values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(n,) bool: a user's answer is the one that more of the others of the same value give than any other answer."""
    pairs, at, counts = np.unique(
        values.astype(np.int64) * (int(answers.max()) + 1) + answers, return_inverse=True, return_counts=True
    )
    value = pairs // (int(answers.max()) + 1)  # (P,) ascending
    order = np.lexsort((-counts, value))  # by value, the commonest answer first
    first, end = (np.searchsorted(value, value, side) for side in ("left", "right"))  # (P,) of each one's value
    ranked = np.append(counts[order], 0)  # (P + 1,)
    second = np.where(end - first > 1, ranked[first + 1], 0)  # (P,)
    rival = np.where(order[first] == np.arange(len(pairs)), second, ranked[first])  # (P,) the commonest other answer
    return (counts - 1 > rival)[at]


# -- between tasks -----------------------------------------------------------------------------------------------------


def _crossing(events: Events, datas: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Users who are test in one task and train in another."""
    n = events.n_users
    trained = {name: _member(n, data.train.users) for name, data in datas.items()}
    for name, data in datas.items():
        users = np.unique(data.test.users)
        for severity, shared in (("leak", 2), ("note", 1)):  # tasks of the two that are divided by whom
            met = {
                other: trained[other][users]
                for other, theirs in datas.items()
                if other != name and (data.by in SHARED) + (theirs.by in SHARED) == shared
            }
            if met and (bad := np.logical_or.reduce(list(met.values()))).any():
                other = max(met, key=lambda one: int(met[one].sum()))
                told = f"test users train other tasks, most of them in {other!r}"
                yield _finding(events, "user", severity, name, other, users, bad, told)


def _targets(events: Events, datas: Mapping[str, TaskData]) -> Iterator[Finding]:
    """Test answers whose event a task reads or learns in train."""
    asked = {
        name: data.test.answer_events
        for name, data in datas.items()
        if data.test.answer_events is not None and len(data.test.answer_events)
    }
    shown: dict[str, dict[str, np.ndarray]] = {name: {} for name in asked}
    for other, theirs in datas.items():
        trained = _trained_on(events, theirs)  # (E,)
        for name, rows in asked.items():
            if (hit := trained[rows]).any():
                shown[name][other] = hit
    for name, hits in shown.items():
        if not hits:
            continue
        other = max(hits, key=lambda one: int(hits[one].sum()))
        told = f"test answers stand in what tasks train on, most of them in {other!r}"
        users = np.searchsorted(np.asarray(events.starts), asked[name], side="right") - 1  # (A,)
        bad = np.logical_or.reduce(list(hits.values()))
        yield _finding(events, "target", "leak", name, other, users, bad, told)


def _trained_on(events: Events, data: TaskData) -> np.ndarray:
    """(E,) bool: the log's events that a task reads, or learns as answers, in train."""
    train, length = data.train, len(data.sequences.items)
    edges = np.zeros(length + 1, np.int32)  # (H + 1,)
    np.add.at(edges, train.begin, 1)
    np.add.at(edges, train.end, -1)
    trained = np.zeros(events.n_events, bool)
    trained[_log_rows(data.sequences, np.flatnonzero(np.cumsum(edges[:-1], dtype=np.int32)))] = True
    if train.answer_events is not None:
        trained[train.answer_events] = True
    return trained


# -- arrays ------------------------------------------------------------------------------------------------------------


def _finding(
    events: Events,
    kind: Kind,
    severity: Literal["leak", "note"] | str,
    task: str,
    other: str | None,
    users: np.ndarray,
    bad: np.ndarray,
    told: str,
) -> Finding:
    """A finding of the rows where `bad` is True, told with the first of their users."""
    count, of = int(np.count_nonzero(bad)), len(bad)
    example = events.user_ids.text(users[bad][:1])[0]
    text = f"task {task!r}: {count:,} of {of:,} {told}, such as of user {example!r}"
    return Finding(kind, "leak" if severity == "leak" else "note", task, other, count, of, text)


def _member(n: int, rows: np.ndarray) -> np.ndarray:
    """(n,) bool: which rows occur."""
    member = np.zeros(n, bool)
    member[rows] = True
    return member


def _log_rows(sequences: Sequences, places: np.ndarray) -> np.ndarray:
    """The log's row at each place of the history."""
    return places if sequences.events is None else sequences.events[places]


def _places(sequences: Sequences, examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A,) the example of each answer, the place in the history of its event, and whether it stands there at all."""
    row = np.repeat(np.arange(len(examples)), np.diff(examples.answer_starts))  # type: ignore[arg-type]
    place = sequences.before(np.asarray(examples.answer_events))
    if sequences.events is None:
        return row, place, np.ones(len(place), bool)
    inside = np.flatnonzero(place < len(sequences.events))
    held = np.zeros(len(place), bool)
    held[inside] = sequences.events[place[inside]] == np.asarray(examples.answer_events)[inside]
    return row, place, held


def _met_before(data: TaskData, examples: Examples) -> np.ndarray:
    """(A,) bool: the answer is an item of its own input."""
    items = np.asarray(data.sequences.items)
    wanted = np.where(examples.answers >= 0, data.label_items[examples.answers], -1).astype(np.int64)  # (A,)
    size = int(max(data.label_items.max(initial=0), items.max(initial=0))) + 1
    inputs, which = np.unique(np.stack([examples.begin, examples.end]), axis=1, return_inverse=True)
    counts = inputs[1] - inputs[0]  # (n,) distinct inputs
    row = np.repeat(which.reshape(-1), np.diff(examples.answer_starts))  # type: ignore[arg-type]  # (A,)
    met = np.zeros(len(wanted), bool)
    for low, high in _blocks(np.concatenate([[0], np.cumsum(counts)])):
        own = np.repeat(np.arange(low, high), counts[low:high])
        shown = own * size + items[ragged(inputs[0, low:high], counts[low:high])]
        asked = np.flatnonzero((row >= low) & (row < high) & (wanted >= 0))
        met[asked] = np.isin(row[asked] * size + wanted[asked], shown)
    return met


def _fingerprints(sequences: Sequences) -> np.ndarray:
    """(U,) uint64 of each user's history: equal for equal histories, and otherwise but for one chance in 2^64."""
    starts = np.asarray(sequences.starts)
    marks = np.zeros(len(starts) - 1, np.uint64)
    for low, high in _blocks(starts):
        own = starts[low : high + 1] - starts[low]
        items = np.asarray(sequences.items[starts[low] : starts[high]]).astype(np.uint64)
        place = (np.arange(len(items)) - np.repeat(own[:-1], np.diff(own))).astype(np.uint64)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed((place << np.uint64(32)) | items))])
        marks[low:high] = sums[own[1:]] - sums[own[:-1]]  # both wrap at 2^64
    return marks


def _mixed(keys: np.ndarray) -> np.ndarray:
    """(n,) uint64 -> (n,) uint64, each bit depending on all (the finaliser of SplitMix64)."""
    keys = (keys + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _blocks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Stretches (from, to) of rows that own at most STEP events together, or one row that owns more."""
    low, n = 0, len(starts) - 1
    while low < n:
        high = int(np.searchsorted(starts, starts[low] + STEP, side="right")) - 1
        high = min(max(high, low + 1), n)
        yield low, high
        low = high
