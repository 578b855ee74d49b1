"""DUPN: a property-gated LSTM over the history, and attention over its states.

Y. Ni et al., "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce Tasks",
KDD 2018 (arXiv 1805.10727).

    i_t, f_t, o_t = sigma(W_e e_t + W_p p_t + W_h h_{t-1} + b)         the property p_t only opens and closes gates
    c_t   = f_t * c_{t-1} + i_t * tanh(W_ec e_t + W_hc h_{t-1} + b_c);   h_t = o_t * tanh(c_t)
    s_tj  = v . tanh(U_h h_j + U_p p_j + U_q h_t + b_a)                 U_q only with context = "state"
    u_t   = sum_{j<=t} softmax_{j<=t}(s_tj) h_j

| paper | here | shape |
|---|---|---|
| e_t | layers["input"].items, by item | (N + 2, d) |
| p_t | time since the event before, by `gaps`, 0 for a first event; then the marks of [input] | (B, T, 1 + M) |
| R | rows of all these properties together | |
| W_e, W_h; b | lstm.events, lstm.states; lstm.bias: the rows of i, f, content, o | (4 d, d); (4 d,) |
| W_p | lstm.property: the rows of i, f, o | (3 d, R) |
| U_h, U_p, U_q | attention.states, attention.property, attention.context | (a, d), (a, R), (a, d) |
| b_a, v | attention.bias, attention.out | (a,), (1, a) |
| a | inner | |
| u_t | states, behind a LayerNorm | (B, T, d) |

W_p p_t is a sum of columns of W_p, one for each property; the zero block that keeps it out of the cell's content is
added on the way into a fused LSTM.

Differs: the text of the paper was not at hand; the structure follows descriptions of it, the equations are the usual
ones. An event is an item and, with `gaps`, the time since the event before; [input] adds what the paper also reads:
attributes of items (shop, brand, category) to e_t, behaviours and dates to p_t. With nothing of all this the property
is one learned constant. The paper's attention looks at the query that is asked and at the user's profile: here, at
nothing or at the newest state (`context`). Every prefix of a history has its own u_t, so that it can learn the next
item; the paper reads whole histories only. A LayerNorm closes the stack. Joint learning of several tasks, the paper's
other half, is the method `joint`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Encoder, Via, plain
from perdure.encoders.parts import EventEmbedding, Norm
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch, last
from perdure.events.marks import Marks

__all__ = ["DUPN"]


class GatedLSTM(nn.Module):
    """An LSTM whose gates, and only they, also read a property of each event.

    Args:
        width: d, of events and states. properties: R, values the property may have.
    """

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, properties: int) -> None:
        super().__init__()
        self.events = nn.Parameter(torch.zeros(4 * width, width))
        self.states = nn.Parameter(torch.zeros(4 * width, width))
        self.property = nn.Parameter(torch.zeros(3 * width, properties))
        self.bias = nn.Parameter(torch.zeros(4 * width))

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        """Events (B, T, d) and the rows of each one's properties (B, T, 1 + M) -> states (B, T, d)."""
        b, _, d = x.shape
        i, f, o = self.property.chunk(3)  # (d, R)
        w = torch.cat([self.events, torch.cat([i, f, torch.zeros_like(i), o])], 1)  # (4 d, d + R)
        chosen = x.new_zeros(*x.shape[:2], self.property.shape[1]).scatter(2, p, 1.0)  # (B, T, R)
        x = torch.cat([x, chosen], -1)  # (B, T, d + R)
        start = x.new_zeros(1, b, d)
        weights = [w, self.states, self.bias, torch.zeros_like(self.bias)]
        train = torch.is_grad_enabled()  # what cuDNN needs for gradients; nothing is dropped either way
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, train, False, True)[0]

    def reset(self, generator: torch.Generator) -> None:
        """U(+-1/sqrt(d)), as PyTorch draws an LSTM."""
        bound = 1 / math.sqrt(self.states.shape[1])
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound, generator=generator)


class Pooling(nn.Module):
    """Attention of every position over the states up to it.

    Args:
        width: d. properties: R. inner: a, units of the scoring network. context: whether it sees the newest state.
    """

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, properties: int, inner: int, context: bool) -> None:
        super().__init__()
        self.states = nn.Parameter(torch.zeros(inner, width))
        self.property = nn.Parameter(torch.zeros(inner, properties))
        self.context = nn.Parameter(torch.zeros(inner, width)) if context else None
        self.bias, self.out = nn.Parameter(torch.zeros(inner)), nn.Parameter(torch.zeros(1, inner))

    def forward(self, x: Tensor, p: Tensor, memory: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """States pooled up to each position, or, with `memory` and `seen`, for one position a user.

        Args:
            x: (B, T, d), or (B, 1, d) with `seen`: the newest states.
            p: (B, T, 1 + M) rows of each event's properties.
            memory: (B, T, d) what is pooled, x when None.
            seen: (B, T) bool, what a user's one position may look at; None: position t looks at events up to t.

        Returns:
            As x.
        """
        memory = x if memory is None else memory
        known = F.linear(memory, self.states, self.bias) + F.embedding(p, self.property.T).sum(2)  # (B, T, a)
        if seen is None:
            seen = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool, device=x.device).tril()  # (Q, T)
        else:
            seen = seen[:, None]  # (B, 1, T)
        known = known[:, None]  # (B, 1, T, a)
        if self.context is not None:
            known = known + F.linear(x, self.context)[:, :, None]  # (B, Q, T, a)
        scores = F.linear(torch.tanh(known), self.out)[..., 0].masked_fill(~seen, -torch.inf)  # (B, Q, T)
        return torch.softmax(scores, -1) @ memory  # (B, Q, d)

    def reset(self, generator: torch.Generator) -> None:
        """Xavier for the matrices, zero for the bias: attention begins nearly even."""
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.xavier_uniform_(weight, generator=generator)
        nn.init.zeros_(self.bias)


class DUPN(Encoder):
    """Property-gated LSTM and attention pooling.

    Args:
        n_items: N.
        width: d, of embeddings and states.
        inner: a, units of the network that scores states for the attention.
        context: what the attention looks at besides state and property: nothing ("none"), or the newest state
            ("state"; its cost grows with the square of max_length).
        gaps: seconds since the event before at which one property ends and the next begins, ascending; needs a log
            with times. Empty: the property is a constant.
        max_length: events read.
        dropout: on the event vectors.
    """

    name: ClassVar[str] = "dupn"
    paper: ClassVar[str] = "Ni et al., KDD 2018"
    summary: ClassVar[str] = "LSTM whose gates read a property of each event, and attention over its states"
    begins: Tensor

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        inner: Annotated[int, Ge(1)] = 16,
        context: Literal["none", "state"] = "none",
        gaps: tuple[Annotated[float, Gt(0)], ...] = (),
        max_length: Annotated[int, Ge(1)] = 50,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        sparse: bool = False,
    ) -> None:
        super().__init__(n_items, width, max_length)
        if list(gaps) != sorted(set(gaps)):
            raise SettingsError(f"gaps {list(gaps)}", expected="seconds, ascending", where="encoder.gaps")
        self.reads_times, self.rows = bool(gaps), [len(gaps) + 2 if gaps else 1]  # rows of each property
        self.inner, self.context = inner, context
        self.register_buffer("gaps", torch.tensor(gaps, dtype=torch.float64), persistent=False)  # (R - 2,)
        self.layers["input"] = EventEmbedding(n_items, width, 0, dropout, sparse=sparse)
        self._gates()
        self.layers["norm"] = Norm(width)

    def _gates(self) -> None:
        """The two layers that read properties."""
        begins = torch.tensor([0, *self.rows[:-1]]).cumsum(0)
        self.register_buffer("begins", begins, persistent=False)  # (1 + M,) first row of each
        self.layers["lstm"] = GatedLSTM(self.width, sum(self.rows))
        self.layers["attention"] = Pooling(self.width, sum(self.rows), self.inner, self.context == "state")

    def read(self, marks: Marks) -> None:
        """The marks of an event are its properties; what is told of its item goes into the item's vector."""
        super().read(_of_items(marks))
        self.rows += marks.sizes
        self._gates()

    @torch.no_grad()
    def resettle(self, other: Encoder, own: Marks, theirs: Marks) -> None:
        """Gates and attention keep what they know of the properties that stay."""
        super().resettle(other, _of_items(own), _of_items(theirs))
        begin = self.rows[0]  # behind the property of time
        found = torch.from_numpy(replace(theirs, items={}, places=()).rows_in(replace(own, items={}, places=())))
        rows = torch.cat([torch.arange(begin), torch.where(found < 0, -1, found + begin)])  # (R,)
        for site in ("lstm", "attention"):
            mine, weights = (cast(nn.Parameter, one.layers[site].property) for one in (self, other))
            weights, known = weights.detach().clone(), rows >= 0  # (..., R), (R,)
            if weights.shape == (len(mine), len(rows)):  # or else it is no encoder of the same settings
                weights[:, known] = mine[:, rows[known]]
                mine.data = weights

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d)."""
        h, p = self._states(batch, via)
        u = via("attention", self.layers["attention"], h, p)  # (B, P + T, d)
        return via("norm", self.layers["norm"], u)  # (B, P + T, d)

    def _last(self, batch: Batch, via: Via) -> Tensor:
        """(B, d), pooled at each user's last event only."""
        h, p = self._states(batch, via)
        ends = batch.lengths + (h.shape[1] - batch.items.shape[1])  # (B,)
        seen = torch.arange(h.shape[1], device=h.device) < ends.clamp(min=1)[:, None]  # (B, P + T)
        u = via("attention", self.layers["attention"], last(h, ends)[:, None], p, h, seen)  # (B, 1, d)
        return via("norm", self.layers["norm"], u)[:, 0]  # (B, d)

    def _states(self, batch: Batch, via: Via) -> tuple[Tensor, Tensor]:
        """h of the LSTM (B, P + T, d), and the rows of the properties of each position (B, P + T, 1 + M), the first of
        each in front."""
        x = self.embed(batch, via)  # (B, P + T, d)
        p = torch.cat([self.properties(batch)[..., None], batch.told(len(self.rows) - 1)], -1)  # (B, T, 1 + M)
        p = F.pad(p, (0, 0, x.shape[1] - p.shape[1], 0)) + self.begins  # (B, P + T, 1 + M)
        return via("lstm", self.layers["lstm"], x, p), p

    def properties(self, batch: Batch) -> Tensor:
        """(B, T) int64: 0 for a first event, and for all without `gaps`; else 1 + how many of `gaps` have passed.

        Raises:
            UsageError: histories without times, and the encoder reads them.
        """
        p = torch.zeros_like(batch.items)  # (B, T)
        if not self.reads_times:
            return p
        if batch.times is None:
            raise UsageError(
                "these histories have no times, and the encoder reads them",
                expected="the time of every event",
                where="encoder.gaps",
                fix="evaluate and embed read times from the log; of a bare history tell those of its events by marks",
            )
        since = batch.times.diff(dim=1).to(torch.float64)  # (B, T - 1)
        p[:, 1:] = 1 + torch.bucketize(since, self.gaps, right=True)  # type: ignore[arg-type]
        return p


def _of_items(marks: Marks) -> Marks:
    """Without what is told of events."""
    return replace(marks, events={}, dates=(), gaps=0)
