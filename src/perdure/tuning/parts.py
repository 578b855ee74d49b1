"""What methods share: users as vectors of their profiles; whom the model before a task is asked about, and what it
answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from perdure.errors import DataError, SettingsError
from perdure.events.batch import Batch
from perdure.functional.distillation import Factors

if TYPE_CHECKING:
    from perdure.events.profiles import Fields
    from perdure.model.user_model import UserModel

__all__ = [
    "ProfileVector",
    "all_weights",
    "answered",
    "factors",
    "histories",
    "latest",
    "refuse_sparse",
    "without_dropout",
]


class ProfileVector(nn.Module):
    """x_u: the embedded fields of a profile and the vector from elsewhere, one after the other; zeros where nothing is
    known of a user.

    Args:
        fields: what the model knows of users. hides: the field that is not read.
        width: of each embedded field.

    Attributes:
        size: D, 1 where nothing is read.
        known: whether anything is.
    """

    def __init__(self, fields: Fields | None, hides: str, width: int, generator: torch.Generator) -> None:
        super().__init__()
        named = list(fields.values.items()) if fields is not None else []
        self.places = [place for place, (name, _) in enumerate(named) if name != hides]
        self.fields = nn.ModuleList(
            nn.Embedding(len(named[place][1]) + 1, width, padding_idx=0) for place in self.places
        )
        self.source = fields.width if fields is not None else 0
        self.known = bool(self.places or self.source)
        self.size = max(len(self.places) * width + self.source, 1)
        for layer in self.fields:
            weight = cast(nn.Embedding, layer).weight
            nn.init.normal_(weight, generator=generator)
            weight.data[0] = 0

    def forward(self, rows: Tensor | None, source: Tensor | None, like: Tensor) -> Tensor:
        """`Batch.profile` (B, F) and `Batch.source` (B, S) -> (B, D), float; `like` (B, ...) tells B and the device."""
        parts = []
        for place, field in zip(self.places, self.fields, strict=True):
            own = torch.zeros_like(like[:, 0], dtype=torch.long) if rows is None else rows[:, place]  # (B,)
            parts.append(field(own))  # (B, w)
        if self.source:
            parts.append(like.new_zeros(len(like), self.source, dtype=torch.float32) if source is None else source)
        return torch.cat(parts, 1) if parts else like.new_zeros(len(like), 1, dtype=torch.float32)  # (B, D)


def latest(batch: Batch, n: int) -> Tensor:
    """(B, n) item rows of each user's last n events, the last of them last, 0 where there are fewer."""
    at = batch.lengths[:, None] - n + torch.arange(n, device=batch.items.device)  # (B, n)
    rows = batch.items.gather(1, at.clamp(min=0, max=batch.items.shape[1] - 1))  # (B, n)
    return torch.where((at >= 0) & (rows >= 2), rows, 0)


def answered(batch: Batch) -> tuple[Tensor, Tensor]:
    """A batch's answers, each user's in a row of their own: labels (B, Q), and where there is one (B, Q)."""
    if batch.answers is None or batch.answer_starts is None:
        raise DataError("a batch without answers", expected="answers and answer_starts", where="answered")
    counts = batch.answer_starts.diff()  # (B,)
    kept = torch.arange(max(int(counts.max()), 1), device=counts.device) < counts[:, None]  # (B, Q)
    return torch.zeros_like(kept, dtype=torch.long).masked_scatter(kept, batch.answers), kept


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
