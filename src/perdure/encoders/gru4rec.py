"""GRU4Rec: a recurrent network over the history.

B. Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016; B. Hidasi, A. Karatzoglou,
"Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM 2018.

    z, r = sigma(W x_t + U h_{t-1});  c = tanh(W_c x_t + U_c (r * h_{t-1}));  h_t = z * h_{t-1} + (1 - z) * c

| paper | here | shape |
|---|---|---|
| embedding | layers["input"].items | (N + 2, d) |
| W, U of layer l | gru<l>.gru.weight_ih_l0, weight_hh_l0 | (3 d, d) |
| h_t | states | (B, T, d) |

Differs: whole histories are padded on the right instead of session-parallel mini-batches; the output table is the input
table (the authors' "constrained embedding"); a LayerNorm closes the stack; PyTorch's GRU applies the reset gate after
the product U_c h, not before, and calls 1 - z what the papers call z. Their losses (BPR-max; negatives from the batch,
and 2,048 more drawn by popularity^.75), output bias, dropout on every layer's hidden state and Adagrad with momentum
are not here: the loss is the objective's, dropout is on event vectors. They draw the GRU's weights from
U(+-sqrt(6 / (in + out))), its biases zero; here both are U(+-1 / sqrt(d)), as PyTorch draws them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch import Tensor

from perdure.encoders.base import Encoder, Via, plain
from perdure.encoders.parts import EventEmbedding, Norm, Recurrent
from perdure.encoders.readouts import Readout, pooling
from perdure.events.batch import Batch

__all__ = ["GRU4Rec"]


class GRU4Rec(Encoder):
    """Stacked GRU layers over item vectors.

    Args:
        n_items: N.
        width: d, of embeddings and of every layer.
        blocks: number of GRU layers.
        max_length: events read.
        dropout: on the event vectors.
        readout: how the states of a history become one user vector.
    """

    name: ClassVar[str] = "gru4rec"
    paper: ClassVar[str] = "Hidasi et al., ICLR 2016; Hidasi & Karatzoglou, CIKM 2018"
    summary: ClassVar[str] = "gated recurrent layers over the history"

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        blocks: Annotated[int, Ge(1)] = 1,
        max_length: Annotated[int, Ge(1)] = 50,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        sparse: bool = False,
        readout: Readout = "last",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks = blocks
        self.layers["input"] = EventEmbedding(n_items, width, 0, dropout, sparse=sparse)
        for i in range(blocks):
            self.layers[f"gru{i}"] = Recurrent(width, width)
        self.layers["norm"] = Norm(width)
        self.layers.update(pooling(readout, width))

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""
        x = self.embed(batch, via)  # (B, P + T, d)
        for i in range(self.blocks):
            x = via(f"gru{i}", self.layers[f"gru{i}"], x)  # (B, P + T, d)
        return via("norm", self.layers["norm"], x)  # (B, P + T, d)
