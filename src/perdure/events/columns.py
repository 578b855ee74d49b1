"""What a filter or an answer may read of a log: columns of events, of their items, of their users."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from perdure.errors import SettingsError
from perdure.events.filters import select

if TYPE_CHECKING:
    from perdure.events.sequences import Events

EQUALS = re.compile(r"([\w.]+)\s*=\s*'((?:[^']|'')*)'")
MOST = 8  # values of a column that are named


class Columns:
    """The columns a filter or an answer may read: of events, of their items, of their users."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.frame = events.columns()
        self.own = self.frame.collect_schema().names()
        self.items, self.users = events.items_table, events.users
        self.renamed: dict[str, str] = events.card.get("renamed", {})
        self.facts: dict[str, np.ndarray] = {}  # (U,) each: more that a filter over users may read
        self.of_items = [] if self.items is None else [f"item.{c}" for c in self.items.columns]
        self.of_users = [] if self.users is None else [f"user.{c}" for c in self.users.columns]

    @property
    def known(self) -> list[str]:
        """All names: event columns, `item.<name>`, `user.<name>`."""
        return self.own + self.of_items + self.of_users

    def column(self, name: str, rows: np.ndarray) -> pl.Series:
        """Column `name` at those event rows."""
        if self.items is not None and name in self.of_items:
            return self.items[name.removeprefix("item.")].gather(np.asarray(self.events.items)[rows] - 2)
        if self.users is not None and name in self.of_users:
            owner = np.searchsorted(self.events.starts, rows, side="right") - 1
            return self.users[name.removeprefix("user.")].gather(owner)
        return self.frame.select(pl.col(name).gather(rows)).collect()[name]

    def slice(self, names: list[str], offset: int, length: int) -> pl.DataFrame:
        """Those columns of a run of event rows."""
        rows = np.arange(offset, offset + length)
        own = [n for n in names if n in self.own]
        joined = [self.column(n, rows).alias(n) for n in names if n not in own]
        return (
            self.frame.select(own).slice(offset, length).collect().with_columns(joined) if own else pl.DataFrame(joined)
        )

    def absent(self, expression: str) -> list[str]:
        """Each text that a column is compared with and never holds: "domain is never 'targte' but 'source'"."""
        told = []
        for name, text in EQUALS.findall(expression):
            held = self._values(name)
            if held is not None and (text := text.replace("''", "'")) not in held:
                some = ", ".join(repr(one) for one in held[:MOST]) + (", ..." if len(held) > MOST else "")
                told.append(f"{name} is never {text!r} but {some}")
        return told

    def _values(self, name: str) -> list[str] | None:
        """What a column of text holds, in order; None of no such column."""
        if name in self.own:
            column = self.frame.select(pl.col(name).unique()).collect()[name]
        else:
            scope, _, bare = name.rpartition(".")
            table = self.items if scope == "item" else self.users
            if table is None or bare not in table.columns:
                return None
            column = table[bare].unique()
        return sorted(column.drop_nulls().to_list()) if column.dtype == pl.String else None

    def select(self, expression: str, where: str) -> np.ndarray:
        """(E,) bool over the events."""
        return select(expression, self.known, self.slice, self.events.n_events, where=where, renamed=self.renamed)

    def select_users(self, expression: str, where: str) -> np.ndarray:
        """(U,) bool over the user rows."""
        facts = pl.DataFrame(self.facts)
        own = [] if self.users is None else self.users.columns
        for name in facts.columns:
            if name in own and re.search(rf"\b{name}\b", expression):
                raise SettingsError(f"{name} is told of every user, and a column of [data.users] too", where=where,
                                    expected="one of that name",
                                    fix="leave the column out of data.users.columns, or rename it")  # fmt: skip
        users = facts if self.users is None else facts.select(set(facts.columns) - set(self.users.columns))
        users = users if self.users is None else self.users.hstack(users)
        return select(
            expression,
            users.columns,
            lambda names, offset, length: users.select(names).slice(offset, length),
            self.events.n_users,
            where=where,
            own="user.",
        )
