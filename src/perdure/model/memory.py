"""A memory of what stood together: history -> what it adds to the scores of a task's labels.

    m(y)    = s(y) / rms(s)                       s(y) = sum_{t <= n} w(i_t, y) over the events of the history
    w(i, y) = f(i, y) / (f(i)^a f(y)^b)           a = 1/2, b = `popularity`

rms: root mean square over the labels the history speaks for, s(y) > 0, so that m is of one size for everybody.
f(i, y) counts the training users who met both, f(i) those who met one (`events/together.py`). Who was counted can be
left out again: with its own pairs every right answer of a training user would seem well known. Kept are the pairs, P at
most, with f(i, y) / f(i)^1/2 above t; and as a user's own pairs are counted once less, they are held to t again.

| paper | here | shape |
|---|---|---|
| f(i, y) | `counts` of `labels`, item i owns [starts[i], starts[i + 1]) | (P,), (P,), (N + 3,) |
| f(i) | met | (N + 2,) |
| t | least | () |
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from perdure.events.batch import Batch
from perdure.events.ids import FIRST_ITEM
from perdure.events.together import pairs

__all__ = ["Memory", "right"]

MOST = 32767  # counts are kept in 16 bits


class Memory(nn.Module):
    """Pairs of an item and a label, and in how many histories they stood together; empty until `count`.

    Args:
        label_items: (Y,) item row of each label. n_items: N. size: P. popularity: b.
    """

    starts: Tensor
    labels: Tensor
    counts: Tensor
    met: Tensor
    least: Tensor
    rows: Tensor
    label_of: Tensor

    def __init__(self, label_items: np.ndarray, n_items: int, size: int, popularity: float) -> None:
        super().__init__()
        self.popularity = popularity
        self.register_buffer("starts", torch.zeros(n_items + 3, dtype=torch.int32))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(size, dtype=torch.int16))
        self.register_buffer("met", torch.zeros(n_items + 2, dtype=torch.int32))
        self.register_buffer("least", torch.zeros(()))
        self.register_buffer("rows", torch.from_numpy(np.asarray(label_items, np.int64)), persistent=False)
        label_of = torch.full((n_items + 2,), -1)  # the label of an item, -1 where it is none
        label_of[self.rows] = torch.arange(len(self.rows))
        self.register_buffer("label_of", label_of, persistent=False)

    def count(self, users: np.ndarray, items: np.ndarray) -> None:
        """Count what stood together in `baskets`: (E,) users and item rows."""
        rows = self.rows.cpu().numpy()
        found, labels, counts, least = pairs(users, items, rows, len(self.met) - 2, len(self.labels))
        starts = np.searchsorted(found, np.arange(len(self.met) + 1))
        self.starts.copy_(torch.from_numpy(starts))
        self.labels[: len(labels)] = torch.from_numpy(labels).int()
        self.counts[: len(counts)] = torch.from_numpy(np.minimum(counts, MOST)).short()
        self.met.copy_(torch.from_numpy(np.bincount(items, minlength=len(self.met))))
        self.least.fill_(least)

    def forward(self, batch: Batch, left_out: bool = False) -> Tensor:
        """m (B, Y).

        Args:
            left_out: the users of the batch, with their answers, were counted: leave each out of its own scores.
        """
        users, at = (batch.valid & (batch.items >= FIRST_ITEM)).nonzero().T  # (E,) each
        items = batch.items[users, at]  # (E,)
        first, last = self.starts[items].long(), self.starts[items + 1].long()
        n = last - first  # (E,) pairs of each event
        places = torch.repeat_interleave(first - (n.cumsum(0) - n), n) + torch.arange(int(n.sum()), device=n.device)
        labels = self.labels[places].long()  # (Q,)
        cells = torch.repeat_interleave(users, n) * len(self.rows) + labels  # (Q,)
        both = self.counts[places].float()
        one, other = torch.repeat_interleave(self.met[items], n).float(), self.met[self.rows[labels]].float()
        if left_out:
            mine = (self.seen(batch) | right(batch, len(self.rows))).flatten()[cells].float()  # (Q,)
            both = both - mine
            both = both * (both > self.least * one.sqrt())  # a pair kept for the sake of its own answer is not told
            one, other = one - 1, other - mine
        w = both / (one.clamp(min=1).sqrt() * other.clamp(min=1) ** self.popularity)  # (Q,)
        s = w.new_zeros(len(batch) * len(self.rows)).index_add_(0, cells, w).view(len(batch), -1)  # (B, Y)
        rms = (s.square().sum(1) / (s > 0).sum(1).clamp(min=1)).sqrt()  # (B,)
        return s / torch.where(rms > 0, rms, 1.0)[:, None]

    def seen(self, batch: Batch) -> Tensor:
        """(B, Y) bool: labels that stand in a user's history."""
        seen = torch.zeros(len(batch), len(self.rows), dtype=torch.bool, device=batch.items.device)
        met = torch.where(batch.valid, self.label_of[batch.items], -1)  # (B, T)
        seen[(met >= 0).nonzero()[:, 0], met[met >= 0]] = True
        return seen


def right(batch: Batch, n_labels: int) -> Tensor:
    """(B, Y) bool: labels that are a user's answers."""
    found = torch.zeros(len(batch), n_labels, dtype=torch.bool, device=batch.items.device)
    if batch.answers is not None:
        known = batch.answers >= 0
        found[batch.owners()[known], batch.answers[known]] = True
    return found
