"""A small log in memory with the attributes of Events, for tests that need no store on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from perdure.events.ids import Ids

if TYPE_CHECKING:
    from perdure.events.sequences import Events


@dataclass(frozen=True)
class Log:
    """Duck-typed Events: rows (user, item, time, other columns) given as a frame in CSR order."""

    items: np.ndarray
    starts: np.ndarray
    times: np.ndarray | None
    user_ids: Ids
    item_ids: Ids
    frame: pl.DataFrame
    users: pl.DataFrame | None = None
    items_table: pl.DataFrame | None = None
    folder: Path = Path(".")
    digest: str = "standin"
    card: dict = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        return len(self.items)

    def columns(self, names: Sequence[str] | None = None) -> pl.LazyFrame:
        return self.frame.lazy() if names is None else self.frame.lazy().select(names)


def log_of(frame: pl.DataFrame, users: pl.DataFrame | None = None, items: pl.DataFrame | None = None) -> Events:
    """A log from rows with columns user, item and maybe time; `users` and `items` have an `id` column."""
    frame = frame.with_columns(pl.col("user").cast(pl.String), pl.col("item").cast(pl.String))
    names = frame["user"].unique().sort()
    if users is not None:
        names = pl.concat([names, users["id"].cast(pl.String)]).unique().sort()
    user_ids, item_ids = Ids(names), Ids(frame["item"].unique().sort(), first=2)
    row = user_ids.rows(frame["user"])
    keys = [row] if "time" not in frame.columns else [frame["time"].to_numpy(), row]
    order = np.lexsort(keys) if len(keys) > 1 else np.argsort(row, kind="stable")
    frame = frame[order]
    counts = np.bincount(user_ids.rows(frame["user"]), minlength=len(user_ids))
    log = Log(
        items=item_ids.rows(frame["item"]).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        times=frame["time"].to_numpy().astype(np.int64) if "time" in frame.columns else None,
        user_ids=user_ids,
        item_ids=item_ids,
        frame=frame,
        users=_table(users, user_ids, 0),
        items_table=_table(items, item_ids, 2),
    )
    return cast("Events", log)


def _table(table: pl.DataFrame | None, ids: Ids, first: int) -> pl.DataFrame | None:
    if table is None:
        return None
    own = pl.DataFrame({"id": ids.text(np.arange(first, first + len(ids)))})
    return own.join(table.with_columns(pl.col("id").cast(pl.String)), on="id", how="left", maintain_order="left").drop(
        "id"
    )
