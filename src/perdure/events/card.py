"""The data card: what a reader should know of a log before learning from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from perdure.errors import shorten
from perdure.events.arrange import Arranged
from perdure.events.clean import Books
from perdure.events.data_settings import DataSettings
from perdure.events.gather import Gathered

LONG = 100_000  # a history longer than this is told in the card
OFTEN = 5  # values of a column that are told with their counts


def data_card(data: DataSettings, columns: Gathered, arranged: Arranged, books: Books, times: np.ndarray | None,
              merges: dict[str, int], unknown: dict[str, int], notes: list[str]) -> dict:  # fmt: skip
    """What a reader should know of the log: counts that balance, time range, shape, what was left out and why."""
    stored, counts = len(arranged.rows), arranged.counts
    users, items = len(counts), int((arranged.item_map >= 0).sum())
    left = arranged.left_out
    quantiles = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    lengths = {f"{q:.0%}": int(np.quantile(counts, q, method="lower")) for q in quantiles} if users else {}
    filtered = {name: left[name] for name in ("where", "min_item_count", "min_user_count")}
    card = {
        "counts": {"events": stored, "users": users, "items": items},
        "books": {"received": books.received, "stored": stored, "duplicate": left["duplicate"],
                  "quarantined": books.bad, "filtered": sum(filtered.values())},
        "quarantined": dict(sorted(books.quarantined.items())),
        "filtered": filtered,
        "density": stored / (users * items) if stored else 0.0,
        "history_length": {**lengths, "mean": float(counts.mean()) if users else 0.0},
        "users_with_one_event": int((counts == 1).sum()),
        "id_spellings_merged": merges,
        "renamed": data.columns.renamed(),
        **unknown,
        "columns": {name: _column(name, columns, arranged.rows)
                    for name in ("value", "behaviour", "domain", *columns.features)
                    if stored and (name in columns.codes or name in columns.numbers)},
    }  # fmt: skip
    if times is not None and stored:
        first, last = int(times.min()), int(times.max())
        card["time_range"] = {"first": _iso(first), "last": _iso(last), "seconds": [first, last]}
    if books.future[0]:
        card["ahead_of_now"] = {"rows": books.future[0], "most_seconds": books.future[1]}
    if users and counts.max() > LONG:
        notes.append(f"the longest history has {counts.max()} events; training sees what its `windows` and "
                     "`max_length` let through")  # fmt: skip
    if times is None and "order" not in columns.numbers:
        notes.append("no time and no order column: the order of the rows is taken as the order of the events, and "
                     "equal rows as repeats")  # fmt: skip
    return {**card, "notes": notes}


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _column(name: str, columns: Gathered, rows: np.ndarray) -> dict[str, Any]:
    """How many values a column of the events has, how many events have none, and the commonest values with their
    counts; of numbers of many values the least, the median and the greatest."""
    if name in columns.codes:
        counts = np.bincount(columns.codes[name][rows] + 1, minlength=len(columns.texts[name]) + 1)  # (V + 1,)
        missing, counts = int(counts[0]), counts[1:]
        order = np.argsort(-counts, kind="stable")[:OFTEN]
        often = {str(columns.texts[name][int(i)]): int(counts[i]) for i in order if counts[i]}
        return {"values": int((counts > 0).sum()), "missing": missing, "often": often}
    column = columns.numbers[name].gather(rows).alias("value")
    there = column.drop_nulls()
    told: dict[str, Any] = {"values": there.n_unique(), "missing": len(column) - len(there)}
    if told["values"] > OFTEN and column.dtype.is_numeric():
        ends = {"least": there.min(), "median": there.median(), "greatest": there.max()}
        return {**told, **{end: float(value) for end, value in ends.items()}}  # type: ignore[arg-type]
    counted = (
        there.value_counts(name="n").sort(["n", "value"], descending=[True, False]) if len(there) else pl.DataFrame()
    )
    return {**told, "often": {str(value): n for value, n in counted.head(OFTEN).iter_rows()}}


def in_words(column: Mapping[str, Any]) -> str:
    """What the card tells of one column, on a line."""
    often = ", ".join(f"{shorten(value, 30)} {n:,}" for value, n in column.get("often", {}).items())
    if "least" in column:
        often = f"{column['least']:g} to {column['greatest']:g}, median {column['median']:g}"
    elif column["values"] > OFTEN:
        often = f"{column['values']:,} values, most often {often}"
    return ", ".join(filter(None, [often, f"none {column['missing']:,}" if column["missing"] else ""]))
