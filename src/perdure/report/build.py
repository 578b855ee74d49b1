"""One self-contained page from a run folder: no network, no script, readable on a phone, on paper, by day and by night.

build("runs/first") -> runs/first/report.html                                                            [writes]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.report import charts, details, sections
from perdure.report.facts import Facts, read
from perdure.report.frame import page_path, rendered, written

__all__ = ["build"]


def build(run_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        run_folder: what `perdure learn --out` or `perdure quickstart --out` wrote, finished or not.
        out: where to write; `report.html` in the run folder when not given. An older report is replaced at once.

    Raises:
        ModelError: it is no run folder, or a file of it is damaged.
        UsageError: `out` is for text.
        MachineError: jinja2, altair or vl-convert is not installed (`pip install "perdure[report]"`).
    """
    facts = read(run_folder)
    return written(page_path(facts.folder, out), rendered("page.html", _parts(facts)))


def _parts(facts: Facts) -> dict[str, Any]:
    from perdure import __version__

    return {
        "version": __version__,
        **sections.head(facts),
        "alerts": details.notes(facts),
        "matrix": sections.matrix(facts),
        "life": _life(facts),
        "others": sections.others(facts),
        "curves": _curves(facts),
        "scores": sections.scores(facts),
        "cost": details.cost(facts),
        "card": details.card(facts),
        "tasks": details.tasks(facts),
        "settings": details.settings(facts),
        "machine": details.machine(facts),
        "missing": details.missing(facts),
    }


def _life(facts: Facts) -> dict[str, Any] | None:
    told = sections.life(facts)
    if told is None:
        return None
    points = told.pop("points")
    return {**told, "wide": charts.life(points, width=500), "narrow": charts.life(points, width=230)}


def _curves(facts: Facts) -> list[dict[str, str]]:
    drawn = []
    for curve in sections.curves(facts):
        svg = charts.curves(curve.pop("points"), curve.pop("metric"), curve.pop("best"))
        if svg:
            drawn.append({**curve, "svg": svg})
    return drawn
