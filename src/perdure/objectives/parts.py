"""What objectives that tell users apart share: how well they do it."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from perdure.events import views
from perdure.events.batch import Batch
from perdure.objectives.base import Learner, Objective

__all__ = ["Contrastive", "agreement"]


class Contrastive(Objective, ABC):
    """An objective that compares the user vectors of a batch with each other and ranks no items. It is judged by split
    halves: the share of users whose odd events find their own even events among those of all users of a batch."""

    any_readout: ClassVar[bool] = True
    measure: ClassVar[str] = "agreement"

    def judge(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """(B,) 1 where a user's odd events are nearest to the same user's even events, else 0."""
        odd, even = (learner.vector(half) for half in views.halves(batch))  # (B, d)
        return agreement(odd, even, batch.users)


def agreement(a: Tensor, b: Tensor, users: Tensor | None = None) -> Tensor:
    """(B, d), (B, d) -> (B,): 1 where b_u is nearer to a_u by cosine than any b_v of another user; ties are misses.

    Args:
        users: (B,) whose rows they are, where a user can have several; every row is another user's where None.
    """
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T  # (B, B)
    owners = torch.arange(len(a), device=a.device) if users is None else users  # (B,)
    beaten = (scores >= scores.diagonal()[:, None]) & (owners[:, None] != owners)  # (B, B)
    return (~beaten.any(1)).to(a.dtype)
