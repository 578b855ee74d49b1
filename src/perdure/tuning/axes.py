"""Axes: every task places the items along one axis of its own; later tasks see where a user stands on all of them.

The library's own method. It stands on: pooling over what a user did, at the side of a network that is left alone
(Y.-L. Sung et al., "LST: Ladder Side-Tuning", NeurIPS 2022); one weight an item beside a deep network (H.-T. Cheng et
al., "Wide & Deep Learning", 2016) and functions of items summed over a set (M. Zaheer et al., "Deep Sets", NIPS 2017);
items that stood together (M. Deshpande and G. Karypis, "Item-based top-N recommendation algorithms", TOIS 2004) beside
a network that generalises (U. Khandelwal et al., "Generalization through Memorization", ICLR 2020); knowledge of
earlier tasks as constants that a new task attends to (M. Yang et al., PCL, WWW 2025).

    u_k   = g h + p_k c_k + D_k' M_k z_k + U_k' q_k             h the backbone's user vector, untouched
    p_k   = S(a_k(i_t))                                         where the user stands on the task's own axis
    z_k   = ((p_j - m_j) / s_j) for every earlier task j        where the user stands on earlier axes
    q_k   = S(gelu(W_k e_t + b_k)),  e_t = E_{i_t} / rms(E)     a small network on the item vectors
    S(x)  = sum_{t <= n} x_t / sqrt(n)                          over the n events so far
    item tasks whose labels are items:   score(y) = (u_k T_k) . e_y + b_y + l_k r_k(y)
    T_k = tau I, b_y = log popularity    at first; l_k = 0 until the rest is learned
    e_y = E_y                            V_y where the backbone never met y; E_y + V_y elsewhere with head = "both"
    r_k = n_k / rms(n_k)                 n_k(y) = sum_t w_k(i_t, y), rms over the labels with n_k(y) > 0
    w_k(i, y) = f_k(i, y) / (f_k(i)^1/2 f_k(y)^beta)

| paper | here | shape |
|---|---|---|
| h, E | the frozen backbone's state and item table | (d,), (N + 2, d) |
| g | gate | |
| a_k | axis, zero at the start | (N + 2,) |
| c_k | direction, Normal(0, spread^2) at the start | (d,) |
| m_j, s_j | mean, deviation: of p_j over the training users of task j | |
| M_k | mix, zero at the start | (L, earlier tasks), L = mixes |
| D_k | directions, Normal(0, 1) at the start | (L, d) |
| W_k, b_k | inner, Normal(0, 1/d) at the start | (r, d), (r,), r = rank |
| U_k | outer, zero at the start | (r, d) |
| T_k, b_y | head.map, head.bias | (d, d), (Y,) |
| V_y | head.vectors, zero at the start | (labels never met, d); with head = "both" (Y, d) |
| f_k | head.memory: how many training users met both, or one; of P = `pairs` Y pairs, see `model/memory.py` | |
| l_k | head.trust: what ranks the answers of 2,048 training users best, each left out of f_k | |
| beta | popularity | |

The backbone is run once, without gradients, and can be shared by all tasks: a task adds sums over the events of a few
numbers an item. It trains N + d (1 + L) + r (2 d + 1) numbers beside its head: with d = 64 and a table of items that
holds most of the backbone, below 2 % of it. Earlier axes are constants, so older tasks stay bit for bit, and the cost
of a task grows by one number an event for each earlier one. The memory of a task is counted, not trained.

Differs: there is no paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Encoder
from perdure.events.batch import Batch
from perdure.events.together import baskets, met
from perdure.model.heads import ItemsHead
from perdure.model.memory import Memory
from perdure.model.user_model import without_dropout
from perdure.tuning.base import Method, Overlay, own_unless_first
from perdure.tuning.parts import FIRST

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["Axes"]

USERS = 2048  # by whom a memory is weighed


class Axis(Overlay):
    """One task's axis, what it reads of earlier ones, and its small network.

    Args:
        table: (N + 2, d) the backbone's item vectors.
        earlier: overlays of the tasks before, oldest first; read, never moved.
        rank: r; mixes: L; gate: g; spread: size of c_k.
    """

    mean: Tensor
    deviation: Tensor
    rms: Tensor

    def __init__(
        self,
        table: Tensor,
        earlier: tuple[Axis, ...],
        rank: int,
        mixes: int,
        gate: float,
        spread: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        n, d = table.shape
        self.earlier, self.gate = earlier, gate  # a tuple is no part of the module: an axis is stored once
        self.axis = nn.Parameter(torch.zeros(n))
        self.direction = nn.Parameter(torch.empty(d).normal_(std=spread, generator=generator))
        self.inner, self.outer = nn.Linear(d, rank), nn.Parameter(torch.zeros(rank, d))
        nn.init.normal_(self.inner.weight, std=d**-0.5, generator=generator)
        nn.init.zeros_(self.inner.bias)
        lanes = mixes if earlier else 0
        self.mix = nn.Parameter(torch.zeros(lanes, len(earlier)))
        self.directions = nn.Parameter(torch.empty(lanes, d).normal_(generator=generator))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("rms", table.detach()[FIRST:].square().mean().sqrt().clamp(min=1e-12).cpu())

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """u_k (B, d)"""
        return self.gate * super().vector(backbone, batch) + self.read(backbone, batch)[:, -1]  # (B, d)

    def states(self, backbone: Encoder, batch: Batch) -> Tensor:
        """u_k after every event (B, T, d), from the events up to it."""
        return self.gate * super().states(backbone, batch) + self.read(backbone, batch, everywhere=True)  # (B, T, d)

    def read(self, backbone: Encoder, batch: Batch, everywhere: bool = False) -> Tensor:
        """u_k - g h: (B, T, d) after every event, or (B, 1, d) after the last."""
        parts = [self.own(batch), self.network(backbone.item_table, batch)]  # (B, T, 1), (B, T, r)
        if self.earlier:
            parts.append(self.before(batch))  # (B, T, k - 1)
        sums = summed(torch.cat(parts, -1), batch, everywhere)
        p, q, z = sums.split([1, len(self.outer), len(self.earlier)], -1)  # (B, Q, 1), (B, Q, r), (B, Q, k - 1)
        u = p * self.direction + q @ self.outer  # (B, Q, d)
        if self.earlier:
            mean, deviation = (torch.stack([getattr(a, n) for a in self.earlier]) for n in ("mean", "deviation"))
            u = u + ((z - mean) / deviation) @ self.mix.T @ self.directions  # (B, Q, d)
        return u

    def own(self, batch: Batch) -> Tensor:
        """a_k of the events (B, T, 1)."""
        return F.embedding(batch.items, self.axis[:, None])

    def before(self, batch: Batch) -> Tensor:
        """a_j of the events (B, T, k - 1). Of each axis what is asked: together they may be a large table."""
        asked = batch.items.flatten()  # (B T,)
        found = torch.stack([a.axis.detach().index_select(0, asked) for a in self.earlier])  # (k - 1, B T)
        return found.T.reshape(*batch.items.shape, -1)

    def network(self, table: Tensor, batch: Batch) -> Tensor:
        """gelu(W_k e_t + b_k) of the events (B, T, r)."""
        return F.gelu(self.inner(F.embedding(batch.items, table.detach()) / self.rms))

    def drawn(self) -> list[float]:
        """How far one standard deviation on each earlier axis moves a user vector."""
        return (self.mix.T @ self.directions).norm(dim=-1).tolist()  # (k - 1,)


def summed(x: Tensor, batch: Batch, everywhere: bool = False) -> Tensor:
    """S: (B, T, m) numbers of events -> (B, T, m) after every event, or (B, 1, m) after the last."""
    counts = (batch.valid & (batch.items >= FIRST))[..., None].to(x.dtype)  # (B, T, 1)
    x = x * counts  # (B, T, m)
    s, n = (x.cumsum(1), counts.cumsum(1)) if everywhere else (x.sum(1, keepdim=True), counts.sum(1, keepdim=True))
    return s / n.clamp(min=1).sqrt()  # (B, Q, m)


def unmet(model: UserModel, card: TaskCard) -> np.ndarray:
    """(Y,) bool: labels that are items and stood in no training history of the first task. One that stood only longer
    ago than the backbone reads counts as met."""
    first = next(iter(model.tasks.values()))
    if first.kind != "next_item":
        return np.zeros(len(card.label_items), bool)  # not known
    return first.popularity[card.label_items - FIRST] == 0


class Axes(Method):
    """An axis over the items per task, beside a frozen backbone.

    Args:
        rank: r, width of the small network on the item vectors.
        mixes: L, directions in which earlier axes move a user vector; 0 learns every task without the others.
        gate: g, how loud the backbone's vector is beside what the task adds.
        spread: size of c_k, how loud the axis is.
        head: of a task whose labels are items: the backbone's item vectors through a learned map, and vectors of its
            own for those alone that the backbone never met in training ("items"); the same with a vector of its own
            for every label ("both"), d numbers a label more; or a table of its own as everywhere else ("labels").
        sharpness: tau, how sharp the scores of that head are at first.
        pairs: P / Y, of how many items a label is kept to have stood together with, on average; 0 keeps no memory.
        popularity: beta, how much pairs of what is popular count for less, from 0 (not) to 1.
    """

    name: ClassVar[str] = "axes"
    paper: ClassVar[str] = "perdure's own, no paper"
    summary: ClassVar[str] = "an axis over the items per task beside a frozen backbone; later tasks read all axes"
    keeps: bool = True

    def __init__(
        self,
        *,
        rank: Annotated[int, Ge(1)] = 12,
        mixes: Annotated[int, Ge(0)] = 4,
        gate: Annotated[float, Gt(0)] = 0.3,
        spread: Annotated[float, Gt(0)] = 3.0,
        head: Literal["items", "both", "labels"] = "items",
        sharpness: Annotated[float, Gt(0)] = 1.0,
        pairs: Annotated[int, Ge(0)] = 48,
        popularity: Annotated[float, Ge(0), Le(1)] = 0.5,
    ) -> None:
        super().__init__()
        self.rank, self.mixes, self.gate, self.spread = rank, mixes, gate, spread
        self.kind, self.sharpness, self.pairs, self.popularity = head, sharpness, pairs, popularity
        self.begins_as_backbone = gate == 1

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """An axis for every task but the first."""
        if model.is_first(card.name):
            return None
        before = tuple(o for name in model.tasks if isinstance(o := model.overlays.get(name), Axis))
        table = model.backbone.item_table
        return Axis(table, before if self.mixes else (), self.rank, self.mixes, self.gate, self.spread, generator)

    def head(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> nn.Module | None:
        """The item vectors for a later task whose labels are all items."""
        if card.kind != "item" or self.kind == "labels" or model.is_first(card.name):
            return None
        if (card.label_items < FIRST).any():
            return None
        width, own = model.backbone.width, self.kind == "both"
        size = self.pairs * len(card.labels)
        memory = Memory(card.label_items, model.backbone.n_items, size, self.popularity) if size else None
        return ItemsHead(card.label_items, card.popularity, width, self.sharpness, unmet(model, card), own, memory)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Axis, mixes, network and head."""
        return own_unless_first(model, task)

    @torch.no_grad()
    def remember(
        self, model: UserModel, task: str, datas: Sequence[TaskData], batches: Iterable[Batch], rng: torch.Generator
    ) -> None:
        """Mean and deviation of the task's training users on its axis; what stood together with its labels."""
        overlay, few, p, n = model.overlays.get(task), [], [], 0
        if not isinstance(overlay, Axis):
            return
        for batch in batches:
            p.append(summed(overlay.own(batch), batch).flatten())  # (B,)
            if n < USERS:
                few.append(batch)
            n += len(batch)
        overlay.mean.copy_(torch.cat(p).mean())
        deviation = torch.cat(p).std(correction=0)
        overlay.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))
        head = model.heads[task]
        if isinstance(head, ItemsHead) and head.memory is not None:
            counted = baskets(datas, model.backbone.max_length)
            head.memory.count(*counted)
            asked = [user for batch in few if batch.users is not None for user in batch.users.tolist()]
            mine, seen = (partial(head.memory.held, *those) for those in (counted, met(datas[-1], asked)))
            with without_dropout(model):
                known = ((model.represent(batch, task), batch) for batch in few)
                head.weigh(known, model.item_table(task), mine, seen)

    def relations(self, model: UserModel, task: str) -> dict[str, float]:
        """How far one standard deviation on each earlier axis moves a user vector, as shares of 1."""
        overlay = model.overlays.get(task)
        if not isinstance(overlay, Axis) or not overlay.earlier:
            return {}
        names = [name for name in model.tasks if any(model.overlays.get(name) is axis for axis in overlay.earlier)]
        drawn, total = overlay.drawn(), sum(overlay.drawn())
        return {name: one / total if total else 0.0 for name, one in zip(names, drawn, strict=True)}
