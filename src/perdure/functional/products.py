"""Matrix products in float32 on a CPU, by the faster of PyTorch's two libraries.

    linear    x W' + b     as F.linear, with gradients
    times     x W' + b     without

For float32 PyTorch asks MKL, which keeps its 512-bit kernels for Intel's processors; oneDNN, which PyTorch brings too
and asks for other types, uses them on every processor that has them: twice as fast where MKL does not. It builds a
kernel for each shape it meets, in about a millisecond, so small weights are left to MKL; and keeps it, half a MiB each,
up to 1,024 of them (`ONEDNN_PRIMITIVE_CACHE_CAPACITY`): batches of many lengths take up to 1.7 GiB more.

Which library multiplies depends on the weight alone, never on the number of rows: from two rows on, any number of them
gives the same bits.
oneDNN is asked by the operator that torch.compile emits for it; a PyTorch that lacks it is left to MKL.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["linear", "times"]

WIDE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
SMALLEST = 64 * 64  # numbers of a weight


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., i) times the transposed of (o, i), plus (o,): (..., o). It has no gradient where oneDNN multiplies."""
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., i) times the transposed of (o, i), plus (o,): (..., o), with gradients of first order."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return times(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])  # (M, i)
    return _Linear.apply(rows, weight, bias).view(*x.shape[:-1], len(weight))  # type: ignore[union-attr]


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return WIDE and plain and weight.numel() >= SMALLEST and x.numel() > 0 and not torch.compiler.is_compiling()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return times(x, weight, bias)  # (M, o)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (want_x, want_weight, want_bias) = ctx.saved_tensors, ctx.needs_input_grad
        g = grads[0]  # (M, o)
        return (
            times(g, weight.T) if want_x else None,  # (M, i)
            times(x.T, g.T).T if want_weight else None,  # (o, i)
            g.sum(0) if want_bias else None,
        )
