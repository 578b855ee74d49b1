"""PTUM: tell the hidden event of a history, and the next K events, from a few candidates.

C. Wu, F. Wu, T. Qi, J. Lian, Y. Huang, X. Xie, "PTUM: Pre-training User Model from Unlabeled User Behaviors via
Self-supervision", EMNLP Findings 2020 (arXiv 2010.01494).

    u       = Enc(history with one event, drawn evenly, masked)
    L_MBP   = -log softmax_j(u . (v_j + p_m))[true],  j the event itself and P events of other users, p_m its place
    u       = Enc(history without its last K events)
    L_NBP   = mean over k = 1..K of  -log softmax_j(u . (v_kj + p_k))[true]
    L       = L_MBP + lambda L_NBP

| paper | here | shape |
|---|---|---|
| u | user vectors through the encoder's readout; the paper's has readout = "attention" | (B, d) |
| v | table: vectors of items | (N + 2, d) |
| P, K, lambda | negatives, following, weight | |
| p | parts.table where places = "user", else none | (max_length + K - 1, d) |

Its task ranks items by u . v, which is what the nearest of the next K trains. `-s objective.name=ptum -s
encoder.readout=attention` on any recipe.

Differs: an event is its item's id, not a text through a word encoder; time gaps are the recipe's (`[input] gaps`). A
vector p added to all candidates of a choice adds u . p to each score, and the softmax drops it: as published p changes
nothing, and none is kept. With places = "user" it is added to u, where it counts, but for the nearest of the next
events. Candidates are events of other users of the batch (of other windows, where histories are split), as often as
they stand there, or any item ("uniform"); one that is the right answer does not count. A history of n <= K events has
n - 1 next ones, asked from its first event. An encoder that asks behind a full history (BERT4Rec) leaves out its oldest
event, which is then at times the hidden one.

Left out, of the authors' code (github.com/wuch15/PTUM): masks are PAD rows, and attention and pooling read the padding;
all NBP histories of a batch read the places and time gaps of the last MBP history; input places count from 1, those of
candidates from 0, in one table; k counts from the end, so that the nearest event is the K-th; an NBP candidate is held
against an event of the whole history, while the right answer is one of its first 100; the number of events to mask (a
fifth) is computed and not used (here one event is masked, too, as the formula says); candidates may be the user's own;
the tuning scripts read a tensor that is not defined and another checkpoint, and report precision as recall.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from perdure.encoders.base import MASK, Encoder
from perdure.events.batch import Batch
from perdure.functional.losses import pair_scores, sampled_softmax
from perdure.objectives.base import Learner, Objective

if TYPE_CHECKING:
    from perdure.events.profiles import Fields

__all__ = ["PTUM", "Places"]


class Places(nn.Module):
    """A vector for each place of a masked event, and for the second to K-th of the next events.

    Args:
        max_length: of the encoder; following: K; width: d.
    """

    def __init__(self, max_length: int, following: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.max_length = max_length
        self.table = nn.Parameter(torch.empty(max_length + following - 1, width).normal_(std=0.02, generator=generator))

    def masked(self, place: Tensor) -> Tensor:
        """(B,) places from 0 -> (B, d)"""
        return self.table[place]

    def ahead(self, k: Tensor) -> Tensor:
        """(M,) how far ahead, from 0 for the next event -> (M, d), zeros for the next."""
        return self.table[self.max_length + k - 1] * (k > 0)[:, None]


class PTUM(Objective):
    """Masked and next behaviours, each from P + 1 candidates.

    Args:
        negatives: P wrong candidates of each choice.
        others: where they come from: events of other users of the "batch", or all items ("uniform").
        following: K, how many next events are predicted.
        weight: lambda of the next events; 0 leaves masked ones alone.
        places: what the vectors of places are added to: all candidates as published ("items"), which changes nothing
            and needs none, or the "user" vector.
        tied: score with the table the encoder reads with; False for a table and bias of its own.
    """

    name: ClassVar[str] = "ptum"
    paper: ClassVar[str] = "Wu et al., EMNLP Findings 2020"
    summary: ClassVar[str] = "choose the masked and the next K events among events of other users"
    any_readout: ClassVar[bool] = True

    def __init__(
        self,
        *,
        negatives: Annotated[int, Ge(1)] = 4,
        others: Literal["batch", "uniform"] = "batch",
        following: Annotated[int, Ge(1)] = 2,
        weight: Annotated[float, Ge(0)] = 1.0,
        places: Literal["items", "user"] = "items",
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.negatives, self.others, self.following = negatives, others, following
        self.weight, self.places, self.tied = weight, places, tied

    def parts(self, encoder: Encoder, fields: Fields | None, generator: torch.Generator) -> Places | None:
        """Vectors of places, where they are added to the user."""
        if self.places == "items":
            return None
        return Places(encoder.max_length, self.following, encoder.width, generator)

    def terms(self, batch: Batch, first: bool = False) -> float:
        """The histories of two events or more."""
        return int((batch.lengths > 1).sum())

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: both losses of histories of two events or more."""
        batch = batch.having(2)
        hidden = self.mbp(learner, batch, rng)
        return hidden + self.weight * self.nbp(learner, batch, rng) if self.weight else hidden

    def mbp(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: L_MBP, the mean over histories."""
        rows = torch.arange(len(batch), device=batch.items.device)  # (B,)
        place = (self._rand((len(batch),), batch, rng) * batch.lengths).long()  # (B,)
        where = torch.arange(batch.items.shape[1], device=place.device) == place[:, None]  # (B, T)
        u = learner.vector(batch.hidden(where, MASK))  # (B, d)
        if learner.parts is not None:
            u = u + cast(Places, learner.parts).masked(place)  # (B, d)
        return self._choice(learner, u, batch, rows, batch.items[rows, place], rng)

    def nbp(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: L_NBP, the mean over histories and the next events that each has."""
        known = (batch.lengths - self.following).clamp(min=1)  # (B,)
        u = learner.vector(batch.upto(int(known.max()), known))  # (B, d)
        at = known[:, None] + torch.arange(self.following, device=known.device)  # (B, K)
        rows, k = (at < batch.lengths[:, None]).nonzero(as_tuple=True)  # (M,)
        u = u[rows]  # (M, d)
        if learner.parts is not None:
            u = u + cast(Places, learner.parts).ahead(k)  # (M, d)
        return self._choice(learner, u, batch, rows, batch.items[rows, at[rows, k]], rng)

    def _choice(
        self, learner: Learner, u: Tensor, batch: Batch, rows: Tensor, targets: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Scalar: mean of -log softmax over the target (M,) and P candidates, for user vectors (M, d) of these rows."""
        drawn = self.candidates(batch, rows, len(learner.table), rng)  # (M, P)
        positive = pair_scores(u, learner.table, targets, learner.bias, learner.sparse)  # (M,)
        negative = pair_scores(u, learner.table, drawn, learner.bias, learner.sparse)  # (M, P)
        return sampled_softmax(positive, negative.masked_fill(drawn == targets[:, None], -torch.inf))

    def candidates(self, batch: Batch, rows: Tensor, n_rows: int, rng: torch.Generator) -> Tensor:
        """(M, P) item rows for choices of these rows (M,) of the batch: events of other rows, each as likely. Any item
        where there is no other row, or with others = "uniform"."""
        shape, lengths = (len(rows), self.negatives), batch.lengths
        if self.others == "uniform" or len(batch) == 1:
            return torch.randint(2, n_rows, shape, generator=rng, device=rng.device).to(rows.device)
        events = batch.items[batch.valid]  # (E,) those of the first row, of the second, ...
        own, starts = lengths[rows, None], (lengths.cumsum(0) - lengths)[rows, None]  # (M, 1)
        lots = (self._rand(shape, batch, rng) * (len(events) - own)).long()  # (M, P) among the E - n others
        return events[lots + own * (lots >= starts)]

    @staticmethod
    def _rand(shape: tuple[int, ...], batch: Batch, rng: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64).to(batch.items.device)
