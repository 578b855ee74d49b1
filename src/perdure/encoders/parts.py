"""Layers that several encoders are made of. Each is one site; its `role` tells a method what it may do there.

input   histories become vectors: prompts enter here
mix     an attention, feed-forward, convolution or recurrent layer: adapters and masks go here
norm    a normalisation (with its activation, where the paper joins them): cheap to re-tune per task
read    what only user vectors pass, a pooling or a token: left alone but by who copies or re-tunes all (readouts.py)
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.features import Features
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.events.marks import Marks
from perdure.functional.dropout import dropout
from perdure.functional.products import linear

__all__ = [
    "Attention",
    "CausalConv",
    "EventEmbedding",
    "FeedForward",
    "Gate",
    "Linear",
    "Norm",
    "Recurrent",
    "SwiGLU",
    "check_heads",
    "reset_layer",
]


class EventEmbedding(nn.Module):
    """Item rows, and what is told of the events besides -> vectors, with learned positions counted from the first
    event read, or from the last.

    Args:
        n_items: N; the table has N + 2 rows.
        width: d.
        positions: longest history, or 0 for no position vectors.
        scale: multiply item vectors by sqrt(d) as SASRec does.
        sparse: give the item table sparse gradients (only rows seen are updated).
        from_last: the last event read has the last position, whatever came before, as where padding stands on the left.
    """

    role: ClassVar[str] = "input"

    def __init__(
        self,
        n_items: int,
        width: int,
        positions: int = 0,
        dropout: float = 0.0,
        scale: bool = False,
        sparse: bool = False,
        from_last: bool = False,
    ) -> None:
        super().__init__()
        self.from_last = from_last
        self.items = nn.Parameter(torch.zeros(n_items + 2, width))
        self.items.sparse = sparse  # type: ignore[attr-defined]  # read by the training loop
        self.positions = nn.Parameter(torch.zeros(positions, width)) if positions else None
        self.dropout, self.scale, self.sparse = dropout, math.sqrt(width) if scale else 1.0, sparse
        self.features: Features | None = None

    def read(self, marks: Marks) -> None:
        """Make room for what events bring besides their items."""
        if marks.sizes or marks.places or marks.width or not marks.ids:
            n, width = len(self.items) - 2, self.items.shape[1]
            self.features = Features(marks, n, width, 0.02 * self.scale)

    def told(self, batch: Batch) -> tuple[Tensor, ...]:
        """What it reads of a batch besides the items: the marks (B, T, M), zeros where none are told, if it reads any;
        how many events there are (B, 1), if positions are counted from the last."""
        m = 0 if self.features is None else self.features.marks
        marks = (batch.told(m),) if m else ()
        return (*marks, batch.lengths[:, None]) if self.from_last else marks

    def forward(self, items: Tensor, *told: Tensor) -> Tensor:
        """(B, T), and what `told` gives -> (B, T, d)"""
        read = items if self.features is None or self.features.ids else items * (items < 2)  # (B, T)
        x = F.embedding(read, self.items, sparse=self.sparse)  # (B, T, d)
        if self.scale != 1.0:
            x = x.mul_(self.scale)  # fresh from the table
        if self.features is not None:
            x = self.features(x, items, told[0] if self.features.marks else None)  # (B, T, d)
        if self.positions is not None:
            t = items.shape[1]
            x = x.add_(self._from_last(told[-1], t) if self.from_last else self.positions[:t])  # (B, T, d)
        return dropout(x, self.dropout, self.training)

    def _from_last(self, lengths: Tensor, t: int) -> Tensor:
        """Position vectors (B, T, d) of histories of (B, 1) events: the last one has the last. Padding is not read."""
        positions = cast(Tensor, self.positions)
        at = len(positions) - lengths + torch.arange(t, device=lengths.device)  # (B, T)
        return F.embedding(at.clamp(max=len(positions) - 1), positions)

    def reset(self, generator: torch.Generator) -> None:
        """Items Normal(0, 0.02), positions as large as scaled items; the padding row is zero."""
        nn.init.normal_(self.items, std=0.02, generator=generator)
        with torch.no_grad():
            self.items[0] = 0.0
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02 * self.scale, generator=generator)
        if self.features is not None:
            self.features.reset(generator)


class Norm(nn.Module):
    """LayerNorm over the width, with ReLU behind it where asked."""

    role: ClassVar[str] = "norm"

    def __init__(self, width: int, relu: bool = False, eps: float = 1e-8) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.relu, self.eps = relu, eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        y = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return F.relu(y) if self.relu else y

    def reset(self, generator: torch.Generator) -> None:
        """Ones and zeros."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


def check_heads(width: int, heads: int) -> None:
    """SettingsError unless `heads` divides `width`."""
    if width % heads:
        raise SettingsError(
            f"width {width} is not a multiple of heads {heads}",
            where="encoder.width, encoder.heads",
            fix="choose heads that divide width",
        )


class Linear(nn.Linear):
    """PyTorch's, multiplied by the library that is faster for batches like these."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., i) -> (..., o)"""
        return linear(input, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head attention, to earlier events (`causal`) or to all. Padding is on the right, so that causal attention
    of a valid position never looks at it.

    Args:
        width: d; heads: divides d.
        dropout: on the output; attention_dropout: on the attention weights (slower: no fused kernel on CPU).
    """

    role: ClassVar[str] = "mix"

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0, causal: bool = True
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.dropout, self.attention_dropout = heads, dropout, attention_dropout
        self.causal = causal
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Queries from x, keys and values from memory.

        Args:
            x: (B, T, d), or (B, 1, d) with `seen`.
            memory: (B, T, d), x when None.
            seen: (B, T) bool, what the queries of a user may look at; needed for a single query, and where it is not
                causal for all. None: query t looks at events up to t, or at all.

        Returns:
            As x.
        """
        b, t, d = x.shape
        memory = x if memory is None else memory
        q = self.query(x).view(b, t, self.heads, -1).transpose(1, 2)  # (B, heads, T, d/heads)
        if seen is not None and t == 1:
            y = self._one_query(q[:, :, 0], memory, seen)  # (B, 1, d)
        else:
            k, v = self.key_value(memory).view(b, t, 2, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, T, d/heads)
            y = self._fused(q, k, v, None if seen is None or self.causal else seen[:, None, None])
            y = y.transpose(1, 2).reshape(b, t, d)  # (B, T, d)
        return dropout(self.out(y), self.dropout, self.training)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Fused attention; on a CPU in float32, where the backward kernel for bfloat16 is many times slower.

        q, k, v: (B, heads, T, d/heads); mask: (B, 1, 1, T) bool or None. Returns (B, heads, T, d/heads).
        """
        how = {"attn_mask": mask, "is_causal": self.causal, "dropout_p": self.attention_dropout * self.training}
        if q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v, **how)
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **how)

    def _one_query(self, q: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """The same for one query a user, without keys and values of every event: T d work a head instead of T d^2.

        q . (W_k x + b_k) = (W_k' q) . x + a constant that the softmax drops; sum_t a_t (W_v x_t + b_v) =
        W_v (sum_t a_t x_t) + b_v sum_t a_t.
        """
        w_k, w_v = self.key_value.weight.view(2, self.heads, -1, memory.shape[-1])  # (heads, d/heads, d)
        b_v = self.key_value.bias.view(2, self.heads, -1)[1]  # (heads, d/heads)
        probe = (q.transpose(0, 1) @ w_k).transpose(0, 1) / math.sqrt(q.shape[-1])  # (B, heads, d)
        scores = (probe @ memory.transpose(1, 2)).masked_fill(~seen[:, None], -torch.inf)  # (B, heads, T)
        weights = dropout(torch.softmax(scores, -1), self.attention_dropout, self.training)  # (B, heads, T)
        y = (
            torch.einsum("bhd,hkd->bhk", weights @ memory, w_v) + weights.sum(-1, keepdim=True) * b_v
        )  # (B, heads, d/heads)
        return y.flatten(1)[:, None]  # (B, 1, d)


class FeedForward(nn.Module):
    """Two linear layers, position by position; between them ReLU and dropout, or GELU alone. Dropout on the output."""

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, inner: int, dropout: float = 0.0, gelu: bool = False) -> None:
        super().__init__()
        self.up, self.down = Linear(width, inner), Linear(inner, width)
        self.dropout, self.gelu = dropout, gelu

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        y = self.up(x)  # (B, T, inner)
        y = F.gelu(y) if self.gelu else dropout(F.relu(y, inplace=True), self.dropout, self.training)  # (B, T, inner)
        return dropout(self.down(y), self.dropout, self.training)  # (B, T, d)


def normed(width: int, attention: nn.Module, feedforward: nn.Module, after: bool) -> dict[str, nn.Module]:
    """The layers of a transformer's block in the order of their use: a Norm stands before each of the two, or after."""
    pairs = [(("attention", attention), ("norm1", Norm(width))), (("feedforward", feedforward), ("norm2", Norm(width)))]
    return {name: layer for pair in pairs for name, layer in (pair if after else reversed(pair))}


class SwiGLU(nn.Module):
    """W_3 (silu(W_1 x) * W_2 x), position by position, without biases; dropout before W_3 and on the output.

    N. Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up, self.down = Linear(width, 2 * inner, bias=False), Linear(inner, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        a, b = self.up(x).chunk(2, -1)  # (B, T, inner)
        y = dropout(F.silu(a) * b, self.dropout, self.training)  # (B, T, inner)
        return dropout(self.down(y), self.dropout, self.training)  # (B, T, d)


class Gate(nn.Module):
    """sigma(W x + b): how much of a sub-layer's output enters its residual stream."""

    role: ClassVar[str] = "mix"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d), each in (0, 1)."""
        return torch.sigmoid(self.gate(x))


class CausalConv(nn.Module):
    """Dilated 1-D convolution that looks only back: y_t = b + sum_j W_j x_{t - (k-1-j) r}, zeros before the start.

    Written as one matrix product over the k shifted inputs: weight is (d, k d), oldest tap first.
    """

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width, kernel * width)), nn.Parameter(torch.zeros(width))
        self.kernel, self.dilation = kernel, dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        t = x.shape[1]
        shifts = [(self.kernel - 1 - j) * self.dilation for j in range(self.kernel)]
        taps = [F.pad(x[:, : max(t - s, 0)], (0, 0, min(s, t), 0)) if s else x for s in shifts]  # k x (B, T, d)
        return linear(torch.cat(taps, -1), self.weight, self.bias)  # (B, T, d)

    def reset(self, generator: torch.Generator) -> None:
        """He-uniform as PyTorch's convolutions: U(+-1/sqrt(k d)); zero bias."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.bias)


class Recurrent(nn.Module):
    """One GRU layer over the sequence, started at zero."""

    role: ClassVar[str] = "mix"

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, inner, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, inner)"""
        return self.gru(x)[0].contiguous()  # a linear layer rounds transposed views by who needs gradients


def reset_layer(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights that `layer` itself owns: its own rule, Xavier for linear layers, U(+-1/sqrt(d)) for GRUs."""
    if hasattr(layer, "role") and hasattr(layer, "reset"):
        layer.reset(generator)  # type: ignore[operator]
    elif isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.GRU):
        bound = 1 / math.sqrt(layer.hidden_size)
        for weight in layer.parameters():
            nn.init.uniform_(weight, -bound, bound, generator=generator)
