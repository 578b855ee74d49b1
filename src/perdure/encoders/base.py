"""What every encoder is, and the one door through which a tuning method reaches its layers.

An encoder turns histories into states: Batch (B, T) -> h (B, P + T, d). It calls each of its layers as
`via(site, layer, x, *context)`. `plain` just calls the layer; a method hands in its own `via` and may change the
weights, the input or the output, or put P prompt positions in front at the site "input". A user vector is the state at
the last event of `question(batch)`, or what another readout makes of the states, or the state at a token of its own.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from perdure.encoders.parts import EventEmbedding, reset_layer
from perdure.encoders.readouts import Readout, max_of_events, mean_of_events
from perdure.errors import UsageError
from perdure.events.batch import Batch, last
from perdure.events.marks import Marks
from perdure.functional.dropout import dropout

if TYPE_CHECKING:
    from perdure.events.examples import TaskData

__all__ = ["MASK", "Blocks", "Encoder", "Layer", "Via", "before", "cut", "plain"]


MASK = 1  # row of the item table that stands for "what was here?"
Layer = Callable[..., Tensor]  # (name, x, *context) -> y: a layer of one block, through `via`


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
        causal: no state depends on later events; only such encoders can learn to predict the next event everywhere.
        reads_times: batches must bring the times of the events.
        readout: how states become a user vector, see readouts.py; the state at the "last" event where nothing is said.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    causal: ClassVar[bool] = True
    reads_times: bool = False

    def __init__(self, n_items: int, width: int, max_length: int, readout: Readout = "last") -> None:
        super().__init__()
        self.n_items, self.width, self.max_length, self.readout = n_items, width, max_length, readout
        self.layers = nn.ModuleDict()

    @abstractmethod
    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""

    def sites(self) -> dict[str, nn.Module]:
        """Site name -> layer, in the order x passes. Names are part of the model format."""
        sites = dict(self.layers.items())
        if self.readout == "cls":  # the token joins the events behind the input
            return {"input": sites.pop("input"), "readout": sites.pop("readout"), **sites}
        return sites

    @property
    def _input(self) -> EventEmbedding:
        embedding = getattr(self.layers, "input", None)
        if not isinstance(embedding, EventEmbedding):
            what = "nothing" if embedding is None else type(embedding).__name__
            raise UsageError(
                f"encoder {self.name} has {what} at its site 'input'",
                expected="an EventEmbedding",
                where=f"{type(self).__name__}.layers",
                fix="take that of perdure.encoders.parts, and call it by self.embed(batch, via)",
            )
        return embedding

    @property
    def event_table(self) -> nn.Parameter:
        """(rows, d) the vectors that events are read with."""
        return self._input.items

    @property
    def item_table(self) -> nn.Parameter:
        """(n_items + 2, d) the vectors of items: those that events are read with, where events are items."""
        return self.event_table

    def read(self, marks: Marks) -> None:
        """Told once, before weights are drawn: what events bring besides their items. They become part of the event's
        vector, unless an encoder knows a better place."""
        self._input.read(marks)

    def resettle(self, other: Encoder, own: Marks, theirs: Marks) -> None:
        """Move from what it reads besides items to what `other` reads, an encoder of the same kind and width: from its
        `own` values to `theirs`, which are alike. What is known of them stays as learned, the rest is as in `other`."""
        mine, features = self._input.features, other._input.features
        if mine is not None and features is not None:
            mine.resettle(features, torch.from_numpy(theirs.rows_in(own)))

    def begin_as(self, other: Encoder) -> None:
        """Take over what another encoder of the same options has found, beside the weights of its layers: what it
        studied is not studied again."""
        return

    def study(self, data: TaskData, generator: torch.Generator) -> None:
        """Told once, before the first training: its task, and what draws. For encoders that must see the data whole
        before they read batches of it; what they find is a buffer, and so part of the model."""
        return

    def embed(self, batch: Batch, via: Via) -> Tensor:
        """Events -> vectors, through the site "input": (B, T) -> (B, P + T, d)."""
        return via("input", self._input, batch.items, *self._input.told(batch))  # (B, P + T, d)

    def question(self, batch: Batch) -> Batch:
        """The batch that user vectors are read from: the histories, and what the encoder wants to read after."""
        return batch

    def vector(self, batch: Batch, via: Via = plain) -> Tensor:
        """User vectors (B, d), as `readout` says. Encoders that can spare work override `_last`."""
        if self.readout == "cls":
            return self._at_token(batch, via)  # (B, d)
        return self._last(batch, via) if self.readout == "last" else self._pooled(batch, via)  # (B, d)

    def _last(self, batch: Batch, via: Via) -> Tensor:
        """(B, d): the state at each user's last event."""
        return self.last(self(batch, via), batch)  # (B, d)

    def _at_token(self, batch: Batch, via: Via) -> Tensor:
        """(B, d): the state at a token behind each user's last event, with the time of that event. All sites behind the
        input take it for one more event."""
        n, t = batch.lengths[:, None], batch.items.shape[1]  # (B, 1)
        at = torch.arange(t + 1, device=n.device)  # (T + 1,)
        longer = batch.picked(torch.minimum(at, n - 1).clamp(min=0), batch.lengths + 1).hidden(at >= n, 0)

        def door(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
            if site != "input":
                return via(site, layer, x, *context)
            x = via(site, layer, x[:, :t], *self._input.told(batch))  # (B, P + T, d)
            ends = batch.lengths + (x.shape[1] - t)  # (B,)
            return via("readout", self.layers["readout"], x, ends)  # (B, P + T + 1, d)

        return self._last(longer, door)  # (B, d)

    def _pooled(self, batch: Batch, via: Via) -> Tensor:
        """(B, d): all states of the events read as one."""
        h = self(batch, via)[:, -batch.items.shape[1] :]  # (B, T, d), prompts in front cut off
        lengths = batch.lengths.clamp(min=1)  # (B,)
        if self.readout == "mean":
            return mean_of_events(h, lengths)  # (B, d)
        if self.readout == "max":
            return max_of_events(h, lengths)  # (B, d)
        return via("readout", self.layers["readout"], h, before(h, lengths))  # (B, d)

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


class Blocks(Encoder):
    """An encoder that is a stack of like blocks.

    Where a user vector is the last state, only the last position of the last block counts, and no other is computed.

    Attributes:
        blocks: how many.
        dropout: on what stands before the first block, where that has a norm of its own.
    """

    blocks: int
    dropout: float = 0.0

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""
        x = self.begin(batch, via)  # (B, P + T, d)
        context = self.context(x, batch)
        for i in range(self.blocks):
            x = self.block(i, x, context, self._door(i, via))  # (B, P + T, d)
        return self.end(x, via)  # (B, P + T, d)

    def _last(self, batch: Batch, via: Via) -> Tensor:
        """(B, d), with the last block computed at each user's last event only."""
        x = self.begin(batch, via)  # (B, P + T, d)
        context, final = self.context(x, batch), self.blocks - 1
        for i in range(final):
            x = self.block(i, x, context, self._door(i, via))  # (B, P + T, d)
        ends = batch.lengths + (x.shape[1] - batch.items.shape[1])  # (B,)
        x = self.block(final, x, context, self._door(final, via), ends.clamp(min=1))  # (B, 1, d)
        return self.end(x, via)[:, 0]  # (B, d)

    def begin(self, batch: Batch, via: Via) -> Tensor:
        """What stands before the first block: (B, T) histories -> (B, P + T, d)."""
        x = self.embed(batch, via)  # (B, P + T, d)
        if "input_norm" not in self.layers:
            return x
        return dropout(via("input_norm", self.layers["input_norm"], x), self.dropout, self.training)

    def context(self, x: Tensor, batch: Batch) -> Any:
        """What all blocks share besides x (B, P + T, d)."""
        return None

    @abstractmethod
    def block(self, i: int, x: Tensor, context: Any, layer: Layer, ends: Tensor | None = None) -> Tensor:
        """Block i: (B, T, d) -> (B, T, d), or with `ends` (B,) at position ends - 1 alone -> (B, 1, d).

        `layer(name, x, *context)` calls the layer at the site block<i>/<name>.
        """

    def end(self, x: Tensor, via: Via) -> Tensor:
        """What stands after the last block: (B, T, d) -> (B, T, d)."""
        return via("norm", self.layers["norm"], x) if "norm" in self.layers else x  # (B, T, d)

    def _door(self, i: int, via: Via) -> Layer:
        def layer(name: str, x: Tensor, *context: Tensor) -> Tensor:
            return via(f"block{i}/{name}", self.layers[f"block{i}/{name}"], x, *context)

        return layer


def prenorm(layer: Layer, x: Tensor, ends: Tensor | None, *context: Tensor) -> Tensor:
    """x <- x + Attention(LN x);  x <- x + F(LN x): a `block` of (B, T, d)."""
    memory = layer("norm1", x)  # (B, T, d)
    x = cut(x, ends) + layer("attention", cut(memory, ends), memory, *context)  # (B, Q, d)
    return x + layer("feedforward", layer("norm2", x))


def postnorm(layer: Layer, x: Tensor, ends: Tensor | None, *context: Tensor) -> Tensor:
    """x <- LN(x + Attention(x));  x <- LN(x + F(x)): a `block` of (B, T, d)."""
    q = cut(x, ends)  # (B, Q, d)
    x = layer("norm1", q + layer("attention", q, x, *context))  # (B, Q, d)
    return layer("norm2", x + layer("feedforward", x))


def cut(x: Tensor, ends: Tensor | None) -> Tensor:
    """Position ends - 1 of each user, (B, T, d) -> (B, 1, d); x itself where all positions are wanted."""
    return x if ends is None else last(x, ends)[:, None]  # (B, 1, d)


def before(x: Tensor, ends: Tensor) -> Tensor:
    """Which positions of x (B, T, d) stand before ends (B,): (B, T) bool."""
    return torch.arange(x.shape[1], device=x.device) < ends[:, None]  # (B, T)
