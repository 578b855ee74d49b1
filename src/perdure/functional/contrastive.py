"""Contrastive losses: two views of one user are nearer than views of two users. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["both_ways", "exact", "info_nce", "nt_xent", "similarity_order"]


def info_nce(a: Tensor, b: Tensor, tau: float | Tensor, same: Tensor | None = None, cosine: bool = True) -> Tensor:
    """Mean over users of -log exp(cos(a_u, b_u) / tau) / sum_v exp(cos(a_u, b_v) / tau).

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; with cosines, Chen et al.,
    "SimCLR", ICML 2020.

    Args:
        a, b: (B, d) first and second view of each user, B 1 or more.
        tau: temperature, above 0, a number or a scalar.
        same: (B, B) bool: pairs off the diagonal that are no negatives, such as another row of the same user.
        cosine: of the cosines; else of the inner products.

    Returns:
        Scalar, in float32 or better; 0 for a single user.
    """
    a, b = exact(a), exact(b)  # (B, d)
    if cosine:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)  # (B, d)
    with torch.autocast(a.device.type, enabled=False):
        scores = a @ b.T / tau  # (B, B)
    if same is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)  # (B, B)
        scores = scores.masked_fill(same & ~own, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(a), device=a.device))


def both_ways(a: Tensor, b: Tensor, tau: float | Tensor, users: Tensor | None = None) -> Tensor:
    """The mean of info_nce from the first views to the second and back.

    Args:
        a, b: (B, d) first and second view of each row, B 1 or more.
        users: (B,) whose rows they are, where a user can have several; those are no negatives of each other.
    """
    same = None if users is None else users[:, None] == users  # (B, B)
    return (info_nce(a, b, tau, same) + info_nce(b, a, tau, same)) / 2


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


def similarity_order(a: Tensor, b: Tensor, users: Tensor, weighed: str = "user") -> Tensor:
    """Mean over the 2B views x = a_i of -log sigma(c (own - near) + (1 - c) (far - other)).

    Y. Yu et al., "AdaptSSR", NeurIPS 2023. Similarities are cosines: own = sim(a_i, b_i); near and far are the larger
    and the smaller of sim(a_i, a_j) and sim(a_i, b_j), j the other view of the same row; other is the largest of a_i
    with any view of another user, -1 where there is none. c = 1 - the mean of near and far, in [0, 1], no gradient.

    Args:
        a, b: (2B, d) the first views of B rows, then the second ones; each view encoded twice.
        users: (B,) whose rows they are; rows of one user are no others of each other.
        weighed: c of each "user", or one c for each half of the "batch".

    Returns:
        Scalar, in float32 or better.
    """
    a, b = F.normalize(exact(a), dim=1), F.normalize(exact(b), dim=1)  # (2B, d)
    half, owners = len(a) // 2, users.repeat(4)  # (4B,)
    own = (a * b).sum(1)  # (2B,)
    twins = torch.stack([(a * x.roll(half, 0)).sum(1) for x in (a, b)], 1)  # (2B, 2)
    with torch.autocast(a.device.type, enabled=False):
        every = a @ torch.cat([a, b]).T  # (2B, 4B)
    other = every.masked_fill(owners[: 2 * half, None] == owners, -1.0).amax(1)  # (2B,)
    met = twins.detach().mean(1)  # (2B,)
    if weighed == "batch":
        met = met.view(2, half).mean(1).repeat_interleave(half)  # (2B,)
    c = 1 - met.clamp(0, 1)  # (2B,)
    return F.softplus(-(c * (own - twins.amax(1)) + (1 - c) * (twins.amin(1) - other))).mean()


def exact(x: Tensor) -> Tensor:
    """Of halves of a float a float: a product of them, divided by a small temperature, is rounded too coarsely."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
