"""SASRec: self-attentive sequential recommendation.

W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.

    x_t  = sqrt(d) E[i_t] + P_t
    q    = LN(x);  x <- q + Attention(q, x, x)          as published: the residual adds the normalised query
    f    = LN(x);  x <- f + W_2 relu(W_1 f + b_1) + b_2
    h    = LN(x);  score(i) = h_t . E_i

| paper | here | shape |
|---|---|---|
| M, E | layers["input"].items | (N + 2, d) |
| P | layers["input"].positions | (max_length, d) |
| n | max_length | |
| b | blocks | |
| W_1, W_2 | block<i>/feedforward up, down | (inner, d), (d, inner) |

Differs: an output projection in the attention, as in today's re-implementations; positions count from the first event
read and padding stands on the right, so no padding mask is needed; `block="prenorm"` gives the usual pre-norm block
(x <- x + Attention(LN x)); dropout on attention weights is an option of its own (`attention_dropout`, 0 by default,
because it has no fused kernel on CPU).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from perdure.encoders.base import Encoder, Via, plain
from perdure.encoders.parts import Attention, EventEmbedding, FeedForward, Norm
from perdure.errors import SettingsError
from perdure.events.batch import Batch, last

__all__ = ["SASRec"]


class SASRec(Encoder):
    """Causal transformer over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of attention + feed-forward pairs.
        inner: width inside the feed-forward; None for d, as published.
        max_length: events read.
        dropout: on embeddings and after each sub-layer.
        sparse: sparse gradients for the item table, for very large catalogues with sampled losses.
    """

    name: ClassVar[str] = "sasrec"
    paper: ClassVar[str] = "Kang & McAuley, ICDM 2018"
    summary: ClassVar[str] = "causal self-attention over the history"

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        blocks: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 1,
        inner: Annotated[int, Ge(1)] | None = None,
        max_length: Annotated[int, Ge(1)] = 50,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.2,
        attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        block: Literal["sasrec", "prenorm"] = "sasrec",
        sparse: bool = False,
    ) -> None:
        super().__init__(n_items, width, max_length)
        if width % heads:
            raise SettingsError(
                f"width {width} is not a multiple of heads {heads}",
                where="encoder.width, encoder.heads",
                fix="choose heads that divide width",
            )
        self.blocks, self.block = blocks, block
        self.layers["input"] = EventEmbedding(n_items, width, max_length, dropout, scale=True, sparse=sparse)
        for i in range(blocks):
            self.layers[f"block{i}/norm1"] = Norm(width)
            self.layers[f"block{i}/attention"] = Attention(width, heads, dropout, attention_dropout)
            self.layers[f"block{i}/norm2"] = Norm(width)
            self.layers[f"block{i}/feedforward"] = FeedForward(width, inner or width, dropout)
        self.layers["norm"] = Norm(width)

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""
        x = via("input", self.layers["input"], batch.items)  # (B, P + T, d)
        for i in range(self.blocks):
            x = self._block(i, x, via)  # (B, P + T, d)
        return via("norm", self.layers["norm"], x)  # (B, P + T, d)

    def vector(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, d), with the last block computed at each user's last event only."""
        x = via("input", self.layers["input"], batch.items)  # (B, P + T, d)
        for i in range(self.blocks - 1):
            x = self._block(i, x, via)  # (B, P + T, d)
        ends = batch.lengths + (x.shape[1] - batch.items.shape[1])  # (B,)
        x = self._block(self.blocks - 1, x, via, ends)  # (B, 1, d)
        return via("norm", self.layers["norm"], x)[:, 0]  # (B, d)

    def _block(self, i: int, x: Tensor, via: Via, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""

        def layer(name: str, x: Tensor, *context: Tensor) -> Tensor:
            return via(f"block{i}/{name}", self.layers[f"block{i}/{name}"], x, *context)

        def cut(x: Tensor) -> Tensor:
            return x if ends is None else last(x, ends)[:, None]  # (B, Q, d)

        seen = (
            [] if ends is None else [torch.arange(x.shape[1], device=x.device) < ends.clamp(min=1)[:, None]]
        )  # (B, T)
        if self.block == "prenorm":
            memory = layer("norm1", x)  # (B, T, d)
            x = cut(x) + layer("attention", cut(memory), memory, *seen)  # (B, Q, d)
            return x + layer("feedforward", layer("norm2", x))
        q = layer("norm1", cut(x))  # (B, Q, d)
        f = layer("norm2", q + layer("attention", q, x, *seen))  # (B, Q, d)
        return f + layer("feedforward", f)
