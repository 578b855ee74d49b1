"""Section `[data]` of a recipe: where the log lies and what its columns mean. Nothing here is guessed."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

LAYOUT = ("columns", "features", "time_unit", "time_zone", "separator", "encoding", "header", "quote")
"""Settings that tell how files are laid out; most formats know that of theirs."""

TimeUnit = Literal["s", "ms", "us", "ns", "datetime"]


def _of_text(encoding: str) -> str:
    """Its one name; codecs that are none of text, such as base64, are not known here."""
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, UnicodeError):
        raise ValueError(f"no text encoding is called {encoding!r}; try utf-8, latin-1 or cp1252") from None


Encoding = Annotated[str, AfterValidator(_of_text)]


class ColumnNames(BaseModel):
    """Names of the source's columns. Without `time` and `order`, the order of the rows is the order of the events.

    Attributes:
        user, item: who and what; any text or whole number, kept as exact text.
        time: when; `time_unit` says in which unit.
        order: a whole number that orders events of equal time (or all events, when there is no time).
        value: a finite number, 0 or more (rating, weight); may be missing in a row.
        behaviour, domain: text such as `view`, `books`; may be missing in a row.
        event: the event's own id; a second row with the same id is a duplicate (same content) or a conflict.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    user: str | None = None
    item: str | None = None
    time: str | None = None
    order: str | None = None
    value: str | None = None
    behaviour: str | None = None
    domain: str | None = None
    event: str | None = None

    def named(self) -> dict[str, str]:
        """Role -> source column, for the roles that are given."""
        return {role: name for role, name in self.model_dump().items() if name is not None}

    def renamed(self) -> dict[str, str]:
        """Source column -> role, where the two differ."""
        return {name: role for role, name in self.named().items() if name != role}


class TableSettings(BaseModel):
    """A table of attributes: one row a user, or one row an item.

    Attributes:
        path: the file.
        id: the column that holds the id.
        columns: attributes to keep; None keeps all.
        separator, encoding, header: as in `DataSettings`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: str
    id: str
    columns: list[str] | None = None
    separator: str | None = None
    encoding: Encoding = "utf-8"
    header: bool | list[str] = True


class DataSettings(BaseModel):
    """Where the events lie and how to read them.

    Attributes:
        path: a file, a glob, several of them, or `{name: file}`; with names, each file's events get `domain = name`
            unless `columns.domain` is given. A folder for `movielens`, `recbole`, `alidisplay` and `cikm2019`.
        format: layout of the files; `perdure list formats` tells them.
        columns: names of the columns (a format that knows its own columns needs none).
        features: further event columns to keep for `where` filters and answers.
        time_unit: unit of `columns.time`; required with it (a format may declare its own). Fractions of seconds order
            events; whole seconds are stored.
        time_zone: IANA zone of local times (`Europe/Paris`); only with `time_unit = "datetime"`, and required with it
            where times carry no offset.
        separator: `,` unless the name ends in .tsv or .tab (tab) or .dat (`::`).
        encoding: of text files; UTF-16 with a byte order mark is found by itself.
        header: False (columns are named 1, 2, ...) or the names, for files without a header line.
        quote: whether `"` quotes fields; by default it does, except with separators of several characters.
        users, items_table: attribute tables.
        where: a filter (as in [history]) over the event columns named above: other events are left out of the store,
            and so are items and users that have no others.
        min_item_count, min_user_count: leave out items, then users, with fewer events. Each counts once, items
            first (no iterated k-core), so an item may end a little below its bound.
        duplicates: "drop" stores rows that are equal in every stored column once; "keep" stores them all, as does a
            log without times and order, where nothing tells a duplicate from a repeat.
        ties: order of events of one user with equal time (and order): "file" keeps the order of the source;
            "item" sorts by item id, then by the other columns, and so makes the store independent of row order.
        earliest: ISO date; an earlier time goes to quarantine (`time_range`).
        max_bad_share: share of bad rows above which nothing is stored and DataError is raised.
        max_ratio: a compressed file that unpacks to more than this many times its size (and 64 MiB) is refused.
        allow_empty: accept a log that nothing can be learned from (no event, one user, one item).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: str | list[str] | dict[str, str]
    format: str = "table"
    columns: ColumnNames = ColumnNames()
    features: list[str] = []
    time_unit: TimeUnit | None = None
    time_zone: str | None = None
    separator: Annotated[str, Field(min_length=1, max_length=4)] | None = None
    encoding: Encoding = "utf-8"
    header: bool | list[str] = True
    quote: bool | None = None
    users: TableSettings | None = None
    items_table: TableSettings | None = None
    where: str | None = None
    min_item_count: Annotated[int, Field(ge=0)] = 0
    min_user_count: Annotated[int, Field(ge=0)] = 0
    duplicates: Literal["keep", "drop"] = "drop"
    ties: Literal["file", "item"] = "file"
    earliest: str = "1990-01-01"
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_ratio: Annotated[int, Field(ge=1)] = 200
    allow_empty: bool = False

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | list[str] | dict[str, str]) -> str | list[str] | dict[str, str]:
        if not path or any(not part for part in ([path] if isinstance(path, str) else path)):
            raise ValueError("names no file")
        return path

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (KeyError, ValueError, OSError):
                raise ValueError(f"no time zone is called {zone!r}; write it like Europe/Paris or UTC") from None
        return zone

    @field_validator("earliest")
    @classmethod
    def _iso_date(cls, date: str) -> str:
        from datetime import datetime

        datetime.fromisoformat(date)
        return date

    @model_validator(mode="after")
    def _fits_together(self) -> DataSettings:
        if self.format == "table":
            if self.columns.user is None or self.columns.item is None:
                raise ValueError("columns.user and columns.item are needed for format 'table'")
            if self.columns.time is not None and self.time_unit is None:
                raise ValueError('columns.time needs time_unit: one of "s", "ms", "us", "ns", "datetime"')
        if self.time_zone is not None and self.time_unit != "datetime":
            raise ValueError('time_zone goes with time_unit = "datetime" only')
        twice = sorted({name for name in self.features if self.features.count(name) > 1})
        if twice:
            raise ValueError(f"features names {', '.join(twice)} twice")
        taken = {"user", "item", "time", "position", "value", "behaviour", "domain", "order", "event"}
        if clash := sorted(taken.intersection(self.features)):
            raise ValueError(f"features may not be called {', '.join(clash)}: the store uses these names")
        return self
