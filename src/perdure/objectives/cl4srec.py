"""CL4SRec: predict the next item, and tell users apart by two views of each history.

X. Xie, F. Sun, Z. Liu, S. Wu, J. Gao, J. Zhang, B. Ding, B. Cui, "Contrastive Learning for Sequential Recommendation",
ICDE 2022 (arXiv 2010.14395).

    z_u, z'_u  user vectors of two views of s_u, by two different operators of crop, mask, reorder
    L_cl  = mean over the 2B views z of  -log [ exp(sim(z, z') / tau) / sum_y exp(sim(z, y) / tau) ],  y all views but z
    L     = L_next + lambda L_cl

| paper | here | shape |
|---|---|---|
| s_u | the inputs of L_next: a window without its last event | (B, T) |
| z, z' | a, b: states at the last event of the views | (B, d) |
| lambda | weight | |
| sim, tau | similarity, tau | |
| eta, gamma, beta | crop (share kept), mask (share hidden), reorder (share shuffled) | |
| L_next | objective next_item, all its losses and options | |

`recipes/ml1m-sasrec.toml` with `-s objective.name=cl4srec` is SASRec with it. Its task ranks items.

Differs: no official code was found; defaults are those of SSLRec (github.com/HKUDS/SSLRec): the inner product with
tau = 1, lambda = 0.1, shares 0.6, 0.3, 0.6. States that end in a LayerNorm have inner products as large as d, and learn
slowly at first with those; "cosine" with tau = 0.1 does not. Operators are drawn for each history, and both views are
made from the history itself: in SSLRec mask and reorder write into the array they read, so that its second view is made
from the first one. L_next is that of `next_item` at every position, by default the full softmax over all items (SSLRec:
at the last position, on all prefixes). Windows of one user are no negatives of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import nt_xent
from perdure.objectives.base import Learner, Objective
from perdure.objectives.next_item import NextItem

if TYPE_CHECKING:
    from perdure.events.examples import TaskData

__all__ = ["CL4SRec"]


class CL4SRec(Objective):
    """Next item, and the contrast of two views of each history.

    Args:
        weight: lambda of the contrast; 0 leaves next_item alone.
        tau: temperature of the similarities.
        similarity: of two views: the "dot" product, or the "cosine".
        crop: share of events that a crop keeps.
        mask: share of events that is hidden.
        reorder: share of events that is shuffled.
    """

    name: ClassVar[str] = "cl4srec"
    paper: ClassVar[str] = "Xie et al., ICDE 2022"
    summary: ClassVar[str] = "predict the next item, and contrast two views of each history"
    extra: ClassVar[int] = NextItem.extra
    causal: ClassVar[bool | None] = NextItem.causal
    passes_on: ClassVar[type | None] = NextItem

    def __init__(
        self,
        *,
        weight: Annotated[float, Ge(0)] = 0.1,
        tau: Annotated[float, Gt(0)] = 1.0,
        similarity: Literal["dot", "cosine"] = "dot",
        crop: Annotated[float, Gt(0), Le(1)] = 0.6,
        mask: Annotated[float, Ge(0), Lt(1)] = 0.3,
        reorder: Annotated[float, Ge(0), Le(1)] = 0.6,
        **next_item: Any,
    ) -> None:
        super().__init__()
        self.weight, self.tau, self.cosine = weight, tau, similarity == "cosine"
        self.shares = {"crop": crop, "mask": mask, "reorder": reorder}
        self.next_item = NextItem(**next_item)
        self.tied, self.each, self.whole_batch = self.next_item.tied, self.next_item.each, weight > 0

    def prepare(self, counts: Tensor, data: TaskData | None = None) -> None:
        """Told once before training: counts (N,) of each item in the training histories."""
        self.next_item.prepare(counts, data)

    def terms(self, batch: Batch, first: bool = False) -> float:
        """Those of next_item."""
        return self.next_item.terms(batch, first)

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: both losses of windows of T + 1 events."""
        predicted = self.next_item.loss(learner, batch, rng)
        return predicted + self.weight * self.contrast(learner, batch, rng) if self.weight else predicted

    def contrast(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: L_cl of the inputs of windows of T + 1 events; a user without an input has no part in it."""
        inputs = batch.upto(batch.items.shape[1] - 1, (batch.lengths - 1).clamp(min=0))  # (B, T)
        inputs = inputs.having(1)
        if not len(inputs):
            return learner.table.new_zeros(())
        parts, order = views.augmented(inputs, self.shares, rng)
        a, b = torch.cat([learner.vector(part) for part in parts])[order].chunk(2)  # (B, d)
        return nt_xent(a, b, self.tau, inputs.users, self.cosine)
