"""Tables of every accepted kind as pieces of rows, a bounded number at a time.  [reads]

What a column *means* is told by `Table`, which a format makes from the settings; here files are only opened and cut
into pieces. Judging the values is the work of `clean.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars import selectors as cs

from perdure.errors import DataError, ModelError, shorten
from perdure.events.detect import Source, chunks, look
from perdure.events.ids import nfc
from perdure.events.jsonl import read_jsonl
from perdure.events.text import Dialect, Piece, header_of, missing_column, read_text

ROWS = 1 << 20  # rows of a Parquet file held at a time
SEPARATORS = {"tsv": "\t", "tab": "\t", "dat": "::"}


@dataclass(frozen=True)
class Table:
    """Files of one layout.

    Attributes:
        paths: the files.
        columns: role -> source column; roles as in `ColumnNames`.
        features: further source columns.
        constants: role -> text that holds for every row.
        typed: header names carry a type, as in RecBole.
        separator: None tells it from the name (.tsv, .tab: tab; .dat: `::`; else comma).
        rows: a reader of the layout's own, from the file's UTF-8 bytes to pieces that hold the columns above; for
            layouts that are no tables.
        user_columns: features that describe the user and move to the user table (first value in the source's order).
    """

    paths: tuple[Path, ...]
    columns: dict[str, str]
    features: tuple[str, ...] = ()
    constants: dict[str, str] = field(default_factory=dict)
    separator: str | None = None
    encoding: str = "utf-8"
    header: bool | tuple[str, ...] = True
    quote: bool | None = None
    typed: bool = False
    rows: Callable[[Iterator[bytes], str], Iterator[Piece]] | None = None
    user_columns: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[str]:
        """Source columns to read, each once."""
        return list(dict.fromkeys([*self.columns.values(), *self.features, *self.user_columns]))


@dataclass(frozen=True)
class Attributes:
    """A table of attributes. `columns` None keeps all; `texts` are declared text even where all look like numbers."""

    table: Table
    id: str
    columns: tuple[str, ...] | None = None
    where: str = "data.users"
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a format makes of the settings: event tables, attribute tables, how times are written; `others` are files
    that the format itself has read besides."""

    tables: list[Table]
    users: Attributes | None = None
    items: Attributes | None = None
    time_unit: str | None = None
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()


def dialect_of(table: Table, path: Path) -> Dialect:
    """How a text file of this table is written."""
    endings = [suffix.lower().lstrip(".") for suffix in path.suffixes if suffix.lower() not in {".gz", ".zst", ".zstd"}]
    separator = table.separator or SEPARATORS.get(endings[-1] if endings else "", ",")
    quote = table.quote if table.quote is not None else len(separator) == 1
    return Dialect(separator, table.header, quote and len(separator) == 1, table.typed)


def columns_of(table: Table, path: Path) -> list[str]:
    """Names of the columns that one file of the table has."""
    source = look(path)
    if source.kind == "parquet":
        return list(_guarded(source, pl.scan_parquet(path, glob=False).collect_schema))
    return header_of(chunks(source, table.encoding), dialect_of(table, path), str(path))


def pieces(table: Table, source: Source, max_ratio: int = 200) -> Iterator[Piece]:
    """The rows of one file.

    Raises:
        DataError: as the readers say; also if the file changed while it was read.
        ModelError: a damaged or unsafe Parquet file.
    """
    where = str(source.path)
    if source.kind == "parquet":
        yield from _parquet(source, table.wanted)
    else:
        parts = chunks(source, table.encoding, max_ratio)
        if table.rows is not None:
            yield from table.rows(parts, where)
        elif source.kind == "jsonl":
            yield from read_jsonl(parts, table.wanted, where)
        else:
            yield from read_text(parts, dialect_of(table, source.path), table.wanted, where)
    source.unchanged()


def _guarded(source: Source, work: Callable[[], Any]) -> Any:
    """`work()`, where any complaint of the Parquet reader, its panics included, means a damaged file."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        source.unchanged()
        raise ModelError(f"the Parquet file is damaged: {shorten(error)}", where=str(source.path),
                         fix="fetch or write the file again; nothing was stored") from None  # fmt: skip


def _parquet(source: Source, wanted: list[str] | None, lists: bool = False) -> Iterator[Piece]:
    scan = pl.scan_parquet(source.path, glob=False)
    schema = _guarded(source, scan.collect_schema)
    names = list(schema)
    for name in names if wanted is None else wanted:
        if name not in schema:
            raise missing_column(name, names, str(source.path))
        _check_type(name, schema[name], source.path, lists)
    batches = scan.select(wanted if wanted is not None else names).collect_batches(chunk_size=ROWS, lazy=True)
    yield Piece(pl.DataFrame(schema={name: schema[name] for name in wanted or names}), np.zeros(0, np.int64))
    start, rows = 1, _guarded(source, lambda: scan.select(pl.len()).collect().item())
    while True:
        frame = _guarded(source, lambda: next(batches, None))
        if frame is None:
            return
        for part in frame.iter_slices(ROWS):
            source.read = source.stamp[0] * (start - 1 + part.height) // rows
            yield Piece(part, np.arange(start, start + part.height))
            start += part.height


def _check_type(name: str, dtype: pl.DataType, path: Path, lists: bool) -> None:
    one = dtype.inner if lists and isinstance(dtype, pl.List | pl.Array) else dtype  # attributes may be several values
    if type(one).__name__ in {"Extension", "BaseExtension", "Object"}:
        raise ModelError(f"column {shorten(name)!r} has extension type {dtype}", where=str(path),
                         expected="plain Parquet types", fix="write the column as text or numbers")  # fmt: skip
    if one.is_nested() or one in (pl.Binary, pl.Time, pl.Duration):  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError(f"column {shorten(name)!r} has type {shorten(dtype)}", where=str(path),
                        expected="text, whole or decimal numbers, booleans, dates, dictionary of text"
                        + (", and lists of these" if lists else ""),
                        fix="write the column as one of these, or name the columns that are needed")  # fmt: skip


def read_attributes(attributes: Attributes, max_ratio: int = 200) -> tuple[pl.DataFrame, list[str]]:
    """An attribute table as one frame whose first column is `id` (text), and notes for the data card.

    Columns of text files whose every value is a number written in the plain way become numbers; `007` stays text.

    Raises:
        DataError: more than 1 % of the rows are malformed, or the id column is missing.
    """
    table, notes, frames, bad, first_bad = attributes.table, [], [], 0, None
    for path in table.paths:
        source = look(path, None, attributes.where)
        for piece in _attribute_pieces(attributes, source, max_ratio):
            frames.append(piece.frame)
            bad += len(piece.bad)
            first_bad = first_bad or (piece.bad[0] if piece.bad else None)
        source.unchanged()
        notes += source.notes
    frame = pl.concat(_alike(frames, attributes), how="vertical_relaxed").with_columns(cs.float().fill_nan(None))
    if first_bad and bad > 0.01 * (frame.height + bad):
        raise DataError(f"{bad} of {frame.height + bad} rows are malformed; first: line {first_bad.line}, "
                        f"{first_bad.reason} {first_bad.sample}", where=str(table.paths[0]),
                        fix='try encoding = "latin-1"' if first_bad.reason == "encoding" else "")  # fmt: skip
    if bad:
        notes.append(f"{attributes.where}: {bad} malformed rows left out")
    if attributes.id != "id" and "id" in frame.columns:
        frame = frame.rename({"id": next(free for k in range(1, 99) if (free := "id" + "_" * k) not in frame.columns)})
    frame = frame.rename({attributes.id: "id"})
    if frame["id"].dtype.is_float():
        raise DataError(f"column {attributes.id!r} of {attributes.where} holds decimal numbers, no ids",
                        expected="whole numbers or text", where=str(table.paths[0]),
                        fix="write ids as text, or drop the rows without one")  # fmt: skip
    keys = frame["id"].cast(pl.String)
    frame = frame.with_columns(keys).filter(keys.is_not_null() & (keys != ""))
    frame = frame.with_columns(*map(_composed, frame.get_columns()))
    once = frame.unique("id", keep="first", maintain_order=True)
    if once.height < frame.height:
        repeats = frame.height - once.height
        notes.append(f"{attributes.where}: {repeats} rows repeat an id; the first row of each is kept")
    return plain_numbers(once.select("id", *[c for c in once.columns if c != "id"]), attributes.texts), notes


def _alike(frames: list[pl.DataFrame], attributes: Attributes) -> list[pl.DataFrame]:
    """The frames of all files with their columns in the order of the first."""
    names = frames[0].columns
    for frame in frames:
        if other := sorted({*names} ^ {*frame.columns}):
            raise DataError(f"column {shorten(other[0])!r} is in one file of {attributes.where} and not in another",
                            where=str(attributes.table.paths[0]), expected="the same columns in all of them",
                            fix=f"name those to keep: {attributes.where}.columns")  # fmt: skip
    return [frame.select(names) for frame in frames]


def _composed(column: pl.Series) -> pl.Series:
    """Texts, in lists too, in the form C of Unicode, in which they are looked for."""
    if isinstance(column.dtype, pl.Array) and column.dtype.inner == pl.String:
        column = column.arr.to_list()
    if column.dtype == pl.List(pl.String):
        plain = nfc(flat := column.explode()) is flat
        return column if plain else column.list.eval(pl.element().str.normalize("NFC"))
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        plain = nfc(texts := column.cast(pl.String)) is texts
        return column if plain else nfc(texts).cast(pl.Categorical)
    return nfc(column) if column.dtype == pl.String else column


def _attribute_pieces(attributes: Attributes, source: Source, max_ratio: int) -> Iterator[Piece]:
    table, where = attributes.table, str(source.path)
    wanted = None if attributes.columns is None else list(dict.fromkeys([attributes.id, *attributes.columns]))
    if source.kind == "parquet":
        read = _parquet(source, wanted, lists=True)
    elif source.kind == "jsonl":
        if wanted is None:
            raise DataError("attributes from JSON lines need their columns named", where=f"{attributes.where}.columns")
        read = read_jsonl(chunks(source, table.encoding, max_ratio), wanted, where)
    else:
        read = read_text(chunks(source, table.encoding, max_ratio), dialect_of(table, source.path), wanted, where)
    for piece in read:
        if attributes.id not in piece.frame.columns:
            raise missing_column(attributes.id, piece.frame.columns, where)
        yield piece


def plain_numbers(frame: pl.DataFrame, texts: Collection[str]) -> pl.DataFrame:
    """Text columns whose every value is a plainly written number as numbers, but for `texts`; an empty text is null.

    `0`, `-3`, `2.50` are plain; `007`, `1e5`, `+1` and 16 or more digits are not, and keep their column as text.
    """
    changed = []
    for column in frame.get_columns():
        if column.dtype == pl.String and column.name != "id":
            filled = column.set(column == "", None) if (column == "").any() else column
            changed.append(filled if column.name in texts else as_numbers(filled))
    return frame.with_columns(changed)


def as_numbers(texts: pl.Series) -> pl.Series:
    """`texts` as Int64 or Float64 where every value is a plainly written number, else unchanged."""
    given = texts.drop_nulls()
    if given.len() and given.str.contains(r"^-?(0|[1-9]\d{0,14})$").all():
        return texts.cast(pl.Int64)
    if given.len() and given.str.contains(r"^-?(0|[1-9]\d{0,14})(\.\d{1,15})?$").all():
        return texts.cast(pl.Float64)
    return texts
