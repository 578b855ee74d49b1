"""What a comparison gave, read from its run folders: results, users, summary.                         [reads, writes]

results.parquet   a row for each cell of each R; what a task cost, on the first of its rows
users.parquet     the value of each task's measure for each user tested at the end
summary.json      per encoder, order and protocol: what every method reached, gained, forgot and cost
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perdure.api.cells import Cell
from perdure.api.work import USERS
from perdure.errors import ModelError, shorten

__all__ = ["COST", "KEY", "RESULTS", "read", "results", "users"]

KEY = {"encoder": pl.String, "method": pl.String, "order": pl.String, "protocol": pl.String, "seed": pl.Int64}
RESULTS: dict[str, Any] = {
    **KEY,
    "after": pl.String,
    "after_index": pl.Int32,
    "task": pl.String,
    "task_index": pl.Int32,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "popularity": pl.Float64,
    "n": pl.Int64,
    "measured": pl.String,
    "final": pl.Boolean,
    "seconds": pl.Float64,
    "trainable": pl.Int64,
    "bytes": pl.Int64,
    "epochs": pl.Int64,
    "peak_rss": pl.Int64,
    "backbone_shared": pl.Boolean,
}
COST = ("seconds", "trainable", "bytes", "epochs", "peak_rss")


def read(path: Path) -> Any:
    """A JSON document. Raises ModelError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ModelError(f"{path.name} cannot be read: {shorten(fault)}", where=str(path)) from None


def results(out: Path, cells: Sequence[Cell], shares: Callable[[Cell], bool]) -> pl.DataFrame:
    """One row per cell of every R of some finished cells, told which began with their backbone; see RESULTS."""
    rows = [row for cell in cells for row in _rows(out, cell, shares(cell))]
    return pl.DataFrame(rows, schema=RESULTS, orient="row")


def _rows(out: Path, cell: Cell, shared: bool) -> list[dict[str, Any]]:
    folder = out / cell.folder
    tasks = read(folder / "matrix.json")["tasks"]
    costs = {cost["task"]: cost for cost in read(folder / "cost.json")}
    if shared:  # what its first task cost, the backbone was charged; what is stored of it is the method's own
        first = read(out / cell.backbone.folder / "cost.json")
        costs |= {cost["task"]: {**cost, "bytes": costs[cost["task"]]["bytes"]} for cost in first}
    place = {task: at for at, task in enumerate(tasks)}
    key = {name: getattr(cell, name) for name in KEY}
    told = []
    for score in read(folder / "scores.json"):
        after, task = score["after"], score["task"]
        row = {**key, "after": after, "after_index": place[after], "task": task, "task_index": place[task]}
        row |= {name: score[name] for name in ("metric", "value", "low", "high", "n")}
        row["popularity"] = score.get("popularity")
        row |= {"measured": score["protocol"], "final": after == tasks[-1], "backbone_shared": shared}
        told.append(row | {name: value for name, value in costs.pop(task, {}).items() if name in COST})
    return told


def users(out: Path, cells: Sequence[Cell]) -> pl.DataFrame:
    """Who reached what at the end: columns of KEY, then task, user, history, value."""
    empty = {**KEY, "task": pl.String, "user": pl.String, "history": pl.Int32, "value": pl.Float32}
    frames = [pl.DataFrame(schema=empty)]
    for cell in cells:
        told = [pl.lit(getattr(cell, name), kind).alias(name) for name, kind in KEY.items()]
        frames.append(pl.read_parquet(out / cell.folder / USERS).select(*told, pl.all()))
    return pl.concat(frames)
