"""One head per kind of task: user vector -> scores, and the loss that trains it.

next_item   s_i = u . E_i (+ b_i)     E the item table the encoder reads with (tied) or a table of its own
item        s_y = u . W_y + b_y       many positives a user: mean cross-entropy over them
one_of      s_y = u . W_y + b_y       cross-entropy

A method may give an item task a head on the items' own vectors E_y: s_y = (u T) . (E_y + V_y) + b_y, T a map, V_y a
vector of the label's own, for all labels or for those alone whose E_y tells nothing, in place of it; and l r(y), what
a memory of what stood together adds (`model/memory.py`), once the rest is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.errors import DataError
from perdure.events.batch import Batch
from perdure.functional.losses import softmax_loss
from perdure.model.memory import Memory, right

__all__ = ["ItemTableHead", "ItemsHead", "LabelsHead", "answers_loss"]

CELLS = 2**23  # scores at once while a memory is weighed
BEST = 10  # places of a ranking that a memory is weighed by
TRUSTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8, 3.4, 4.0)


class ItemTableHead(nn.Module):
    """Scores every item of the vocabulary.

    Args:
        n_items: N; width: d.
        tied: score with the encoder's item table and own nothing; else a table (N + 2, d) and a bias of its own.

    Attributes:
        parts: what the task's objective trains besides, or None.
    """

    parts: nn.Module | None

    def __init__(self, n_items: int, width: int, generator: torch.Generator, tied: bool = True) -> None:
        super().__init__()
        self.register_module("parts", None)
        self.table = (
            None if tied else nn.Parameter(torch.empty(n_items + 2, width).normal_(std=0.02, generator=generator))
        )
        self.bias = None if tied else nn.Parameter(torch.zeros(n_items + 2))

    def weights(self, item_table: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N + 2, d) vectors by item row and (N + 2,) bias or None."""
        return (item_table, None) if self.table is None else (self.table, self.bias)

    def score(self, u: Tensor, item_table: Tensor) -> Tensor:
        """(B, d) -> (B, N): column = item row - 2."""
        table, bias = self.weights(item_table)
        return F.linear(u, table[2:], None if bias is None else bias[2:])  # (B, N)


class LabelsHead(nn.Module):
    """Scores the labels of one task with a table of its own.

    Args:
        n_labels: Y; width: d.
    """

    def __init__(self, n_labels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(n_labels, width).normal_(std=0.01, generator=generator))
        self.bias = nn.Parameter(torch.zeros(n_labels))

    def score(self, u: Tensor, item_table: Tensor | None = None) -> Tensor:
        """(B, d) -> (B, Y)"""
        return torch.addmm(self.bias, u, self.table.T)

    def loss(self, u: Tensor, batch: Batch, item_table: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over all answers of the batch."""
        return answers_loss(u, self.table, self.bias, batch)


class ItemsHead(nn.Module):
    """Scores labels that are items by the vectors the encoder reads those items with, seen through a map.

    Args:
        label_items: (Y,) item row of each label, all 2 or more.
        popularity: (Y,) training answers per label; the bias starts as its logarithm.
        width: d; sharpness: the map starts as so much of the identity.
        unmet: (Y,) bool, items whose vectors were never trained: zeros stand in their place.
        own: whether all labels have a vector of their own besides, zero at first; else only those that are unmet.
        memory: of what stood together with the labels, or None.
    """

    rows: Tensor
    places: Tensor
    trust: Tensor | None

    def __init__(
        self,
        label_items: np.ndarray,
        popularity: np.ndarray,
        width: int,
        sharpness: float,
        unmet: np.ndarray,
        own: bool = False,
        memory: Memory | None = None,
    ) -> None:
        super().__init__()
        counts = torch.from_numpy(np.asarray(popularity, np.float32)) + 1  # (Y,)
        self.map = nn.Parameter(torch.eye(width) * sharpness)
        self.bias = nn.Parameter((counts / counts.mean()).log())
        self.own = own
        self.register_buffer("rows", torch.from_numpy(np.asarray(label_items, np.int64)), persistent=False)
        self.register_buffer("places", torch.from_numpy(np.flatnonzero(unmet)), persistent=False)  # (K,)
        k = len(label_items) if own else len(self.places)
        self.vectors = nn.Parameter(torch.zeros(k, width)) if k else None  # (Y or K, d)
        self.memory = memory
        self.register_buffer("trust", None if memory is None else torch.zeros(()))  # l

    def table(self, item_table: Tensor) -> Tensor:
        """(N + 2, d) -> (Y, d): what labels are scored by."""
        table = item_table[self.rows]  # (Y, d)
        if self.vectors is None:
            return table
        if self.own:
            return table.index_fill(0, self.places, 0.0) + self.vectors
        return table.index_copy(0, self.places, self.vectors)

    def score(self, u: Tensor, item_table: Tensor) -> Tensor:
        """(B, d) -> (B, Y)"""
        return torch.addmm(self.bias, u @ self.map, self.table(item_table).T)

    def loss(self, u: Tensor, batch: Batch, item_table: Tensor) -> Tensor:
        """Mean cross-entropy over all answers of the batch, without the memory."""
        return answers_loss(u @ self.map, self.table(item_table), self.bias, batch)

    @property
    def recalls(self) -> bool:
        """Whether a memory adds to the scores."""
        return self.trust is not None and bool(self.trust)

    def recall(self, batch: Batch) -> Tensor:
        """l r(y) (B, Y) of a head with a memory."""
        return self.trust * self.memory(batch)  # type: ignore[misc, operator]

    @torch.no_grad()
    def weigh(
        self,
        known: Iterable[tuple[Tensor, Batch]],
        item_table: Tensor,
        mine: Callable[[Batch], Tensor],
        met: Callable[[Batch], Tensor],
    ) -> None:
        """Of a head with a memory, when all else is learned: take the l of `TRUSTS` under which the answers of training
        users, user vectors (B, d) and batch, each left out of the counts, rank best by NDCG@10, seen items left out.

        Args:
            mine: which labels (B, Y) bool the users of a batch were counted with.
            met: which labels (B, Y) bool they have seen, however long ago.
        """
        gains = torch.zeros(len(TRUSTS), dtype=torch.float64)
        for u, whole in known:
            parts = min(-(-len(u) * len(self.rows) // CELLS), len(u))
            for n in range(parts):
                batch = whole.share(n, parts)
                answers = right(batch, len(self.rows))  # (B', Y)
                more = self.memory(batch, mine(batch))  # type: ignore[misc]
                hidden = met(batch) & ~answers
                scores = self.score(u[n::parts], item_table).masked_fill(hidden, float("-inf"))  # (B', Y)
                gains += torch.stack([_ndcg(scores + trust * more, answers).sum() for trust in TRUSTS]).double().cpu()
        self.trust.fill_(TRUSTS[int(gains.argmax())])  # type: ignore[union-attr]


def _ndcg(scores: Tensor, right: Tensor) -> Tensor:
    """(B,) NDCG of the `BEST` first of scores (B, Y), given which labels are right (B, Y); 0 where none is."""
    first = scores.topk(min(BEST, scores.shape[1])).indices  # (B, K)
    worth = 1 / torch.arange(2.0, first.shape[1] + 2, device=scores.device).log2()  # (K,)
    ideal = F.pad(worth.cumsum(0), (1, 0))[right.sum(1).clamp(max=len(worth))]  # (B,)
    return (right.gather(1, first) * worth).sum(1) / ideal.clamp(min=1)


def answers_loss(u: Tensor, table: Tensor, bias: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over all answers of a batch: user vectors (B, d), a table (Y, d) and bias (Y,) of labels."""
    if batch.answers is None:
        raise DataError("a batch without answers", expected="answers and answer_starts", where="loss of a head")
    return softmax_loss(u, table, batch.answers, rows=batch.owners(), bias=bias)
