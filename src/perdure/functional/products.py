"""Matrix products in float32 on a CPU, by the faster of PyTorch's two libraries.

For float32 PyTorch asks MKL, which keeps its 512-bit kernels for Intel's processors; oneDNN, which PyTorch brings too
and asks for other types, uses them on every processor that has them: twice as fast where MKL does not. It builds a
kernel for each shape it meets, in about a millisecond, and keeps half a MiB for each. So it is for loops over pieces of
one shape; layers, whose batches come in hundreds of shapes, stay with MKL.

oneDNN is asked by the operator that torch.compile emits for it; a PyTorch that lacks it is left to MKL.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["times"]

WIDE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
SMALLEST = 64 * 64  # numbers of a weight


def times(x: Tensor, weight: Tensor) -> Tensor:
    """(R, i) times the transposed of (o, i): (R, o). It has no gradient where oneDNN multiplies."""
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return x @ weight.T


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return WIDE and plain and weight.numel() >= SMALLEST and x.numel() > 0 and not torch.compiler.is_compiling()
