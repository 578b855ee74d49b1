"""BERT4Rec: attention to both sides of a masked event; the next item is what stands behind a mask after the last event.

F. Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", CIKM
2019.

    x_t  = LN(E[i_t] + P_t)
    x   <- LN(x + Attention(x))                    all positions look at all
    x   <- LN(x + W_2 gelu(W_1 x + b_1) + b_2)
    h    = LN(gelu(W_P x + b_P));  score(i) = h_t . E_i
    u    = h at a mask event put behind the last event of the history

| paper | here | shape |
|---|---|---|
| E | layers["input"].items; row 1 is the mask | (N + 2, d) |
| P | layers["input"].positions | (max_length, d) |
| N (length) | max_length, the mask event counted | |
| L, h | blocks, heads | |
| W_1, W_2 | block<i>/feedforward up, down | (inner, d), (d, inner) |
| W^P, b^P | projection, where `projection` | (d, d), (d,) |

A history is asked for its vector with a mask event after its last (`question`), so of max_length events the newest
max_length - 1 are read. States look at later events: the objective is masked_item, next_item refuses.

Differs: LayerNorm behind the embeddings and the projection, as in the authors' code; no bias b^O on the scores unless
the head is untied; `projection=False` scores with the last block itself, as the re-implementation of Klenitskiy and
Vasilev (RecSys 2023) does; `block="prenorm"` gives pre-norm blocks (x <- x + Attention(LN x)) with a LayerNorm at the
end, as RecTools does; matrices are drawn by Xavier's rule, not from a truncated Normal(0, 0.02); positions count from
the first event read and padding stands on the right; dropout on attention weights is an option of its own
(`attention_dropout`, 0 by default, because it has no fused kernel on CPU).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import MASK, Blocks, Layer, Via, before, postnorm, prenorm
from perdure.encoders.parts import Attention, EventEmbedding, FeedForward, Norm, normed
from perdure.encoders.readouts import Readout, pooling
from perdure.events.batch import Batch

__all__ = ["BERT4Rec"]


class Projection(nn.Module):
    """gelu(W_P x + b_P)"""

    role: ClassVar[str] = "mix"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        return F.gelu(self.map(x))


class BERT4Rec(Blocks):
    """Bidirectional transformer over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of attention + feed-forward pairs.
        inner: width inside the feed-forward; None for 4 d, as published.
        max_length: positions read: events, and for a user vector the mask event after them.
        dropout: on embeddings and after each sub-layer.
        projection: score with gelu(W_P x + b_P), as published, or with the last block itself.
        block: "postnorm" as published, or "prenorm".
        readout: how the states of a history become one user vector.
    """

    name: ClassVar[str] = "bert4rec"
    paper: ClassVar[str] = "Sun et al., CIKM 2019"
    summary: ClassVar[str] = "self-attention to both sides, asked with a mask event after the history"
    causal: ClassVar[bool] = False

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        blocks: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 2,
        inner: Annotated[int, Ge(1)] | None = None,
        max_length: Annotated[int, Ge(2)] = 50,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        projection: bool = True,
        block: Literal["postnorm", "prenorm"] = "postnorm",
        readout: Readout = "last",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks, self.dropout, self.kind = blocks, dropout, block
        self.layers["input"] = EventEmbedding(n_items, width, max_length)
        self.layers["input_norm"] = Norm(width)
        for i in range(blocks):
            attention = Attention(width, heads, dropout, attention_dropout, causal=False)
            feedforward = FeedForward(width, inner or 4 * width, dropout, gelu=True)
            for name, layer in normed(width, attention, feedforward, block == "postnorm").items():
                self.layers[f"block{i}/{name}"] = layer
        if projection:
            self.layers["projection"] = Projection(width)
        if projection or block == "prenorm":
            self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def question(self, batch: Batch) -> Batch:
        """Histories with a mask event after their last; the oldest event makes room in those of max_length events. As
        they are where all states are pooled."""
        if self.readout != "last":
            return batch
        t = batch.items.shape[1]
        kept = batch.lengths.clamp(max=self.max_length - 1)  # (B,)
        at = torch.arange(min(t + 1, self.max_length), device=batch.items.device)  # (T',)
        source = (at + (batch.lengths - kept)[:, None]).clamp(max=t - 1)  # (B, T')
        asked = batch.picked(source, kept + 1).hidden(at >= kept[:, None], MASK * (at == kept[:, None]))
        return replace(asked, times=None)

    def context(self, x: Tensor, batch: Batch) -> Tensor:
        """(B, P + T) bool: what is no padding, and so may be looked at."""
        ends = batch.lengths + (x.shape[1] - batch.items.shape[1])  # (B,)
        return before(x, ends.clamp(min=1))

    def block(self, i: int, x: Tensor, context: Tensor, layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""
        return (prenorm if self.kind == "prenorm" else postnorm)(layer, x, ends, context)

    def end(self, x: Tensor, via: Via) -> Tensor:
        """What items are scored with: (B, T, d) -> (B, T, d)."""
        if "projection" in self.layers:
            x = via("projection", self.layers["projection"], x)  # (B, T, d)
        return super().end(x, via)
