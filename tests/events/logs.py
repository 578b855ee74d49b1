"""Small logs for the tests of preparation: written as CSV lines, prepared with few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.events.data_settings import ColumnNames, DataSettings
from perdure.events.sequences import Events, prepare

NOW = 1_700_000_000
HEADER = "user,item,time\n"


def lines(n: int = 300, users: int = 30) -> list[str]:
    """`n` sound CSV lines, no two equal, histories interleaved."""
    return [f"u{k % users},i{k % 17},{1_600_000_000 + 60 * k}" for k in range(n)]


def csv(extra: list[str] | None = None, n: int = 300, header: str = HEADER) -> str:
    """A sound log of `n` events with `extra` lines after the first two."""
    body = lines(n)
    return header + "\n".join([*body[:2], *(extra or []), *body[2:]]) + "\n"


def settings(path: Path | str | list[str], **told: Any) -> DataSettings:
    """Settings for a log with columns user, item, time in seconds; `columns=None` for formats with their own."""
    columns = {"user": "user", "item": "item", "time": "time"} | told.pop("columns", {})
    told.setdefault("time_unit", "s" if columns["time"] else None)
    return DataSettings(path=path if isinstance(path, list) else str(path), columns=ColumnNames(**columns), **told)


def stored(folder: Path, content: str | bytes, name: str = "log.csv", **told: Any) -> Events:
    """Writes `content` to a file and prepares it."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return prepare(settings(path, **told), folder / f"store-{len(list(folder.iterdir()))}", now=NOW)


def reasons(events: Events) -> list[tuple[int, str, str]]:
    """(line, column, reason) of every row set aside."""
    return events.quarantine.select("line", "column", "reason").rows()


def balanced(events: Events) -> bool:
    """Do the books balance, and does the quarantine file hold what they say?"""
    books = events.card["books"]
    out = books["stored"] + books["duplicate"] + books["quarantined"] + books["filtered"]
    return books["received"] == out and events.quarantine.height == books["quarantined"]
