"""What methods that learn from the model before them share: whom they ask it about, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.functional.distillation import Factors

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["all_weights", "factors", "histories", "refuse_sparse", "without_dropout"]


def all_weights(model: UserModel) -> list[nn.Parameter]:
    """The backbone and every overlay and head so far."""
    return [*model.backbone.parameters(), *model.overlays.parameters(), *model.heads.parameters()]


def histories(model: UserModel, task: str, batch: Batch) -> Batch:
    """What a training batch of `task` tells of its users, at most the encoder's max_length events: a window of a
    next_item task ends in a target, which is left out."""
    extra = int(getattr(model.objective, "extra", 0)) if model.tasks[task].kind == "next_item" else 0
    t = max(batch.items.shape[1] - extra, 1)
    return batch.upto(t, (batch.lengths - extra).clamp(min=0))


def factors(model: UserModel, task: str, u: Tensor) -> Factors:
    """Scores of a task's labels for user vectors (M, d), not multiplied out."""
    head = model.heads[task]
    if model.tasks[task].kind != "next_item":
        return Factors(u, head.table, head.bias)  # type: ignore[arg-type]
    table, bias = head.weights(model.item_table(task))  # type: ignore[operator]
    return Factors(u, table[2:], None if bias is None else bias[2:])


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """All of `module` in eval mode, and afterwards as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def refuse_sparse(model: UserModel) -> None:
    """SettingsError where earlier tasks are scored with an item table that takes sparse gradients only: holding on to
    what they answer moves every row of it."""
    if model.backbone.sparse and getattr(model.objective, "tied", True):
        raise SettingsError(
            f"sparse gradients of an item table that {model.spec['method']['name']} holds near an earlier one",
            expected="dense gradients, or a table of the task's own to score with",
            where="encoder.sparse, objective.tied",
            fix="set sparse = false or tied = false",
        )
