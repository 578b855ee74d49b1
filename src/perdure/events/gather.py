"""All rows of all files, judged, as columns in memory: codes for text, numbers for numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from perdure.errors import DataError, shorten
from perdure.events.clean import Books, Clock, Texts, Verdict, clock_of, judge_ids, numbers, whole
from perdure.events.data_settings import DataSettings
from perdure.events.detect import Source, Told, untold
from perdure.events.sources import Reading, Table, as_numbers, pieces
from perdure.events.text import Piece

IDS = ("user", "item")
LABELS = ("behaviour", "domain", "event")


@dataclass
class Gathered:
    """The sound events, in the order of the sources; E of them.

    Attributes:
        codes: name -> (E,) int32 codes, -1 for null: user, item, and every text column.
        texts: name -> its distinct texts in code point order.
        numbers: name -> (E,) numeric column (float64 `value`, int64 `order`, features as they came).
        ticks: (E,) int64 times, or None.
        per_second: ticks a second.
        origin: (E,) int64 file number << 40 | line, kept only when events have ids of their own.
        features: names of the free columns, in the order of the settings.
        user_columns: names of those that move to the user table.
    """

    codes: dict[str, np.ndarray]
    texts: dict[str, pl.Series]
    numbers: dict[str, pl.Series]
    ticks: np.ndarray | None
    per_second: int
    origin: np.ndarray | None
    features: list[str]
    user_columns: list[str]

    @property
    def n(self) -> int:
        """Number of events."""
        return len(self.codes["user"])

    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        """Column `name` at those rows; times in seconds."""
        if name == "time" and self.ticks is not None:
            return pl.Series(self.ticks[rows] // self.per_second)
        if name in self.numbers:
            return self.numbers[name].gather(rows)
        return self.texts[name].gather(pl.Series(self.codes[name][rows]).replace(-1, None))


@dataclass
class Gatherer:
    """Takes piece after piece; `free` are the free columns of all tables together. See `gather`."""

    clock: Clock | None
    free: list[str]
    books: Books = field(default_factory=Books)
    texts: dict[str, Texts] = field(default_factory=dict)
    parts: dict[str, list[pl.Series]] = field(default_factory=dict)
    ticks: list[tuple[np.ndarray, int]] = field(default_factory=list)  # of a piece, and how many a second has
    origin: list[np.ndarray] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)  # free columns met, of which no table has told anything yet

    def take(self, piece: Piece, table: Table, source: Source, file: int) -> None:
        """Judges a piece, keeps what is sound, sets the rest aside."""
        n, frame, columns = piece.frame.height, piece.frame, table.columns
        self.books.received += n + len(piece.bad)
        verdict, is_text, where = Verdict(n), source.kind == "text", str(source.path)
        taken: list[Texts] = []
        for role in IDS:
            column = frame[columns[role]]
            if column.dtype.is_float():
                raise DataError(f"column {column.name!r} holds decimal numbers ({column.dtype}), no ids", where=where,
                                expected="text or whole numbers", fix="write the ids as text or integers")  # fmt: skip
            taken.append(self.texts.setdefault(role, Texts()))
            judge_ids(taken[-1], column, role, is_text, verdict)
        ticks, per = None, 1
        if self.clock is not None:
            ticks, per = self.clock.ticks(frame[columns["time"]], verdict, self.books, where)
        kept: dict[str, pl.Series] = {}
        if "order" in columns:
            order, given, readable = whole(frame[columns["order"]])
            verdict.fault(~(given & readable), columns["order"], "order")
            kept["order"] = pl.Series(order)
        if "value" in columns:
            values, given, readable = numbers(frame[columns["value"]])
            wrong = given & (~readable | ~np.isfinite(values) | (values < 0))
            verdict.fault(wrong, columns["value"], "value")
            kept["value"] = pl.Series(values).set(pl.Series(~given), None)
        self._labels(frame, table, taken, kept)
        good = verdict.good
        if not good.all():
            for texts in taken:
                texts.keep(good)
            kept = {name: series.filter(pl.Series(good)) for name, series in kept.items()}
        for name, series in kept.items():
            self.parts.setdefault(name, []).append(series)
        if ticks is not None:
            self.ticks.append((ticks if good.all() else ticks[good], per))
        if "event" in columns:
            self.origin.append((np.int64(file) << 40 | piece.lines)[good])
        self.books.add(source.path.name, [*piece.bad, *verdict.bad(piece)])

    def _labels(self, frame: pl.DataFrame, table: Table, taken: list[Texts], kept: dict[str, pl.Series]) -> None:
        for role in LABELS:
            if role in table.columns or role in table.constants:
                column = (
                    frame[table.columns[role]]
                    if role in table.columns
                    else pl.Series(role, [table.constants[role]]).new_from_index(0, frame.height)
                )
                taken.append(self._text(role, column))
        for name in self.free:
            if name in table.features or name in table.user_columns:
                column = frame[name]
            elif name in self.parts or name in self.texts:
                column = pl.Series(name, [None] * frame.height, pl.Null if name in self.parts else pl.String)
            else:
                continue  # a table to come tells what it holds; `finish` puts nulls in front
            if column.dtype == pl.Null and name not in self.parts:  # missing throughout: of either kind
                if name in self.texts:
                    taken.append(self._text(name, column.cast(pl.String)))
                else:
                    self.missing.add(name)  # `finish` puts nulls in front
            elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Date, pl.Datetime, pl.Null):
                kept[name] = column.fill_nan(None) if column.dtype.is_float() else column
            else:
                taken.append(self._text(name, column))

    def _text(self, name: str, column: pl.Series) -> Texts:
        texts = self.texts.setdefault(name, Texts())
        texts.take(column.replace("", None) if column.dtype == pl.String else column)
        return texts

    def finish(self, user_columns: list[str]) -> Gathered:
        """The columns of all pieces; features of text files that are plain numbers throughout become numbers."""
        texts: dict[str, pl.Series] = {}
        codes: dict[str, np.ndarray] = {}
        for name in list(self.texts):
            texts[name], codes[name] = self.texts.pop(name).finish()
        n = len(codes.get("user", ()))
        if both := sorted(self.parts.keys() & texts.keys()):
            raise DataError(f"column {both[0]!r} is text in one file and numbers in another", where="data.features",
                            fix="write it the same way in every file")  # fmt: skip
        for name, own in codes.items():
            if len(own) < n:
                codes[name] = np.append(np.full(n - len(own), -1, np.int32), own)
        told = self.parts | {name: [] for name in sorted(self.missing - self.parts.keys() - texts.keys())}
        found = {name: _joined(name, parts, n) for name, parts in told.items()}
        self.parts.clear()
        for name in self.free:
            if name in texts and (typed := as_numbers(texts[name])).dtype != pl.String:
                found[name] = typed.gather(pl.Series(codes.pop(name)).replace(-1, None))
                del texts[name]
        per_second = max((per for _, per in self.ticks), default=1)
        parts = [part if per == per_second else part * (per_second // per) for part, per in self.ticks]
        ticks = np.concatenate(parts) if parts else (np.zeros(0, np.int64) if self.clock else None)
        self.ticks = []
        return Gathered(codes, texts, found, ticks, per_second, np.concatenate(self.origin) if self.origin else None,
                       [name for name in self.free if name not in user_columns], user_columns)  # fmt: skip


def gather(data: DataSettings, reading: Reading, sources: list[list[Source]], now: float | None,
           told: Told = untold) -> tuple[Gathered, Books, dict[str, int]]:  # fmt: skip
    """Reads everything.

    Args:
        sources: the files of each table of `reading`.
        now: seconds; events more than 5 minutes later are set aside. None: no clock, only times after 2099 are.
        told: how much was read.

    Returns:
        the columns, the books, and by role how many spellings of ids fell together by NFC.

    Raises:
        DataError: more than `data.max_bad_share` of the rows are bad, or a file as a whole is.
    """
    unit = reading.time_unit if "time" in reading.tables[0].columns else None
    clock = None if unit is None else clock_of(data, unit, now)
    user_columns = list(dict.fromkeys(name for table in reading.tables for name in table.user_columns))
    features = dict.fromkeys(name for table in reading.tables for name in table.features)
    gatherer, file = Gatherer(clock, [*features, *user_columns]), 0
    every = [source for files in sources for source in files]
    size = sum(source.stamp[0] for source in every)
    for table, files in zip(reading.tables, sources, strict=True):
        for source in files:
            for piece in pieces(table, source, data.max_ratio):
                gatherer.take(piece, table, source, file)
                told("reading the log", sum(source.read for source in every) >> 20, size >> 20, "MiB")
            file += 1
    books = gatherer.books
    refuse_bad(books, data, clock)
    merges = {role: texts.merges() for role, texts in gatherer.texts.items() if role in IDS}
    return gatherer.finish(user_columns), books, merges


def refuse_bad(books: Books, data: DataSettings, clock: Clock | None = None) -> None:
    """DataError for a log with more bad rows than allowed: reasons, the first rows, and what to do."""
    if books.bad <= data.max_bad_share * books.received:
        return
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(books.quarantined.items(), key=lambda x: -x[1]))
    head = books.table().head(3).to_dicts()
    first = "; ".join(
        f"{row['file']} line {row['line']} {row['reason']} {row['column']} {shorten(row['sample'], 30)!r}"
        for row in head
    )
    fix = "mend the rows, or raise data.max_bad_share"
    if "encoding" in books.quarantined:
        fix = 'set data.encoding, for example "latin-1" or "cp1252" (now: ' + f'"{data.encoding}")'
    elif clock is not None and "time_range" in books.quarantined and (unit := clock.likely_unit()):
        fix = f'times look like {unit}: set data.time_unit = "{unit}" (now: "{clock.unit}")'
    elif clock is not None and books.quarantined.get("time_range", 0) * 2 > books.bad:
        fix = (f'times in "{clock.unit}" are read from {data.earliest} to 2099: set data.earliest or data.time_unit, '
               "or name the column `order` in data.columns if it only says what came first")  # fmt: skip
    elif clock is not None and (sample := next((row["sample"] for row in head if row["reason"] == "time"), "")):
        fix = f"{_unreadable(sample, clock.unit)}; or raise data.max_bad_share"
    raise DataError(f"{books.bad} of {books.received} rows are bad: {shorten(reasons, 200)}",
                    expected=f"at most {data.max_bad_share:.2%}; nothing was stored", where=shorten(first, 250),
                    fix=fix)  # fmt: skip


def _unreadable(sample: str, unit: str) -> str:
    """What to do about a time that could not be read."""
    if unit != "datetime":
        dated = any(mark in sample for mark in "-:/")
        return f'set data.time_unit = "datetime" (now: "{unit}")' if dated else f'write whole numbers, in "{unit}"'
    likely = {10: "s", 13: "ms", 16: "us", 19: "ns"}.get(len(sample)) if sample.isdigit() else None
    if likely:
        return f'set data.time_unit = "{likely}" (now: "datetime")'
    return "write times as 2024-03-31 22:00:30 or 2024-03-31T22:00:30+02:00, at hours that data.time_zone has"


def _joined(name: str, parts: list[pl.Series], n: int) -> pl.Series:
    """The parts of a column one after the other, (n,), behind nulls for the tables before the first that has it."""
    before = pl.repeat(None, n - sum(map(len, parts)), dtype=pl.Null, eager=True)
    try:
        frames = [part.alias("x").to_frame() for part in (before, *parts)]
        return pl.concat(frames, how="vertical_relaxed", rechunk=True)["x"]
    except pl.exceptions.PolarsError as error:
        raise DataError(f"column {name!r} is not of one type: {shorten(error)}", where="data.features",
                        fix="write it the same way in every file") from None  # fmt: skip
