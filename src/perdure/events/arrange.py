"""From judged rows to histories: conflicts, order, duplicates, rare items and users, rows without gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from perdure.events.clean import Books
from perdure.events.data_settings import DataSettings
from perdure.events.filters import select
from perdure.events.gather import Gathered
from perdure.events.text import Bad


@dataclass
class Arranged:
    """Events in CSR order.

    Attributes:
        rows: (E,) int64 positions in `Gathered`, user after user, oldest first.
        user_map, item_map: code -> row number without gaps, -1 where nothing is left.
        counts: (U,) int64 events a user.
        left_out: what was left out, for the books.
    """

    rows: np.ndarray
    user_map: np.ndarray
    item_map: np.ndarray
    counts: np.ndarray
    left_out: dict[str, int]


def arrange(columns: Gathered, data: DataSettings, books: Books, files: list[str]) -> Arranged:
    """Sorts, removes duplicates and rare ids; what goes is counted in `left_out` or in the books."""
    left_out = {"duplicate": 0, "where": 0, "min_item_count": 0, "min_user_count": 0}
    rows = order_of(columns, data.ties)
    if columns.origin is not None:
        rows = _by_event_id(columns, rows, books, files, left_out)
    if data.duplicates == "drop" and len(_moments(columns)) > 1:  # else nothing tells a duplicate from a repeat
        before = len(rows)
        rows = without_duplicates(columns, rows)
        left_out["duplicate"] += before - len(rows)
    if data.where is not None:
        kept = rows[_selected(columns, data)[rows]]
        left_out["where"] = len(rows) - len(kept)
        rows = kept
    users, items = columns.codes["user"], columns.codes["item"]
    for bound, role, codes in ((data.min_item_count, "item", items), (data.min_user_count, "user", users)):
        if bound > 1:
            counts = np.bincount(codes[rows], minlength=len(columns.texts[role]))
            kept = rows[(counts >= bound)[codes[rows]]]
            left_out[f"min_{role}_count"] = len(rows) - len(kept)
            rows = kept
    user_counts = np.bincount(users[rows], minlength=len(columns.texts["user"]))
    item_counts = np.bincount(items[rows], minlength=len(columns.texts["item"]))
    user_map, item_map = _without_gaps(user_counts), _without_gaps(item_counts)
    return Arranged(rows, user_map, item_map, user_counts[user_counts > 0], left_out)


def _selected(columns: Gathered, data: DataSettings) -> np.ndarray:
    """(E,) bool: the events for which the filter `data.where` is true."""
    known = [name for name in (*columns.codes, *columns.numbers) if name not in columns.user_columns]
    if columns.ticks is not None:
        known.append("time")

    def frame(names: list[str], offset: int, length: int) -> pl.DataFrame:
        rows = np.arange(offset, offset + length)
        return pl.DataFrame([columns.series(name, rows).alias(name) for name in names])

    return select(str(data.where), known, frame, columns.n, where="[data], key where", renamed=data.columns.renamed())


def _without_gaps(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, np.cumsum(counts > 0) - 1, -1).astype(np.int32)


def _moments(columns: Gathered) -> list[np.ndarray]:
    """User, then time and `order` where the log has them, (E,) each: what events are sorted by."""
    keys = [columns.codes["user"]]
    if columns.ticks is not None:
        keys.append(columns.ticks)
    if "order" in columns.numbers:
        keys.append(columns.numbers["order"].to_numpy())
    return keys


def order_of(columns: Gathered, ties: str) -> np.ndarray:
    """(E,) positions by user, time, `order`; then as `ties` says."""
    keys = _moments(columns)
    if ties == "item":
        rest = [name for name in sorted({*columns.codes, *columns.numbers}) if name not in {"user", "item", "order"}]
        keys += [_sortable(columns, name) for name in ["item", *rest]]
    packed = _packed(keys)
    if packed is not None:
        return np.argsort(packed, kind="stable")
    return np.lexsort(keys[::-1])


def _sortable(columns: Gathered, name: str) -> np.ndarray:
    return columns.codes[name] if name in columns.codes else columns.numbers[name].rank("dense").fill_null(0).to_numpy()


def _packed(keys: list[np.ndarray]) -> np.ndarray | None:
    """The keys as one int64 with the same order, or None where they do not fit."""
    spans = [(int(key.min()), int(key.max())) if len(key) else (0, 0) for key in keys]
    if np.prod([float(high - low + 1) for low, high in spans]) > 2**62:
        return None
    packed = keys[0].astype(np.int64) - spans[0][0]
    for key, (low, high) in zip(keys[1:], spans[1:], strict=True):
        packed *= high - low + 1
        packed += key
        packed -= low
    return packed


def _run_mates(columns: Gathered, rows: np.ndarray) -> np.ndarray:
    """Places in `rows` of events that share user, time and order with a neighbour: only these can be duplicates."""
    same = np.ones(max(len(rows) - 1, 0), bool)
    for key in _moments(columns):
        taken = key[rows]
        same &= taken[1:] == taken[:-1]
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _content(columns: Gathered, rows: np.ndarray, event: bool = False) -> pl.DataFrame:
    names = [name for name in columns.codes if event or name != "event"]
    frame = {name: columns.codes[name][rows] for name in names}
    if columns.ticks is not None:
        frame["\0time"] = columns.ticks[rows]
    return pl.DataFrame(frame).with_columns(series.gather(rows).alias(name) for name, series in columns.numbers.items())


def without_duplicates(columns: Gathered, rows: np.ndarray) -> np.ndarray:
    """`rows` with each group of equal events cut to its first."""
    mates = _run_mates(columns, rows)
    if not len(mates):
        return rows
    content = _content(columns, rows[mates], event=True)
    first = content.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    keep = np.ones(len(rows), bool)
    keep[mates[~first]] = False
    return rows[keep]


def _by_event_id(
    columns: Gathered, rows: np.ndarray, books: Books, files: list[str], left_out: dict[str, int]
) -> np.ndarray:
    """One event an id: the first in the sources stays, equal ones are duplicates, others conflicts."""
    ids = columns.codes["event"]
    origin = columns.origin
    given = np.flatnonzero(ids >= 0)
    _, first, group = np.unique(ids[given], return_index=True, return_inverse=True)
    leader = given[first][group]  # first row with the same id
    later = given[leader != given]
    if not len(later) or origin is None:
        return rows
    leader = leader[leader != given]
    mine, theirs = _content(columns, later), _content(columns, leader)
    same = np.logical_and.reduce([mine[name].eq_missing(theirs[name]).to_numpy() for name in mine.columns])
    left_out["duplicate"] += int(same.sum())
    books.add_all([(files[int(origin[row] >> 40)], Bad(int(origin[row] & (1 << 40) - 1), "event", "conflict"))
                   for row in later[~same]])  # fmt: skip
    gone = np.zeros(columns.n, bool)
    gone[later] = True
    return rows[~gone[rows]]
