"""What is told of an event besides its item: marks, as rows of vocabularies; and what is told of an item for good.

A mark is a column of the log (behaviour, domain, a feature), a part of the date, or how long ago the event before was.
Row 0 of every mark means: not told, or a value nobody had. Attributes of items and vectors given for them follow from
the item, so they are stored once an item and not once an event.                                              [reads]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from perdure.errors import DataError, SettingsError, UsageError, closest, shorten
from perdure.events.ids import Ids
from perdure.events.store import MOST_VALUES
from perdure.events.values import as_text, rows_of

if TYPE_CHECKING:
    from perdure.events.sequences import Events

__all__ = ["DATES", "MOST_LISTED", "MOST_MARKS", "MOST_VALUES", "UNTOLD", "Marked", "Marks", "marked", "marked_as"]

MOST_MARKS = 64  # columns, and columns of attributes
MOST_LISTED = 32  # values of an attribute that is a list
UNTOLD = np.iinfo(np.int64).min  # the time of an event of which no time is told
DATES = {"hour": 24, "weekday": 7, "day": 31, "month": 12, "year": 130}  # values; years from 1970
Join = Literal["sum", "mlp"]


@dataclass(frozen=True)
class Marks:
    """What an encoder reads of an event besides its item, in this order: M marks, then C columns of attributes.

    Attributes:
        events: column of the log -> its values, rows from 1.
        dates: parts of an event's time, in UTC: hour 0 to 23, weekday from Monday, day of the month, month, year.
        gaps: buckets of the time since the event before it in the history read: row 1 + floor(log2(seconds + 1)), the
            last one for all that is longer; 0 for none. The first event has row 0. Views of a history,
            which leave events out, keep the buckets of the whole.
        items: attribute of items -> its values, rows from 1.
        places: (C,) which attribute a column belongs to; a list takes as many columns as the longest has values.
        width: S, of vectors given for items; 0 without.
        ids: whether the item itself is read, too.
        join: how an encoder puts it all together, see `encoders.features`.
        attributes: (N + 2, C) int32 rows, of padding and mask 0; None where only their shape is known.
        vectors: (N + 2, S) float32, zeros where an item has none, of mean square length 1; or None.
    """

    events: Mapping[str, Ids] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    gaps: int = 0
    items: Mapping[str, Ids] = field(default_factory=dict)
    places: tuple[int, ...] = ()
    width: int = 0
    ids: bool = True
    join: Join = "sum"
    attributes: np.ndarray | None = field(default=None, compare=False, repr=False)
    vectors: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def names(self) -> list[str]:
        """The M marks: the log's columns by name, then "time.hour" ..., then "time.gap"."""
        return [*self.events, *(f"time.{part}" for part in self.dates), *(["time.gap"] if self.gaps else [])]

    @property
    def sizes(self) -> list[int]:
        """(M,) rows of each mark, row 0 counted."""
        own = [len(values) + 1 for values in self.events.values()]
        return [*own, *(DATES[part] + 1 for part in self.dates), *([self.gaps + 1] if self.gaps else [])]

    @property
    def item_sizes(self) -> list[int]:
        """(C,) rows of the attribute of each column, row 0 counted."""
        sizes = [len(values) + 1 for values in self.items.values()]
        return [sizes[place] for place in self.places]

    @property
    def timed(self) -> bool:
        """Whether a mark comes from the times of events."""
        return bool(self.dates or self.gaps)

    def alike(self, other: Marks) -> bool:
        """Whether the same is read, whatever its values."""
        names = [(*marks.events, None, *marks.items) for marks in (self, other)]
        rest = ("dates", "gaps", "width", "ids", "join")
        return names[0] == names[1] and all(getattr(self, key) == getattr(other, key) for key in rest)

    def rows_in(self, other: Marks) -> np.ndarray:
        """(R,) int64: for each row of all parts, marks and then attributes of items one after the other, the row of the
        same value in `other`, which is alike; -1 where it has none."""
        found, begin = [], 0
        for size, mine, theirs in zip(other._parts(), self._parts(), self._values(other), strict=True):
            rows = np.arange(mine) if theirs is None else np.concatenate([[0], theirs])  # (mine,)
            found.append(np.where(rows < 0, -1, rows + begin))
            begin += size
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)

    def _parts(self) -> list[int]:
        """Rows of each part, row 0 counted."""
        return [*self.sizes, *(len(values) + 1 for values in self.items.values())]

    def _values(self, other: Marks) -> list[np.ndarray | None]:
        """Of each part the rows of its values in `other`, -1 where unknown; None for parts of times."""
        both = [(self.events, other.events), (self.items, other.items)]
        events, items = ([rows_of(b[name], a[name].series) for name in a] for a, b in both)
        return [*events, *[None] * (len(self.sizes) - len(events)), *items]

    def told(self, histories: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Marked, list[list[str]]]:
        """Events as somebody tells them: column -> value, and "time" -> seconds; what is left out is not told.

        Returns:
            The marks of all events, one history after the other, and per history the values nobody had, as
            `column=value`.

        Raises:
            UsageError: what is no mapping, a column that is not read where others are (the nearest is named), a value
                that is no text, a time that is no whole number.
        """
        flat = [(owner, event) for owner, events in enumerate(histories) for event in events]
        if odd := [event for _, event in flat if not isinstance(event, Mapping)]:
            found = f"{shorten(repr(odd[0]))} tells of an event"
            raise UsageError(found, expected="a dict, column -> value, {} for nothing", where="marks")
        rows, times = np.zeros((len(flat), len(self.events)), np.int16), np.full(len(flat), UNTOLD, np.int64)
        strange: list[list[str]] = [[] for _ in histories]
        places = {name: place for place, name in enumerate(self.events)}
        for at, (owner, event) in enumerate(flat):
            for name, value in event.items():
                if value is None or (name != "time" and not self.names):  # of a model that reads no marks
                    continue
                if name == "time":
                    times[at] = _seconds(value)
                    continue
                if name not in places:
                    raise _unknown(name, [*places, "time"])
                if not isinstance(value, str):
                    raise UsageError(f"{name} = {value!r} is no text", expected="values as text", where="marks")
                rows[at, places[name]] = max(row := int(rows_of(self.events[name], pl.Series([value]))[0]), 0)
                if row < 0:
                    strange[owner].append(f"{name}={value}")
        return Marked(self, rows, times), strange


@dataclass(frozen=True)
class Marked:
    """The marks of H events, one history after the other.

    Attributes:
        marks: what they can be.
        rows: (H, n) int16 rows of columns of the log, 0 where missing; may be a read-only memory map.
        times: (H,) int64 seconds, UNTOLD where not told; None where no event has one.
        columns: (E,) which of the n columns are those of `marks`; None: all, in their order.
    """

    marks: Marks
    rows: np.ndarray
    times: np.ndarray | None = None
    columns: tuple[int, ...] | None = None

    def kept(self, events: np.ndarray) -> Marked:
        """Of some events only, in their order."""
        times = None if self.times is None else np.asarray(self.times)[events]
        return Marked(self.marks, np.asarray(self.rows[events]), times, self.columns)

    def at(self, places: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
        """`Batch.marks` (B, T, M) int64 of the histories at `places` (B, T), 0 where not `valid` (B, T); None where
        there are no marks."""
        marks, found = self.marks, np.zeros((*places.shape, len(self.marks.names)), np.int64)  # (B, T, M)
        if not found.shape[-1] or not len(self.rows):
            return found if found.shape[-1] else None
        if marks.events:
            rows = np.take(self.rows, places, axis=0, mode="clip")  # (B, T, n)
            rows = rows if self.columns is None else rows[..., list(self.columns)]  # (B, T, E)
            np.multiply(rows, valid[..., None], out=found[..., : len(marks.events)], dtype=np.int64)
        if self.times is not None and marks.timed:
            times = np.take(self.times, places, mode="clip")  # (B, T)
            known = valid & (times != UNTOLD)  # (B, T)
            for place, part in enumerate(marks.dates, len(marks.events)):
                found[..., place] = _date(part, times, known)
            if marks.gaps:
                found[..., -1] = _gap(times, known, marks.gaps)
        return found


def _date(part: str, times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(B, T) int64: rows of a part of the date, 0 where not known."""
    times = np.where(known, times, 0)  # (B, T)
    if part == "hour":
        row = times // 3600 % 24 + 1
    elif part == "weekday":
        row = (times // 86400 + 3) % 7 + 1  # 1970 began on a Thursday
    else:
        moment = times.astype("datetime64[s]")  # (B, T)
        months = moment.astype("datetime64[M]")  # (B, T)
        since = months.astype(np.int64)  # (B, T) since January 1970
        if part == "day":
            row = (moment.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64) + 1
        else:
            row = since % 12 + 1 if part == "month" else since // 12 + 1
    return np.where(known & (row >= 1) & (row <= DATES[part]), row, 0)


def _gap(times: np.ndarray, known: np.ndarray, buckets: int) -> np.ndarray:
    """(B, T) int64: 1 + floor(log2(seconds since the event before + 1)), at most `buckets`; 0 where not known."""
    rows = np.zeros(times.shape, np.int64)
    both = known[:, 1:] & known[:, :-1]  # (B, T - 1)
    since = np.where(both, times[:, 1:], 0) - np.where(both, times[:, :-1], 0)  # (B, T - 1)
    bucket = 1 + np.log2(np.maximum(since, 0) + 1.0).astype(np.int64)  # (B, T - 1)
    rows[:, 1:] = np.where(both, np.minimum(bucket, buckets), 0)
    return rows


def marked(
    events: Events,
    columns: Sequence[str] = (),
    items: Sequence[str] = (),
    dates: Sequence[str] = (),
    gaps: int = 0,
    vectors: str | None = None,
    ids: bool = True,
    join: Join = "sum",
) -> Marked | None:
    """The marks of all events of a log, and what is told of its items; None where nothing is asked for.

    Args:
        columns: of the log. items: attributes of its items, read as text; a list gives several values.
        vectors: a Parquet file with the columns item and vector. The others: as in `Marks`.

    Raises:
        SettingsError: a column or attribute that is not there or has more than 32,767 values, times of a log without,
            nothing to read at all. DataError: the file of vectors cannot be read.
    """
    if not (columns or items or dates or gaps or vectors):
        if not ids:
            raise SettingsError("input.ids: false leaves nothing to read", expected="something else", where="[input]")
        return None
    if (dates or gaps) and events.times is None:
        raise SettingsError("input: parts of times, of a log without times", where="[input], dates and gaps")
    known = events.categories
    for name in columns:
        if name not in known:
            have = ", ".join(known) or "none: see [data] columns and features"
            raise _missing("input.events: the log has no column of categories", name, list(known), have)
    values, places, attributes = _attributes(events, items)
    given = _vectors(Path(vectors), events.item_ids) if vectors else None
    marks = Marks(
        {name: known[name] for name in columns}, tuple(dates), gaps, values, tuple(places),
        0 if given is None else given.shape[1], ids, join, attributes, given,
    )  # fmt: skip
    return marked_as(events, marks)


def marked_as(events: Events, marks: Marks) -> Marked:
    """The marks of all events of a log, for a model that reads these. Values it does not know are not told.

    Raises:
        DataError: the log has not a column that the model reads, or no times where it reads some.
    """
    if marks.timed and events.times is None:
        raise DataError("the log has no times", expected="what the model reads of events: times", where="[input]",
                        fix="prepare it with [data.columns] time")  # fmt: skip
    known, rows = events.categories, events.marks if marks.events else None
    if gone := [name for name in marks.events if name not in known]:
        raise DataError(f"the log has no column {gone[0]!r} of categories", expected="what the model reads of events",
                        where="[input], key events", fix="prepare it with the columns the model's log had")  # fmt: skip
    held = np.zeros((events.n_events, 0), np.int16) if rows is None else rows
    places = [list(known).index(name) for name in marks.events]
    if all(known[name] == values for name, values in marks.events.items()):
        return Marked(marks, held, events.times, tuple(places))
    lookups = [np.maximum([0, *rows_of(values, known[name].series)], 0) for name, values in marks.events.items()]
    found = [rows_of[held[:, place]] for rows_of, place in zip(lookups, places, strict=True)]  # each (E,)
    return Marked(marks, np.stack(found, 1).astype(np.int16), events.times)


def _attributes(events: Events, names: Sequence[str]) -> tuple[dict[str, Ids], list[int], np.ndarray]:
    """Values of each attribute, the attribute of each column, and rows (N + 2, C) int32."""
    table, values, places, columns = events.items_table, {}, [], []
    for place, name in enumerate(names):
        there = [] if table is None else table.columns
        if table is None or name not in there:
            have = ", ".join(there) or "no attributes: see [data] items_table"
            raise _missing("input.items: items have no attribute", name, there, have)
        column = table[name]
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        listed = column if isinstance(column.dtype, pl.List) else column.to_frame().select(pl.concat_list(name))[name]
        flat = as_text(listed.explode())
        found = flat.drop_nulls().unique().sort()
        if not len(found):
            raise SettingsError(f"input.items: no item of the log has a {name}", expected="values for some of them",
                                where="[input]", fix="are the ids of data.items_table those of the log?")  # fmt: skip
        if len(found) > MOST_VALUES:
            raise SettingsError(f"input.items: {name} has {len(found):,} values", where="[input]",
                                expected=f"at most {MOST_VALUES:,}", fix="give it as groups")  # fmt: skip
        values[name] = Ids(found, first=1)
        longest = max(int(listed.list.len().max() or 0), 1)  # type: ignore[arg-type]
        if longest > MOST_LISTED or len(places) + longest > MOST_MARKS:
            raise SettingsError(f"input.items: {name} has {longest} values of one item", where="[input]",
                                expected=f"at most {MOST_LISTED}, and {MOST_MARKS} of all attributes")  # fmt: skip
        for nth in range(longest):
            one = as_text(listed.list.get(nth, null_on_oob=True))
            rows = np.maximum(values[name].rows(one), 0)  # (N,)
            columns.append(np.concatenate([[0, 0], rows]))  # (N + 2,)
            places.append(place)
    held = np.stack(columns, 1) if columns else np.zeros((events.n_items + 2, 0))
    return values, places, held.astype(np.int32)  # (N + 2, C)


def _vectors(path: Path, items: Ids) -> np.ndarray:
    """(N + 2, S) float32: the vector of each item row, zeros where the file has none; their mean square length is 1."""
    from perdure.events.profiles import read_vectors

    flat, at = read_vectors(path, items, "item")
    vectors = np.zeros((len(items) + items.first, flat.shape[1]), np.float32)  # (N + 2, S)
    vectors[at[at >= 0]] = flat[at >= 0]
    length = np.sqrt((vectors.astype(np.float64) ** 2).sum() / max((at >= 0).sum(), 1))
    if not length:
        raise DataError("the vectors of all items of the log are zero", expected="others", where=str(path))
    return vectors / np.float32(length)


def _seconds(value: Any) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not -(2**40) < value < 2**40:
        raise UsageError(f"time = {shorten(repr(value))}", expected="whole seconds since the epoch", where="marks")
    return int(value)


def _missing(what: str, name: str, there: Sequence[str], have: str) -> SettingsError:
    near = closest(name, there)
    fix = f"did you mean {near}?" if near else "a store of an older perdure has none: prepare it again"
    return SettingsError(f"{what} {shorten(name)!r}", expected=f"of {have}", where="[input]", fix=fix)


def _unknown(name: str, there: Sequence[str]) -> UsageError:
    near = closest(name, there, 0.5)
    fix = f"did you mean {near}?" if near else ""
    return UsageError(f"no mark {shorten(name)!r}", expected=f"one of {', '.join(there)}", where="marks", fix=fix)
