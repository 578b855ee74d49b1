"""A log read by a model that may have learned from an older one: histories, marks and profiles in the model's rows.

Items, values of marks and values of profile fields are found by their text. Events of items that the model does not
know are left out, as those of raw histories are; other values that nobody had then are not told.           [reads]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from perdure.errors import shorten
from perdure.events.examples import History, Sequences
from perdure.events.ids import FIRST_ITEM, Ids
from perdure.events.marks import Marks, marked_as
from perdure.events.tasks import history_of
from perdure.events.values import as_text, rows_of

if TYPE_CHECKING:
    from perdure.events.profiles import Fields
    from perdure.events.sequences import Events

__all__ = ["new_values", "read_as"]


def new_values(events: Events, marks: Marks | None, fields: Fields | None) -> list[str]:
    """A line for each column of which the log holds values that the model does not know, and so reads as missing."""
    held = [(name, events.categories[name].series, values) for name, values in (marks.events if marks else {}).items()]
    for name, values in (fields.values if fields else {}).items():
        held.append((name, as_text(events.users[name]).drop_nulls().unique().sort(), values))  # type: ignore[index]
    found = [(name, texts, texts.filter(pl.Series(rows_of(values, texts) < 0))) for name, texts, values in held]
    return [
        f"{name}: new to the model, and read as missing: {len(new):,} of {len(texts):,} values, such as "
        f"{shorten(new[0], 30)!r}"
        for name, texts, new in found
        if len(new)
    ]


def read_as(events: Events, history: History, items: Ids, marks: Marks | None) -> tuple[Sequences, int]:
    """The histories of all users of a log, as a model reads them.

    Args:
        history: what of the log is input.
        items: those the model knows.
        marks: what it reads of events besides, or None.

    Returns:
        The histories, and how many of their events are left out.

    Raises:
        SettingsError: `history` cannot be read of this log. DataError: a column of `marks` is not there.
    """
    shared, left_out = history_of(events, history), 0
    if events.item_ids.digest != items.digest:
        rows = np.concatenate([np.full(FIRST_ITEM, -1, np.int32), items.rows(events.item_ids.series)])  # (N + 2,)
        found = rows[shared.items]  # (H,)
        known = found >= 0  # (H,)
        kept = np.flatnonzero(known)  # (H',)
        starts = np.concatenate([[0], np.cumsum(known)])[shared.starts]  # (U + 1,)
        times = None if shared.times is None else np.asarray(shared.times)[kept]  # (H',)
        shared = Sequences(found[kept], starts, times, kept if shared.events is None else shared.events[kept])
        left_out = len(found) - len(kept)
    return shared if marks is None else shared.with_marks(marked_as(events, marks)), left_out
