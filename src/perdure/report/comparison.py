"""One self-contained page from the folder of a comparison, and the same tables as Markdown.                  [writes]

build("compared") -> compared/report.html, and compared/report.md beside it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.report import background, costs, knowledge, standing, studies
from perdure.report.compared import Compared, read
from perdure.report.frame import page_path, rendered, written
from perdure.report.parts import Section, markdown

__all__ = ["build", "page", "text"]


def build(out: Path | str, page_to: Path | str | None = None) -> Path:
    """Write report.html and report.md of a comparison, finished or not; the path of the page.

    Args:
        out: what `perdure compare --out` wrote.
        page_to: where the page goes, and the Markdown beside it under the same name; the folder when not given.

    Raises:
        ModelError: it is no comparison, or a file of it is damaged.
        UsageError: `page_to` is for text.
        MachineError: jinja2, altair or vl-convert is not installed (`pip install "perdure[report]"`).
    """
    target = page_path(Path(out), page_to)
    compared = read(out)
    made = parts(compared)
    html = page(made)
    written(target.with_suffix(".md"), text(made))
    return written(target, html)


def parts(c: Compared) -> dict[str, Any]:
    """What both the page and the Markdown tell."""
    from perdure import __version__

    made = [
        *([standing.gains(c), standing.scores(c)] if c.main else []),
        costs.frontiers(c),
        knowledge.matrices(c),
        knowledge.forgetting(c),
        costs.growth(c),
        knowledge.curves(c),
        knowledge.relations(c),
        studies.slices(c),
        studies.orders(c),
        studies.protocols(c),
        studies.rest(c),
        costs.table(c),
        background.audit(c),
        background.tasks(c),
        background.card(c),
        background.runs(c),
        background.settings(c),
        background.files(c),
    ]
    sections = [section for section in made if section is not None]
    return {"version": __version__, **standing.head(c), "alerts": standing.alerts(c), "sections": sections}


def page(made: dict[str, Any]) -> str:
    """The page as text."""
    return rendered("comparison.html", made)


def text(made: dict[str, Any]) -> str:
    """The Markdown: headline, what must be known first, every table."""
    tiles = [
        f"- {tile['label']}: {tile['value']}" + f" ({tile['note']})" * bool(tile["note"]) for tile in made["tiles"]
    ]
    chips = " · ".join(text for text, _ in made["chips"])
    first = Section("Read this first", [f"- {alert}" for alert in made["alerts"]])
    lines = [f"# {made['title']}", "", made["kicker"], "", *made["sentences"], "", *tiles, "", chips, ""]
    sections = [*([first] if made["alerts"] else []), *made["sections"]]
    lines += [part for section in sections if (part := markdown(section))]
    return "\n".join(lines).rstrip() + "\n"
