"""What an objective measures of users itself, where it learns user vectors and ranks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from perdure.errors import NonFiniteError
from perdure.events.loader import Loader
from perdure.model.user_model import without_dropout

if TYPE_CHECKING:
    from perdure.events.examples import Examples, TaskData
    from perdure.model.user_model import UserModel

__all__ = ["own_measure"]

SEED = 0  # of the views, masks and windows that are drawn: the same at every measurement


def own_measure(model: UserModel, data: TaskData, examples: Examples, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The objective's measure of users with input events, in batches of like size: where users are told apart, they are
    told apart from batch_size - 1 others.

    Returns:
        (n,) float64 in [0, 1], and (n,) which of the examples these are; an incomplete last batch is left out, unless
        it is the only one.
    """
    task, device = data.task.name, model.backbone.item_table.device
    kept = np.flatnonzero(examples.end > examples.begin)
    if len(kept) > batch_size:
        kept = kept[: len(kept) // batch_size * batch_size]
    none = np.zeros(len(kept) + 1, np.int64)
    asked = type(examples)(examples.users[kept], examples.begin[kept], examples.end[kept], examples.answers[:0], none)
    loader = Loader(
        data.sequences,
        asked,
        batch_size=batch_size,
        max_length=model.backbone.max_length,
        times=model.backbone.reads_times or model.objective.reads_times,
        profiles=data.profiles,
    )
    rng = torch.Generator(device).manual_seed(SEED)
    with without_dropout(model), torch.inference_mode():
        found = [model.judge(batch.to(device), task, rng).double().cpu().numpy() for batch in loader]
    values = np.concatenate(found) if found else np.zeros(0)
    if not np.isfinite(values).all():
        raise NonFiniteError(f"{model.objective.measure} of task {task} is not finite", where=f"task {task}, evaluate")
    return values, kept
