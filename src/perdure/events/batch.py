"""What an encoder sees: histories of several users, padded on the right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from perdure.errors import UsageError


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
        marks: (B, T, M) int64 what else is told of each event (`events.marks`), 0 where nothing is, or None.

    What changes which events a batch holds goes through `upto`, `picked` and `hidden`, and which users through `of` and
    `share`: no field is forgotten.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor | None = None
    users: Tensor | None = None
    answers: Tensor | None = None
    answer_starts: Tensor | None = None
    profile: Tensor | None = None
    source: Tensor | None = None
    marks: Tensor | None = None

    OF_EVENTS: ClassVar[tuple[str, ...]] = ("items", "times", "marks")  # (B, T, ...)
    OF_USERS: ClassVar[tuple[str, ...]] = ("lengths", "users", "profile", "source")  # (B, ...)

    @property
    def valid(self) -> Tensor:
        """(B, T) bool: True where an event stands, False on padding. Derived, never stored."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]  # (B, T)

    def __len__(self) -> int:
        return self.items.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._each([f.name for f in fields(self)], lambda field: field.to(device, non_blocking=True))

    def told(self, m: int) -> Tensor:
        """The marks of the events (B, T, m) for who reads m of them; zeros where none are told.

        Raises:
            UsageError: there are others than m.
        """
        if self.marks is None or not m:
            return self.items.new_zeros(*self.items.shape, m)  # (B, T, m)
        if self.marks.shape[-1] != m:
            raise UsageError(f"events with {self.marks.shape[-1]} marks", expected=f"{m}", where="Batch.marks")
        return self.marks

    def upto(self, t: int, lengths: Tensor | None = None) -> Batch:
        """The first t columns of (B, T), with these lengths (B,); those of before, at most t, where none are given."""
        cut = self._each(self.OF_EVENTS, lambda field: field[:, :t])
        return replace(cut, lengths=self.lengths.clamp(max=t) if lengths is None else lengths)

    def picked(self, places: Tensor, lengths: Tensor) -> Batch:
        """The events at `places` (B, T') of each history, all of them from 0 to T - 1, with these lengths (B,)."""

        def taken(field: Tensor) -> Tensor:
            return field[torch.arange(len(places), device=places.device)[:, None], places]  # (B, T', ...)

        return replace(self._each(self.OF_EVENTS, taken), lengths=lengths)

    def hidden(self, where: Tensor, items: Tensor | int) -> Batch:
        """The events of `where` (B, T) bool replaced by other item rows, (B, T) or one; what they were marked with is
        not told, when they happened is."""
        items = torch.where(where, items, self.items)  # (B, T)
        marks = None if self.marks is None else self.marks.masked_fill(where[..., None], 0)  # (B, T, M)
        return replace(self, items=items, marks=marks)

    def of(self, rows: Tensor) -> Batch:
        """Some of the users, (R,) rows of the batch, in that order, each as often as asked; without answers."""
        some = self._each((*self.OF_EVENTS, *self.OF_USERS), lambda field: field[rows])  # (R, ...)
        return replace(some, answers=None, answer_starts=None)

    def owners(self) -> Tensor:
        """(A,) int64: whose answer each is, 0 to B - 1; nobody's where the batch has no answers."""
        if self.answer_starts is None:
            return self.lengths.new_zeros(0)
        return torch.repeat_interleave(torch.arange(len(self), device=self.lengths.device), self.answer_starts.diff())

    def share(self, number: int, count: int) -> Batch:
        """Every count-th user from `number` on, with their answers; the `count` shares together are the batch."""
        some = self.of(torch.arange(number, len(self), count, device=self.items.device))
        if self.answers is None or self.answer_starts is None:
            return some
        counts, owner = self.answer_starts.diff(), self.owners()  # (B,), (A,)
        starts = F.pad(counts[number::count].cumsum(0), (1, 0))  # (R + 1,)
        return replace(some, answers=self.answers[owner % count == number], answer_starts=starts)

    def having(self, n: int) -> Batch:
        """The users of n events or more; without answers."""
        return self.of((self.lengths >= n).nonzero().squeeze(1))

    def _each(self, names: tuple[str, ...] | list[str], change: Callable[[Tensor], Tensor]) -> Batch:
        held = {name: getattr(self, name) for name in names}
        return replace(self, **{name: change(field) for name, field in held.items() if field is not None})


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
