"""What every encoder is, and the one door through which a tuning method reaches its layers.

An encoder turns histories into states: Batch (B, T) -> h (B, P + T, d). It calls each of its layers as
`via(site, layer, x, *context)`. `plain` just calls the layer; a method hands in its own `via` and may change the
weights, the input or the output, or put P prompt positions in front at the site "input".
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from perdure.encoders.parts import EventEmbedding, reset_layer
from perdure.events.batch import Batch, last

__all__ = ["Encoder", "Via", "plain"]


class Via(Protocol):
    """(site, layer, x, *context) -> y. The one type that encoders and methods share."""

    def __call__(self, site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor: ...


def plain(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
    """The encoder as it is."""
    return layer(x, *context)


class Encoder(nn.Module, ABC):
    """Events -> states. Subclasses are final and fill `self.layers`, site name -> layer, in the order x passes.

    Attributes:
        width: d, size of a state.
        n_items: items known; the table has n_items + 2 rows (0 padding, 1 mask).
        max_length: longest history read; the last events count.
        layers: site -> layer; every parameter lives in exactly one site.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, n_items: int, width: int, max_length: int) -> None:
        super().__init__()
        self.n_items, self.width, self.max_length = n_items, width, max_length
        self.layers = nn.ModuleDict()

    @abstractmethod
    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""

    def sites(self) -> dict[str, nn.Module]:
        """Site name -> layer, in the order x passes. Names are part of the model format."""
        return dict(self.layers.items())

    @property
    def item_table(self) -> nn.Parameter:
        """(n_items + 2, d) event vectors."""
        embedding = self.layers["input"]
        if not isinstance(embedding, EventEmbedding):
            raise TypeError("the site 'input' of an encoder must be an EventEmbedding")
        return embedding.items

    def vector(self, batch: Batch, via: Via = plain) -> Tensor:
        """User vectors (B, d): the state at each user's last event. Encoders that can spare work override this."""
        return self.last(self(batch, via), batch)  # (B, d)

    def last(self, h: Tensor, batch: Batch) -> Tensor:
        """State at each user's last event: (B, P + T, d) -> (B, d)."""
        prefix = h.shape[1] - batch.items.shape[1]
        return last(h, batch.lengths + prefix)  # (B, d)

    @property
    def sparse(self) -> bool:
        """Whether the item table gets sparse gradients."""
        return bool(getattr(self.item_table, "sparse", False))

    def fresh(self, generator: torch.Generator) -> Encoder:
        """Another encoder of the same shape with weights drawn from `generator`."""
        device = self.item_table.device
        twin = copy.deepcopy(self).cpu()  # where `generator` draws
        twin.item_table.sparse = self.sparse  # type: ignore[attr-defined]  # an attribute a copy of a parameter loses
        twin.reset(generator)
        return twin.to(device)

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew from `generator`."""
        for module in self.modules():
            reset_layer(module, generator)
