"""Contrastive losses: two views of one user are nearer than views of two users. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce", "nt_xent"]


def info_nce(a: Tensor, b: Tensor, tau: float, same: Tensor | None = None, cosine: bool = True) -> Tensor:
    """Mean over users of -log exp(cos(a_u, b_u) / tau) / sum_v exp(cos(a_u, b_v) / tau).

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; with cosines, Chen et al.,
    "SimCLR", ICML 2020.

    Args:
        a, b: (B, d) first and second view of each user, B 1 or more.
        tau: temperature, above 0.
        same: (B, B) bool: pairs off the diagonal that are no negatives, such as another row of the same user.
        cosine: of the cosines; else of the inner products.

    Returns:
        Scalar, in float32 or better; 0 for a single user.
    """
    a, b = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (a, b))  # (B, d)
    if cosine:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)  # (B, d)
    scores = a @ b.T / tau  # (B, B)
    if same is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)  # (B, B)
        scores = scores.masked_fill(same & ~own, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(a), device=a.device))


def nt_xent(a: Tensor, b: Tensor, tau: float, users: Tensor | None = None, cosine: bool = True) -> Tensor:
    """info_nce of all 2B views: each finds the other view of its user among all others, 2 (B - 1) of other users.

    Chen et al., "SimCLR", ICML 2020, eq. 1.

    Args:
        a, b: (B, d) first and second view of each row, B 1 or more.
        users: (B,) whose rows they are, where a user can have several; those are no negatives of each other.
        cosine: of the cosines; else of the inner products.

    Returns:
        Scalar, in float32 or better.
    """
    owners = (torch.arange(len(a), device=a.device) if users is None else users).repeat(2)  # (2B,)
    return info_nce(torch.cat([a, b]), torch.cat([b, a]), tau, owners[:, None] == owners, cosine)
