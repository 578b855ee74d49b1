"""Making a store: open, gather, arrange, write.  [reads, writes]"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import DataError
from perdure.events.arrange import Arranged, arrange
from perdure.events.card import data_card
from perdure.events.clean import Books
from perdure.events.data_settings import DataSettings
from perdure.events.detect import Source, Told, look, sha256, untold
from perdure.events.gather import Gathered, gather, refuse_bad
from perdure.events.ids import FIRST_ITEM, Ids
from perdure.events.probe import probe
from perdure.events.sources import Reading, read_attributes
from perdure.events.store import (
    FORMAT_VERSION,
    MOST_VALUES,
    published,
    write_array,
    write_card,
    write_frames,
    write_table,
)
from perdure.events.values import as_text

READING = 3  # raised when the same files and settings come to mean another store
SLICE = 1 << 19  # events written at a time
TRAINABLE = "cannot train: needs ≥ 25 users with ≥ 2 events, ≥ 2 items"


def open_sources(data: DataSettings) -> tuple[Reading, list[list[Source]]]:
    """What the settings name, looked at."""
    from perdure.events import formats

    reading = formats.read(data)
    for attributes in filter(None, (reading.users, reading.items)):
        for path in attributes.table.paths:  # before anything opens them: a FIFO would never end
            look(path, None, attributes.where)
    return reading, [[look(path, "text" if table.rows else None) for path in table.paths] for table in reading.tables]


def _probed(reading: Reading, sources: list[list[Source]]) -> None:
    """Parquet files, read once by a child process."""
    parquet: list[tuple[Path, list[str] | None]] = []
    for table, files in zip(reading.tables, sources, strict=True):
        parquet += [(source.path, table.wanted) for source in files if source.kind == "parquet"]
    for attributes in filter(None, (reading.users, reading.items)):
        for path in attributes.table.paths:
            if look(path, None, attributes.where).kind == "parquet":
                wanted = None if attributes.columns is None else [attributes.id, *attributes.columns]
                parquet.append((path, wanted))
    probe(parquet)


def fingerprint_of(data: DataSettings, reading: Reading, sources: list[list[Source]]) -> str:
    """SHA-256 of the settings, of every input file's name and content and of the way of reading; not of folders."""
    files = [
        [sorted(table.constants.items()), *([source.path.name, sha256(source.path)] for source in group)]
        for table, group in zip(reading.tables, sources, strict=True)
    ]
    for attributes in (reading.users, reading.items):
        files.append([[path.name, sha256(path)] for path in attributes.table.paths] if attributes else [])
    files.append([[path.name, sha256(path)] for path in reading.others])
    files.append(list(data.path) if isinstance(data.path, dict) else [])
    elsewhere = {"path": True, "users": {"path"}, "items_table": {"path"}}  # told by the files themselves
    told = [FORMAT_VERSION, READING, data.model_dump(exclude=elsewhere), files]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def write_store(data: DataSettings, reading: Reading, sources: list[list[Source]], folder: Path,
                fingerprint: str, now: float | None, told: Told = untold) -> None:  # fmt: skip
    """Reads everything and writes the store; nothing is there if anything fails."""
    _probed(reading, sources)
    with published(folder) as part:
        columns, books, merges = gather(data, reading, sources, now, told)
        files = [source.path.name for group in sources for source in group]
        arranged = arrange(columns, data, books, files)
        refuse_bad(books, data)  # with the conflicts that were found in arranging
        _enough(arranged, books, data)
        user_ids = Ids(_left(columns.texts["user"], arranged.user_map))
        item_ids = Ids(_left(columns.texts["item"], arranged.item_map), first=FIRST_ITEM)
        digest = hashlib.sha256(f"perdure events {FORMAT_VERSION} {user_ids.digest} {item_ids.digest}".encode())
        times = _write_arrays(part, columns, arranged, digest)
        _write_events(part, columns, arranged, times, (user_ids, item_ids), digest, told)
        notes = [*reading.notes]
        _write_marks(part, columns, arranged)
        unknown = _write_attributes(part, data, reading, (user_ids, item_ids), columns, arranged, digest, notes)
        notes += [note for group in sources for source in group for note in source.notes]
        write_table(part / "user_ids.parquet", pl.DataFrame({"id": user_ids.series}))
        write_table(part / "item_ids.parquet", pl.DataFrame({"id": item_ids.series}))
        write_table(part / "quarantine.parquet", books.table())
        card = data_card(data, columns, arranged, books, times, merges, unknown, notes)
        write_card(part, {
            "format": "perdure events", "format_version": FORMAT_VERSION, "reading": READING,
            "polars": pl.__version__, "settings": data.model_dump(), "fingerprint": fingerprint,
            "sources": [{"file": s.path.name, "bytes": s.stamp[0]} for group in sources for s in group],
            "counts": card["counts"], "digest": digest.hexdigest(), "card": card,
        })  # fmt: skip


def _left(texts: pl.Series, row_of: np.ndarray) -> pl.Series:
    return texts.filter(pl.Series(row_of >= 0))


def _enough(arranged: Arranged, books: Books, data: DataSettings) -> None:
    if data.allow_empty:
        return
    filtered = [
        f"rows left out by data.{name}: {n:,}" for name, n in arranged.left_out.items() if n and name != "duplicate"
    ]
    if not len(arranged.rows):
        raise DataError(", ".join([f"0 events are left of {books.received} rows", *filtered]),
                        expected="at least one sound row",
                        where="data.path", fix="set data.allow_empty = true to store an empty log")  # fmt: skip
    users, items = len(arranged.counts), int((arranged.item_map >= 0).sum())
    if users < 2 or items < 2:
        found = f"only {users} user(s) and {items} item(s) in {len(arranged.rows)} events"
        raise DataError(", ".join([found, *filtered]), expected=TRAINABLE, where="data.path",
                        fix="check data.columns; data.allow_empty = true stores it nevertheless",
                        )  # fmt: skip


def _write_arrays(part: Path, columns: Gathered, arranged: Arranged, digest) -> np.ndarray | None:
    rows = arranged.rows
    items = arranged.item_map[columns.codes["item"]][rows] + np.int32(FIRST_ITEM)  # (E,)
    starts = np.concatenate([[0], np.cumsum(arranged.counts)]).astype(np.int64)  # (U + 1,)
    times = None if columns.ticks is None else columns.ticks[rows] // columns.per_second  # (E,)
    for name, array in (("items", items), ("starts", starts), ("times", times)):
        if array is not None:
            write_array(part / f"{name}.npy", array.dtype.type, array.shape, [array])
            digest.update(f"{name} {len(array)}".encode())
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    columns.ticks = None
    return times


def _write_events(part: Path, columns: Gathered, arranged: Arranged, times: np.ndarray | None,
                  ids: tuple[Ids, Ids], digest, told: Told) -> None:  # fmt: skip
    starts = np.concatenate([[0], np.cumsum(arranged.counts)])
    names = ("value", "behaviour", "domain", *columns.features)
    extras = [name for name in names if name in columns.codes or name in columns.numbers]
    digest.update(f"columns {extras}".encode())

    def slices() -> Iterator[pl.DataFrame]:
        for begin in range(0, max(len(arranged.rows), 1), SLICE):
            rows = arranged.rows[begin : begin + SLICE]
            users = arranged.user_map[columns.codes["user"][rows]]
            frame = {
                "user": ids[0].series.gather(users),
                "item": ids[1].series.gather(arranged.item_map[columns.codes["item"][rows]]),
                "position": pl.Series((np.arange(begin, begin + len(rows)) - starts[users]).astype(np.int32)),
            }
            if times is not None:
                frame["time"] = pl.Series(times[begin : begin + SLICE])
            for name in extras:
                frame[name] = columns.series(name, rows)
                digest.update(_bytes_of(frame[name]))
            yield pl.DataFrame(frame)
            told("writing the store", begin + len(rows), len(arranged.rows), "events")

    parts = slices()
    first = next(parts)
    write_frames(part / "events.parquet", _chain(first, parts), first.schema)


def _write_marks(part: Path, columns: Gathered, arranged: Arranged) -> None:
    """Event columns of few values as int16 rows of their values: what encoders read of events, memory-mapped."""
    rows, values = arranged.rows, {}
    for name in ("value", "behaviour", "domain", *columns.features):
        if name in columns.codes:
            there = np.zeros(len(columns.texts[name]), bool)
            there[columns.codes[name][rows][columns.codes[name][rows] >= 0]] = True
            found = columns.texts[name].filter(pl.Series(there))
        elif name in columns.numbers:
            found = as_text(columns.numbers[name].gather(rows).unique().sort()).drop_nulls().unique(maintain_order=True)
        else:
            continue
        if 0 < len(found) <= MOST_VALUES:
            values[name] = Ids(found, first=1)
    if not values:
        return

    def held() -> Iterator[np.ndarray]:
        for begin in range(0, len(rows), SLICE):
            found = [known.rows(as_text(columns.series(name, rows[begin : begin + SLICE])))
                     for name, known in values.items()]  # fmt: skip
            yield np.maximum(np.stack(found, 1), 0)  # (SLICE, C)

    write_array(part / "marks.npy", np.int16, (len(rows), len(values)), held())
    told = [pl.DataFrame({"column": [name] * len(known), "value": known.series}) for name, known in values.items()]
    write_table(part / "marks.parquet", pl.concat(told))


def _chain(first: pl.DataFrame, rest: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield first
    yield from rest


def _bytes_of(column: pl.Series) -> bytes:
    """The content of a column, for the digest: type, nulls, values."""
    head = f"{column.name} {column.dtype} {len(column)} ".encode() + np.packbits(column.is_null().to_numpy()).tobytes()
    if column.dtype == pl.String:
        filled = column.fill_null("")
        return head + filled.str.len_bytes().to_numpy().astype("<u4").tobytes() + filled.str.join("").item().encode()
    if column.dtype.is_temporal() or column.dtype == pl.Boolean:
        column = column.to_physical().cast(pl.Int64)
    if column.dtype.is_numeric() and not column.dtype.is_decimal():
        return head + np.ascontiguousarray(column.fill_null(0).to_numpy()).tobytes()
    return head + column.to_frame().write_ndjson().encode()


def _write_attributes(part: Path, data: DataSettings, reading: Reading, ids: tuple[Ids, Ids], columns: Gathered,
                      arranged: Arranged, digest, notes: list[str]) -> dict[str, int]:  # fmt: skip
    unknown: dict[str, int] = {}
    own = _user_columns(columns, arranged)
    for role, attributes, known, file in (("user", reading.users, ids[0], "users.parquet"),
                                          ("item", reading.items, ids[1], "items.parquet")):  # fmt: skip
        frame = None
        if attributes is not None:
            frame, told = read_attributes(attributes, data.max_ratio)
            notes += told
            rows = known.rows(frame["id"])
            unknown[f"{role}_unknown"] = len(known) - int((rows >= 0).sum())
            if gone := int((rows < 0).sum()):
                who = {"user": "a user", "item": "an item"}[role]
                notes.append(f"{attributes.where}: {gone} rows describe {who} without events and are left out")
            own_ids = pl.DataFrame({"id": known.series})
            frame = own_ids.join(frame, on="id", how="left", maintain_order="left").drop("id")
        if role == "user" and own is not None:
            frame = own if frame is None else frame.hstack([c for c in own if c.name not in frame.columns])
        if frame is not None and frame.width:
            write_table(part / file, frame)
            digest.update(f"{role} {frame.columns}".encode())
            for column in frame.get_columns():
                digest.update(_bytes_of(column))
    return unknown


def _user_columns(columns: Gathered, arranged: Arranged) -> pl.DataFrame | None:
    """Event columns that describe the user: the user's first value that is not missing, in the order of the source."""
    if not columns.user_columns:
        return None
    rows = np.sort(arranged.rows)
    users = pl.Series("user", arranged.user_map[columns.codes["user"][rows]])
    frame = pl.DataFrame([users, *(columns.series(name, rows).alias(name) for name in columns.user_columns)])
    return frame.group_by("user").agg(pl.all().drop_nulls().first()).sort("user").drop("user")
