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
read, from the last as published with `positions="last"`; padding stands on the right, so no padding mask is needed;
`block="prenorm"` gives the usual pre-norm block (x <- x + Attention(LN x)); dropout on attention weights is an option
of its own (`attention_dropout`, 0 by default, because it has no fused kernel on CPU).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt
from torch import Tensor

from perdure.encoders.base import Blocks, Layer, before, cut
from perdure.encoders.parts import Attention, EventEmbedding, FeedForward, Norm
from perdure.encoders.readouts import Readout, pooling

__all__ = ["SASRec"]


class SASRec(Blocks):
    """Causal transformer over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of attention + feed-forward pairs.
        inner: width inside the feed-forward; None for d, as published.
        max_length: events read.
        dropout: on embeddings and after each sub-layer.
        sparse: sparse gradients for the item table, for very large catalogues with sampled losses.
        readout: how the states of a history become one user vector.
        positions: counted from the first event read, or from the "last", as published, where padding stands on the
            left. Then a state is one of the history that ends there only if it is the last: what is learned at the
            others tells of windows that went on.
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
        readout: Readout = "last",
        positions: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks, self.kind = blocks, block
        self.layers["input"] = EventEmbedding(
            n_items, width, max_length, dropout, scale=True, sparse=sparse, from_last=positions == "last"
        )
        for i in range(blocks):
            self.layers[f"block{i}/norm1"] = Norm(width)
            self.layers[f"block{i}/attention"] = Attention(width, heads, dropout, attention_dropout)
            self.layers[f"block{i}/norm2"] = Norm(width)
            self.layers[f"block{i}/feedforward"] = FeedForward(width, inner or width, dropout)
        self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def block(self, i: int, x: Tensor, context: None, layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""
        seen = [] if ends is None else [before(x, ends)]  # (B, T)
        if self.kind == "prenorm":
            memory = layer("norm1", x)  # (B, T, d)
            x = cut(x, ends) + layer("attention", cut(memory, ends), memory, *seen)  # (B, Q, d)
            return x + layer("feedforward", layer("norm2", x))
        q = layer("norm1", cut(x, ends))  # (B, Q, d)
        f = layer("norm2", q + layer("attention", q, x, *seen))  # (B, Q, d)
        return f + layer("feedforward", f)
