"""What the methods of a comparison cost: frontiers, cost along the stream, the table. Pure."""

from __future__ import annotations

from typing import Any

from perdure.report import plots, words
from perdure.report.compared import Compared, Group
from perdure.report.knowledge import key
from perdure.report.parts import WIDE, Cell, Drawing, Grid, Section, Table

__all__ = ["frontiers", "growth", "table"]

COSTS = (("bytes", "bytes a task"), ("seconds", "seconds a task"))
GROWS = 5  # tasks from which on a line of cost against task tells something


def frontiers(c: Compared) -> Section | None:
    """Mean score against stored bytes and against seconds."""
    drawn = []
    for group in c.main:
        quality = "mean score" + (" (sampled)" if group.sampled else "")
        for name, title in COSTS:
            points = _points(group, name)
            if len(points) > 1:
                every = [point for other in c.main for point in _points(other, name)]
                picture = plots.frontier(points, f"{title}, logarithmic", quality, among=every)
                drawn.append(Drawing(f"{group.encoder}: {title}", picture))
    if not drawn:
        return None
    intro = (
        "Mean score over the tasks against what a later task costs: bytes of its file in the model folder (head and"
        " what the method adds), and seconds to learn it with validation. Filled: no other method is as good for less."
        " Up and to the left is better."
    )
    return Section("What quality costs", [intro, Grid(drawn, wide=True)])


def _points(group: Group, cost: str) -> list[dict[str, Any]]:
    """Each method's mean score against what a later task costs it."""
    told = [(method, group.methods[method]) for method in group.ranked]
    return [{"name": m, "x": one[cost], "y": one["average"]["mean"]} for m, one in told if one[cost]]


def growth(c: Compared) -> Section | None:
    """The cost of task k against k."""
    parts: list[Any] = []
    for group in c.main:
        if len(group.tasks) < GROWS:
            continue
        place = {task: n + 1 for n, task in enumerate(group.tasks)}
        panels = [
            ("milliseconds a step", {m: _steps(group, m, place) for m in group.methods}, {"zero": True}),
            ("seconds", {m: _along(group, m, "seconds", place) for m in group.methods}, {"log": True}),
            ("bytes stored", {m: _along(group, m, "bytes", place) for m in group.methods}, {"log": True}),
        ]
        drawn = []
        for title, lines, how in panels:
            picture = plots.many(lines, c.colours, ("task", title), points=len(group.tasks) <= 40, height=170, **how)
            if picture:
                drawn.append(Drawing(f"{group.encoder}: {title}", picture))
        table = _ratios(group, place)
        parts += [Grid(drawn), *([table] if table else [])]
    if not parts:
        return None
    shown = [method for method in c.axis("methods") if any(method in group.methods for group in c.main)]
    intro = (
        "The cost of task k against k, later tasks only. A step is one optimiser step without validation; seconds also"
        " depend on how many examples a task has and when it stopped, so compare methods at the same k. Seconds and"
        " bytes stand on logarithmic axes."
    )
    return Section("Does a task cost more when many came before", [intro, key(c, shown), *parts])


def _steps(group: Group, method: str, place: dict[str, int]) -> list[tuple[float, float]]:
    told = group.steps.get(method, {})
    return [(place[task], 1000 * told[task]) for task in group.tasks[1:] if task in told]


def _along(group: Group, method: str, name: str, place: dict[str, int]) -> list[tuple[float, float]]:
    return [(place[row["task"]], row[name]) for row in group.costs[method] if row["task_index"] and row[name]]


def _ratios(group: Group, place: dict[str, int]) -> Table | None:
    """The step time of the second task and of the last one."""
    second, last = group.tasks[1], group.tasks[-1]
    rows = []
    for method in group.methods:
        told = group.steps.get(method, {})
        if second in told and last in told:
            times = [f"{1000 * told[task]:.1f} ms" for task in (second, last)]
            rows.append([Cell(method), *map(Cell, times), Cell(f"{told[last] / told[second]:.2f}")])
    heads = [Cell("method"), Cell(f"task 2, {second}"), Cell(f"task {place[last]}, {last}"), Cell("ratio")]
    note = "Median step of a task, mean over seeds. A ratio of 1 is a cost that does not grow."
    return Table(f"{group.encoder}: time of a training step", heads, rows, note) if rows else None


def table(c: Compared) -> Section | None:
    """Everything a later task cost, and the whole stream."""
    tables = [_costs(group) for group in c.main]
    return Section("What it cost", tables) if tables else None


def _costs(group: Group) -> Table:
    rows = []
    for method, one in group.methods.items():
        costs = group.costs[method]
        later = [row for row in costs if row["task_index"]]
        epochs = [row["epochs"] for row in later if row["epochs"] is not None]
        whole = [sum(row[k] or 0 for row in costs) for k in ("seconds", "bytes")]
        cells = [words.whole(one["trainable"]), words.size(one["bytes"]), words.duration(one["seconds"])]
        cells += [f"{words.mean(epochs):.1f}" if epochs else "", words.duration(whole[0]), words.size(whole[1])]
        rows.append([Cell(method), *map(Cell, cells), Cell(words.size(one["peak_rss"]))])
    heads = ["method", "trainable", "file", "time", "epochs", "all tasks: time", "all tasks: files", "memory"]
    note = (
        "Trainable, file, time and epochs: mean over the later tasks and over seeds. Trainable: parameters the"
        " optimiser could move. File: what a task adds to the model folder. Memory: the most a run's process held, mean"
        " over seeds."
    )
    if any(one.get("backbone_shared") for one in group.methods.values()):
        note += " The first task was learned once for all methods that allow it, and is counted for each."
    if len(group.tasks) > WIDE:
        note += " Cost task by task: results.parquet."
    return Table(f"{group.encoder}: cost", [Cell(head) for head in heads], rows, note)
