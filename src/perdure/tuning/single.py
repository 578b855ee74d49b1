"""Single-task learning ("SinMo"): every task gets a whole model of its own, trained from scratch on its data alone.

The baseline all transfer is measured against; definition as in CONURE (F. Yuan et al., SIGIR 2021) and TERACON
(S. Kim et al., KDD 2023).

    theta_k = argmin L_k(theta),   theta_k drawn at random, nothing shared

| paper | here | shape |
|---|---|---|
| theta_k | overlays[task].own, a fresh encoder | as the backbone |
| g_k | heads[task] | (Y, d), (Y,) |

Differs: the first task's model is the backbone itself, which later tasks do not read. An encoder that studies its data
before it learns (the clusters of smen) has done so once, on the histories of the first task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from perdure.encoders.base import Encoder
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, own_unless_first

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["Single"]


class Twin(Overlay):
    """A whole encoder that answers in place of the backbone."""

    def __init__(self, own: Encoder) -> None:
        super().__init__()
        self.own = own

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """The twin's user vectors (B, d)."""
        return self.own.vector(self.own.question(batch))

    def states(self, backbone: Encoder, batch: Batch) -> Tensor:
        """The twin's states (B, T, d)."""
        return self.own(batch)

    def item_table(self, backbone_table: Tensor) -> Tensor:
        """The twin's own (N + 2, d)."""
        return self.own.item_table


class Single(Method):
    """One model a task."""

    name: ClassVar[str] = "single"
    paper: ClassVar[str] = "baseline (SinMo in CONURE, SIGIR 2021)"
    summary: ClassVar[str] = "a whole model per task, nothing shared"
    keeps: ClassVar[bool] = True
    begins_as_backbone: bool = False

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """A fresh encoder for every task but the first."""
        return None if model.is_first(card.name) else Twin(model.backbone.fresh(generator))

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The task's own encoder and head."""
        return own_unless_first(model, task)
