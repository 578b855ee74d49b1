"""What the methods of a comparison knew along the stream: R side by side, forgetting, relations, curves. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.report import plots, words
from perdure.report.compared import Compared, Group
from perdure.report.parts import WIDE, Cell, Drawing, Fold, Grid, Key, Section, Table, crossed

__all__ = ["curves", "forgetting", "key", "matrices", "relations"]


def key(c: Compared, methods: list[str]) -> Key:
    """Which line is whose."""
    count = len(plots.LINES)
    return Key([(m, c.colours[m] % count + 1, c.colours[m] // count % len(plots.DASHES)) for m in methods])


def matrices(c: Compared) -> Section | None:
    """R of every method, small, on one scale."""
    grids: list[Any] = []
    for group in c.main:
        whole = np.concatenate([group.mean_matrix(method) for method in group.matrices])  # (methods K, K)
        top = np.nanmax(whole, 0)  # (K,) best of each column: every task is measured at the end
        maps = [_map(c, group, method, np.where(top > 0, top, 1.0)) for method in group.matrices]
        grids += [*filter(None, [_names(group)]), Grid(maps)]
    if not grids:
        return None
    intro = (
        "Each row is a moment, after learning one more task; each column is a task. One scale for all: full colour is"
        " the best that any method ever reached on this task. A column that fades was forgotten; framed cells were just"
        " learned."
    )
    return Section("What each method knew after each task", [intro, *grids])


def _map(c: Compared, group: Group, method: str, top: np.ndarray) -> Table:
    R, tasks = group.mean_matrix(method), group.tasks
    rows = []
    for t, after in enumerate(tasks):
        cells = [_numbered(group, after)]
        for k, task in enumerate(tasks):
            if np.isnan(R[t, k]):
                cells.append(Cell("", kind="none"))
                continue
            text, shade = words.score(R[t, k]), float(np.clip(R[t, k] / top[k], 0, 1))
            fresh = bool(np.isnan(R[:t, k]).all())  # of several learned at once, all are
            cells.append(Cell(text, "", "fresh" if fresh else "", shade, f"{task} after {after}: {text}"))
        rows.append(cells)
    one = group.methods[method]
    lost = group.forgetting(method)
    note = f"mean {words.score(one['average']['mean'])}" + (", sampled" if group.sampled else "")
    note += "; measured once, at the end" if lost is None else f", forgetting {words.lost(lost)}"
    heads = [Cell("after"), *[Cell(str(k + 1), title=task) for k, task in enumerate(tasks)]]
    return Table(_whose(c, group, method), heads, rows, note, _kind(group))


def _whose(c: Compared, group: Group, method: str) -> str:
    """The method, and its encoder where there are several."""
    return method if len(c.main) == 1 else f"{method}, {group.encoder}"


def _numbered(group: Group, task: str) -> Cell:
    """A task by its number, and its name where there is room."""
    number = group.tasks.index(task) + 1
    return Cell(f"{number} {task}" if len(group.tasks) <= WIDE else str(number), title=task)


def _names(group: Group) -> str:
    """Whose the numbers are, where they stand without a name."""
    if len(group.tasks) <= WIDE:
        return ""
    return "Tasks: " + ", ".join(f"{k + 1}\N{NO-BREAK SPACE}{task}" for k, task in enumerate(group.tasks)) + "."


def _kind(group: Group) -> str:
    return "map" if len(group.tasks) <= WIDE else "dots"


def forgetting(c: Compared) -> Section | None:
    """What every method lost of each older task."""
    tables = [_lost(group) for group in c.main if any(group.forgotten(method) for method in group.matrices)]
    if not tables:
        return None
    intro = (
        "Forgetting of a task: the best score it ever had less its score at the end. The last task had no time to fade."
    )
    return Section("What was forgotten", [intro, *tables])


def _lost(group: Group) -> Table:
    """Methods by older tasks; those that were measured once, at the end, have nothing to tell."""
    lost = {method: one for method in group.matrices if (one := group.forgotten(method))}
    most = max([value for one in lost.values() for value in one.values()] + [0.0]) or 1.0
    means = {method: group.forgetting(method) or 0.0 for method in lost}

    def cell(value: float | None) -> Cell:
        if value is None:
            return Cell("", kind="none")
        return Cell(words.lost(value), shade=value / most if value >= 0.0005 else None)

    tasks = [Cell(task, group.label(task)) for task in group.tasks if any(task in one for one in lost.values())]
    methods = sorted(lost, key=lambda method: means[method])
    heads, rows = crossed(methods, tasks, lambda m, t: cell(lost[m].get(t)), lambda m: cell(means[m]))
    caption = f"{group.encoder}: score lost" + (f" ({group.sampled})" if group.sampled else "")
    return Table(caption, heads, rows, "0 is exactly 0; ≈ 0 is less than 0.0005.", "loss")


def relations(c: Compared) -> Section | None:
    """How much each task draws on the tasks before it, by the methods that can tell."""
    maps = [_drawn_on(c, group, m, told) for group in c.main for m, told in group.relations.items()]
    if not maps:
        return None
    intro = (
        "Some methods weigh earlier tasks when they learn a new one. A row is the new task, a column the earlier one it"
        " drew on; within a method full colour is the largest weight. Weights of two methods are no common measure."
    )
    names = list(dict.fromkeys(_names(group) for group in c.main))
    return Section("What tasks draw on", [intro, *filter(None, names), Grid(maps)])


def _drawn_on(c: Compared, group: Group, method: str, told: dict[str, dict[str, float]]) -> Table:
    earlier = [task for task in group.tasks if any(task in one for one in told.values())]
    most = max(abs(value) for one in told.values() for value in one.values()) or 1.0
    rows = []
    for task, one in told.items():
        cells = [_numbered(group, task)]
        for other in earlier:
            value = one.get(other)
            if value is None:
                cells.append(Cell("", kind="none"))
            else:
                title = f"{task} draws on {other}: {value:.2f}"
                cells.append(Cell(f"{value:.2f}", shade=min(1.0, abs(value) / most), title=title))
        rows.append(cells)
    heads = [Cell("task"), *[Cell(str(group.tasks.index(task) + 1), title=task) for task in earlier]]
    return Table(_whose(c, group, method), heads, rows, f"largest weight {most:.2f}", _kind(group))


def curves(c: Compared) -> Section | None:
    """Validation scores by epoch, every method in one drawing for each task."""
    parts: list[Any] = []
    for group in c.main:
        drawn = []
        for task in group.tasks:
            lines = {m: _curve(group.epochs.get(m, {}).get(task, [])) for m in group.methods}
            picture = plots.many(lines, c.colours, ("epoch", group.label(task)))
            if picture:
                where = f"{group.encoder}: {task}" if len(c.main) > 1 else task
                drawn.append(Drawing(f"{where}, {group.label(task)}", picture))
        title = f"{group.encoder}: the curves of {words.count(len(drawn), 'task', digits=True)}"
        parts += [Fold(title, [Grid(drawn)])] if len(drawn) > WIDE else [Grid(drawn)] if drawn else []
    if not parts:
        return None
    shown = [m for m in c.axis("methods") if any(m in group.epochs for group in c.main)]
    seed = min(c.axis("seeds"))
    intro = (
        f"Score on each task's validation users by epoch, seed {seed}. A line ends where training stopped; stages of a"
        " method follow one another. The first task stands here only where a method learned it in a way of its own."
    )
    logs = [log for group in c.main for seeds in group.logs.values() for log in seeds.values()]
    if any(line.get("event") == "counted" for log in logs for line in log):
        intro += " What a method counts after training, as axes its pairs, is not in the curves."
    return Section("How the tasks were learned", [intro, key(c, shown), *parts])


def _curve(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(epoch, validation score); the epochs of later stages are counted on."""
    return [(n + 1, line["valid"]) for n, line in enumerate(lines) if line.get("valid") is not None]
