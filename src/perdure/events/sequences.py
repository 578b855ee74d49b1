"""Events: every user's history, oldest first, as a store on disk that is mapped, never loaded whole.  [reads, writes]

`prepare` makes the store from a log, `load` opens it. A store is a value: it is never changed after it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import ModelError, UsageError
from perdure.events.data_settings import DataSettings
from perdure.events.detect import Told, untold
from perdure.events.ids import FIRST_ITEM, Ids
from perdure.events.store import AGAIN, CARD_FILE, placed, read_array, read_card, read_table, verify


@dataclass(frozen=True)
class Events:
    """A prepared log of E events, U users, N items.

    Attributes:
        items: (E,) int32 item rows, memory-mapped, read-only.
        starts: (U + 1,) int64; user u owns items[starts[u]:starts[u + 1]], oldest first.
        times: (E,) int64 seconds since the epoch, or None when the log has no times.
        user_ids: text of user rows 0 to U - 1.
        item_ids: text of item rows 2 to N + 1.
        folder: the store, an absolute path.
        digest: SHA-256 of the content (ids, histories, times, columns, attributes); not of how it was written.
        card: the data card: counts, books, time range, density, history lengths, what was left out and why.
    """

    items: np.ndarray
    starts: np.ndarray
    times: np.ndarray | None
    user_ids: Ids
    item_ids: Ids
    folder: Path
    digest: str
    card: dict

    @property
    def n_users(self) -> int:
        """U"""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N; an item table has N + 2 rows."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """E"""
        return len(self.items)

    def columns(self, names: Sequence[str] | None = None) -> pl.LazyFrame:
        """Event columns, rows in the order of `items`.

        `user`, `item` (text ids), `time` (int64 seconds, when known), `position` (int32, 0-based rank in the user's
        history), `value` (float64), `behaviour`, `domain`, and the features of the settings; lazily, from disk.

        Args:
            names: columns to keep; None keeps all.
        """
        scan = pl.scan_parquet(self.folder / "events.parquet", glob=False)
        return scan if names is None else scan.select(names)

    @cached_property
    def users(self) -> pl.DataFrame | None:
        """Attributes of users, one row a user row, in row order, null where missing; None when none were given."""
        return self._attributes("users.parquet", self.n_users)

    @cached_property
    def items_table(self) -> pl.DataFrame | None:
        """Attributes of items; row 0 of the frame is item row 2. None when none were given."""
        return self._attributes("items.parquet", self.n_items)

    @cached_property
    def categories(self) -> dict[str, Ids]:
        """Event columns that can be read as categories (at most 32,767 values), in the order of `marks`: name -> values
        as text, rows from 1."""
        path = self.folder / "marks.parquet"
        if not path.exists():
            return {}
        table = read_table(path)
        names = table["column"].unique(maintain_order=True).to_list()
        return {name: Ids(table.filter(pl.col("column") == name)["value"], first=1) for name in names}

    @cached_property
    def marks(self) -> np.ndarray | None:
        """(E, C) int16 rows of `categories`, 0 where missing; memory-mapped, read-only. None where there are none."""
        path = self.folder / "marks.npy"
        return read_array(path, np.int16, self.n_events, len(self.categories)) if path.exists() else None

    @cached_property
    def quarantine(self) -> pl.DataFrame:
        """Rows of the log that were set aside: file, line, column, reason, sample."""
        return read_table(self.folder / "quarantine.parquet")

    def _attributes(self, name: str, rows: int) -> pl.DataFrame | None:
        if not (self.folder / name).exists():
            return None
        frame = read_table(self.folder / name)
        if frame.height != rows:
            raise ModelError(f"{name} has {frame.height} rows", expected=f"{rows}", where=str(self.folder), fix=AGAIN)
        return frame

    def history(self, user: int) -> np.ndarray:
        """Item rows of one user row, oldest first."""
        return self.items[self.starts[user] : self.starts[user + 1]]


def prepare(data: DataSettings, folder: Path | str, *, now: float | None = None, told: Told = untold) -> Events:
    """Reads a log and writes its store; a store made from the same settings and files is used again, also
    one that another process made meanwhile.

    Args:
        data: section `[data]`.
        folder: where the store goes; new or empty, or a store made from the same log.
        now: seconds since the epoch; events later than five minutes from then go to quarantine (`time_future`).
            None: only times after 2099 do.
        told: how far it is, while a store is written.

    Raises:
        SettingsError, UsageError: a file or column named in the settings is not there (exit 2), or `folder` is taken
            or begins with `~`.
        DataError: the log cannot be used: too many bad rows, no header, wrong time unit ... (exit 3).
        ModelError: a file of a kind that is never opened, or a damaged Parquet file (exit 4).
    """
    from perdure.events.prepare import fingerprint_of, open_sources, write_store

    folder = placed(folder)
    reading, sources = open_sources(data)
    fingerprint = fingerprint_of(data, reading, sources)
    if not _stands(folder, fingerprint):
        try:
            write_store(data, reading, sources, folder, fingerprint, now, told)
        except UsageError:
            if not _stands(folder, fingerprint):  # or else another process was faster
                raise
    return load(folder)


def _stands(folder: Path, fingerprint: str) -> bool:
    """Whether a store is there, made from this log. UsageError where it was made from another."""
    if not (folder / CARD_FILE).is_file():
        return False
    if read_card(folder).get("fingerprint") == fingerprint:
        return True
    raise UsageError(
        f"{folder} is the store of another log, or of other settings of [data]",
        expected="the files and settings that it was made from",
        fix="choose another folder; runs that learned from this store go on reading it",
    )


def load(folder: Path | str) -> Events:
    """Opens a store and verifies the SHA-256 of each of its files.

    Raises:
        UsageError: no store is there, or the path begins with `~`.
        ModelError: names the file that is damaged, missing, or of a newer format.
    """
    folder = placed(folder)
    card = read_card(folder)
    verify(folder, card)
    counts = card["counts"]
    items = read_array(folder / "items.npy", np.int32, counts["events"])
    starts = read_array(folder / "starts.npy", np.int64, counts["users"] + 1)
    timed = (folder / "times.npy").exists()
    times = read_array(folder / "times.npy", np.int64, counts["events"]) if timed else None
    user_ids = Ids(read_table(folder / "user_ids.parquet")["id"])
    item_ids = Ids(read_table(folder / "item_ids.parquet")["id"], first=FIRST_ITEM)
    if len(user_ids) != counts["users"] or len(item_ids) != counts["items"]:
        raise ModelError("the id tables and the counts do not agree", where=str(folder), fix=AGAIN)
    return Events(items, starts, times, user_ids, item_ids, folder, card["digest"], card["card"])
