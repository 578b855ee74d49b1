"""Steps that touch only the rows of a table that a batch named: Adam for sparse gradients, and which rows those are.

Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015 (arXiv 1412.6980), for a row r with a gradient:

    m_r = b1 m_r + (1 - b1) g_r        v_r = b2 v_r + (1 - b2) g_r^2
    w_r = w_r - lr sqrt(1 - b2^t) / (1 - b1^t) * m_r / (sqrt(v_r) + eps),        t = steps of the whole table

table: m, v -> `exp_avg`, `exp_avg_sq` (rows, d), w -> the table (rows, d), g -> the values of its gradient (n, d).

Differs: rows without a gradient keep their moments and weights as they are, as in torch.optim.SparseAdam, whose numbers
these are; here each table is read and written once a step, by whole rows, in pieces that stay in a CPU's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

__all__ = ["RowAdam", "touched"]

PIECE = {"cpu": 1 << 17, "cuda": 1 << 28}  # numbers moved together: half of a CPU's second cache, a GPU's appetite


def touched(parameter: Parameter) -> Tensor | None:
    """Rows that a sparse gradient names, each once, (n,) int64; None where there is none, or it is dense."""
    gradient = parameter.grad
    return gradient.coalesce().indices()[0] if gradient is not None and gradient.is_sparse else None


class RowAdam(Optimizer):
    """Adam over tables with sparse gradients.

    Args:
        parameters: tables (rows, ...), each with sparse gradients over its rows.
        lr: step size, above 0.
        betas: decay of the two moments, [0, 1).
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; a table without a gradient takes none. The closure is not called: gradients are there."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._move(table, table.grad.coalesce(), group)

    def _move(self, table: Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[table], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(table), exp_avg_sq=torch.zeros_like(table))
        state["step"] += 1
        rate = group["lr"] * math.sqrt(1 - b2 ** state["step"]) / (1 - b1 ** state["step"])
        most = PIECE.get(table.device.type, PIECE["cuda"])
        size = max(1, most // math.prod(table.shape[1:]))  # R, rows moved together
        pieces = (gradient.indices()[0].split(size), gradient.values().split(size))
        for rows, g in zip(*pieces, strict=True):
            m = state["exp_avg"].index_select(0, rows).lerp_(g, 1 - b1)  # (R, d)
            v = state["exp_avg_sq"].index_select(0, rows).mul_(b2).addcmul_(g, g, value=1 - b2)  # (R, d)
            state["exp_avg"].index_copy_(0, rows, m)
            state["exp_avg_sq"].index_copy_(0, rows, v)
            moved = table.index_select(0, rows).addcdiv_(m, v.sqrt_().add_(group["eps"]), value=-rate)  # (R, d)
            table.index_copy_(0, rows, moved)
