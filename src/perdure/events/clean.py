"""Judging rows: each becomes coded and numeric columns, or goes to quarantine with its line, column and reason.

Text columns are coded piece by piece (a piece's distinct texts are judged and normalised once) and the codes are
made one code space at the end, so that memory holds 4 bytes an event and the distinct texts, never all texts.

Reason codes: width, quote, encoding, json (the record) · id_empty, id_chars, id_length, null_user, null_item ·
null_time, time, time_range, time_future · value · order · conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import polars as pl

from perdure.errors import DataError, shorten
from perdure.events.data_settings import DataSettings
from perdure.events.ids import nfc
from perdure.events.text import Bad, Piece

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000, "datetime": 1_000_000}
FAR = 4_102_444_800  # 2100-01-01: no event time lies beyond it, whatever the clock says
AHEAD = 300  # seconds an event may lie ahead of `now`
ID_CHARACTERS, ID_BYTES = 256, 1024
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"  # tab and line ends are kept where the source quotes them
FIRST_ROWS, MANY = 1000, 100


class Texts:
    """A text column in codes: `take` pieces, then `finish` into sorted distinct texts and one code per row."""

    def __init__(self) -> None:
        self.pieces: list[tuple[pl.Series, np.ndarray]] = []  # distinct texts of a piece, codes (n,) int32
        self.composed: list[pl.DataFrame] = []  # raw, text: spellings that NFC changed
        self.changed: dict[int, pl.Series] = {}  # piece -> which of its texts NFC changed

    def take(self, column: pl.Series) -> np.ndarray:
        """Adds the rows of `column`; returns their codes in the piece, -1 for null."""
        distinct = column.drop_nulls().unique()
        table = distinct.to_frame("key").with_row_index("code")
        codes = column.to_frame("key").join(table, on="key", how="left", maintain_order="left")["code"]
        texts = distinct.cast(pl.String).rename("text")
        normal = nfc(texts)
        if normal is not texts and (changed := normal != texts).any():
            self.changed[len(self.pieces)] = changed
            self.composed.append(pl.DataFrame({"raw": texts.filter(changed), "text": normal.filter(changed)}))
        self.pieces.append((normal, codes.cast(pl.Int32).fill_null(-1).to_numpy()))
        return self.pieces[-1][1]

    def keep(self, good: np.ndarray) -> None:
        """Forgets the rows of the last piece where `good` is False."""
        texts, codes = self.pieces[-1]
        self.pieces[-1] = texts, codes[good]

    def finish(self) -> tuple[pl.Series, np.ndarray]:
        """(distinct texts in code point order, (E,) int32 codes, -1 for null); the pieces are given up."""
        if not self.pieces:
            return pl.Series("text", [], pl.String), np.zeros(0, np.int32)
        texts = pl.concat([t for t, _ in self.pieces]).unique().sort()
        table = texts.to_frame("text").with_row_index("code")
        out = np.empty(sum(len(c) for _, c in self.pieces), np.int32)  # (E,)
        at = 0
        for k, (own, codes) in enumerate(self.pieces):
            whole = own.to_frame("text").join(table, on="text", how="left", maintain_order="left")["code"].to_numpy()
            whole = np.append(whole.astype(np.int32), np.int32(-1))  # code -1 finds the -1 at the end
            out[at : at + len(codes)] = whole[codes]
            at += len(codes)
            self.pieces[k] = own[:0], codes[:0]
        self.pieces = []
        return texts, out

    def merges(self) -> int:
        """How many further spellings fell together with another by NFC (call before `finish`)."""
        if not self.composed:
            return 0
        changed = pl.concat(self.composed).unique()
        targets = changed["text"].unique()
        as_it_came = [texts.filter(~self.changed.get(k, texts.is_null())) for k, (texts, _) in enumerate(self.pieces)]
        plain = pl.concat(as_it_came).unique()
        return changed.height - targets.len() + int(targets.is_in(plain.implode()).sum())


@dataclass
class Books:
    """Counts that balance: received = stored + duplicate + quarantined + filtered.

    Attributes:
        received: rows met.
        quarantined: reason -> rows.
        rows: the quarantined rows: file, line, column, reason, sample.
        future: rows ahead of now, and by how many seconds at most.
    """

    received: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    rows: list[pl.DataFrame] = field(default_factory=list)
    future: tuple[int, int] = (0, 0)

    def add(self, file: str, bad: list[Bad]) -> None:
        """Sets rows of one file aside."""
        self.add_all([(file, row) for row in bad])

    def add_all(self, bad: list[tuple[str, Bad]]) -> None:
        """Sets rows of several files aside."""
        for _, row in bad:
            self.quarantined[row.reason] = self.quarantined.get(row.reason, 0) + 1
        if bad:
            cells = [(file, row.line, row.column, row.reason, shorten(row.sample)) for file, row in bad]
            self.rows.append(pl.DataFrame(cells, schema=SCHEMA, orient="row"))

    @property
    def bad(self) -> int:
        """Rows set aside."""
        return sum(self.quarantined.values())

    def table(self) -> pl.DataFrame:
        """All rows set aside, in the order met."""
        return pl.concat(self.rows) if self.rows else pl.DataFrame(schema=SCHEMA)


SCHEMA = {"file": pl.String, "line": pl.Int64, "column": pl.String, "reason": pl.String, "sample": pl.String}


class Verdict:
    """Reason of each row of a piece; the first fault found counts."""

    def __init__(self, n: int) -> None:
        self.reasons: list[tuple[str, str]] = [("", "")]
        self.code = np.zeros(n, np.int16)  # (n,) index into reasons; 0 = sound

    def fault(self, rows: np.ndarray, column: str, reason: str) -> None:
        """`rows` (n,) bool are at fault, unless they were before."""
        rows = np.asarray(rows, bool) & (self.code == 0)
        if rows.any():
            self.reasons.append((column, reason))
            self.code[rows] = len(self.reasons) - 1

    @property
    def good(self) -> np.ndarray:
        """(n,) bool"""
        return self.code == 0

    def bad(self, piece: Piece) -> list[Bad]:
        """The rows at fault, with a sample of the field."""
        out = []
        for row in np.flatnonzero(self.code):
            column, reason = self.reasons[self.code[row]]
            sample = piece.frame[column][int(row)] if column in piece.frame.columns else ""
            out.append(Bad(int(piece.lines[row]), column, reason, "" if sample is None else str(sample)))
        return out


def judge_ids(texts: Texts, column: pl.Series, role: str, null_means_empty: bool, verdict: Verdict) -> None:
    """Codes an id column and finds its faults; distinct texts are judged once.

    Args:
        null_means_empty: True for text tables, where a missing field is an empty one.
    """
    codes = texts.take(column)  # (n,)
    own = texts.pieces[-1][0]
    empty, control = (own == "").to_numpy(), own.str.contains(CONTROL).to_numpy()
    long = ((own.str.len_chars() > ID_CHARACTERS) | (own.str.len_bytes() > ID_BYTES)).to_numpy()
    verdict.fault(codes < 0, column.name, "id_empty" if null_means_empty else f"null_{role}")
    for rows, reason in ((empty, "id_empty"), (control, "id_chars"), (long, "id_length")):
        if rows.any():
            verdict.fault(np.append(rows, False)[codes], column.name, reason)


def numbers(column: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values (n,) float64, given (n,) bool, readable (n,) bool) of a text, boolean or numeric column."""
    if column.dtype == pl.String:
        given = (column.is_not_null() & (column != "")).fill_null(False)
        values = column.cast(pl.Float64, strict=False)
    else:
        given = column.is_not_null()
        values = column.cast(pl.Float64, strict=False)
    return values.fill_null(np.nan).to_numpy(), given.to_numpy(), values.is_not_null().to_numpy()


def whole(column: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values (n,) int64, given (n,) bool, readable (n,) bool): what has a fraction or 64 bits do not hold is no whole
    number; `3.0` and `3e2` are."""
    if column.dtype.is_integer() and column.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        given = column.is_not_null().to_numpy()
        return column.cast(pl.Int64).fill_null(0).to_numpy(), given, given
    if column.dtype == pl.String:
        exact = column.cast(pl.Int64, strict=False)
        if exact.null_count() == 0:
            all_ = np.ones(len(column), bool)
            return exact.to_numpy(), all_, all_
    values, given, _ = numbers(column)
    readable = (np.abs(values) <= 9e18) & (values % 1 == 0)
    found = np.where(readable, values, 0).astype(np.int64)
    if column.dtype == pl.String:
        precise = exact.is_not_null().to_numpy()
        found, readable = np.where(precise, exact.fill_null(0).to_numpy(), found), readable | precise
    return found, given, readable


@dataclass
class Clock:
    """How times are written, and which are believed.

    Attributes:
        unit: declared unit of the column.
        zone: declared zone of local times, or None.
        earliest, latest: seconds; `now` plus a little, or 2100 when no clock was given.
        now: seconds, or None.
    """

    unit: str
    zone: str | None
    earliest: int
    now: float | None
    head: list[np.ndarray] = field(default_factory=list)
    seen: int = 0

    @property
    def latest(self) -> int:
        """Seconds of the last believed time."""
        return FAR if self.now is None else min(FAR, int(self.now) + AHEAD)

    def ticks(self, column: pl.Series, verdict: Verdict, books: Books, where: str) -> tuple[np.ndarray, int]:
        """(n,) int64 times, and how many of them a second has: those of the declared unit, a million for `datetime` and
        where seconds have fractions. Faults go to the verdict."""
        fine = np.zeros(0)
        if self.unit == "datetime":
            values, given, readable = self._datetimes(column, where)
        else:
            if column.dtype.is_temporal():
                raise DataError(f"column {column.name!r} holds {column.dtype}, but time_unit is {self.unit!r}",
                                where="data.time_unit", fix='set time_unit = "datetime"')  # fmt: skip
            values, given, readable = whole(column)
            if (rest := given & ~readable).any():
                values, readable, fine = self._fractions(column, values, readable, rest)
        verdict.fault(~given, column.name, "null_time")
        verdict.fault(~readable, column.name, "time")
        per = PER_SECOND[self.unit]
        self._look_at_unit(values[given & readable], where)
        verdict.fault(values < self.earliest * per, column.name, "time_range")
        verdict.fault(values > FAR * per, column.name, "time_range")
        ahead = values > self.latest * per
        if self.now is not None and (rows := ahead & verdict.good).any():
            most = max(books.future[1], int(values[rows].max() // per - self.now))
            books.future = books.future[0] + int(rows.sum()), most
        verdict.fault(ahead, column.name, "time_future")
        if self.unit != "s" or not fine.any():
            return values, per
        micro = PER_SECOND["us"]
        return np.where(verdict.good, values, 0) * micro + np.rint(fine * micro).astype(np.int64), micro

    @staticmethod
    def _fractions(
        column: pl.Series, values: np.ndarray, readable: np.ndarray, rest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values, readable, fractions (n,) in [0, 1)) with those of `rest` that are numbers, cut to whole ones; huge
        ones are clipped, and lie out of any range."""
        told, _, number = numbers(column)
        rest = rest & number & ~np.isnan(told)
        told = np.clip(np.where(rest, told, 0.0), -9e18, 9e18)
        cut = np.floor(told)
        return np.where(rest, cut, values).astype(np.int64), readable | rest, told - cut

    def _datetimes(self, column: pl.Series, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = column.is_not_null()
        if column.dtype == pl.String:
            given = given & (column != "").fill_null(False)
            zoned = column.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$").fill_null(False)
            clean = column.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
            offset = clean.set(~zoned, None).str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", strict=False)
            if (zoned & offset.is_null()).any():
                short = clean.set(~zoned, None).str.to_datetime("%Y-%m-%d %H:%M%:z", time_unit="us", strict=False)
                offset = offset.zip_with(offset.is_not_null(), short)
            offset = offset.dt.convert_time_zone("UTC")
            local = clean.set(zoned, None)
            plain = local.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
            for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d"):
                other = (
                    local.str.to_date(form, strict=False).cast(pl.Datetime("us"))
                    if form == "%Y-%m-%d"
                    else ((local + ":00").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False))
                )
                plain = plain.zip_with(plain.is_not_null(), other)
        elif column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
            has_zone = getattr(column.dtype, "time_zone", None) is not None
            instants = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
            empty = pl.Series(column.name, [None] * len(column), pl.Datetime("us"))
            offset = instants.dt.convert_time_zone("UTC") if has_zone else empty.dt.replace_time_zone("UTC")
            plain = empty if has_zone else instants
        else:
            raise DataError(f"column {column.name!r} holds {column.dtype}, but time_unit is 'datetime'", where=where,
                            fix='set time_unit to "s", "ms", "us" or "ns"')  # fmt: skip
        if plain.null_count() < len(plain):
            if self.zone is None:
                first = plain.is_not_null().arg_max() or 0
                raise DataError(f"time {shorten(column[first])!r} has no zone", where=f"{where}, column {column.name}",
                                fix='set data.time_zone, for example "UTC" or "Europe/Paris"')  # fmt: skip
            plain = plain.dt.replace_time_zone(self.zone, ambiguous="earliest", non_existent="null")
            offset = offset.zip_with(offset.is_not_null(), plain.dt.convert_time_zone("UTC"))
        values = offset.dt.replace_time_zone(None).cast(pl.Int64)
        return values.fill_null(0).to_numpy(), given.to_numpy(), values.is_not_null().to_numpy()

    def _look_at_unit(self, values: np.ndarray, where: str) -> None:
        if self.unit == "datetime" or self.seen >= FIRST_ROWS:
            return
        self.head.append(values[: FIRST_ROWS - self.seen].copy())
        self.seen += len(self.head[-1])
        if (likely := self.likely_unit(MANY)) is not None:
            raise DataError(f"times look like {likely}, but time_unit is {self.unit!r}", where=where,
                            expected=f"times from {_day(self.earliest)} to {_day(self.latest)}",
                            fix=f'set time_unit = "{likely}" in [data]')  # fmt: skip

    def likely_unit(self, least: int = 1) -> str | None:
        """Another unit that fits `least` or more of the first rows that the declared one does not fit."""
        if not self.head or self.unit == "datetime":
            return None
        values = np.concatenate(self.head).astype(np.float64)
        for unit in ("s", "ms", "us", "ns"):
            outside = ~self._fits(values, self.unit)
            if unit != self.unit and (outside & self._fits(values, unit)).sum() >= least:
                return unit
        return None

    def _fits(self, values: np.ndarray, unit: str) -> np.ndarray:
        seconds = values / PER_SECOND[unit]
        return (seconds >= self.earliest) & (seconds <= FAR)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def clock_of(data: DataSettings, unit: str, now: float | None) -> Clock:
    """The clock that the settings describe."""
    earliest = datetime.fromisoformat(data.earliest)
    earliest = earliest if earliest.tzinfo else earliest.replace(tzinfo=UTC)
    return Clock(unit, data.time_zone, int(earliest.timestamp()), now)
