"""The drawings of a comparison: gains with their intervals, frontiers, learning curves, cost along the stream. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perdure.report import words
from perdure.report.drawing import DASHES, FIRST, INK, LINES, SOFT, altair, data, shown, svg

__all__ = ["front", "frontier", "gains", "look", "many"]

LETTER = 6.2  # pixels of a letter of a label, about
COLUMN = 14  # pixels between names that stand in a column
STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))


def gains(
    rows: Sequence[Mapping[str, Any]], encoder: str, width: int = 360, among: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A dot and a bar for every method.

    Args:
        rows: {"method", "mean", "low", "high"}, low and high None where there is no interval; in the order shown.
        width: of the drawing without its labels, in pixels.
        among: rows of all drawings beside one another, which share an axis.
    """
    alt = altair()
    names = shown([row["method"] for row in rows])
    told = [dict(row) | {"method": names[row["method"]]} for row in rows]
    y = alt.Y("method:N", sort=[row["method"] for row in told], title=None,
              axis=alt.Axis(labelFontSize=12, labelColor=INK, labelLimit=0, grid=False))  # fmt: skip
    ends = [row[key] for row in (*rows, *among) for key in ("mean", "low", "high") if row[key] is not None]
    x = alt.X(
        "mean:Q",
        title="mean gain",
        scale=alt.Scale(nice=True, domain=[min(0, *ends), max(0, *ends)]) if any(ends) else alt.Scale(nice=True),
        axis=alt.Axis(
            tickCount=5,
            labelOverlap=True,
            labelFlush=False,
            labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.3~f')",
        ),
    )
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(color=SOFT, strokeWidth=1.2).encode(x=alt.X("zero:Q"))
    bars = alt.Chart(data([row for row in told if row["low"] is not None]))
    dots = alt.Chart(data(told)).mark_point(color=FIRST, filled=True, size=70, opacity=1).encode(x=x, y=y)
    drawn: Any = zero + dots
    if any(row["low"] is not None for row in told):
        drawn = (
            zero + bars.mark_rule(color=FIRST, strokeWidth=2.4, opacity=0.55).encode(x="low:Q", x2="high:Q", y=y) + dots
        )
    said = "; ".join(
        f"{row['method']} {words.signed(row['mean'])}"
        + ("" if row["low"] is None else f" ({words.interval(row['low'], row['high'], sign=True)})")
        for row in rows
    )
    return svg(drawn.properties(width=width, height=alt.Step(24)), f"mean gain with {encoder}: {said}")


def front(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the points that no other beats: none costs less and is as good, or costs as much and is better.

    Args:
        points: {"name", "x", "y"}: x is a cost, y a quality.

    Returns: names, the cheapest first.
    """
    best, names = -math.inf, []
    for point in sorted(points, key=lambda p: (p["x"], -p["y"])):
        if point["y"] > best:
            best = point["y"]
            names.append(point["name"])
    return names


def frontier(
    points: Sequence[Mapping[str, Any]],
    cost: str,
    quality: str,
    width: int = 300,
    height: int = 210,
    among: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Quality against cost, the front of those that no other beats drawn as steps.

    Args:
        points: {"name", "x", "y"}; x > 0, drawn on a logarithmic axis.
        cost, quality: titles of the axes.
        among: points of all drawings of this cost, which share their axes.
    """
    alt = altair()
    ahead, every = front(points), [*points, *among]
    low, high = min(p["x"] for p in every), max(p["x"] for p in every)
    xs = [low / 1.8, max(high * 1.8, low * 10)]
    bottom, top = min(p["y"] for p in every), max(p["y"] for p in every)
    room = max(top - bottom, 0.002) * 0.12
    ys = [bottom - room, top + room]
    ticks = _ticks(*xs)
    told = sorted((dict(p) | {"front": p["name"] in ahead} for p in points), key=lambda p: p["x"])
    x = alt.X("x:Q", title=cost, scale=alt.Scale(type="log", domain=xs, nice=False),
              axis=alt.Axis(values=ticks, labelExpr=_short("datum.value"), grid=True))  # fmt: skip
    y = alt.Y("y:Q", title=quality, scale=alt.Scale(domain=ys, nice=False, zero=False),
              axis=alt.Axis(tickCount=5, format=".3~f", titlePadding=12))  # fmt: skip
    steps = [p for p in told if p["front"]]
    ends = [{"x": steps[0]["x"], "y": ys[0]}, *steps, {"x": xs[1], "y": steps[-1]["y"]}]
    chart: Any = (
        alt.Chart(data(ends))
        .mark_line(color=FIRST, interpolate="step-after", strokeWidth=1.6, opacity=0.6, strokeDash=[4, 3])
        .encode(x=x, y=y)
    )
    for inside in (True, False):
        some = [p for p in told if p["front"] == inside]
        if some:
            mark = alt.Chart(data(some)).mark_point(color=FIRST, filled=inside, size=62, strokeWidth=1.6, opacity=1)
            chart = chart + mark.encode(x=x, y=y)
    labels, crowded = _labels(told, xs, ys, width, height)
    if crowded:
        height = max(height, COLUMN * len(told))
        chart = chart + _column(told, x, y, ys, width, height)
    for align, dx, dy, some in [] if crowded else labels:
        text = alt.Chart(data(some)).mark_text(align=align, dx=dx, dy=dy, color=INK, fontSize=11, baseline="middle")
        chart = chart + text.encode(x=x, y=y, text="name:N")
    said = "; ".join(f"{p['name']} {words.score(p['y'])} at {p['x']:,.4g}" for p in told)
    label = f"{quality} against {cost}: {said}. Not beaten: {words.listed(ahead)}"
    return svg(chart.properties(width=width, height=height), label)


PLACES = (("left", 8, 0), ("right", -8, 0), ("center", 0, -12), ("center", 0, 13), ("left", 7, -10), ("left", 7, 11),
          ("right", -7, -10), ("right", -7, 11))  # fmt: skip


def _column(points: list[dict[str, Any]], x: Any, y: Any, ys: list[float], width: int, height: int) -> Any:
    """The names in a column at the right, the best on top, each joined to its point by a line."""
    alt = altair()
    least, lowest = COLUMN / height, 1.0  # as shares of the height, from the bottom
    told = []
    for place, point in enumerate(sorted(points, key=lambda p: -p["y"])):
        wanted = (point["y"] - ys[0]) / (ys[1] - ys[0])
        lowest = min(lowest - least * bool(place), max(wanted, least * (len(points) - place - 0.5)))
        told.append(dict(point) | {"at": ys[0] + lowest * (ys[1] - ys[0])})
    base = alt.Chart(data(told))
    joined = base.mark_rule(color=SOFT, strokeWidth=0.8, opacity=0.5).encode(
        x=x, y=y, x2=alt.value(width + 10), y2="at:Q"
    )
    named = base.mark_text(align="left", dx=3, color=INK, fontSize=11, baseline="middle")
    return joined + named.encode(x=alt.value(width + 10), y=alt.Y("at:Q"), text="name:N")


def _labels(
    points: list[dict[str, Any]], xs: list[float], ys: list[float], width: int, height: int
) -> tuple[list[Any], bool]:
    """Where each name goes so that few overlap, tried in the order of PLACES; and whether some still do.

    Returns: (align, dx, dy, points) of each place that is used; whether a name meets another, a point or an edge.
    """
    spots = []
    for p in points:
        across = math.log(p["x"] / xs[0]) / math.log(xs[1] / xs[0]) * width
        spots.append((across, (ys[1] - p["y"]) / (ys[1] - ys[0]) * height))
    taken = [(a - 6, b - 6, a + 6, b + 6) for a, b in spots] + _along_steps(points, spots, width, height)
    told: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    crowded = False
    for point, (a, b) in zip(points, spots, strict=True):
        size = LETTER * len(point["name"])
        options = []
        for place, (align, dx, dy) in enumerate(PLACES):
            left = a + dx - {"left": 0.0, "center": size / 2, "right": size}[align]
            box = (left, b + dy - 7, left + size, b + dy + 7)
            out = box[0] < 0 or box[2] > width + 24 or box[1] < -6 or box[3] > height + 2
            hits = sum(_meet(box, other) for other in taken) + 2 * out
            options.append((hits, place, box, (align, dx, dy)))
        hits, _, box, where = min(options)
        crowded = crowded or hits > 0
        taken.append(box)
        told.setdefault(where, []).append(point)
    return [(*where, some) for where, some in told.items()], crowded


def _along_steps(
    points: Sequence[Mapping[str, Any]], spots: Sequence[tuple[float, float]], width: int, height: int
) -> list[tuple[float, float, float, float]]:
    """Boxes around the steps of the front: where no name should stand."""
    boxes, below = [], float(height)
    steps = [spot for point, spot in zip(points, spots, strict=True) if point["front"]]
    for n, (a, b) in enumerate(steps):
        after = steps[n + 1][0] if n + 1 < len(steps) else float(width)
        boxes += [(a - 1, b, a + 1, below), (a, b - 1, after, b + 1)]
        below = b
    return boxes


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between, or as much finer steps as leave three."""
    powers, ticks = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1), []
    for steps in STEPS:
        ticks = [m * 10.0**n for n in powers for m in steps if low <= m * 10.0**n <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _short(value: str) -> str:
    """An expression for `10`, `20k`, `1M` in place of long numbers."""
    steps = f"{value} >= 1e9 ? {value} / 1e9 + 'G' : {value} >= 1e6 ? {value} / 1e6 + 'M'"
    return f"{steps} : {value} >= 1e3 ? {value} / 1e3 + 'k' : format({value}, '~g')"


def look(place: int) -> tuple[str, list[int]]:
    """Colour and dash of the method at a place."""
    return LINES[place % len(LINES)], list(DASHES[place // len(LINES) % len(DASHES)])


def many(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    places: Mapping[str, int],
    titles: tuple[str, str],
    *,
    log: bool = False,
    zero: bool = False,
    points: bool = False,
    width: int = 270,
    height: int = 130,
) -> str:
    """Several lines in one drawing, each in its method's colour and dash.

    Args:
        lines: name -> (x, y) in order. places: name -> number that gives its look.
        titles: of the axes; that of y is told in the label alone, for it stands above the drawing.
        log: y is logarithmic (all y > 0). zero: y begins at 0. points: mark each point.

    Returns: an SVG element; empty where no line has a point.
    """
    alt = altair()
    kept = {name: some for name, some in lines.items() if some}
    if not kept:
        return ""
    xs = [x for some in kept.values() for x, _ in some]
    ends = [min(xs), max(max(xs), min(xs) + 1)]
    ticks = list(range(int(ends[0]), int(ends[1]) + 1, max(1, math.ceil((ends[1] - ends[0]) / 7))))
    x = alt.X("x:Q", title=titles[0], scale=alt.Scale(domain=ends, nice=False),
              axis=alt.Axis(values=ticks, format="d", grid=False, labelFlush=False))  # fmt: skip
    values = [v for some in kept.values() for _, v in some]
    if log:
        scale: Any = alt.Scale(type="log", domain=[min(values) / 1.3, max(values) * 1.3], nice=False)
        axis = alt.Axis(values=_ticks(min(values) / 1.3, max(values) * 1.3), labelExpr=_short("datum.value"))
    else:
        same = max(values) - min(values) < 1e-9
        flat = {"domain": [0 if zero else values[0] - 0.05, values[0] + 0.05]} if same else {}
        scale, axis = alt.Scale(zero=zero, nice=True, **flat), alt.Axis(tickCount=4, labelExpr=_short("datum.value"))
    y = alt.Y("y:Q", title=None, scale=scale, axis=axis)
    layers = []
    for name, some in kept.items():
        colour, dash = look(places[name])
        chart = alt.Chart(data([{"x": a, "y": b} for a, b in some])).encode(x=x, y=y)
        line: Any = chart.mark_line(color=colour, strokeWidth=1.8, strokeDash=dash)
        dots = chart.mark_point(color=colour, filled=True, size=14, opacity=1)
        layers.append(line + dots if points or len(some) == 1 else line)  # one point makes no line
    said = "; ".join(f"{name} {some[0][1]:,.3g} to {some[-1][1]:,.3g}" for name, some in kept.items())
    return svg(alt.layer(*layers).properties(width=width, height=height), f"{titles[1]} by {titles[0]}: {said}")
