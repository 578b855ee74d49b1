"""JSON lines, read strictly: one object a line, no key twice, numbers kept as the text they were written in."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import polars as pl

from perdure.errors import DataError, shorten
from perdure.events.text import Bad, Piece, has_surrogate, lines_of, missing_column

ROWS = 1 << 17
LONGEST_NUMBER = 256
MOST_KEYS = 1000  # of a file whose lines have all kinds of them; wanted ones are always noticed


class _Refused(ValueError):
    pass


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("a key stands twice")
    return found


def _number(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise _Refused(f"a number of {len(text)} digits")
    return text


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_number, parse_float=_number, parse_constant=str)


def read_jsonl(parts: Iterator[bytes], wanted: list[str], where: str) -> Iterator[Piece]:
    """Rows of a JSON lines file as pieces of text columns; null and missing keys are null.

    Raises:
        DataError: the file is empty, or a wanted key stands in no row.
    """
    seen: dict[str, None] = {}
    rows: list[list[str | None]] = []
    lines: list[int] = []
    bad: list[Bad] = []
    line = 0
    for line, raw in lines_of(parts, where):
        if not raw.strip():
            continue
        row, reason, sample = _row(raw, wanted, seen)
        if row is None:
            bad.append(Bad(line, "", reason, sample))
        else:
            rows.append(row)
            lines.append(line)
        if len(rows) + len(bad) >= ROWS:
            yield _piece(rows, lines, bad, wanted)
            rows, lines, bad = [], [], []
    if not line:
        raise DataError("the file is empty", expected="one JSON object a line", where=where)
    if seen:
        for name in wanted:
            if name not in seen:
                raise missing_column(name, list(seen), where)
    yield _piece(rows, lines, bad, wanted)


def _row(raw: bytes, wanted: list[str], seen: dict[str, None]) -> tuple[list[str | None] | None, str, str]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return None, "encoding", f"byte {raw[error.start]:#04x} at byte {error.start + 1} of the line"
    try:
        record = _DECODER.decode(text.strip())
    except RecursionError:
        return None, "json", "nested too deeply"
    except ValueError as error:
        return None, "json", shorten(error)
    if not isinstance(record, dict):
        return None, "json", f"no object: {shorten(text, 60)}"
    seen.update(dict.fromkeys(record if len(seen) < MOST_KEYS else [name for name in wanted if name in record]))
    try:
        row = [_text(name, record.get(name)) for name in wanted]
    except _Refused as fault:
        return None, "json", str(fault)
    if any(cell is not None and has_surrogate(cell) for cell in row):
        return None, "encoding", "a lone surrogate"
    return row, "", ""


def _text(name: str, value: object) -> str | None:
    """A value as text; numbers are text already."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise _Refused(f"several values in {shorten(name, 60)!r}: leave it out, or write lists as Parquet")


def _piece(rows: list[list[str | None]], lines: list[int], bad: list[Bad], wanted: list[str]) -> Piece:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(wanted)
    frame = pl.DataFrame({n: pl.Series(list(c), dtype=pl.String) for n, c in zip(wanted, columns, strict=True)})
    return Piece(frame, np.asarray(lines, np.int64), bad)
