"""Negative items drawn for sampled losses: uniformly or by popularity^alpha.

q_i = n_i^alpha / sum_j n_j^alpha with n_i the number of training events of item i (at least 1);
alpha = 0 is uniform. Drawing is by inverse transform on the cumulative sum, so any number of draws is one search.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Negatives"]


class Negatives(nn.Module):
    """Draws item numbers 0..N-1 with replacement.

    Args:
        counts: (N,) training events of each item.
        alpha: 0 for uniform, 1 for popularity; values between flatten it.
    """

    cdf: Tensor
    log_q: Tensor

    def __init__(self, counts: Tensor, alpha: float = 0.0) -> None:
        super().__init__()
        q = counts.double().clamp(min=1).pow(alpha)
        q = q / q.sum()
        self.alpha = alpha
        self.register_buffer("cdf", q.cumsum(0), persistent=False)  # (N,) float64
        self.register_buffer("log_q", q.log().float(), persistent=False)  # (N,)

    def draw(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Item numbers of the given shape, int64, from the generator `rng`."""
        n = len(self.cdf)
        if self.alpha == 0.0:
            return torch.randint(n, shape, generator=rng, device=rng.device).to(self.cdf.device)
        u = torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64).to(self.cdf.device)
        return torch.searchsorted(self.cdf, u).clamp(max=n - 1)
