"""What every drawing of a report shares: the plotting library, the colours that the page fills in, the SVG element.

A drawing has a transparent background and uses the placeholder colours below; the style sheet gives each of them its
colour in light, in dark and on paper. Nothing here reads or writes a file.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

from perdure.errors import MachineError

__all__ = ["DASHES", "FIRST", "GRID", "INK", "LINES", "PAPER", "SECOND", "SOFT", "altair", "data", "shown", "svg"]

# Placeholders: no one sees them, `page.css` maps each to a colour of the theme.
INK, SOFT, GRID, FIRST, SECOND, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
LINES = tuple(f"#{n:02x}00{n:02x}" for n in range(0x11, 0x19))  # eight colours to tell lines apart
DASHES = ([1, 0], [5, 3], [2, 2])  # and how a line is broken when the colours are used up
FONT = "system-ui, sans-serif"


def altair() -> Any:
    """The plotting library.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import altair as library
        import vl_convert  # noqa: F401  (altair asks it for the SVG)
    except ImportError as error:
        raise MachineError(
            f"the report cannot be drawn: {error.name} is not installed",
            where="perdure.report",
            fix='pip install "perdure[report]"',
        ) from error
    return library


def data(rows: list[dict[str, Any]]) -> Any:
    """Rows as the plotting library takes them."""
    return altair().Data(values=rows)


def shown(names: Sequence[str], most: int = 24) -> dict[str, str]:
    """Name -> what stands on an axis: long ones without their middle, or whole where that would make two alike."""
    half = most // 2
    cut = {name: name if len(name) <= most else f"{name[: half - 1]}…{name[-half:]}" for name in names}
    return cut if len(set(cut.values())) == len(cut) else {name: name for name in cut}


def svg(chart: Any, label: str) -> str:
    """The chart as an SVG element that scales with the page and carries a label for those who cannot see it."""
    axis = {
        "labelColor": SOFT, "titleColor": SOFT, "gridColor": GRID, "domainColor": GRID, "tickColor": GRID,
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelFont": FONT, "titleFont": FONT,
        "domain": False,
    }  # fmt: skip
    room = {"left": 18, "top": 5, "right": 5, "bottom": 5}  # letters of the reader's font may be broader than ours
    chart = (
        chart.configure(background="transparent", font=FONT, padding=room)
        .configure_view(stroke=None)
        .configure_axis(**axis)
    )
    chart = chart.configure_mark(aria=False)
    text = io.StringIO()
    chart.save(text, format="svg")
    drawn = re.sub(r'<rect [^>]*fill="transparent"[^>]*/>', "", text.getvalue())
    said = html.escape(label, quote=True)
    return drawn.replace('class="marks"', f'class="drawing" role="img" aria-label="{said}"', 1)
