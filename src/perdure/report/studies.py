"""What a comparison asks besides who is best: other orders, the protocol that leaks, slices of users. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from perdure.report import words
from perdure.report.compared import SLICES, Compared, Group
from perdure.report.parts import Cell, Fold, Section, Table, crossed
from perdure.report.standing import scores_table

__all__ = ["orders", "protocols", "rest", "slices"]

CONTROLS = {"as-coded": "user-each"}  # a protocol and the one that differs from it in what leaks alone
Changes = dict[str, dict[str, float]]  # method -> task -> change


def orders(c: Compared) -> Section | None:
    """What each other order of tasks takes from every task."""
    first, parts = (c.axis("orders") or [""])[0], []
    for order in c.axis("orders")[1:]:
        for base in c.main:
            other = c.group(base.encoder, order, base.protocol)
            if other is None:
                continue
            caption = f"{base.encoder}: {order} less {first}"
            note = f"Final scores, {order} order less {first} order, means over the seeds that both have."
            if other.left_out:
                note += f" The task of random labels ({words.listed(other.left_out)}) is in no mean."
            table = _changes(base, _less(other, base), caption, note)
            fold = Fold(f"{base.encoder}, {order}: every score", [scores_table(c, other)])
            parts += [table, fold] if table else [fold]
    if not parts:
        return None
    intro = (
        "The same tasks in another order, or with a task of random labels among them. A method that leans on what it"
        " learned before is thrown by an order that helps less; one that keeps tasks apart is not."
    )
    return Section("Does the order matter", [intro, *parts])


def protocols(c: Compared) -> Section | None:
    """How much better the protocol of the official codes makes everything look, and how much of it is the leak."""
    first, asked = (c.axis("protocols") or [""])[0], c.axis("protocols")[1:]
    tables, told = [], []
    for protocol in (one for one in asked if one not in CONTROLS.values()):
        for against in [one for one in asked if one == CONTROLS.get(protocol)] + [first]:
            moved = [found for base in c.main if (found := _flattered(c, base, protocol, against))]
            if moved:
                tables += [table for table, _ in moved]
                told.append(_size(protocol, against, [mean for _, mean in moved]))
    if not tables:
        return None
    folds = [
        Fold(f"{group.encoder}, {group.protocol}: every score", [scores_table(c, group)])
        for group in c.groups
        if group.order == c.axis("orders")[0] and group.protocol in asked
    ]
    intro = (
        "The official releases split by example, not by user, so that histories of test users stand in training, and"
        " they rank items that a user already has."
    )
    found = c.about.get("findings") or {}
    leaks = [one["text"] for name in asked for one in found.get(name, []) if one["severity"] == "leak"]
    audit = [f"The audit says: {'; '.join(leaks[:3])}."] if leaks else []
    return Section("How much the published protocol flatters", [intro, *told, *audit, *tables, *folds])


def _flattered(c: Compared, base: Group, protocol: str, against: str) -> tuple[Table, str] | None:
    """How much scores under a protocol exceed those under another: the table, and the mean as words."""
    mine, theirs = (c.group(base.encoder, base.order, name) for name in (protocol, against))
    if mine is None or theirs is None:
        return None
    less = _less(mine, theirs)
    note = (
        f"Final scores under {protocol} less those under {against}, the same measure of the same tasks, means over the"
        " seeds that both have; test users differ, as the protocols do."
    )
    table = _changes(theirs, less, f"{base.encoder}: {protocol} less {against}", note, sign=1)
    means = [words.mean(list(one.values())) for one in less.values() if one]
    return (table, f"{words.signed(words.mean(means))} with {base.encoder}") if table else None


def _size(protocol: str, against: str, moved: Sequence[str]) -> str:
    """What a difference of two protocols means."""
    size = f"{words.listed(moved)}, on average over all methods and tasks"
    if against == CONTROLS.get(protocol):
        return f"{against} makes the same examples and splits them by user; {protocol} differs by {size}: the leak."
    return f"From {against}, {protocol} differs by {size}: the leak, and all else that is not the same."


def rest(c: Compared) -> Section | None:
    """Scores under another order and another protocol at once, which no other section shows."""
    main = (c.axis("orders")[:1], c.axis("protocols")[:1])
    some = [group for group in c.groups if [group.order] != main[0] and [group.protocol] != main[1]]
    folds = [Fold(f"{g.encoder}, {g.order}, {g.protocol}: every score", [scores_table(c, g)]) for g in some]
    return Section("Other orders under other protocols", folds) if folds else None


def _less(other: Group, base: Group) -> Changes:
    """Change of every task that both count, on common seeds."""
    told: Changes = {}
    for method in base.methods:
        mine, theirs = _finals(other, method), _finals(base, method)
        seeds = sorted({s for s, _ in mine} & {s for s, _ in theirs})
        tasks = [task for task in base.counted if task in other.counted]
        if seeds:
            told[method] = {
                task: words.mean([mine[s, task] - theirs[s, task] for s in seeds])
                for task in tasks
                if all((s, task) in mine and (s, task) in theirs for s in seeds)
            }
    return told


def _finals(group: Group, method: str) -> dict[tuple[int, str], float]:
    """(seed, task) -> score at the end."""
    rows = group.rows.filter(pl.col("final"), pl.col("method") == method)
    return {(seed, task): value for seed, task, value in rows.select("seed", "task", "value").iter_rows()}


def _changes(base: Group, less: Changes, caption: str, note: str, sign: int = -1) -> Table | None:
    """Methods by tasks, or tasks by methods; changes of this sign in the colour of loss."""
    if not any(less.values()):
        return None
    most = max([sign * value for one in less.values() for value in one.values()] + [0.0]) or 1.0
    tasks = [task for task in base.counted if any(task in one for one in less.values())]

    def cell(value: float | None) -> Cell:
        if value is None:
            return Cell("")
        return Cell(words.signed(value), shade=sign * value / most if sign * value >= 0.0005 else None)

    means = {method: words.mean(list(one.values())) for method, one in less.items() if one}
    heads, rows = crossed(
        list(means),
        [Cell(task, base.label(task)) for task in tasks],
        lambda method, task: cell(less[method].get(task)),
        lambda method: cell(means[method]),
    )
    return Table(caption + (f" ({base.sampled})" if base.sampled else ""), heads, rows, note, "loss")


def slices(c: Compared) -> Section | None:
    """Scores of users with short and with long histories."""
    parts: list[Any] = []
    for group in c.main:
        if group.slices.is_empty():
            continue
        told = {(m, t, s): (value, n) for m, t, s, value, n in _rows(group)}
        parts.append(_sliced(group, told, group.counted, f"{group.encoder}: mean over tasks by length of history"))
        each = [_sliced(group, told, [task], f"{task}, {group.label(task)}") for task in group.tasks]
        parts.append(Fold(f"{group.encoder}: every task by length of history", each))
    if not parts:
        return None
    intro = (
        "Final scores of test users by how many events of them were read. Compare down a column: all methods meet the"
        " same users there. Columns of few users say little."
    )
    return Section("Users with short and with long histories", [intro, *parts])


def _rows(group: Group) -> Sequence[tuple[str, str, int, float, int]]:
    return group.slices.select("method", "task", "slice", "value", "n").rows()


def _sliced(
    group: Group, told: dict[tuple[str, str, int], tuple[float, int]], tasks: Sequence[str], caption: str
) -> Table:
    """Methods by slices; a slice of several tasks is the mean over those that have users in it."""
    methods = group.ranked

    def value(method: str, place: int) -> float | None:
        some = [told[method, task, place][0] for task in tasks if (method, task, place) in told]
        return words.mean(some) if some else None

    def users(place: int) -> int:
        return sum(max((told.get((m, t, place), (0.0, 0))[1] for m in methods), default=0) for t in tasks)

    places = [place for place in range(len(SLICES)) if users(place)]
    rows = [[Cell(method)] for method in methods]
    for place in places:
        column = {method: value(method, place) for method in methods}
        top = max([v for v in column.values() if v is not None], default=0.0)
        for row in rows:
            mine = column[row[0].text]
            if mine is None:
                row.append(Cell("", kind="none"))
            else:
                row.append(
                    Cell(words.score(mine), kind="best" if mine == top else "", shade=mine / top if top else 0.0)
                )
    unit = "users" if len(tasks) == 1 else "pairs of user and task"
    heads = [Cell("method"), *[Cell(_events(SLICES[n][0]), f"n {users(n):,}") for n in places]]
    caption += f" ({group.sampled})" if group.sampled and len(tasks) > 1 else ""
    note = f"n: {unit}. Colour: share of the best in its column."
    note += f" Left out, since they lack folds: {words.listed(group.partial)}." if group.partial else ""
    return Table(caption, heads, rows, note, "heat")


def _events(name: str) -> str:
    return f"{name} event" if name == "1" else f"{name} than 20" if name == "more" else f"{name} events"
