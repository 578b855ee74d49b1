"""Losses that hold a student's scores near a teacher's, without ever making all scores of a batch at once.

Letters: M rows, N labels, d width; s = h . W_n + b_n of the student, s' = h' . W'_n + b'_n of the teacher, tau a
temperature.

    logit_mse     mean over rows and labels of (s - s')^2
    softened_kl   mean over rows of KL(softmax(s' / tau) || softmax(s / tau))

The gap of a row is linear in its (h, h'): many rows are therefore turned first, by an orthogonal Q over the rows, into
as many as (h, h') is wide, which have the same sum of squared gaps for every label. The teacher gets no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors", "logit_mse", "softened_kl"]

CELLS = {"cpu": 1 << 18, "cuda": 1 << 26}  # scores alive at once


class Factors(NamedTuple):
    """Scores of M rows for N labels, not multiplied out: s = h W' + b.

    Attributes:
        h: (M, d); table: W, (N, d); bias: b, (N,) or None.
    """

    h: Tensor
    table: Tensor
    bias: Tensor | None = None

    def joined(self) -> tuple[Tensor, Tensor]:
        """(M, d') and (N, d') in the table's type: a bias is one more column of the table, met by ones."""
        h = self.h.to(self.table.dtype)  # (M, d)
        if self.bias is None:
            return h, self.table
        return torch.cat([h, torch.ones_like(h[:, :1])], 1), torch.cat([self.table, self.bias[:, None]], 1)


def logit_mse(student: Factors, teacher: Factors) -> Tensor:
    """Mean over M rows and N labels of the squared difference of scores, in memory that grows with M + N.

    Scalar. Work grows with min(M, 2 d) N d. It gives its gradients once.
    """
    (h, table), (old_h, old_table) = student.joined(), teacher.joined()
    rows, labels, d = len(h), len(table), h.shape[1]
    with torch.autocast(h.device.type, enabled=False):
        if rows > 2 * d:
            both = torch.cat([h, old_h], 1)  # (M, 2d)
            both = torch.linalg.qr(both.detach()).Q.T @ both  # (2d, 2d)
            h, old_h = both.split(d, 1)  # (2d, d)
        return _Sweep.apply(h, table, old_h, old_table, 0.0) / (rows * labels)  # type: ignore[operator]


def softened_kl(student: Factors, teacher: Factors, temperature: float) -> Tensor:
    """Mean over M rows of KL(softmax(s' / temperature) || softmax(s / temperature)), in memory that grows with M + N.

    Scalar; 0 where student and teacher agree. Its gradient is that of the cross-entropy with the teacher's softened
    probabilities as targets. It gives its gradients once.
    """
    (h, table), (old_h, old_table) = student.joined(), teacher.joined()
    return _Sweep.apply(h, table, old_h, old_table, temperature) / len(h)  # type: ignore[operator]


class _Sweep(torch.autograd.Function):
    """Sum over rows of the squared gaps (temperature 0) or of the divergences; the gradients are made in the same
    sweep over the rows, a few at a time."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, table: Tensor, old_h: Tensor, old_table: Tensor, temperature: float) -> Tensor:
        want_h, want_table = ctx.needs_input_grad[:2]
        size = max(16, CELLS.get(h.device.type, CELLS["cuda"]) // len(table))  # R, rows looked at together
        grad_h = torch.zeros_like(h) if want_h else None  # (M, d)
        grad_table = torch.zeros_like(table) if want_table else None  # (N, d)
        total = table.new_zeros((), dtype=torch.float64)
        with torch.autocast(h.device.type, enabled=False):
            for start in range(0, len(h), size):
                part = slice(start, start + size)
                loss, g = _compared(h[part] @ table.T, old_h[part] @ old_table.T, temperature)  # (), (R, N)
                total += loss.double()
                if grad_h is not None:
                    grad_h[part] = g @ table  # (R, d)
                if grad_table is not None:
                    grad_table.addmm_(g.T, h[part])  # (N, d)
        ctx.gradients = (grad_h, grad_table)
        return total.to(table.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("a distillation loss gives its gradients once: call it again instead of backward twice")
        scaled, ctx.gradients = [None if one is None else one.mul_(grads[0]) for one in ctx.gradients], None
        return (*scaled, None, None, None)


def _compared(s: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Loss of a few rows, scalar, and its gradient by the student's scores, (R, N)."""
    if not temperature:
        gap = s - target  # (R, N)
        return gap.square().sum(), gap.mul_(2)
    log_p = torch.log_softmax(s / temperature, 1)  # (R, N)
    log_q = torch.log_softmax(target / temperature, 1)  # (R, N)
    q = log_q.exp()  # (R, N)
    return (q * (log_q - log_p)).sum(), (log_p.exp() - q) / temperature
