"""What every way of pre-training is: views of a batch, and a loss on the states an encoder makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from perdure.encoders.base import Encoder
from perdure.errors import SettingsError
from perdure.events.batch import Batch

__all__ = ["Encode", "Objective"]

Encode = Callable[[Batch], Tensor]  # (B, T) histories -> states (B, P + T, d), through whatever overlay a task has


class Objective(nn.Module, ABC):
    """How a backbone learns from histories alone. Subclasses are final.

    Attributes:
        tied: next_item tasks score with the table the encoder reads with; False gives them one of their own.
        extra: events beyond the encoder's max_length that a training window needs (1 for a shifted target).
        causal: the encoders it can train: those that look back only (True), those that look both ways (False), or any.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    extra: ClassVar[int] = 0
    causal: ClassVar[bool | None] = None
    tied: bool = True

    @classmethod
    def suits(cls, encoder: Encoder | type[Encoder]) -> None:
        """SettingsError where the encoder is not one that this objective can train."""
        if cls.causal not in (None, encoder.causal):
            why = "looks back only and is asked at no mask" if encoder.causal else "sees the events to be predicted"
            raise SettingsError(
                f"objective {cls.name} cannot train {encoder.name}, which {why}",
                expected=f"an encoder that looks {'back only' if cls.causal else 'both ways'}, or another objective",
                where="objective.name, encoder.name",
                fix="next_item goes with causal encoders, masked_item with bidirectional ones",
            )

    def prepare(self, counts: Tensor) -> None:
        """Told once before training: counts (N,) of each item in the training histories."""
        return

    @abstractmethod
    def loss(
        self,
        encode: Encode,
        table: Tensor,
        bias: Tensor | None,
        batch: Batch,
        rng: torch.Generator,
        sparse: bool = False,
        first: bool = False,
    ) -> Tensor:
        """Scalar loss of one batch.

        Args:
            encode: histories -> states (B, P + T, d).
            table: (N + 2, d) vectors items are scored with, by item row; bias: (N + 2,) or None.
            batch: windows of max_length + extra events.
            rng: the only source of chance besides dropout.
            sparse: give the table sparse gradients where the loss touches few of its rows.
            first: the position before the first event predicts that event; objectives that look both ways do not care.
        """
