"""Text tables, read strictly: blocks of whole records, parsed by polars and checked; the careful path for the rest.

A block that polars parses without complaint and whose separators add up is taken as it is. Any other block goes
through a line by line reader that says which lines are bad and why. Memory is bounded by the block, not by the file.
[reads] only bytes that `detect.chunks` hands over.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from perdure.errors import DataError, closest, shorten

BLOCK = 1 << 24  # bytes parsed at a time
LONGEST = 1 << 26  # bytes of a line
BLANK = (b"", b"\r")
LIKELY = ("\t", ";", "|", ",")  # separators, where the one in force finds a single column
STAND_IN = b"\x1f"  # takes the place of a separator of several characters


@dataclass(frozen=True)
class Bad:
    """A row set aside: its line, the column at fault ("" for the whole row), the reason code, a sample."""

    line: int
    column: str
    reason: str
    sample: str = ""


@dataclass
class Piece:
    """Rows of one file, still as the source has them.

    Attributes:
        frame: (n, columns) the wanted columns, under their source names.
        lines: (n,) int64 line (or row) numbers, from 1.
        bad: rows set aside by the reader; they are not in `frame`.
    """

    frame: pl.DataFrame
    lines: np.ndarray
    bad: list[Bad] = field(default_factory=list)


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        header: True: in the first record; otherwise the names (False: 1, 2, ...).
        typed: names in the header carry a type, `user_id:token`, that is no part of the name.
    """

    separator: str = ","
    header: bool | tuple[str, ...] = True
    quote: bool = True
    typed: bool = False


def read_text(parts: Iterator[bytes], dialect: Dialect, wanted: list[str] | None, where: str) -> Iterator[Piece]:
    """Rows of a text table as pieces of text columns; an empty field is "".

    Args:
        parts: UTF-8 bytes, any cuts.
        wanted: columns to keep; None keeps all.

    Raises:
        DataError: no header, a column missing or named twice, an unterminated quote.
    """
    names: list[str] | None = None
    for first_line, block in _blocks(parts, dialect.quote, where):
        if names is None:
            names, used = _header(block, dialect, where)
            keep = _wanted(names, wanted, where)
            taken = block[:used].count(b"\n")
            block, first_line = block[used:], first_line + taken
        piece = _fast(block, first_line, names, keep, dialect)
        piece = piece or _sifted(block, first_line, names, keep, dialect, where)
        yield piece or _careful(block, first_line, names, keep, dialect, where)
    if names is None:
        raise DataError("the file is empty: no header", expected="a header line and rows", where=where)


def _blocks(parts: Iterator[bytes], quote: bool, where: str) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, bytes that end at the end of a record)."""
    line, held = 1, b""
    for part in parts:
        held += part
        if len(held) < BLOCK:
            continue
        cut = _cut(held, quote)
        if not cut:
            _bounded(held, f"{where}, line {line}")
            continue
        yield line, held[:cut]
        line += held.count(b"\n", 0, cut)
        held = held[cut:]
    if held:
        yield line, held if held.endswith(b"\n") else held + b"\n"


def lots_of(parts: Iterator[bytes], where: str) -> Iterator[tuple[int, list[bytes]]]:
    """Lots of lines: the number of the first, from 1, and the bytes of each, without its newline.

    Raises:
        DataError: a line of more than 64 MiB.
    """
    line, held = 1, b""
    for part in parts:
        *lines, held = (held + part).split(b"\n")
        _bounded(held, f"{where}, line {line + len(lines)}")
        yield line, lines
        line += len(lines)
    if held:
        yield line, [held]


def lines_of(parts: Iterator[bytes], where: str) -> Iterator[tuple[int, bytes]]:
    """The number and the bytes of each line, as `lots_of` cuts them."""
    for first, lines in lots_of(parts, where):
        yield from enumerate(lines, first)


def _bounded(held: bytes, where: str) -> None:
    if len(held) > LONGEST:
        raise DataError(f"a line of more than {LONGEST >> 20} MiB", expected="one event a line", where=where,
                        fix="write the file again, with a newline behind each event")  # fmt: skip


def _cut(block: bytes, quote: bool) -> int:
    """Where the last whole record of `block` ends: after a newline that stands in no quotes."""
    last = block.rfind(b"\n") + 1
    if not quote or block.count(b'"', 0, last) % 2 == 0:
        return last
    bytes_ = np.frombuffer(block, np.uint8)
    quotes, ends = np.flatnonzero(bytes_ == 34), np.flatnonzero(bytes_ == 10)
    outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else last


def _header(block: bytes, dialect: Dialect, where: str) -> tuple[list[str], int]:
    """Column names, and how many bytes of the block they take."""
    lead = len(block) - len(block.lstrip(b"\r\n"))
    end = _cut_header(block, lead, dialect.quote)
    first = block[lead:end].decode("utf-8", "replace").rstrip("\r\n")
    if not first:
        raise DataError("the file holds only blank lines: no header", expected="a header line and rows", where=where)
    fields = _fields(first, dialect, f"{where}, line 1")
    if dialect.header is True:
        fields = [name.partition(":")[0] for name in fields] if dialect.typed else fields
        twice = sorted({name for name in fields if fields.count(name) > 1})
        if twice:
            raise DataError(f"column {shorten(twice[0])!r} stands twice in the header", where=f"{where}, line 1",
                            expected="distinct column names", fix="rename one of them")  # fmt: skip
        return fields, end
    names = [str(k + 1) for k in range(len(fields))] if dialect.header is False else list(dialect.header)
    if len(names) != len(fields):
        raise DataError(f"the first line has {len(fields)} fields", expected=f"{len(names)}, as data.header names",
                        where=f"{where}, line 1")  # fmt: skip
    return names, 0


def _fields(first: str, dialect: Dialect, where: str) -> list[str]:
    """The fields of a file's first record, which is to look like text in lines."""
    if "\0" in first and "\0" not in dialect.separator:
        raise DataError("the first line holds NUL characters", expected="text", where=where,
                        fix='name the file\'s encoding, such as encoding = "utf-16-le"')  # fmt: skip
    if "\r" in first and '"' not in first and "\r" not in dialect.separator:
        raise DataError("lines end in carriage returns alone", expected="newlines", where=where,
                        fix="write the file again with newlines")  # fmt: skip
    if not dialect.quote or len(dialect.separator) > 1:
        return first.split(dialect.separator)
    try:
        return next(csv.reader(io.StringIO(first, newline=""), delimiter=dialect.separator))
    except csv.Error as error:
        raise DataError(f"the first line cannot be read: {shorten(error)}", expected="a line of columns",
                        where=where) from None  # fmt: skip


def header_of(parts: Iterator[bytes], dialect: Dialect, where: str) -> list[str]:
    """Column names of a text table."""
    for _, block in _blocks(parts, dialect.quote, where):
        return _header(block, dialect, where)[0]
    raise DataError("the file is empty: no header", expected="a header line and rows", where=where)


def _cut_header(block: bytes, lead: int, quote: bool) -> int:
    end = block.find(b"\n", lead) + 1
    while quote and block.count(b'"', lead, end) % 2 and (after := block.find(b"\n", end) + 1):
        end = after
    return end


def _wanted(names: list[str], wanted: list[str] | None, where: str) -> list[int]:
    if wanted is None:
        return list(range(len(names)))
    for name in wanted:
        if name not in names:
            raise missing_column(name, names, where)
    return [names.index(name) for name in wanted]


def missing_column(name: str, names: list[str], where: str) -> DataError:
    """The error for a column that is not there: what is, and which is closest, or what seems to stand between them."""
    between = next((mark for mark in LIKELY if mark in names[0]), "") if len(names) == 1 else ""
    close = closest(name, names, 0.4)
    listed = ", ".join(shorten(n, 30) for n in names[:20]) + (" ..." if len(names) > 20 else "")
    fix = f"did you mean {shorten(close)!r}?" if close else "name the column in the settings"
    if between:
        fix = f"the file's only column has {between!r} in its name: set data.separator, or the attribute table's own"
    return DataError(f"no column {shorten(name)!r}", expected=f"one of: {listed}", where=where, fix=fix)


def _fast(block: bytes, line: int, names: list[str], keep: list[int], dialect: Dialect) -> Piece | None:
    """The block as polars reads it, or None if anything about it is unusual."""
    rows, width = block.count(b"\n"), len(names)
    if not block or b"\n\n" in block or b"\n\r\n" in block or block[:1] in b"\r\n":
        return None
    if block.count(b"\r") != block.count(b"\r\n"):  # polars drops one at the end of any field
        return None
    try:
        block.decode()
    except UnicodeDecodeError:
        return None
    separator = dialect.separator.encode()
    seps = block.count(separator)
    if seps != rows * (width - 1):
        return None
    quotes = block.count(b'"') if dialect.quote else 0
    if quotes:
        opened = block.count(separator + b'"') + block.count(b'\n"') + block.startswith(b'"')
        closed = block.count(b'"' + separator) + block.count(b'"\n') + block.count(b'"\r\n')
        if not opened == closed == quotes / 2:
            return None
    if len(separator) > 1:
        if STAND_IN in block:
            return None
        block, separator = block.replace(separator, STAND_IN), STAND_IN
    schema = {f"column_{k + 1}": pl.String for k in range(width)}
    try:
        frame = pl.read_csv(block, has_header=False, schema=schema, separator=separator.decode(),
                            quote_char='"' if quotes else None)  # fmt: skip
    except Exception:  # polars names no line; the careful path does
        return None
    if frame.height != rows or (quotes and frame[f"column_{width}"].null_count()):
        return None
    frame = frame.select(pl.col(f"column_{k + 1}").fill_null("").alias(names[k]) for k in keep)
    return Piece(frame, np.arange(line, line + rows))


def _sifted(block: bytes, line: int, names: list[str], keep: list[int], dialect: Dialect, where: str) -> Piece | None:
    """A block without quotes: odd lines taken out and read with care, the others as polars reads them."""
    if dialect.quote and b'"' in block:
        return None
    separator, need, plain = dialect.separator.encode(), len(names) - 1, block.isascii()
    rows = block.split(b"\n")[:-1]
    sound = [r.count(separator) == need and r not in BLANK and (plain or _decodes(r)) for r in rows]
    good, odd = np.flatnonzero(sound), np.flatnonzero(~np.asarray(sound, bool))
    fast = _fast(b"".join(rows[k] + b"\n" for k in good), 0, names, keep, dialect) if len(odd) else None
    told = _careful(b"".join(rows[k] + b"\n" for k in odd), 0, names, keep, dialect, where)
    if fast is None or told.frame.height:
        return None
    return Piece(fast.frame, line + good, [replace(bad, line=line + int(odd[bad.line])) for bad in told.bad])


def _decodes(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


def _careful(block: bytes, line: int, names: list[str], keep: list[int], dialect: Dialect, where: str) -> Piece:
    """The block record by record: what is sound, and which lines are not and why."""
    width = len(names)
    good: list[list[str]] = []
    lines: list[int] = []
    bad: list[Bad] = []
    for start, fields, reason in _records(block, line, dialect, where):
        if reason:
            bad.append(Bad(start, "", reason, shorten(fields[0])))
        elif len(fields) != width:
            bad.append(Bad(start, "", "width", f"{len(fields)} fields, {width} expected"))
        else:
            at = next((k for k in keep if has_surrogate(fields[k])), None)
            if at is None and any(map(has_surrogate, fields)):
                at = next(k for k in range(width) if has_surrogate(fields[k]))
            if at is not None:
                offset = next(i for i, c in enumerate(fields[at]) if "\ud800" <= c <= "\udfff")
                bad.append(Bad(start, names[at], "encoding", f"byte {ord(fields[at][offset]) & 0xFF:#04x} at character "
                               f"{offset + 1}: {shorten(fields[at], 40)}"))  # fmt: skip
            else:
                good.append([fields[k] for k in keep])
                lines.append(start)
    columns = list(zip(*good, strict=True)) if good else [()] * len(keep)
    series = [pl.Series(names[k], column, pl.String) for k, column in zip(keep, columns, strict=True)]
    return Piece(pl.DataFrame(series), np.asarray(lines, np.int64), bad)


def has_surrogate(text: str) -> bool:
    """Whether half a character stands in it, which no file in UTF-8 holds."""
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _records(block: bytes, line: int, dialect: Dialect, where: str) -> Iterator[tuple[int, list[str], str]]:
    """(line of the record's start, its fields, reason it is bad or "")."""
    text = block.decode("utf-8", "surrogateescape")
    if not dialect.quote or '"' not in text:
        for k, record in enumerate(text.split("\n")[:-1]):
            record = record.removesuffix("\r")
            if record:
                yield line + k, record.split(dialect.separator), ""
        return
    source = (part + "\n" for part in text.removesuffix("\n").split("\n"))  # a carriage return ends no line
    reader = csv.reader(source, delimiter=dialect.separator, strict=True)
    while True:
        start = line + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "limit" in str(error):
                long = f", or holds over {csv.field_size_limit():,} characters" if "limit" in str(error) else ""
                raise DataError(f"a quote is opened and never closed{long}", where=f"{where}, line {start}",
                                fix="close the quote, or set data.quote = false if quotes are ordinary text here",
                                ) from None  # fmt: skip
            yield start, [str(error)], "quote"
            continue
        if fields:
            yield start, fields, ""
