"""SMEN: a history as bags of interests, one for each window of time, read by several anchors at several scales.

C. Yang et al., "Learning Universal User Representations via Self-Supervised Lifelong Behaviors Modeling" (LURM), arXiv
2110.11337, 2021; as "Empowering General-purpose User Representation with Full-life Cycle Behavior Modeling", KDD 2023.

    interest(i) = the nearest of V centres to the vector of item i         k-means over the items
    c_kv  = events of window k whose item has interest v;  w_kv = log(1 + c_kv)             a bag: sparse, V long
    a_mkv = softmax over the v with c_kv > 0 of (q_m . E_v / sqrt(d));  z_mk = sum_v a_mkv w_kv E_v
    g_k   = W [z_1k ; ... ; z_Mk] + b                                                       multi-anchor reading
    s     = GRU(g_1 .. g_K), its last state, once for each scale K                          time aggregation
    u     = LN(W' [s_1 ; ... ; s_S] + b')                                                   scales

SMEN (self-supervised multi-anchor encoder network) is LURM's name of what reads the bags; the counting is here, too.

| paper | here | shape |
|---|---|---|
| bag of interests, V | `bags`; interests | counts of (window, interest) |
| item -> cluster | interest_of, by item row: 0 for none, else 2 .. V + 1 | (N + 2,) |
| E, interest embeddings | layers["input"].items | (V + 2, d) |
| q_m, anchors; M | layers["bags"].queries; anchors | (M, d) |
| scales | scales: K of each; all windows together W | |
| user vectors | states, the same at every event | (B, P + T, d) |

A bag has no more entries than there are interests, so what is computed after the counting does not grow with the
history, however long. The clusters are found once, before the first training (`study`), from the training histories of
the first task: item vectors are factors of the items' co-occurrence (functional.clustering), or those of
[input] vectors. They are stored with the weights. An item that was never met takes the nearest interest where a vector
is given for it, and none otherwise. Prompts in front of the events are further entries of every bag.

Differs: the paper's equations were not available, so all of the above but the plan (item vectors, clusters, bags over
windows at several scales, anchors, time, scales) is our own form of it. A scale divides the user's own history into K
windows of as many events, or of as much time (`windows`); how long the paper's windows are is not known. Several
vectors a user become one, by W. Item vectors come from a factorisation, not from a trained model. Interests are
weighted by `weight`; rare ones have no weight of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Encoder, Via, plain
from perdure.encoders.parts import EventEmbedding, Norm, Recurrent
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch
from perdure.functional.adding import added
from perdure.functional.clustering import k_means, nearest, neighbour_vectors

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.events.marks import Marks

__all__ = ["SMEN", "Bags"]

FIRST = 2  # row of the first interest, and of the first item


class Bags(NamedTuple):
    """The bags of B users: A entries each, by window and interest; behind a user's last, zeros.

    Attributes:
        interests: (B, A) int64 rows, from 2; windows: (B, A) int64 of all scales, 0 to W - 1, oldest first.
        counts: (B, A) int64 events.
    """

    interests: Tensor
    windows: Tensor
    counts: Tensor


class Anchors(nn.Module):
    """M learned queries that read the bag of each window, and a map of what they read.

    Args:
        width: d; anchors: M; windows: W.
    """

    role: ClassVar[str] = "read"

    def __init__(self, width: int, anchors: int, windows: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(anchors, width))
        self.map = nn.Linear(anchors * width, width)
        self.windows = windows

    def forward(self, x: Tensor, windows: Tensor, weights: Tensor) -> Tensor:
        """Entries (B, A, d), the window of each (B, A) and its weight (B, A), 0 for none -> windows (B, W, d)."""
        b, _, d = x.shape
        bag = (torch.arange(b, device=x.device)[:, None] * self.windows + windows).flatten()  # (B A,)
        x, weights = x.reshape(-1, d), weights.flatten()  # (B A, d), (B A,)
        scores = (x @ self.queries.T / d**0.5).masked_fill(weights[:, None] == 0, -torch.inf)  # (B A, M)
        top = scores.detach().new_full((b * self.windows, scores.shape[1]), torch.finfo(scores.dtype).min)  # (B W, M)
        top = top.scatter_reduce(0, bag[:, None].expand_as(scores), scores.detach(), "amax")  # (B W, M)
        share = (scores - top[bag]).exp()  # (B A, M)
        total = added(torch.zeros_like(top), 0, bag, share).clamp(min=1e-30)  # (B W, M)
        share = share / total[bag] * weights[:, None]  # (B A, M)
        empty = x.new_zeros(len(top), d)  # (B W, d)
        z = torch.stack([added(empty, 0, bag, x * one[:, None]) for one in share.unbind(1)], 1)  # (B W, M, d)
        return self.map(z.flatten(1)).view(b, self.windows, d)  # (B, W, d)

    def reset(self, generator: torch.Generator) -> None:
        """Queries Normal(0, 1), as long as the scaled interests make their products small; Xavier for the map."""
        nn.init.normal_(self.queries, generator=generator)
        nn.init.xavier_uniform_(self.map.weight, generator=generator)
        nn.init.zeros_(self.map.bias)


class Scales(nn.Module):
    """W' [s_1 ; ... ; s_S] + b'"""

    role: ClassVar[str] = "read"

    def __init__(self, width: int, scales: int) -> None:
        super().__init__()
        self.map = nn.Linear(scales * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, d) -> (B, 1, d)"""
        return self.map(x.flatten(1))[:, None]


class SMEN(Encoder):
    """Bags of interests over windows of several scales, read by anchors.

    Args:
        n_items: N.
        width: d, of interests and of every layer, and of the item vectors that are clustered.
        interests: V, clusters of items; no more than there are items.
        anchors: M.
        scales: K of each scale: windows that the history is divided into.
        windows: each of as many "events" as the others, or of as much "time", which needs a log with times.
        weight: of an interest met c times: log(1 + c), c, or 1.
        reach: how many events apart two items of a history are counted as neighbours.
        max_length: events read.
        dropout: on the interests' vectors.
    """

    name: ClassVar[str] = "smen"
    paper: ClassVar[str] = "Yang et al., KDD 2023"
    summary: ClassVar[str] = "bags of clustered items over windows at several scales, read by several anchors"
    causal: ClassVar[bool] = False
    interest_of: Tensor

    def __init__(
        self,
        n_items: int,
        *,
        width: Annotated[int, Ge(1)] = 64,
        interests: Annotated[int, Ge(1)] = 512,
        anchors: Annotated[int, Ge(1)] = 4,
        scales: tuple[Annotated[int, Ge(1)], ...] = (1, 4, 16),
        windows: Literal["events", "time"] = "events",
        weight: Literal["log", "count", "once"] = "log",
        reach: Annotated[int, Ge(1)] = 5,
        max_length: Annotated[int, Ge(1)] = 500,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__(n_items, width, max_length, "anchors")
        if not scales:
            raise SettingsError("scales = []", expected="a number of windows for each scale", where="encoder.scales")
        self.interests, self.scales, self.weight, self.reach = interests, scales, weight, reach
        self.reads_times, self.given, self.found = windows == "time", None, False
        rows = torch.arange(n_items + FIRST, dtype=torch.int32)  # (N + 2,)
        self.register_buffer("interest_of", torch.where(rows < FIRST, 0, (rows - FIRST) % interests + FIRST))
        self.layers["input"] = EventEmbedding(interests, width, 0, dropout, scale=True)
        self.layers["bags"] = Anchors(width, anchors, sum(scales))
        for i in range(len(scales)):
            self.layers[f"scale{i}/gru"] = Recurrent(width, width)
        self.layers["scales"] = Scales(width, len(scales))
        self.layers["norm"] = Norm(width)
        self.register_load_state_dict_post_hook(_check)

    @property
    def item_table(self) -> Tensor:  # type: ignore[override]
        """(n_items + 2, d): the vector of each item's interest."""
        return F.embedding(self.interest_of, self._input.items)  # (N + 2, d)

    def read(self, marks: Marks) -> None:
        """Takes vectors of items, to cluster them. SettingsError for all else that events or items bring."""
        if marks.names or marks.places:
            raise SettingsError(
                f"encoder {self.name} counts interests, and [input] names more of an event",
                expected="vectors of items, or nothing",
                where="[input]",
                fix="leave out events, items, dates and gaps, or choose another encoder",
            )
        self.given = None if marks.vectors is None else torch.from_numpy(marks.vectors)  # (N + 2, S)

    def begin_as(self, other: Encoder) -> None:
        """The other's clusters: its interests' vectors are of those."""
        if isinstance(other, SMEN):
            self.interest_of.copy_(other.interest_of)
            self.found, self.given = True, None

    def study(self, data: TaskData, generator: torch.Generator) -> None:
        """Cluster the items that stand in the training histories. Where none has a vector, interests stay as they are
        before: items one after the other, again from the first when there are no more interests."""
        if self.found:
            return
        events, owners = training_events(data)
        items = torch.from_numpy(events).long() - FIRST  # (E,)
        if self.given is None:
            n, width = self.n_items, self.width
            vectors = neighbour_vectors(items, torch.from_numpy(owners), n, width, self.reach, generator)  # (N, S)
        else:
            vectors = self.given[FIRST:]  # (N, S)
        known = vectors.any(1)  # (N,)
        seen = known & (torch.bincount(items, minlength=self.n_items) > 0)  # (N,)
        if not seen.any():
            return
        centres = k_means(vectors[seen], min(self.interests, int(seen.sum())), generator)  # (V, S)
        found = torch.where(known, nearest(vectors, centres) + FIRST, 0)  # (N,)
        self.interest_of[FIRST:] = found.to(self.interest_of)
        self.given = None

    def forward(self, batch: Batch, via: Via = plain) -> Tensor:
        """(B, T) histories -> states (B, P + T, d): the user vector at every event, which copies nothing."""
        u, prompts = self._user(batch, via)
        return u.expand(-1, prompts + batch.items.shape[1], -1)  # (B, P + T, d)

    def vector(self, batch: Batch, via: Via = plain) -> Tensor:
        """User vectors (B, d)."""
        return self._user(batch, via)[0][:, 0]

    def _user(self, batch: Batch, via: Via) -> tuple[Tensor, int]:
        """User vectors (B, 1, d), and P."""
        bags = self.bags(batch)
        x = via("input", self._input, bags.interests)  # (B, P + A, d)
        prompts, total = x.shape[1] - bags.interests.shape[1], sum(self.scales)
        windows, weights = bags.windows, self.weights(bags.counts).to(x.dtype)  # (B, A)
        if prompts:
            each = torch.arange(total, device=x.device).repeat_interleave(prompts).expand(len(x), -1)  # (B, W P)
            x = torch.cat([x[:, prompts:], x[:, :prompts].repeat(1, total, 1)], 1)  # (B, A + W P, d)
            windows = torch.cat([windows, each], 1)  # (B, A + W P)
            weights = torch.cat([weights, torch.ones_like(each, dtype=x.dtype)], 1)  # (B, A + W P)
        g = via("bags", self.layers["bags"], x, windows, weights)  # (B, W, d)
        parts = [(f"scale{i}/gru", part) for i, part in enumerate(g.split(self.scales, 1))]
        s = torch.stack([via(site, self.layers[site], part)[:, -1] for site, part in parts], 1)  # (B, S, d)
        return via("norm", self.layers["norm"], via("scales", self.layers["scales"], s)), prompts

    def weights(self, counts: Tensor) -> Tensor:
        """w of counts (B, A): 0 where there is none."""
        if self.weight == "count":
            return counts.float()
        return (counts > 0).float() if self.weight == "once" else counts.float().log1p()

    def bags(self, batch: Batch) -> Bags:
        """Count interests, window by window, at every scale."""
        b, total = len(batch), sum(self.scales)
        places = torch.cat([self.places(batch, k) + at for k, at in self._begins()], 1)  # (B, S T)
        interest = self.interest_of[batch.items].long().masked_fill(~batch.valid, 0)  # (B, T)
        interest = interest.repeat(1, len(self.scales))  # (B, S T)
        user = torch.arange(b, device=places.device)[:, None]  # (B, 1)
        rows = self.interests + FIRST
        keys = ((user * total + places) * rows + interest)[interest >= FIRST]
        keys, count = keys.unique(return_counts=True)  # (R,), (R,), by user, window and interest
        owner = keys // (rows * total)  # (R,)
        each = torch.bincount(owner, minlength=b)  # (B,)
        at = torch.arange(len(keys), device=keys.device) - (each.cumsum(0) - each)[owner]  # (R,)
        flat = owner * (longest := max(int(each.max()), 1) if b else 1) + at  # (R,)

        def laid(values: Tensor) -> Tensor:
            return values.new_zeros(b * longest).index_put((flat,), values).view(b, longest)  # (B, A)

        return Bags(laid(keys % rows), laid(keys // rows % total), laid(count))

    def places(self, batch: Batch, k: int) -> Tensor:
        """(B, T) the window of each event, of k: 0 to k - 1; the newest event is in the last, whatever the length.

        Raises:
            UsageError: histories without times, and the windows are spans of time.
        """
        n = batch.lengths[:, None]  # (B, 1)
        if not self.reads_times:
            after = n - 1 - torch.arange(batch.items.shape[1], device=n.device)  # (B, T)
            return (k - 1 - after * k // n.clamp(min=k)).clamp(0, k - 1)  # (B, T)
        if batch.times is None:
            raise UsageError(
                "these histories have no times, and the encoder reads them",
                expected="the time of every event",
                where="encoder.windows",
                fix='evaluate and embed read times from the log; for bare histories, train with windows = "events"',
            )
        newest = batch.times.gather(1, (n - 1).clamp(min=0))  # (B, 1)
        span = newest - batch.times[:, :1] + 1  # (B, 1)
        return (k - 1 - (newest - batch.times) * k // span.clamp(min=1)).clamp(0, k - 1)  # (B, T)

    def _begins(self) -> list[tuple[int, int]]:
        """Each scale and its first window."""
        return [(k, sum(self.scales[:i])) for i, k in enumerate(self.scales)]


def training_events(data: TaskData) -> tuple[np.ndarray, np.ndarray]:
    """Item rows (E,) int32 of all events that a training input holds, and the user row of each (E,) int64."""
    sequences, examples = data.sequences, data.train
    n = len(sequences.items)
    edges = np.bincount(examples.begin, minlength=n + 1) - np.bincount(examples.end, minlength=n + 1)  # (H + 1,)
    held = np.flatnonzero(np.cumsum(edges)[:n])  # (E,)
    return np.asarray(sequences.items)[held], np.searchsorted(sequences.starts, held, "right") - 1


def _check(encoder: nn.Module, keys: object) -> None:
    """ValueError unless every item has an interest there is, or none."""
    if isinstance(encoder, SMEN):
        rows = encoder.interest_of
        if bool(((rows != 0) & ((rows < FIRST) | (rows >= encoder.interests + FIRST))).any()):
            raise ValueError("items whose interest is none of the table")
