"""The page of a run or of a comparison.  [reads, writes]"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import MachineError, ModelError, UsageError

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["report", "reported"]


def report(run: UserModel | str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run or of a comparison, finished or not; its path.

    Args:
        run: the folder of a run, of its model, or of a comparison; or a model that was loaded.
        out: the page's file; report.html in the folder itself when not given. A comparison's tables go beside it as
            Markdown.

    Raises:
        ModelError: it is neither. UsageError: out is a folder. MachineError: the report extra is not installed.
    """
    from perdure.api.opened import folder_of
    from perdure.report import build, comparison

    if out is not None and Path(out).is_dir():
        raise UsageError(f"{out} is a folder", expected="a file to write, such as page.html", where="report, out")
    folder = folder_of(run)
    if (folder / "compare.json").is_file():
        return comparison.build(folder, out)
    return build.build(_run_of(folder), out)


def reported(run: Path, notes: list[str]) -> str | None:
    """The path of the page, written now; where it cannot be, None and a note."""
    try:
        return str(report(run))
    except MachineError as fault:
        notes.append(f"no report: {fault.found}; {fault.fix}")
        return None


def _run_of(folder: Path) -> Path:
    """The run folder that `folder` is, or whose model it is, though that may have stepped aside in a killed save."""
    from perdure.api import opened

    with contextlib.suppress(OSError, ModelError):
        homes = [home for home in opened.homes(folder) if (home / "run.json").exists()]
        if homes and not (folder / "run.json").exists():
            opened.locate(folder)
            return homes[0]
    return folder
