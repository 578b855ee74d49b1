"""NextItNet: dilated causal convolutions over the history; the backbone of PeterRec, CONURE and TERACON.

F. Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019; the block with
growing dilations as in PeterRec (SIGIR 2020), CONURE (SIGIR 2021) and TERACON (KDD 2023).

    h_0 = E[x]
    post-norm block, dilation r:   h <- h + relu(LN(conv_2r(relu(LN(conv_r(h))))))
    pre-norm block (CONURE):       h <- h + conv_2r(relu(LN(conv_r(relu(LN(h))))))
    u = h at the last event

| paper | here | shape |
|---|---|---|
| E | layers["input"].items | (N + 2, d) |
| W of a convolution | block<i>/conv1.weight | (d, 3 d), oldest tap first |
| dilations 1,4,1,4,... | dilations | one block each; its second convolution has twice the dilation |
| C | width | |

Differs: histories are padded on the right, so padding is never read (the official codes pad on the left with a
trainable row); weights are drawn as PyTorch draws convolutions, embeddings from Normal(0, 0.02); no ReLU stands before
the output over all items.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt, MinLen
from torch import Tensor

from perdure.encoders.base import Encoder, Via, plain
from perdure.encoders.parts import CausalConv, EventEmbedding, Norm
from perdure.encoders.readouts import Readout, pooling
from perdure.events.batch import Batch

__all__ = ["NextItNet"]


class NextItNet(Encoder):
    """Residual blocks of two dilated causal convolutions.

    Args:
        n_items: N.
        width: C, channels.
        dilations: dilation of each block's first convolution; the second has twice as much.
        kernel: taps of a convolution.
        norm: "post" (PeterRec, TERACON) or "pre" (CONURE).
        max_length: events read.
        dropout: on the event vectors only (the papers use none).
        readout: how the states of a history become one user vector.
    """

    name: ClassVar[str] = "nextitnet"
    paper: ClassVar[str] = "Yuan et al., WSDM 2019"
    summary: ClassVar[str] = "dilated causal convolutions, the backbone of PeterRec, CONURE and TERACON"

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        dilations: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (1, 4, 1, 4, 1, 4, 1, 4),
        kernel: Annotated[int, Ge(1)] = 3,
        norm: Literal["post", "pre"] = "post",
        max_length: Annotated[int, Ge(1)] = 100,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        sparse: bool = False,
        readout: Readout = "last",
    ) -> None:
        super().__init__(n_items, width, max_length, readout)
        self.blocks, self.norm = len(dilations), norm
        self.layers["input"] = EventEmbedding(n_items, width, 0, dropout, sparse=sparse)
        for i, dilation in enumerate(dilations):
            for j in (1, 2):
                parts = [
                    (f"block{i}/conv{j}", CausalConv(width, kernel, dilation * j)),
                    (f"block{i}/norm{j}", Norm(width, relu=True)),
                ]
                for site, layer in parts if norm == "post" else reversed(parts):
                    self.layers[site] = layer
        self.layers.update(pooling(readout, width))

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""
        x = self.embed(batch, via)  # (B, P + T, d)
        order = ("conv", "norm") if self.norm == "post" else ("norm", "conv")
        for i in range(self.blocks):
            y = x  # (B, P + T, d)
            for j in (1, 2):
                for part in order:
                    y = via(f"block{i}/{part}{j}", self.layers[f"block{i}/{part}{j}"], y)  # (B, P + T, d)
            x = x + y
        return x
