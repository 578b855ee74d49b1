"""Next-item prediction: at every position, which item comes next.

    L = mean over positions t of loss(h_t, i_{t+1})

| loss | negatives | source |
|---|---|---|
| softmax | all items, in pieces | A. Klenitskiy, A. Vasilev, "Turning Dross Into Gold Loss", RecSys 2023 |
| sampled | K; with `log_q` log (K q) is taken off each negative's score | same |
| gbce | K, calibration t | A. Petrov, C. Macdonald, "gSASRec", RecSys 2023, eq. 11 |
| bce | K (1 as published) | W.-C. Kang, J. McAuley, "SASRec", ICDM 2018, eq. 7 |
| bpr | K | S. Rendle et al., "BPR", UAI 2009 |

| paper | here | shape |
|---|---|---|
| h_t | h | (M, d), valid positions only |
| K | negatives | |
| E | table | (N + 2, d) |

With targets = "last" the mean is over events, each predicted from a window of its own: h_t is the user vector of the
newest events before it, read as it is when it is asked for. That is what GRU4Rec- and DuoRec-like codes do that cut a
history into all its beginnings; an epoch then encodes as many windows as there are events.

Differs: padded positions never enter the loss; negatives that equal the target, or for share = "sequence" any item of
that history window, are masked, not drawn again. GRU4Rec's correction (B. Hidasi, A. Karatzoglou, CIKM 2018) takes log
P off the target's score, too; with negatives alone corrected the loss estimates the full softmax.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.functional import losses
from perdure.functional.negatives import Negatives
from perdure.objectives.base import Learner, Objective

if TYPE_CHECKING:
    from perdure.events.examples import TaskData

__all__ = ["NextItem"]


class NextItem(Objective):
    """Next item at every position.

    Args:
        loss: "softmax" (full, chunked), "sampled", "gbce", "bce" or "bpr".
        negatives: K drawn for the sampled losses.
        share: who shares one draw: the whole "batch", each "sequence", or nobody ("position").
        alpha: negatives are drawn by popularity^alpha; 0 is uniform.
        log_q: correct sampled softmax for how often a negative is drawn.
        t: gBCE calibration.
        targets: which events of a window are predicted: "all" but the first, each from the state before it; or the
            "last", where every event has a window of its own. Positions and readout are then those that are served,
            and neighbours in a batch are of different users, which short histories learn better from, for as many times
            the work as a window has events, and some 60 bytes of memory for each event. `windows` of [pretrain] has no
            say then.
        tied: score with the table the encoder reads with, as SASRec; False for a table and bias of its own, as gSASRec
            and the codes of PeterRec, CONURE and TERACON.
    """

    name: ClassVar[str] = "next_item"
    paper: ClassVar[str] = "Kang & McAuley, ICDM 2018; Klenitskiy & Vasilev, RecSys 2023"
    summary: ClassVar[str] = "predict the next item at every position"
    extra: ClassVar[int] = 1
    causal: ClassVar[bool | None] = True

    def __init__(
        self,
        *,
        loss: Literal["softmax", "sampled", "gbce", "bce", "bpr"] = "softmax",
        negatives: Annotated[int, Ge(1)] = 256,
        share: Literal["batch", "sequence", "position"] = "batch",
        alpha: Annotated[float, Ge(0), Le(1)] = 0.0,
        log_q: bool = False,
        t: Annotated[float, Ge(0), Le(1)] = 0.75,
        targets: Literal["all", "last"] = "all",
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.kind, self.k, self.share, self.alpha = loss, negatives, share, alpha
        self.log_q, self.t, self.tied, self.each = log_q, t, tied, targets == "last"
        self.sampler: Negatives | None = None

    def prepare(self, counts: Tensor, data: TaskData | None = None) -> None:
        """Told once before training: counts (N,) of each item in the training histories."""
        self.sampler = Negatives(counts, self.alpha)

    def terms(self, batch: Batch, first: bool = False) -> float:
        """The positions with a next item."""
        return int((batch.lengths - int(not first)).clamp(min=0, max=1 if self.each else None).sum())

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: mean loss over all valid positions of windows of T + 1 events, or over their last events.

        Raises:
            SettingsError: a softmax over all items, whose table takes sparse gradients.
        """
        table, bias, sparse = learner.table, learner.bias, learner.sparse
        h, asked, wanted = (self._last if self.each else self._all)(learner, batch)  # (B, T, d), (B, T), (B, T)
        b, t = asked.shape
        at = asked.flatten().nonzero().squeeze(1)  # (M,)
        states, targets = h.reshape(b * t, -1)[at], wanted.flatten()[at]  # (M, d), (M,) item rows
        if self.kind == "softmax":
            if sparse and table.requires_grad:
                raise SettingsError(
                    "a softmax over all items moves every row of the item table, and its gradients are sparse",
                    expected="a loss that draws its negatives, or dense gradients",
                    where="objective.loss, encoder.sparse",
                    fix='loss = "sampled", tied = false, or sparse = false',
                )
            return losses.softmax_loss(states, table, targets, bias=bias, first=2)
        if self.share == "position":
            drawn = self._draw((len(states), self.k), rng, table)  # (M, K)
            scored = torch.cat([targets[:, None], drawn], 1)  # (M, 1 + K)
            scores = losses.pair_scores(states, table, scored, bias, sparse)  # (M, 1 + K)
            hits = drawn == targets[:, None]  # (M, K)
            return self._compare(scores[:, 0], scores[:, 1:].masked_fill(hits, -torch.inf), drawn)
        positive = losses.pair_scores(states, table, targets, bias, sparse)  # (M,)
        if self.share == "sequence":
            drawn = self._draw((b, self.k), rng, table)  # (B, K)
            vectors = F.embedding(drawn, table, sparse=sparse)  # (B, K, d)
            negative = (h @ vectors.transpose(1, 2)).reshape(b * t, -1)[at]  # (M, K)
            row = at // t  # (M,)
            hits = (drawn[:, :, None] == batch.items[:, None, :]).any(-1)[row]  # (M, K)
            drawn = drawn[row]  # (M, K)
            negative = negative if bias is None else negative + bias[drawn]
        else:
            drawn = self._draw((self.k,), rng, table)  # (K,)
            negative = states @ F.embedding(drawn, table, sparse=sparse).T  # (M, K)
            negative = negative if bias is None else negative + bias[drawn]
            hits = drawn == targets[:, None]  # (M, K)
        return self._compare(positive, negative.masked_fill(hits, -torch.inf), drawn)

    def _all(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, T, d), whether each is asked (B, T), and the item rows that follow (B, T); with learner.first one
        state more, the last prompt's."""
        first, t = learner.first, batch.items.shape[1] - 1
        inputs = batch.upto(t, (batch.lengths - 1).clamp(min=0))  # (B, T)
        h = learner.encode(inputs)  # (B, P + T, d)
        return h[:, h.shape[1] - t - first :], batch.valid if first else inputs.valid, batch.items[:, 1 - first :]

    def _last(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the last events alone: (B, 1, d), (B, 1), (B, 1)."""
        at = (batch.lengths - 1).clamp(min=0)[:, None]  # (B, 1)
        asked = batch.lengths[:, None] > int(not learner.first)  # (B, 1)
        inputs = batch.upto(max(batch.items.shape[1] - 1, 1), at[:, 0])  # (B, T), one column where none has an event
        return learner.vector(inputs)[:, None], asked, batch.items.gather(1, at)

    def _draw(self, shape: tuple[int, ...], rng: torch.Generator, table: Tensor) -> Tensor:
        if self.sampler is None:
            self.prepare(torch.ones(len(table) - 2, device=table.device))
        return cast(Negatives, self.sampler).draw(shape, rng) + 2  # item rows

    def _compare(self, positive: Tensor, negative: Tensor, drawn: Tensor) -> Tensor:
        if self.kind == "sampled":
            log_q = None
            if self.log_q and self.sampler is not None:
                log_q = math.log(self.k) + self.sampler.log_q[drawn - 2]  # (K,) or (M, K)
            return losses.sampled_softmax(positive, negative, log_q)
        if self.kind == "gbce":
            return losses.gbce(positive, negative, len(cast(Negatives, self.sampler).log_q), self.t)
        return (losses.bce if self.kind == "bce" else losses.bpr)(positive, negative)
