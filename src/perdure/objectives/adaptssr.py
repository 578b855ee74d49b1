"""AdaptSSR: a history is nearer to itself than to another view of itself, and that nearer than any other user's.

Y. Yu, Q. Liu, K. Zhang, Y. Zhang, C. Song, M. Hou, Y. Yuan, Z. Ye, Z. Zhang, S. L. Yu, "AdaptSSR: Pre-training User
Model with Augmentation-Adaptive Self-Supervised Ranking", NeurIPS 2023 (arXiv 2310.09706).

    x, y      two views of one history; x+, y+ the same views with other dropout; w any view of any other user
    own       = sim(x, x+)
    near, far = max, min of sim(x, y), sim(x, y+)
    other     = max over w of sim(x, w)                               the hardest negative of the batch
    c         = 1 - mean(sim(x, y), sim(x, y+)), in [0, 1], without gradient
    L         = mean over users and both views of  -log sigma(c (own - near) + (1 - c) (far - other))

| paper | here | shape |
|---|---|---|
| u of x, then of y | a: user vectors through the encoder's readout | (2B, d) |
| u of x+, then of y+ | b: the same, encoded again | (2B, d) |
| sim | cosine | |
| c | of each "user" or of the "batch": adapt | (2B,) |
| shares | crop (kept), mask (hidden), reorder (shuffled) | |

The encoder needs dropout, without which own = 1. As published it has learned before: two stages, two runs. Begun with
drawn weights, all users can fall on one vector (L stays at log 2).

    perdure learn RECIPE --out runs/first -s encoder.name=ENCODER -s objective.name=masked_item -s objective.rate=0.3
    perdure learn RECIPE --out runs/then -s encoder.name=ENCODER -s objective.name=adaptssr
        -s encoder.readout=attention -s pretrain.start=runs/first/model -s pretrain.learning_rate=2e-4

ENCODER is bert4rec as published; with next_item in the first stage it is any causal one. `pretrain.start` takes all
weights over but those of a readout that is another one; dropout may change, too.

Differs: the loss is that of the authors' code (github.com/yflyl613/AdaptSSR), but for its c, which is one of each half
of a batch, where the paper adjusts the constraint of each sample: adapt = "user" does that, "batch" is the code's. c is
held in [0, 1]: a mean below 0 counts as 0. Two different operators are drawn for each history (in the code they may be
the same), which hide and shuffle the share rounded down. Windows of one user are no others of each other. The task is
judged as that of `clue_seq`: the share of users whose odd events find their own even events.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import similarity_order
from perdure.objectives.base import Learner
from perdure.objectives.parts import Contrastive

__all__ = ["AdaptSSR"]


class AdaptSSR(Contrastive):
    """The order of similarities of a history: itself, another view of it, other users.

    Args:
        adapt: whose similarity of views weighs the two steps of the order: each "user"'s, or the mean of a "batch".
        crop: share of events that a crop keeps.
        mask: share of events that is hidden.
        reorder: share of events that is shuffled.
    """

    name: ClassVar[str] = "adaptssr"
    paper: ClassVar[str] = "Yu et al., NeurIPS 2023"
    summary: ClassVar[str] = "order a history, another view of it, and other users by similarity"
    whole_batch = True
    needs_dropout = True

    def __init__(
        self,
        *,
        adapt: Literal["user", "batch"] = "user",
        crop: Annotated[float, Gt(0), Le(1)] = 0.4,
        mask: Annotated[float, Ge(0), Lt(1)] = 0.6,
        reorder: Annotated[float, Ge(0), Le(1)] = 0.6,
    ) -> None:
        super().__init__()
        self.adapt, self.shares = adapt, {"crop": crop, "mask": mask, "reorder": reorder}

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the mean over users and both views."""
        batch = batch.having(1)
        parts, order = views.augmented(batch, self.shares, rng)
        a, b = (torch.cat([learner.vector(part) for part in parts])[order] for _ in range(2))  # (2B, d)
        users = torch.arange(len(batch), device=a.device) if batch.users is None else batch.users  # (B,)
        return similarity_order(a, b, users, self.adapt)
