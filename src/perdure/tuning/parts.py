"""What methods share: users as vectors of their profiles, heads that read users and labels in a way of their own; whom
the model before a task is asked about, and what it answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from perdure.encoders.base import Encoder
from perdure.errors import DataError, SettingsError
from perdure.events.batch import Batch
from perdure.functional.distillation import Factors
from perdure.tuning.base import Overlay

if TYPE_CHECKING:
    from perdure.events.profiles import Fields
    from perdure.model.user_model import UserModel

__all__ = [
    "LabelVectors",
    "ProfileVector",
    "Told",
    "all_weights",
    "answered",
    "divided",
    "entries",
    "factors",
    "histories",
    "latest",
    "refuse_sparse",
]


FIRST = 2  # rows of the item table before this one are no items


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

    @property
    def packed(self) -> int:
        """P: numbers that tell a profile."""
        return len(self.places) + self.source

    def pack(self, batch: Batch) -> Tensor:
        """(B, P) float32: what is known of users as numbers, of the fields that are read; rows below 2^24 are exact."""
        b, device = len(batch), batch.items.device
        known = torch.zeros(b, len(self.places), device=device)  # (B, F')
        known = known if batch.profile is None else batch.profile[:, self.places].float()
        more = torch.zeros(b, self.source, device=device) if batch.source is None else batch.source  # (B, S)
        return torch.cat([known, more], 1)  # (B, P)

    def unpack(self, told: Tensor) -> Tensor:
        """(B, P) -> x_u (B, D)."""
        known, source = told.split([len(self.places), self.source], 1)
        rows = known.new_zeros(len(told), max(self.places, default=-1) + 1, dtype=torch.long)  # (B, F)
        rows[:, self.places] = known.long()
        return self(rows, source, told)


class Told(Overlay):
    """An overlay whose user vector is what the head must know, one number each: rows of events, then the profile.

    Args:
        length: n, rows of events. profile: x_u, which the head owns.
        table: (N + 2, d) where the task is to have item vectors of its own, which begin as these.
    """

    def __init__(self, length: int, profile: ProfileVector, table: Tensor | None) -> None:
        super().__init__()
        self.length, self._profile = length, (profile,)  # in a tuple, as it is no part of the overlay
        self.reads_profile, self.width = profile.known, length + profile.packed
        self.vectors = None if table is None else nn.Parameter(table.detach().clone())

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """(B, n + P) float32."""
        return torch.cat([self.rows(batch).float(), self._profile[0].pack(batch)], 1)  # (B, n + P)

    def rows(self, batch: Batch) -> Tensor:
        """(B, n) int64: which events are told, 0 where there is none."""
        return latest(batch, self.length)  # (B, n)

    def item_table(self, backbone_table: Tensor) -> Tensor:
        """(N + 2, d): the task's own, where it has one."""
        return backbone_table if self.vectors is None else self.vectors


class LabelVectors(nn.Module):
    """The vectors of a task's labels: those of the items they are, or, where some are none, vectors of their own.

    Args:
        label_items: (Y,) item row of each label, -1 where it is none. width: d.
    """

    rows: Tensor

    def __init__(self, label_items: np.ndarray, width: int, generator: torch.Generator) -> None:
        super().__init__()
        items = torch.as_tensor(label_items, dtype=torch.long)  # (Y,)
        own = torch.empty(len(items), width).normal_(std=0.1, generator=generator)  # (Y, d)
        self.own = None if bool((items >= FIRST).all()) else nn.Parameter(own)
        self.register_buffer("rows", items, persistent=False)

    def forward(self, item_table: Tensor) -> Tensor:
        """(N + 2, d) -> (Y, d)"""
        return item_table[self.rows] if self.own is None else self.own


def entries(rows: Tensor) -> Tensor:
    """(B,) how many of the rows (B, T) that the site "input" reads are no padding, which stands behind them: events, or
    what an encoder reads in their place."""
    return (torch.arange(1, rows.shape[1] + 1, device=rows.device) * (rows != 0)).amax(1)  # (B,)


def latest(batch: Batch, n: int) -> Tensor:
    """(B, n) item rows of each user's last n events, the last of them last, 0 where there are fewer."""
    at = batch.lengths[:, None] - n + torch.arange(n, device=batch.items.device)  # (B, n)
    rows = batch.items.gather(1, at.clamp(min=0, max=batch.items.shape[1] - 1))  # (B, n)
    return torch.where((at >= 0) & (rows >= FIRST), rows, 0)


def divided(batch: Batch, rng: torch.Generator) -> tuple[Batch, Tensor, Tensor]:
    """Each user's events, of which there are L, up to a place drawn from 0 to L - 1, and as labels (B, T) of a
    next_item task those from there on, where the mask (B, T) is True."""
    share = torch.rand(len(batch), generator=rng, device=rng.device).to(batch.items.device)  # (B,)
    cut = (share * batch.lengths).long().clamp(max=batch.lengths - 1).clamp(min=0)  # (B,)
    after = torch.arange(batch.items.shape[1], device=cut.device) >= cut[:, None]  # (B, T)
    kept = batch.valid & after & (batch.items >= FIRST)  # (B, T)
    return replace(batch, lengths=cut), torch.where(kept, batch.items - FIRST, 0), kept


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
    next_item task ends in a target, which is left out. Who has no other event is left out with it, unless the task
    puts something before the first event."""
    extra = model.objective.extra if model.tasks[task].kind == "next_item" else 0
    if extra and not model.predicts_first(task):
        batch = batch.having(extra + 1)
    t = max(batch.items.shape[1] - extra, 1)
    return batch.upto(t, (batch.lengths - extra).clamp(min=0))


def factors(model: UserModel, task: str, u: Tensor) -> Factors:
    """Scores of a task's labels for user vectors (M, d), not multiplied out."""
    head = model.heads[task]
    if model.tasks[task].kind != "next_item":
        return Factors(u, head.table, head.bias)  # type: ignore[arg-type]
    table, bias = head.weights(model.item_table(task))  # type: ignore[operator]
    return Factors(u, table[2:], None if bias is None else bias[2:])


def refuse_sparse(model: UserModel) -> None:
    """SettingsError where earlier tasks are scored with an item table that takes sparse gradients only: holding on to
    what they answer moves every row of it."""
    if model.backbone.sparse and model.objective.tied:
        raise SettingsError(
            f"sparse gradients of an item table that {model.spec['method']['name']} holds near an earlier one",
            expected="dense gradients, or a table of the task's own to score with",
            where="encoder.sparse, objective.tied",
            fix="set sparse = false or tied = false",
        )
