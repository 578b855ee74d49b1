"""The text format of PeterRec, CONURE and TERACON (TTL): one user a line, no user id, no header.

Layout: the first file holds histories, `id,id,...,id`, oldest first, padded on the left with 0. Each later file is a
task: `id,id,...,id,,target[,target...]`, the same histories with their answers (item ids of another platform, or one
class: age, gender, life status). The last line may lack its newline.
Source: https://github.com/fajieyuan/SIGIR2020_peterrec, https://github.com/Sein-Kim/TERACON

Users are joined over files by their exact history: the user id is a digest of it. A history that only a later file
has adds a user. `path` maps names to files, first the histories: `{watch: task1.csv, like: task2.csv, age: age.csv}`
(in a list, the file's stem is the name). The history's events have domain = the first name; answers have domain =
their task's name and item id `name:id`, since every task numbers its answers for itself. Answers come after the
history. So `where = "domain = 'age'"` picks the answers of task age.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from perdure.events.data_settings import DataSettings
from perdure.events.detect import find
from perdure.events.formats.table import attribute_tables
from perdure.events.sources import Reading, Table
from perdure.events.text import Bad, Piece, lots_of

LINES = 1 << 13  # users exploded at a time
AFTER = 1 << 20  # order of a later file's answers: after every history


class Ttl:
    """Histories and answers in the PeterRec/CONURE/TERACON form; `path` = {name: file}, the histories first."""

    name = "ttl"
    summary = "PeterRec/CONURE/TERACON text: `id,id,...,,target` a line, users joined by their history"
    reads = ()

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """One table a file, all in one set of users."""
        if isinstance(data.path, dict):
            named = [(name, path) for name, pattern in data.path.items() for path in find([pattern])]
        else:
            paths = find([data.path] if isinstance(data.path, str) else data.path)
            named = [(path.name.partition(".")[0], path) for path in paths]
        seen: set[bytes] = set()
        tables = [_table(named[0][0], name, path, k, seen) for k, (name, path) in enumerate(named)]
        return Reading(tables, *attribute_tables(data))


def _table(first: str, name: str, path: Path, number: int, seen: set[bytes]) -> Table:
    columns = {"user": "user", "item": "item", "order": "order", "domain": "domain"}
    return Table((path,), columns, rows=_reader(first, name, number, seen))


def _reader(first: str, name: str, number: int, seen: set[bytes]) -> Callable[[Iterator[bytes], str], Iterator[Piece]]:
    def rows(parts: Iterator[bytes], where: str) -> Iterator[Piece]:
        for line, lines in lots_of(parts, where):
            for begin in range(0, len(lines), LINES):
                yield _piece(lines[begin : begin + LINES], line + begin, first, name, number, seen)

    return rows


def digest_of(history: str) -> str:
    """The id of the user who has this history."""
    return hashlib.blake2b(history.encode(), digest_size=12).digest().hex()


def _piece(lines: list[bytes], line: int, first: str, name: str, number: int, seen: set[bytes]) -> Piece:
    """Events of some lines: the histories not met before, then the answers."""
    bad: list[Bad] = []
    histories: list[tuple[int, str, str]] = []
    answers: list[tuple[int, str, str]] = []
    for at, raw in enumerate(lines, line):
        try:
            history, *targets = raw.decode("ascii").strip("\r ").split(",,")
        except UnicodeDecodeError:
            bad.append(Bad(at, "", "encoding"))
            continue
        if not history and not targets:
            continue  # a blank line
        history = unpadded(history)
        if not history or len(targets) != (number > 0):
            told = "no history" if not history else f"{len(targets)} parts after `,,`, {int(number > 0)} expected"
            bad.append(Bad(at, "", "width", told))
            continue
        digest = hashlib.blake2b(history.encode(), digest_size=12).digest()
        user = digest.hex()
        if number == 0 or digest not in seen:
            seen.add(digest)
            histories.append((at, user, history))
        if targets:
            answers.append((at, user, targets[0]))
    frames = [_events(histories, first, "", 0), _events(answers, name, f"{name}:", number * AFTER)]
    frame = pl.concat(frames)
    return Piece(frame.drop("line"), frame["line"].to_numpy().astype(np.int64), bad)


def unpadded(history: str) -> str:
    """A history without the 0 in front of it; empty where there is nothing else."""
    while history.startswith("0,"):
        history = history[2:]
    return "" if history == "0" else history


def _events(rows: list[tuple[int, str, str]], domain: str, prefix: str, after: int) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"line": pl.Int64, "user": pl.String, "item": pl.String}, orient="row")
    frame = frame.with_columns(pl.col("item").str.split(","))
    frame = frame.with_columns(order=pl.int_ranges(pl.col("item").list.len()))
    frame = frame.explode("item", "order", empty_as_null=False)
    item = pl.when(pl.col("item") == "").then(pl.lit("")).otherwise(pl.lit(prefix) + pl.col("item"))
    return frame.with_columns(item.alias("item"), pl.col("order") + after, domain=pl.lit(domain))
