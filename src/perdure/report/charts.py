"""The drawings of one run's report: how a task was learned, and what became of it. Pure."""

from __future__ import annotations

import math
from typing import Any

from perdure.report.drawing import FIRST, INK, SECOND, SOFT, altair, data, shown, svg

__all__ = ["curves", "life"]


def curves(points: list[dict[str, Any]], metric: str, best: int | None, width: int = 270) -> str:
    """One task's learning: its validation metric above, its training loss below, over epochs.

    Args:
        points: {"epoch": int, "loss": float | None, "valid": float | None}, in order.
        metric: name of the validation metric, the upper axis's title.
        best: the epoch whose weights were kept; marked. None where unknown.
        width: of the drawing without its axis, in pixels.

    Returns: an SVG element; empty where no point has a number.
    """
    alt = altair()
    panels = []
    for key, title, colour, height, count in (("valid", metric, FIRST, 96, 4), ("loss", "loss", SECOND, 58, 3)):
        rows = [{"epoch": p["epoch"], "value": p[key]} for p in points if p.get(key) is not None]
        if not rows:
            continue
        last = key == "loss" or not any(p.get("loss") is not None for p in points)
        epochs = [p["epoch"] for p in points]
        ends = [min(epochs), max(max(epochs), min(epochs) + 1)]
        ticks = list(range(ends[0], ends[1] + 1, math.ceil((ends[1] - ends[0]) / 6)))
        x = alt.X(
            "epoch:Q",
            title="epoch" if last else None,
            axis=alt.Axis(values=ticks, format="d", grid=False, labelFlush=False, labels=last, ticks=last),
            scale=alt.Scale(domain=ends, nice=False),
        )
        low, high = min(row["value"] for row in rows), max(row["value"] for row in rows)
        flat = (
            {"domain": [low - 0.05, high + 0.05]} if high - low < 1e-9 else {}
        )  # a line in the middle, not on an edge
        scale = alt.Scale(zero=False, nice=True, **flat)
        y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=count, titlePadding=8), scale=scale)
        base = alt.Chart(data(rows)).encode(x=x, y=y)
        drawn: Any = base.mark_line(color=colour, strokeWidth=1.8, clip=False)
        if len(rows) <= 40:
            drawn = drawn + base.mark_point(color=colour, filled=True, size=14, opacity=1)
        kept = [row for row in rows if row["epoch"] == best]
        if key == "valid" and kept:
            mark = alt.Chart(data(kept)).encode(x=x, y=y)
            drawn = drawn + mark.mark_point(color=INK, filled=False, size=70, strokeWidth=1.6, opacity=1)
        panels.append(drawn.properties(width=width, height=height))
    if not panels:
        return ""
    chart = alt.vconcat(*panels, spacing=16) if len(panels) > 1 else panels[0]
    return svg(chart, f"learning curve: {metric} and loss by epoch")


def life(tasks: list[dict[str, Any]], width: int = 520) -> str:
    """What became of each task: its score when just learned, its score now, alone, and the best reachable.

    Args:
        tasks: {"task", "learned", "now", "alone", "oracle"}; the last three may be None. Scores in [0, 1].
        width: of the drawing without its labels, in pixels.

    Returns: an SVG element, one row a task in the given order.
    """
    alt = altair()
    names = shown([row["task"] for row in tasks])
    tasks = [row | {"task": names[row["task"]]} for row in tasks]
    order = [row["task"] for row in tasks]
    top = max(v for row in tasks for k, v in row.items() if k != "task" and v is not None) or 1.0
    x = alt.X(
        "value:Q",
        title="score on the test users",
        axis=alt.Axis(tickCount=4 if width < 300 else 6, labelFlush=False),
        scale=alt.Scale(domain=[0, top * 1.04], nice=False),
    )
    y = alt.Y(
        "task:N", title=None, sort=order, axis=alt.Axis(grid=True, labelFontSize=12, labelColor=INK, labelLimit=0)
    )

    def layer(key: str) -> Any:
        rows = [{"task": row["task"], "value": row[key]} for row in tasks if row.get(key) is not None]
        return alt.Chart(data(rows)).encode(x=x, y=y)

    moved = [{"task": r["task"], "value": r["learned"], "to": r["now"]} for r in tasks if r.get("now") is not None]
    path = alt.Chart(data(moved)).encode(x=x, x2="to:Q", y=y)
    chart = (
        layer("oracle").mark_tick(color=SOFT, thickness=2, size=22, opacity=1)
        + layer("alone").mark_point(shape="diamond", color=SOFT, filled=False, size=70, strokeWidth=1.5, opacity=1)
        + path.mark_rule(color=SECOND, strokeWidth=3, opacity=0.75)
        + layer("learned").mark_point(color=FIRST, filled=False, size=170, strokeWidth=1.8, opacity=1)
        + layer("now").mark_point(color=FIRST, filled=True, size=45, opacity=1)
    )
    return svg(chart.properties(width=width, height=alt.Step(34)), "each task just learned and now")
