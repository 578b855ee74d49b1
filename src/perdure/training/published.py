"""What a run has published, read back whole when it is resumed: the model folder and what stands beside it.  [reads]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perdure.errors import ModelError
from perdure.evaluation.matrix import Matrix
from perdure.model.disk import DISK
from perdure.model.files import parse, read_folder
from perdure.training.life import Life
from perdure.training.runlog import RunLog

__all__ = ["standing", "whole"]

DOCUMENTS = ("matrix.json", "scores.json", "cost.json")


def standing(run: RunLog, order: Sequence[str]) -> Life | None:
    """The whole life of a run that has no checkpoint, where all of it was published; None where it is to begin.

    Raises:
        ModelError: something was published, which is not all and sound, and the run must go on. Where it may begin
            again, a note of the run tells so.
    """
    if not any((run.folder / name).exists() for name in ("model", *DOCUMENTS)):
        return None  # it was stopped before the first checkpoint
    try:
        return _published(run.folder, order)
    except ModelError as fault:
        found = f"there is no checkpoint, and what was learned is not whole: {fault.found}"
        if run.resume == "must":
            fix = 'put checkpoints/ back, or model/ and what stood beside it; resume="auto" learns all again'
            raise ModelError(found, where=str(run.folder), fix=fix) from None
        run.notes.append(f"{found}; all is learned again")
        return None


def whole(run: RunLog, order: Sequence[str], life: Life) -> bool:
    """Whether what was published is what a life at its end has. Where it is not, a note of the run tells why."""
    try:
        told = _published(run.folder, order)
        why = "" if (told.rows, told.scores, told.costs) == (life.rows, life.scores, life.costs) else "it was another"
    except ModelError as fault:
        why = fault.found
    if why:
        run.notes.append(f"the model is published again from the last checkpoint: {why}")
    return not why


def _published(folder: Path, order: Sequence[str]) -> Life:
    """A life that has learned the tasks of `order`, from what it left in the folder of its run.

    Raises:
        ModelError: the model or a document is missing, damaged, or not of all these tasks.
    """
    manifest = read_folder(folder / "model").manifest
    names = [card["name"] for card in manifest["tasks"]]
    if names != list(order):
        raise ModelError(f"a model of {', '.join(names)}", expected=", ".join(order), where=str(folder / "model"))
    matrix, scores, costs = (_document(folder / name) for name in DOCUMENTS)
    if matrix != manifest.get("matrix"):
        raise ModelError("this is not the matrix of the model", where=str(folder / "matrix.json"))
    rows = [list(row) for row in Matrix.from_dict(matrix).rows]
    return Life(task=len(order), rows=rows, scores=scores, costs=costs)


def _document(path: Path) -> Any:
    try:
        return parse(DISK.read(path), str(path))
    except OSError as fault:
        raise ModelError(f"{path.name} cannot be read: {fault.strerror or fault}", where=str(path)) from None
