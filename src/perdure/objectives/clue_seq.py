"""clue_seq: two views of a history are nearer than the histories of two users.

M. Cheng, F. Yuan, Q. Liu, X. Xin, E. Chen, "Learning Transferable User Representations with Sequential Behaviors via
Contrastive Pre-training", ICDM 2021. (Its authors call it CLUE, as do those of another, later method: clue_service.)

    z_u, z'_u   user vectors of two views of one history
    l(z, z') = - mean_u log [ exp(cos(z_u, z'_u) / tau) / sum_v exp(cos(z_u, z'_v) / tau) ]
    L = (l(z, z') + l(z', z)) / 2

| paper | here | shape |
|---|---|---|
| z, z' | a, b: user vectors through the encoder's readout | (B, d) |
| tau | tau | |
| implicit view | views = "dropout": the same history twice, with other dropout | |
| explicit view | views = "crop", "mask", "reorder" or "augment": two of the three drawn a batch | |

Differs: the paper's body and code were not available, only its abstract. So tau is open (0.1 here), and so are encoder
and readout (`encoder.readout`). Negatives are the other users of the batch; another row of the same user, where
histories are split into windows, is none. The task is judged by split halves: the share of users whose odd events find
their own even events among those of all users of a batch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import both_ways
from perdure.objectives.base import Learner
from perdure.objectives.parts import Contrastive

__all__ = ["ClueSeq"]

View = Literal["dropout", "crop", "mask", "reorder", "augment"]


class ClueSeq(Contrastive):
    """Contrast of two views of each history.

    Args:
        views: what makes them differ: "dropout" alone (the encoder needs some), "crop", "mask", "reorder", or
            "augment": two different ones of these three, drawn for every batch.
        tau: temperature of the cosines.
        crop: share of events that a crop keeps.
        mask: share of events that is hidden.
        reorder: share of events that is shuffled.
    """

    name: ClassVar[str] = "clue_seq"
    paper: ClassVar[str] = "Cheng et al., ICDM 2021"
    summary: ClassVar[str] = "contrast two views of each history"
    whole_batch = True

    def __init__(
        self,
        *,
        views: View = "dropout",
        tau: Annotated[float, Gt(0)] = 0.1,
        crop: Annotated[float, Gt(0), Lt(1)] = 0.6,
        mask: Annotated[float, Gt(0), Lt(1)] = 0.3,
        reorder: Annotated[float, Ge(0), Lt(1)] = 0.6,
    ) -> None:
        super().__init__()
        self.views, self.tau, self.shares = views, tau, {"crop": crop, "mask": mask, "reorder": reorder}
        self.needs_dropout = views == "dropout"

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the mean of both directions."""
        batch = batch.having(1)
        first, second = self.pair(batch, rng)
        a, b = learner.vector(first), learner.vector(second)  # (B, d)
        return both_ways(a, b, self.tau, batch.users)

    def pair(self, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """Two views of each history."""
        if self.views == "dropout":
            return batch, batch
        if self.views != "augment":
            return self._view(self.views, batch, rng), self._view(self.views, batch, rng)
        kinds = list(self.shares)
        drawn = torch.randperm(len(kinds), generator=rng, device=rng.device)[:2].tolist()
        return self._view(kinds[drawn[0]], batch, rng), self._view(kinds[drawn[1]], batch, rng)

    def _view(self, kind: str, batch: Batch, rng: torch.Generator) -> Batch:
        return views.OPERATORS[kind](batch, self.shares[kind], rng)
