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

Differs: an output projection in the attention, as in today's re-implementations, and dropout behind it (the authors
drop attention weights only); positions count from the first event read, from the last as published with
`positions="last"`; padding stands on the right, so no padding mask is needed; `block="prenorm"` gives the usual
pre-norm block (x <- x + Attention(LN x)), "postnorm" that of BERT4Rec, looking back only, as in the SASRec of S3-Rec,
CL4SRec and DuoRec: x = LN(E[i_t] + P_t), x <- LN(x + Attention(x)), x <- LN(x + W_2 gelu(W_1 x + b_1) + b_2), W_1 of (4
d, d); dropout on attention weights is an option of its own (`attention_dropout`, 0 by default, because it has no fused
kernel on CPU).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from perdure.encoders.base import Blocks, Layer, before, cut, postnorm, prenorm
from perdure.encoders.parts import Attention, EventEmbedding, FeedForward, Norm, normed
from perdure.encoders.readouts import Readout, pooling

__all__ = ["SASRec"]


class SASRec(Blocks):
    """Causal transformer over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of attention + feed-forward pairs.
        inner: width inside the feed-forward; None for d, as published, or for 4 d with block "postnorm".
        max_length: events read.
        dropout: on embeddings and after each sub-layer.
        block: "sasrec" as published (the residual adds the normalised query); "prenorm", the usual pre-norm block; or
            "postnorm", BERT4Rec's, its first weights drawn from N(0, 0.02) as in BERT.
        sparse: sparse gradients for the item table, for very large catalogues with sampled losses.
        readout: how the states of a history become one user vector.
        positions: counted from the first event read, or from the "last", as published, where padding stands on the
            left. Then a state is one of the history that ends there only if it is the last: what is learned at the
            others tells of windows that went on. With `objective.targets = "last"` every state learned is the last.
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
        block: Literal["sasrec", "prenorm", "postnorm"] = "sasrec",
        sparse: bool = False,
        readout: Readout = "last",
        positions: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks, self.kind, post = blocks, block, block == "postnorm"
        self.layers["input"] = EventEmbedding(
            n_items,
            width,
            max_length,
            0.0 if post else dropout,
            scale=not post,
            sparse=sparse,
            from_last=positions == "last",
        )
        if post:
            self.layers["input_norm"], self.dropout = Norm(width), dropout
        for i in range(blocks):
            attention = Attention(width, heads, dropout, attention_dropout)
            feedforward = FeedForward(width, inner or (4 if post else 1) * width, dropout, gelu=post)
            for name, layer in normed(width, attention, feedforward, post).items():
                self.layers[f"block{i}/{name}"] = layer
        if not post:
            self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew from `generator`; with block "postnorm" small ones, as BERT: a block starts near to
        doing nothing, and a history as its last item."""
        super().reset(generator)
        for module in self.modules() if self.kind == "postnorm" else ():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02, generator=generator)

    def block(self, i: int, x: Tensor, context: None, layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""
        seen = [] if ends is None else [before(x, ends)]  # (B, T)
        if self.kind != "sasrec":
            return (prenorm if self.kind == "prenorm" else postnorm)(layer, x, ends, *seen)
        q = layer("norm1", cut(x, ends))  # (B, Q, d)
        f = layer("norm2", q + layer("attention", q, x, *seen))  # (B, Q, d)
        return f + layer("feedforward", f)
