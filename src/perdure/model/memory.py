"""A memory of what stood together: history -> what it adds to the scores of a task's labels.

    r(y)    = n(y) / rms(n)                       n(y) = sum_t w(i_t, y) over the events of the history
    w(i, y) = f(i, y) / (f(i)^1/2 f(y)^beta)      beta = `popularity`

rms: root mean square over the labels the history speaks for, n(y) > 0, so that r is of one size for everybody.
f(i, y) counts the training users who met both, f(i) those who met one (`events/together.py`). Who was counted can be
left out again: with its own pairs every right answer of a training user would seem well known. Kept are the pairs, P at
most, with f(i, y) / f(i)^1/2 above t; and as a user's own pairs are counted once less, they are held to t again. A
count has 16 bits: it is exact up to 256, above within 0.4 %.

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
from perdure.events.splits import ragged
from perdure.events.together import pairs
from perdure.functional.adding import added

__all__ = ["Memory", "right"]

AT_ONCE = 2**19  # pairs looked at together: some 40 MiB


class Memory(nn.Module):
    """Pairs of an item and a label, and in how many histories they stood together; empty until `count`.

    Args:
        label_items: (Y,) item row of each label. n_items: N. size: P. popularity: beta.
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
        self.register_buffer("counts", torch.zeros(size, dtype=torch.bfloat16))
        self.register_buffer("met", torch.zeros(n_items + 2, dtype=torch.int32))
        self.register_buffer("least", torch.zeros(()))
        self.register_buffer("rows", torch.from_numpy(np.asarray(label_items, np.int64)), persistent=False)
        label_of = torch.full((n_items + 2,), -1)  # the label of an item, -1 where it is none
        label_of[self.rows] = torch.arange(len(self.rows))
        self.register_buffer("label_of", label_of, persistent=False)

    def count(self, users: np.ndarray, items: np.ndarray) -> None:
        """Count what stood together in baskets: (E,) users and item rows, as `events.together.baskets` gives them."""
        rows = self.rows.cpu().numpy()
        found, labels, counts, least = pairs(users, items, rows, len(self.met) - 2, len(self.labels))
        starts = np.searchsorted(found, np.arange(len(self.met) + 1))
        self.starts.copy_(torch.from_numpy(starts))
        self.labels[: len(labels)] = torch.from_numpy(labels).int()
        self.counts[: len(counts)] = torch.from_numpy(counts).bfloat16()
        self.met.copy_(torch.from_numpy(np.bincount(items, minlength=len(self.met))))
        self.least.fill_(least)

    def forward(self, batch: Batch, mine: Tensor | None = None) -> Tensor:
        """r (B, Y).

        Args:
            mine: (B, Y) bool, `held`: the users of the batch were counted with these; leave each out of its own scores.
        """
        users, at = (batch.valid & (batch.items >= FIRST_ITEM)).nonzero().T  # (E,) each
        items = batch.items[users, at]  # (E,)
        n = (self.starts[items + 1] - self.starts[items]).long()  # (E,) pairs of each event
        parts = ((n.cumsum(0) - 1) // AT_ONCE).unique_consecutive(return_counts=True)[1].tolist()
        s = self.least.new_zeros(len(batch) * len(self.rows))  # (B Y,)
        for some in zip(users.split(parts), items.split(parts), n.split(parts), strict=True):
            s = added(s, 0, *self._told(*some, mine))
        s = s.view(len(batch), -1)  # (B, Y)
        rms = (s.square().sum(1) / (s > 0).sum(1).clamp(min=1)).sqrt()  # (B,)
        return s / torch.where(rms > 0, rms, 1.0)[:, None]

    def _told(self, users: Tensor, items: Tensor, n: Tensor, mine: Tensor | None) -> tuple[Tensor, Tensor]:
        """What events (E,) of `users` tell, each of `n` labels: which of the (B Y) scores, and how much; (Q,) each."""
        begin = self.starts[items].long() - (n.cumsum(0) - n)  # (E,)
        places = torch.repeat_interleave(begin, n) + torch.arange(int(n.sum()), device=n.device)  # (Q,)
        labels = self.labels[places].long()  # (Q,)
        cells = torch.repeat_interleave(users, n) * len(self.rows) + labels  # (Q,)
        both = self.counts[places].float()
        one, other = torch.repeat_interleave(self.met[items], n).float(), self.met[self.rows[labels]].float()
        if mine is not None:
            own = mine.flatten()[cells].float()  # (Q,)
            both = both - own
            both = both * (both > self.least * one.sqrt())  # a pair kept for the sake of its own answer is not told
            one, other = one - 1, other - own
        return cells, both / (one.clamp(min=1).sqrt() * other.clamp(min=1) ** self.popularity)

    def held(self, users: np.ndarray, items: np.ndarray, batch: Batch) -> Tensor:
        """(B, Y) bool: labels in the baskets of the users of a batch; of baskets as `events.together` gives them."""
        rows = np.zeros(0, np.int64) if batch.users is None else batch.users.cpu().numpy()  # (B,)
        begin, end = np.searchsorted(users, rows), np.searchsorted(users, rows, "right")
        theirs = torch.from_numpy(items[ragged(begin, end - begin)]).to(batch.items.device)  # (H,)
        owner = torch.from_numpy(np.repeat(np.arange(len(rows)), end - begin)).to(batch.items.device)  # (H,)
        return _marked(batch, len(self.rows), owner, self.label_of[theirs])


def right(batch: Batch, n_labels: int) -> Tensor:
    """(B, Y) bool: labels that are a user's answers."""
    answers = batch.lengths.new_zeros(0) if batch.answers is None else batch.answers
    return _marked(batch, n_labels, batch.owners(), answers)


def _marked(batch: Batch, n_labels: int, users: Tensor, labels: Tensor) -> Tensor:
    """(B, Y) bool: True at these users and labels, which are -1 where none."""
    marked = torch.zeros(len(batch), n_labels, dtype=torch.bool, device=batch.items.device)
    marked[users[labels >= 0], labels[labels >= 0]] = True
    return marked
