"""One self-contained page from a run folder: no network, no script, readable on a phone, on paper, by day and by night.

build("runs/first") -> runs/first/report.html                                                            [writes]
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from perdure.errors import MachineError
from perdure.report import charts, details, sections
from perdure.report.facts import Facts, read

__all__ = ["build", "rendered", "written"]


def build(run_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        run_folder: what `perdure learn --out` or `perdure quickstart --out` wrote, finished or not.
        out: where to write; `report.html` in the run folder when not given. An older report is replaced at once.

    Raises:
        ModelError: it is no run folder, or a file of it is damaged.
        MachineError: jinja2, altair or vl-convert is not installed (`pip install "perdure[report]"`).
    """
    facts = read(run_folder)
    target = Path(out) if out is not None else facts.folder / "report.html"
    return written(target, rendered("page.html", _parts(facts)))


def rendered(template: str, told: dict[str, Any]) -> str:
    """A page as text.

    Args:
        template: its file in this folder. told: what it speaks of, all of it.

    Raises:
        MachineError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MachineError(
            "the report cannot be written: jinja2 is not installed",
            where="perdure.report",
            fix='pip install "perdure[report]"',
        ) from error
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return made.get_template(template).render(**told)


def written(target: Path, text: str) -> Path:
    """`text` in the file, whole or not at all; the file. Its folder is made when missing.

    Raises:
        MachineError: it cannot be written.
    """
    fresh = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise MachineError(f"the report cannot be written: {error.strerror}", where=str(target)) from error
    return target


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
