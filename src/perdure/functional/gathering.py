"""Rows of all processes that train together, in each of them, with their gradients.

    x = [x_0 ; ... ; x_(K-1)]   in every process;     dL/dx_k = the sum over all processes of their own dL/dx_k

So a loss that compares users with each other compares those of all processes, and where the processes' losses are
weighted by w_k with sum 1, as the training loop does, gradients are those of one process with all rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["gathered"]


def gathered(x: Tensor) -> Tensor:
    """(n_k, ...) rows of this process -> (n, ...) of all, one process after the other; x itself where it is alone."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    return _Gathered.apply(x)  # type: ignore[return-value]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, number = dist.get_world_size(), dist.get_rank()
        sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(count)]
        dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
        kept = [int(size) for size in sizes]
        padded = x.new_zeros(max(kept), *x.shape[1:])  # (most, ...)
        padded[: len(x)] = x
        every = [torch.empty_like(padded) for _ in range(count)]
        dist.all_gather(every, padded)
        ctx.begin, ctx.end = sum(kept[:number]), sum(kept[: number + 1])
        return torch.cat([one[:n] for one, n in zip(every, kept, strict=True)])  # (n, ...)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)  # (n, ...)
        dist.all_reduce(total)
        return total[ctx.begin : ctx.end]
