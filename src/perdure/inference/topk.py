"""Exact top-k whose order is the same wherever it is asked: higher score first, among equals the lower row."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["top"]


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row.

    `torch.topk` alone may return any of several equal scores; rows where equals lie on both sides of the cut are
    looked at once more.

    Args:
        scores: (B, Y), no NaN; -inf marks columns that must not be chosen.
        k: 1 or more; at most Y columns come back.

    Returns:
        (values, columns), both (B, min(k, Y)): best first, equals by column.
    """
    k = min(k, scores.shape[1])
    values, columns = scores.topk(k, sorted=False)  # (B, k)
    cut = values.min(1, keepdim=True).values  # (B, 1)
    split = (scores == cut).sum(1) > (values == cut).sum(1)  # (B,)
    split &= cut[:, 0] > -torch.inf  # among marked columns the order is of no interest
    for row in split.nonzero().flatten().tolist():
        above = (scores[row] > cut[row]).nonzero().flatten()
        equal = (scores[row] == cut[row]).nonzero().flatten()[: k - len(above)]
        columns[row] = torch.cat([above, equal])
    columns = columns.sort(1).values  # (B, k)
    values = scores.gather(1, columns)  # (B, k)
    values, order = values.sort(dim=1, descending=True, stable=True)  # (B, k)
    return values, columns.gather(1, order)
