"""Matrix products in float32 on a CPU, by the faster of PyTorch's two libraries.

For float32 PyTorch asks MKL, which keeps its 512-bit kernels for Intel's processors; oneDNN, which PyTorch brings too
and asks for other types, uses them on every processor that has them: twice as fast where MKL does not, and no faster
where it does. It builds a kernel for each shape it meets, in about a millisecond, and keeps half a MiB for each. So it
is for pieces of one shape, over which the loss loops, and for layers while `one_shape` says that such batches come
often: whoever asks for many user vectors knows. Layers in training, whose batches come in hundreds of shapes, stay with
MKL.

oneDNN is asked by the operator that torch.compile emits for it; a PyTorch that lacks it is left to MKL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["by_onednn", "linear", "one_shape", "times"]

THERE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
WIDE = THERE and "intel" not in str(getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name")).lower()
SMALLEST = 64 * 64  # numbers of a weight
FEWEST = 1024  # rows of a layer's input: below, a call costs what the kernel saves
ALIKE = 128  # summands up to which both libraries give the same bits, so that who else is asked moves no answer

_often: ContextVar[bool] = ContextVar("often", default=False)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """(R, i) times the transposed of (o, i): (R, o). It has no gradient where oneDNN multiplies."""
    if by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return x @ weight.T


@contextmanager
def one_shape(often: bool) -> Iterator[None]:
    """Inside, if `often`, layers meet batches of a shape that comes so often that kernels for it are worth building."""
    before = _often.set(often)
    try:
        yield
    finally:
        _often.reset(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., i) times the transposed of (o, i), plus (o,): (..., o). By oneDNN in inference mode within `one_shape`."""
    recurs = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled() and _often.get()
    fits = x.shape[-1] <= ALIKE and x.numel() >= FEWEST * x.shape[-1]
    if recurs and fits and by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `times` asks oneDNN, which writes to new memory; PyTorch's own library can add to a sum."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return WIDE and plain and weight.numel() >= SMALLEST and x.numel() > 0 and not torch.compiler.is_compiling()
