"""QQBrowser, as PPR reads it: the TTL text of histories, and files that tell one thing about their users.

Layout: the first file holds histories, `id,id,...,id`, oldest first, padded on the left with 0, one user a line. Each
later file has the same histories with a class of the user, `id,id,...,id,,class`: gender, age, life status.
Source: https://github.com/fajieyuan/SIGIR2020_peterrec (the files of `ttl`; Y. Wu et al., PPR, IEEE TKDE 2024)

`path` maps names to files, first the histories: `{click: click.csv, gender: gender.csv, age: age.csv, life: life.csv}`.
The names of the others become user attributes; a user whom a file does not have, has none. Users are known by a digest
of their history; of lines with the same history the first counts. For answers on another platform use `ttl`. [reads]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import DataError, UsageError
from perdure.events.data_settings import DataSettings
from perdure.events.detect import chunks, find, look
from perdure.events.formats.table import attribute_tables
from perdure.events.formats.ttl import digest_of, unpadded
from perdure.events.sources import Reading, Table
from perdure.events.text import Bad, Piece, lines_of

COLUMNS = ("user", "item", "time", "position", "order", "line", "value", "behaviour", "domain", "event")  # its own
LINES = 1 << 13  # users exploded at a time


class QQBrowser:
    """Histories and what is known of their users; `path` = {name: file}, the histories first."""

    name = "qqbrowser"
    summary = "QQBrowser/TTL histories with user attributes: `id,id,...,,class` a line"
    reads = ()

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """One table of histories with the attributes of their users."""
        if not isinstance(data.path, dict):
            raise UsageError("one path", expected="{click: histories, gender: file, ...}", where="data.path")
        (_, log), *rest = data.path.items()
        if taken := [name for name, _ in rest if name in COLUMNS]:
            raise UsageError(f"an attribute named {taken[0]!r}", expected="any name but " + ", ".join(COLUMNS),
                             where="data.path")  # fmt: skip
        others = {name: find([path])[0] for name, path in rest}
        known = {name: _classes(path, data.max_ratio) for name, path in others.items()}
        table = Table(
            tuple(find([log])),
            {"user": "user", "item": "item", "order": "order"},
            rows=_reader(known),
            user_columns=tuple(known),
        )
        return Reading([table], *attribute_tables(data), others=tuple(others.values()))


def _classes(path: Path, max_ratio: int) -> dict[str, str]:
    """User -> class, of one file."""
    source, known, wrong, first = look(path), {}, 0, 0
    for number, raw in lines_of(chunks(source, "utf-8", max_ratio), str(path)):
        history, *told = raw.decode("utf-8", "replace").strip().split(",,")
        history = unpadded(history)
        if history and len(told) == 1 and told[0]:
            known.setdefault(digest_of(history), told[0])
        elif history or told:
            wrong, first = wrong + 1, first or number
    source.unchanged()
    if wrong > 0.01 * (wrong + len(known)):
        raise DataError(f"{wrong} lines tell no class; the first is line {first}", where=str(path),
                        expected="id,id,...,,class")  # fmt: skip
    return known


def _reader(known: Mapping[str, Mapping[str, str]]) -> Callable[[Iterator[bytes], str], Iterator[Piece]]:
    def rows(parts: Iterator[bytes], where: str) -> Iterator[Piece]:
        seen: set[str] = set()
        held: list[tuple[int, str, str]] = []
        bad: list[Bad] = []
        for number, raw in lines_of(parts, where):
            if not raw.isascii():
                bad.append(Bad(number, "", "encoding"))
                continue
            history = unpadded(raw.decode("ascii").strip())
            if not history or ",," in history:
                bad += [Bad(number, "", "width", "no history")] if raw.strip() else []
                continue
            user = digest_of(history)
            if user not in seen:
                seen.add(user)
                held.append((number, user, history))
            if len(held) >= LINES:
                yield _piece(held, bad, known)
                held, bad = [], []
        yield _piece(held, bad, known)

    return rows


def _piece(held: list[tuple[int, str, str]], bad: list[Bad], known: Mapping[str, Mapping[str, str]]) -> Piece:
    frame = pl.DataFrame(held, schema={"line": pl.Int64, "user": pl.String, "item": pl.String}, orient="row")
    told = [pl.Series(name, [of.get(user) for user in frame["user"]], pl.String) for name, of in known.items()]
    frame = frame.with_columns(pl.col("item").str.split(","), *told)
    frame = frame.with_columns(order=pl.int_ranges(pl.col("item").list.len()))
    frame = frame.explode("item", "order", empty_as_null=False)
    return Piece(frame.drop("line"), frame["line"].to_numpy().astype(np.int64), bad)
