"""Contrastive losses: two views of one user are nearer than views of two users. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce"]


def info_nce(a: Tensor, b: Tensor, tau: float, same: Tensor | None = None) -> Tensor:
    """Mean over users of -log exp(cos(a_u, b_u) / tau) / sum_v exp(cos(a_u, b_v) / tau).

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; with cosines, Chen et al.,
    "SimCLR", ICML 2020.

    Args:
        a, b: (B, d) first and second view of each user, B 1 or more.
        tau: temperature, above 0.
        same: (B, B) bool: pairs off the diagonal that are no negatives, such as another row of the same user.

    Returns:
        Scalar, in float32 or better; 0 for a single user.
    """
    a, b = (F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1) for x in (a, b))
    scores = a @ b.T / tau  # (B, B)
    if same is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)  # (B, B)
        scores = scores.masked_fill(same & ~own, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(a), device=a.device))
