"""How much room a run takes on its disk: checkpoints, the model folder, models that a method learns from.   [reads]"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perdure.model.user_model import UserModel
from perdure.tuning.base import method_of

__all__ = ["TEACHERS", "room"]

TEACHERS = ("teacher0", "teacher1")  # folders of models that methods learn from, while a run lasts
MOVING = 4  # copies of what a fit trains besides the model: two moments, the best state, the average
BESIDES = 2**16  # bytes of a folder besides tensors: documents, headers, states of generators


def room(model: UserModel, sizes: Mapping[str, Mapping[str, int]], keep: int, folder: Path) -> int:
    """Bytes that the rest of a run will need, besides what it holds by now; what methods will remember of tasks that
    are not learned yet is not among them.

    Args:
        sizes: task -> `bytes` that it adds to the model and weights that are `trainable` for it; of tasks that are not
            told, nothing is added and all is trained.
        keep: checkpoints that are kept; one more is written before the oldest goes, as is a model folder.
        folder: of the run.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = max((4 * told["trainable"] for told in sizes.values()), default=weights)
    weights += sum(told["bytes"] for task, told in sizes.items() if task not in model.tasks)
    models = 2 + (len(TEACHERS) if method_of(model).needs_teacher else 0)
    weights += BESIDES
    return (keep + 1) * (weights + MOVING * trained) + models * weights - _held(folder)


def _held(folder: Path) -> int:
    places = [folder / name for name in ("checkpoints", "model", *TEACHERS)]
    return sum(file.lstat().st_size for place in places for file in place.rglob("*") if file.is_file())
