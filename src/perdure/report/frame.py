"""What the pages of a run and of a comparison share: a template in `frame.html`, and how a file is written. [writes]"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from perdure.errors import MachineError, UsageError

__all__ = ["page_path", "rendered", "written"]


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


def page_path(folder: Path, out: Path | str | None) -> Path:
    """Where a page goes: `out`, or report.html in the folder.

    Raises:
        UsageError: `out` is a name for Markdown.
    """
    target = Path(out) if out is not None else folder / "report.html"
    if target.suffix.lower() == ".md":
        html = f"{target.with_suffix('.html')}"
        raise UsageError(f"{out} is a name for Markdown", expected=f"the page's name, {html}", where="report, out")
    return target


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
