"""Rows added at given places, with the same bits each time.

    y_j = x_j + sum of values_i over all i with index_i = j

A GPU's index_add adds in whatever order its threads come, so that the same answer would differ in its last bits from
call to call; its index_put sorts first. On a CPU index_add goes one row after the other.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["added"]


def added(x: Tensor, dim: int, index: Tensor, values: Tensor) -> Tensor:
    """x with `values`, as large but for (n,) in dimension `dim`, added at `index` (n,) of it; a new tensor."""
    if not x.is_cuda:
        return x.index_add(dim, index, values)
    return x.movedim(dim, 0).index_put((index,), values.movedim(dim, 0), accumulate=True).movedim(0, dim)
