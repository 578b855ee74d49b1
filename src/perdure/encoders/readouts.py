"""How the states of a history become one user vector, besides the state at the last event. h are the states of a user's
n events.

    mean        u = (1 / n) sum_t h_t
    max         u_j = max_t h_tj
    attention   a = softmax_t(q . tanh(W h_t + b));  u = sum_t a_t h_t
    anchors     a_m = softmax_t(q_m . h_t / sqrt(d));  u = W [sum_t a_1t h_t ; ... ; sum_t a_Mt h_t]
    cls         u = h_{n+1} of [x_1 .. x_n, c]; c is learned

| readout | source |
|---|---|
| mean | ShopperBERT, arXiv 2106.00573; CLUE, arXiv 2111.11294 |
| max | UPRec, arXiv 2102.10989 |
| attention | Z. Yang et al., "Hierarchical Attention Networks", NAACL 2016; as PTUM (EMNLP Findings 2020) reads users |
| anchors | several readers of one history, as in LURM, arXiv 2110.11337, whose exact form is not published |
| cls | J. Devlin et al., "BERT", NAACL 2019; behind the last event as in PeterRec, SIGIR 2020 |

Where events are pooled, prompts in front of them are not read and a user without events is read at position 0. The
queries q begin at zero: attention begins as the mean.

The token c stands behind the last event, where an encoder that looks back only has seen all of them, or behind prompts
alone where there is no event. It joins the events behind the site "input", so it has no position vector: a full history
stays whole, and where all look at all, any other place (BERT's is the first) would give the same u. Nor has it the
dropout of that site, or what a method adds to events there. It stands there for user vectors only. The states of events
that an objective trains are without it, and objectives of states, which would never train it, refuse it.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Anchors", "AttentionPooling", "Readout", "Token", "max_of_events", "mean_of_events", "pooling"]

Readout = Literal["last", "mean", "max", "attention", "anchors", "cls"]


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


class Token(nn.Module):
    """One learned vector that is put behind each user's last event.

    Args:
        width: d.
    """

    role: ClassVar[str] = "read"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """(B, T, d), of which `ends` (B,) positions count -> (B, T + 1, d), of which one more does."""
        x = F.pad(x, (0, 0, 0, 1))  # (B, T + 1, d)
        here = torch.arange(x.shape[1], device=x.device) == ends[:, None]  # (B, T + 1)
        return torch.where(here[..., None], self.vector.to(x.dtype), x)  # (B, T + 1, d)

    def reset(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02), as item vectors."""
        nn.init.normal_(self.vector, std=0.02, generator=generator)


WEIGHTED = {"attention": AttentionPooling, "anchors": Anchors, "cls": Token}


def pooling(readout: Readout, width: int) -> dict[str, nn.Module]:
    """The site of a readout that has weights, which only user vectors pass. Else none."""
    return {"readout": WEIGHTED[readout](width)} if readout in WEIGHTED else {}
