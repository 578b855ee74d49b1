"""What an encoder sees: histories of several users, padded on the right."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Histories of B users, oldest event first, padded on the right with row 0.

    Attributes:
        items: (B, T) int64 item rows; 0 is padding, 1 the mask, items start at 2.
        lengths: (B,) int64, events of each user, 0 to T.
        times: (B, T) int64 seconds since the epoch, or None.
        users: (B,) int64 user rows, or None for users the log does not know.
        answers: (A,) int64 label rows of all users, one after the other (CSR), or None.
        answer_starts: (B + 1,) int64; user b owns answers[answer_starts[b]:answer_starts[b + 1]].
        profile: (B, F) int64 rows of profile fields, 0 where nothing is known, or None.
        source: (B, S) float32 vectors that another model gave, zeros where there is none, or None.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor | None = None
    users: Tensor | None = None
    answers: Tensor | None = None
    answer_starts: Tensor | None = None
    profile: Tensor | None = None
    source: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """(B, T) bool: True where an event stands, False on padding. Derived, never stored."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]  # (B, T)

    def __len__(self) -> int:
        return self.items.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None})


def last(h: Tensor, lengths: Tensor) -> Tensor:
    """State at each user's last event.

    Args:
        h: (B, T, d) states.
        lengths: (B,) int64. A user without events (length 0) is given the state at position 0.

    Returns:
        (B, d)
    """
    at = (lengths - 1).clamp(min=0)  # (B,)
    return h[torch.arange(len(h), device=h.device), at]  # (B, d)
