"""How the states of a history become one user vector, besides the state at the last event. h are the states of a user's
n events.

    mean        u = (1 / n) sum_t h_t
    max         u_j = max_t h_tj
    attention   a = softmax_t(q . tanh(W h_t + b));  u = sum_t a_t h_t
    anchors     a_m = softmax_t(q_m . h_t / sqrt(d));  u = W [sum_t a_1t h_t ; ... ; sum_t a_Mt h_t]

| readout | source |
|---|---|
| mean | ShopperBERT, arXiv 2106.00573; CLUE, arXiv 2111.11294 |
| max | UPRec, arXiv 2102.10989 |
| attention | Z. Yang et al., "Hierarchical Attention Networks", NAACL 2016; as PTUM (EMNLP Findings 2020) reads users |
| anchors | several readers of one history, as in LURM, arXiv 2110.11337, whose exact form is not published |

Prompts in front of the events are not read. A user without events is read at position 0. The queries q begin at zero:
attention begins as the mean.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

__all__ = ["Anchors", "AttentionPooling", "Readout", "max_of_events", "mean_of_events", "pooling"]

Readout = Literal["last", "mean", "max", "attention", "anchors"]


def mean_of_events(h: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the first `lengths` (B,) positions of each user, (B, T, d) -> (B, d); zeros where there are none."""
    events = torch.arange(h.shape[1], device=h.device) < lengths[:, None]  # (B, T)
    return (h * events[..., None]).sum(1) / lengths.clamp(min=1)[:, None]  # (B, d)


def max_of_events(h: Tensor, lengths: Tensor) -> Tensor:
    """Largest value over the first `lengths` (B,) positions, 1 or more, of each user, (B, T, d) -> (B, d)"""
    events = torch.arange(h.shape[1], device=h.device) < lengths[:, None]  # (B, T)
    return h.masked_fill(~events[..., None], -torch.inf).amax(1)  # (B, d)


class AttentionPooling(nn.Module):
    """One learned query.

    Args:
        width: d.
    """

    role: ClassVar[str] = "read"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, valid: Tensor) -> Tensor:
        """(B, T, d) states, (B, T) bool -> (B, d)"""
        scores = torch.tanh(self.map(h)) @ self.query  # (B, T)
        weights = scores.masked_fill(~valid, -torch.inf).softmax(1)  # (B, T)
        return torch.einsum("bt,btd->bd", weights, h)

    def reset(self, generator: torch.Generator) -> None:
        """Xavier for the map, zero for the rest."""
        nn.init.xavier_uniform_(self.map.weight, generator=generator)
        nn.init.zeros_(self.map.bias)
        nn.init.zeros_(self.query)


class Anchors(nn.Module):
    """M learned queries and a map of what they read back to the width.

    Args:
        width: d; anchors: M.
    """

    role: ClassVar[str] = "read"

    def __init__(self, width: int, anchors: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(anchors, width))
        self.map = nn.Linear(anchors * width, width)

    def forward(self, h: Tensor, valid: Tensor) -> Tensor:
        """(B, T, d) states, (B, T) bool -> (B, d)"""
        scores = h @ self.queries.T / math.sqrt(h.shape[-1])  # (B, T, M)
        weights = scores.masked_fill(~valid[..., None], -torch.inf).softmax(1)  # (B, T, M)
        return self.map(torch.einsum("btm,btd->bmd", weights, h).flatten(1))

    def reset(self, generator: torch.Generator) -> None:
        """Queries apart from each other, Normal(0, 0.02) as item vectors; Xavier for the map."""
        nn.init.normal_(self.queries, std=0.02, generator=generator)
        nn.init.xavier_uniform_(self.map.weight, generator=generator)
        nn.init.zeros_(self.map.bias)


def pooling(readout: Readout, width: int) -> dict[str, nn.Module]:
    """The site of a readout that has weights: the last of an encoder, which only user vectors pass. Else none."""
    if readout == "attention":
        return {"readout": AttentionPooling(width)}
    return {"readout": Anchors(width)} if readout == "anchors" else {}
