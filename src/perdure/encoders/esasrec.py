"""eSASRec: SASRec's task with LiGR's blocks: pre-norm attention and SwiGLU, each let in through a learned gate.

D. Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion", RecSys 2025; the
block: F. Borisyuk et al., "From Features to Transformers: Redefining Ranking for Scalable Impact" (LiGR), 2025.

    x_t  = sqrt(d) E[i_t] + P_t
    x   <- x + sigma(W_g x + b_g) * Attention(LN(x))
    x   <- x + sigma(W_g' x + b_g') * W_3 (silu(W_1 LN(x)) * W_2 LN(x))
    h    = LN(x);  score(i) = h_t . E_i

| paper | here | shape |
|---|---|---|
| E | layers["input"].items | (N + 2, d) |
| P | layers["input"].positions | (max_length, d) |
| W_g, W_g' | block<i>/gate1, gate2 | (d, d) |
| W_1 and W_2, W_3 | block<i>/feedforward up, down | (2 inner, d), (d, inner) |

The loss is the objective's: the paper trains with sampled softmax over 256 uniform negatives, `next_item` with
loss = "sampled". Shallow and on small data its gain over SASRec with the same loss is small; the gates are what lets it
be deep.

Differs: item vectors are scaled by sqrt(d) and a LayerNorm closes the stack, as in SASRec (the authors' benchmark has
neither); positions count from the first event read, from the last with `positions="last"`; a gate is computed before
the sub-layer that it lets in, which changes nothing; dropout on attention weights is an option of its own
(`attention_dropout`, 0 by default, because it has no fused kernel on CPU).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from perdure.encoders.base import Blocks, Layer, before, cut
from perdure.encoders.parts import Attention, EventEmbedding, Gate, Norm, SwiGLU
from perdure.encoders.readouts import Readout, pooling

__all__ = ["ESASRec"]


class ESASRec(Blocks):
    """Causal transformer of gated blocks over item ids.

    Args:
        n_items: N.
        width: d, a multiple of heads.
        blocks: number of attention + feed-forward pairs.
        inner: width inside the feed-forward; None for 4 d, as published.
        max_length: events read.
        dropout: on embeddings, inside the feed-forward and after each sub-layer.
        sparse: sparse gradients for the item table, for very large catalogues with sampled losses.
        readout: how the states of a history become one user vector.
        positions: counted from the first event read, or from the "last", as published, where padding stands on the
            left. Then a state is one of the history that ends there only if it is the last: what is learned at the
            others tells of windows that went on.
    """

    name: ClassVar[str] = "esasrec"
    paper: ClassVar[str] = "Tikhonovich et al., RecSys 2025; Borisyuk et al., 2025"
    summary: ClassVar[str] = "causal self-attention and SwiGLU through learned gates (LiGR blocks)"

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
        sparse: bool = False,
        readout: Readout = "last",
        positions: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks = blocks
        self.layers["input"] = EventEmbedding(
            n_items, width, max_length, dropout, scale=True, sparse=sparse, from_last=positions == "last"
        )
        for i in range(blocks):
            self.layers[f"block{i}/gate1"] = Gate(width)
            self.layers[f"block{i}/norm1"] = Norm(width)
            self.layers[f"block{i}/attention"] = Attention(width, heads, dropout, attention_dropout)
            self.layers[f"block{i}/gate2"] = Gate(width)
            self.layers[f"block{i}/norm2"] = Norm(width)
            self.layers[f"block{i}/feedforward"] = SwiGLU(width, inner or 4 * width, dropout)
        self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def block(self, i: int, x: Tensor, context: None, layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d)."""
        seen = [] if ends is None else [before(x, ends)]  # (B, T)
        asking = cut(x, ends)  # (B, Q, d)
        gate, memory = layer("gate1", asking), layer("norm1", x)  # (B, Q, d), (B, T, d)
        x = torch.addcmul(asking, gate, layer("attention", cut(memory, ends), memory, *seen))  # (B, Q, d)
        gate = layer("gate2", x)  # (B, Q, d)
        return torch.addcmul(x, gate, layer("feedforward", layer("norm2", x)))  # (B, Q, d)
