"""Gates on weights and units: what the papers that mask a network share.

step(r)    = 1[r > threshold],   d step / d r := 1                   straight-through
a(e)       = sigma(s e),         d a / d e    := s_max sigma'(e)     annealed
s          = 1/s_max + (s_max - 1/s_max) x,   x from 0 to 1, several times  risen
largest    = the mask of the entries largest in magnitude            cut by magnitude
pack(m)    = the bits of a mask, eight a byte
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["annealed_sigmoid", "largest", "pack", "risen", "straight_through_step", "unpack"]

FEWEST = 5  # steps of a rise, so that s passes between its ends


def straight_through_step(r: Tensor, threshold: float = 0.0) -> Tensor:
    """1 where r > threshold, else 0, of r's shape and dtype; the gradient passes as if it were the identity."""
    return (r > threshold).to(r.dtype) + _gradient_of(r)


def annealed_sigmoid(e: Tensor, s: float, s_max: float) -> Tensor:
    """sigma(s e), of e's shape, whose gradient does not depend on s: that of s_max sigma(e).

    This is HAT's compensation s_max/s (cosh(s e) + 1) / (cosh(e) + 1) of the true gradient s sigma'(s e), in closed
    form, as sigma'(x) = 1 / (2 (cosh(x) + 1)); it does not vanish where sigma(s e) rounds to 0 or 1.
    """
    return torch.sigmoid(s * e.detach()) + _gradient_of(s_max * torch.sigmoid(e))


def risen(s_max: float, rises: int, progress: float, steps: int) -> float:
    """s at a share `progress` of a stage of `steps` steps (1 or more): 1 / s_max at the first step of each of `rises`
    risings, s_max at its last. A short stage has fewer, of FEWEST steps at least; a stage of one step is at s_max."""
    rises = max(1, min(rises, steps // FEWEST))
    step = round(progress * steps)
    x = step * rises % steps / (steps - rises) if steps > rises else 1.0
    return 1 / s_max + (s_max - 1 / s_max) * min(x, 1.0)


def largest(w: Tensor, among: Tensor, count: int) -> Tensor:
    """Where the `count` entries of w stand that are largest in magnitude; bool, of w's shape.

    Args:
        w: any shape; among: bool, of w's shape: only these are chosen from.
        count: exactly so many, at most as `among` has.
    """
    magnitude = w.abs().masked_fill(~among, -1.0).flatten()  # (n,)
    nothing = torch.zeros_like(magnitude, dtype=torch.bool)  # (n,)
    return nothing.scatter(0, magnitude.topk(count).indices, True).view(w.shape)


def pack(mask: Tensor) -> Tensor:
    """A bool mask of n entries, any shape -> (ceil(n / 8),) uint8; entry i is bit i % 8 of byte i // 8."""
    bits = F.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)  # (ceil(n / 8), 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The opposite of `pack`: bool, of the given shape."""
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1  # (ceil(n / 8), 8)
    return bits.flatten()[: shape.numel()].view(shape).bool()


def _gradient_of(x: Tensor) -> Tensor:
    """Zeros of x's shape, exactly, with the gradient of x."""
    return x - x.detach()
