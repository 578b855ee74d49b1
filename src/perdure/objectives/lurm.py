"""lurm: two halves of a user's events are nearer than the events of two users.

C. Yang et al., "Learning Universal User Representations via Self-Supervised Lifelong Behaviors Modeling" (LURM), arXiv
2110.11337, 2021; as "Empowering General-purpose User Representation with Full-life Cycle Behavior Modeling", KDD 2023.

    z_u, z'_u   user vectors of two sub-samples of one history
    l(z, z') = - mean_u log [ exp(cos(z_u, z'_u) / tau) / sum_v exp(cos(z_u, z'_v) / tau) ]
    L = (l(z, z') + l(z', z)) / 2

| paper | here | shape |
|---|---|---|
| z, z' | a, b: user vectors | (B, d) |
| sub-sampled views | views = "parts" or "samples"; share | |
| tau | tau | |
| SMEN on bags of interests | the encoder `smen`, or any other | |

Differs: the paper's equations were not available. That two sub-sampled views of one user are contrasted is theirs; how
they are drawn is not known, and the loss is the usual one. By default the two have no event in common ("parts"), so
that what they share is the user and not the sample. The encoder of the paper is `smen`, but the objective trains any.
As clue_seq, it ranks nothing and is judged by split halves.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import both_ways
from perdure.objectives.base import Learner
from perdure.objectives.parts import Contrastive

__all__ = ["Lurm"]


class Lurm(Contrastive):
    """Contrast of two sub-samples of each history.

    Args:
        views: two "parts" without a common event, half of the events each, or two "samples", each drawn from all.
        share: of the events, in a sample.
        tau: temperature of the cosines.
    """

    name: ClassVar[str] = "lurm"
    paper: ClassVar[str] = "Yang et al., KDD 2023"
    summary: ClassVar[str] = "contrast two sub-samples of each history"
    whole_batch = True

    def __init__(
        self,
        *,
        views: Literal["parts", "samples"] = "parts",
        share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        tau: Annotated[float, Gt(0)] = 0.1,
    ) -> None:
        super().__init__()
        self.views, self.share, self.tau = views, share, tau

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the mean of both directions."""
        batch = batch.having(1)
        first, second = self.pair(batch, rng)
        a, b = learner.vector(first), learner.vector(second)  # (B, d)
        return both_ways(a, b, self.tau, batch.users)

    def pair(self, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """Two sub-samples of each history, in their order."""
        if self.views == "parts":
            return views.parts(batch, rng)
        return views.sample(batch, self.share, rng), views.sample(batch, self.share, rng)
