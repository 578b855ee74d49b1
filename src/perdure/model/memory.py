"""A memory of what stood together: history -> what it adds to the scores of a task's labels.

    m(y)    = S(w(i_t, y)) / rho                  S(x) = sum_{t <= n} x_t / sqrt(n) over the events of the history
    w(i, y) = f(i, y) / (f(i)^a f(y)^b)           a = 1/2, b = `popularity`

f(i, y) counts the training users who met both, f(i) those who met one (`events/together.py`). A training user is left
out of the counts it is scored with: with its own pairs every right answer would seem well known. Kept are the pairs, P
at most, with f(i, y) / f(i)^1/2 above t; and as a user's own pairs are counted once less, they are held to t again.

| paper | here | shape |
|---|---|---|
| f(i, y) | `counts` of `labels`, item i owns [starts[i], starts[i + 1]) | (P,), (P,), (N + 3,) |
| f(i) | met | (N + 2,) |
| t | least | () |
| rho | scale: root mean square of m over the labels that training users' histories speak for | () |
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from perdure.events.batch import Batch
from perdure.events.ids import FIRST_ITEM

__all__ = ["Memory"]

MOST = 32767  # counts are kept in 16 bits


class Memory(nn.Module):
    """Pairs of an item and a label, and in how many histories they stood together; empty until `fill`.

    Args:
        label_items: (Y,) item row of each label. n_items: N. size: P. popularity: b.
    """

    starts: Tensor
    labels: Tensor
    counts: Tensor
    met: Tensor
    scale: Tensor
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
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("least", torch.zeros(()))
        self.register_buffer("rows", torch.from_numpy(np.asarray(label_items, np.int64)), persistent=False)
        label_of = torch.full((n_items + 2,), -1)  # the label of an item, -1 where it is none
        label_of[self.rows] = torch.arange(len(self.rows))
        self.register_buffer("label_of", label_of, persistent=False)

    @torch.no_grad()
    def fill(self, items: np.ndarray, labels: np.ndarray, counts: np.ndarray, least: float, met: np.ndarray) -> None:
        """Take in what `together.pairs` found: (P',) item rows, label rows and f(i, y), P' at most P, and t; and met
        (N + 2,), f(i)."""
        self.least.fill_(least)
        starts = np.searchsorted(items, np.arange(len(self.met) + 1))
        self.starts.copy_(torch.from_numpy(starts))
        self.labels[: len(labels)] = torch.from_numpy(labels).int()
        self.counts[: len(counts)] = torch.from_numpy(np.minimum(counts, MOST)).short()
        self.met.copy_(torch.from_numpy(met))

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> None:
        """Set rho by the training users of `batches`, each left out of its own counts."""
        total, number = 0.0, 0
        self.scale.fill_(1.0)
        for batch in batches:
            told = self(batch, left_out=True)  # (B, Y)
            total += float(told.square().sum(dtype=torch.float64))
            number += int((told > 0).sum())
        self.scale.fill_((total / number) ** 0.5 if total else 1.0)

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
            mine = self._own(batch, users, items).flatten()[cells].float()  # (Q,)
            both = both - mine
            both = both * (both > self.least * one.sqrt())  # a pair kept for the sake of its own answer is not told
            one, other = one - 1, other - mine
        w = both / (one.clamp(min=1).sqrt() * other.clamp(min=1) ** self.popularity)  # (Q,)
        sums = w.new_zeros(len(batch) * len(self.rows)).index_add_(0, cells, w).view(len(batch), -1)  # (B, Y)
        events = torch.bincount(users, minlength=len(batch)).clamp(min=1)  # (B,)
        return sums / (events.sqrt() * self.scale)[:, None]

    def _own(self, batch: Batch, users: Tensor, items: Tensor) -> Tensor:
        """(B, Y) bool: labels that are in a user's own basket."""
        own = torch.zeros(len(batch), len(self.rows), dtype=torch.bool, device=items.device)
        met = self.label_of[items]  # (E,)
        own[users[met >= 0], met[met >= 0]] = True
        if batch.answers is not None:
            known = batch.answers >= 0
            own[batch.owners()[known], batch.answers[known]] = True
        return own
