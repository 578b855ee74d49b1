"""HSTU: attention without softmax, biased by how far apart events are in places and in time, gated by the event asking.

J. Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024; what the paper leaves open as in the authors' public code for MovieLens and Amazon.

    x_t        = sqrt(d) E[i_t] + P_t
    U, Q, V, K = silu(LN(x) W)
    A_ts       = silu(Q_t . K_s + p[t - s] + g[gap_ts]) / n,   s <= t           a head at a time; p and g are shared
    gap_ts     = floor(ln(max(1, tau_t - tau_s)) / 0.301)                       seconds, at most `buckets`
    x         <- x + W_o (U * LN(A V)) + b_o
    h          = LN(x);  score(i) = h_t . E_i

| paper | here | shape |
|---|---|---|
| f_1: U, Q, V, K | block<i>/attention uqvk | (4 d, d) |
| rab^p, rab^t | block<i>/attention position, gap | (max_length,), (buckets + 1,) |
| f_2 | block<i>/attention out | (d, d) |
| n | max_length, so that no state hangs on how far a batch is padded | |

The target's time. The authors' gap is tau_{t+1} - tau_s: the state at t knows when the next event happens, and most of
what the time bias gains is reported with that. Here it is tau_t - tau_s: when an answer is asked for, nobody knows when
the next event will be. Numbers of the two are not comparable. With `time` batches must bring the times of events; a
history that comes without them is refused.

Differs: the target's time, above; a LayerNorm closes the stack and scores are inner products (the authors': cosines at
temperature 0.05); the LayerNorm before a block has weight and bias, the one inside neither, as theirs; Q, K, U and V
are each d wide over all heads; later events are barred by a score of -10,000, where silu and its slope are exactly 0;
positions count from the first event read, padding stands on the right, and positions begin as Normal(0, 0.02 sqrt(d)),
the authors' as a truncated Normal(0, sqrt(1 / d)).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Blocks, Layer, cut
from perdure.encoders.parts import EventEmbedding, Norm, check_heads
from perdure.encoders.readouts import Readout, pooling
from perdure.errors import UsageError
from perdure.events.batch import Batch
from perdure.functional.dropout import dropout

__all__ = ["HSTU"]

BARRED = -1e4  # silu(BARRED) and its derivative are exactly 0 in every float type
STEP = 0.301  # a bucket of gaps reaches from e^(STEP k) to e^(STEP (k + 1)) seconds


class PointwiseAttention(nn.Module):
    """W_o (U * LN(A V)) + b_o of normalised events.

    Args:
        width: d; heads: divides d.
        reach: n, and how many distances between events are told apart.
        buckets: of gaps in time; 0 for none.
        dropout: before W_o.

    Attributes:
        no_rows: its parameters with one number a distance or gap, and not one an output.
    """

    role: ClassVar[str] = "mix"
    no_rows: ClassVar[tuple[str, ...]] = ("position", "gap")

    def __init__(self, width: int, heads: int, reach: int, buckets: int, dropout: float) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.reach, self.dropout = heads, reach, dropout
        self.uqvk = nn.Parameter(torch.zeros(4 * width, width))
        self.position = nn.Parameter(torch.zeros(reach))
        self.gap = nn.Parameter(torch.zeros(buckets + 1)) if buckets else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, at: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Events that ask, and all events.

        Args:
            x: (B, Q, d); memory: (B, T, d).
            at: (B, Q) or (1, Q), the place of each event of x in memory; it looks at places up to its own.
            gaps: (B, Q, T) bucket of the time between an event of x and one of memory.

        Returns:
            (B, Q, d)
        """
        d = x.shape[-1]
        u, q = F.silu(F.linear(x, self.uqvk[: 2 * d])).chunk(2, -1)  # (B, Q, d)
        v, k = F.silu(F.linear(memory, self.uqvk[2 * d :])).chunk(2, -1)  # (B, T, d)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, ., d/heads)
        a = F.silu(q @ k.transpose(2, 3) + self._bias(at, memory.shape[1], gaps)[:, None])  # (B, heads, Q, T)
        y = (a @ v).transpose(1, 2).flatten(2) / self.reach  # (B, Q, d)
        y = u * F.layer_norm(y, (d,), eps=1e-6)  # (B, Q, d)
        return self.out(dropout(y, self.dropout, self.training))

    def _bias(self, at: Tensor, length: int, gaps: Tensor | None) -> Tensor:
        """(1 or B, Q, T) what distance and gap add to a score; BARRED for later events."""
        distance = at[..., None] - torch.arange(length, device=at.device)  # (1 or B, Q, T)
        bias = self.position[distance.clamp(0, self.reach - 1)].masked_fill(distance < 0, BARRED)  # (1 or B, Q, T)
        if self.gap is None or gaps is None:
            return bias
        return bias + self.gap.index_select(0, gaps.flatten()).view_as(gaps)  # (B, Q, T)

    def reset(self, generator: torch.Generator) -> None:
        """Normal(0, 0.02) as in the authors' code; W_o is drawn as every linear layer."""
        for weight in (self.uqvk, self.position, self.gap):
            if weight is not None:
                nn.init.normal_(weight, std=0.02, generator=generator)


class HSTU(Blocks):
    """Hierarchical sequential transduction units over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of units.
        max_length: n, events read.
        dropout: on embeddings and before each output map.
        time: bias attention by the time between events, too; the log must have times.
        buckets: of such times.
        sparse: sparse gradients for the item table, for very large catalogues with sampled losses.
        readout: how the states of a history become one user vector.
    """

    name: ClassVar[str] = "hstu"
    paper: ClassVar[str] = "Zhai et al., ICML 2024"
    summary: ClassVar[str] = "gated attention without softmax, biased by distance and, where asked, by time"

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        blocks: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 1,
        max_length: Annotated[int, Ge(1)] = 50,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.2,
        time: bool = False,
        buckets: Annotated[int, Ge(1)] = 128,
        sparse: bool = False,
        readout: Readout = "last",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks, self.reads_times, self.buckets = blocks, time, buckets
        self.layers["input"] = EventEmbedding(n_items, width, max_length, dropout, scale=True, sparse=sparse)
        for i in range(blocks):
            self.layers[f"block{i}/norm"] = Norm(width)
            self.layers[f"block{i}/attention"] = PointwiseAttention(
                width, heads, max_length, buckets if time else 0, dropout
            )
        self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def context(self, x: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Places (1, P + T) and, where times are read, gaps (B, P + T, P + T), prompts at the first event's time."""
        at = torch.arange(x.shape[1], device=x.device)[None]  # (1, P + T)
        if not self.reads_times:
            return (at,)
        if batch.times is None:
            raise UsageError(
                "these histories have no times, and the encoder reads them",
                expected="the time of every event",
                where="encoder.time",
                fix="evaluate and embed read a log's; to answer bare histories, train with encoder.time = false",
            )
        start = batch.times[:, :1].expand(-1, x.shape[1] - batch.times.shape[1])  # (B, P)
        times = torch.cat([start, batch.times], 1)  # (B, P + T)
        gaps = (times[:, :, None] - times[:, None]).clamp(min=1).float()  # (B, P + T, P + T)
        return at, gaps.log_().div_(STEP).long().clamp_(max=self.buckets)

    def block(self, i: int, x: Tensor, context: tuple[Tensor, ...], layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""
        memory, (at, *gaps) = layer("norm", x), context  # (B, T, d)
        if ends is not None:
            at, gaps = ends[:, None] - 1, [cut(one, ends) for one in gaps]  # (B, 1), (B, 1, T)
        return cut(x, ends) + layer("attention", cut(memory, ends), memory, at, *gaps)  # (B, Q, d)
