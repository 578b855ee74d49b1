"""MiNet: what a user clicked in the target domain and in a source domain, weighed for every label asked about.

W. Ouyang, X. Zhang, L. Zhao, J. Luo, Y. Zhang, H. Zou, Z. Liu, Y. Du, "MiNet: Mixed Interest Network for Cross-Domain
Click-Through Rate Prediction", CIKM 2020 (arXiv 2008.02974); open points as in the official code.

    a_s = sum_i alpha_i s_i,  alpha = softmax_i w_s . relu(W_s [s_i; q; p; (M s_i) * q])     of source clicks s_i
    a_t = sum_j beta_j t_j,   beta  = softmax_j w_t . relu(W_t [t_j; q; p; t_j * q])         of target clicks t_j
    v_k = exp(g_k . relu(V_k [q; p; a_t; a_s]) + b_k),  k in {p, t, s};  b = 1, 0, 0 at first  interest level
    f(q, u) = deep([q; v_p p; v_t a_t; v_s a_s]),  f_s(s, u) = deep_s([s; p])                 256, 128, 1
    L = L_t(f) + gamma L_s(f_s)

| paper | here | shape |
|---|---|---|
| q; s_i, t_j | head.labels; item vectors of the last source and target clicks | (d,) |
| p | head.profile: embedded fields, and the vector from elsewhere | (D,) |
| W, w; M = M_1 M_2 | head.source, head.target: Attention | (h, 3 d + D), (h,); (d, rank), (rank, d) |
| V_k, g_k, b_k | head.gates | (h, 3 d + D), (h,) |
| deep, deep_s | head.deep, head.deep_source | |
| gamma | weight | |

The items that are labels of the task are the target domain; all other events of a history are source clicks. The user
vector is the rows of the last clicks of each, and the profile; the head scores users and labels in pieces.

Differs: the data here has clicks and no impressions that were not clicked: each stands against labels that are drawn
(`negatives`), with the paper's binary cross-entropy, "bpr" or "softmax". p has no embedding of the user's id, as users
that are tested are not those of training. Items are known by their vectors, which begin as the backbone's and are the
task's own. Clicks that are not there get no attention, where the code gives their zero vectors a share of the softmax.
A next_item task has target clicks alone, and learns the event after a part of each history that is drawn. The source
loss takes each source click of a history against other items that are no labels. The first task trains the backbone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.events.batch import Batch
from perdure.functional import losses
from perdure.functional.gathering import gathered
from perdure.tuning.base import Method, Overlay, own_unless_first
from perdure.tuning.parts import FIRST, LabelVectors, ProfileVector, Told, answered, divided

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["MiNet"]

CELLS = 2**22  # numbers of a hidden layer alive at once while answering
USERS = 8  # scored together while answering
LOSSES = {"bce": losses.bce, "bpr": losses.bpr, "softmax": losses.sampled_softmax}


class Clicks(Told):
    """Rows of the last clicks in the target domain, then of those in the source domain.

    Args:
        counts: how many of each. target: (N + 2,) bool, which items are of the target domain. profile, table: of Told.
    """

    target: Tensor

    def __init__(self, counts: tuple[int, int], target: Tensor, profile: ProfileVector, table: Tensor | None) -> None:
        super().__init__(sum(counts), profile, table)
        self.counts = counts
        self.register_buffer("target", target, persistent=False)

    def rows(self, batch: Batch) -> Tensor:
        """(B, n_t + n_s), the last click of each domain last."""
        here, event = self.target[batch.items], batch.valid & (batch.items >= FIRST)  # (B, T)
        return torch.cat(
            [last_of(batch.items, event & m, n) for m, n in zip((here, ~here), self.counts, strict=True)], 1
        )


def last_of(items: Tensor, which: Tensor, n: int) -> Tensor:
    """(B, n) the last n of the items (B, T) that are marked (B, T), in their order; 0 in front for want of more."""
    place = torch.where(which, torch.arange(1, items.shape[1] + 1, device=items.device), 0)  # (B, T)
    place = F.pad(place, (n, 0)).sort(1).values[:, -n:]  # (B, n)
    return torch.where(place > 0, items.gather(1, (place - 1).clamp(min=0)), 0)


class Attention(nn.Module):
    """Item level: a weighted sum of clicks for each label.

    Args:
        width: d. size: D. hidden: h. rank: of M; 0 leaves M out.
    """

    def __init__(self, width: int, size: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.click, self.user = nn.Linear(width, hidden), nn.Linear(size, hidden, bias=False)
        self.label, self.both = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)
        self.move: nn.Module = nn.Identity()
        if rank:
            self.move = nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))

    def forward(self, r: Tensor, kept: Tensor, q: Tensor, p: Tensor) -> Tensor:
        """Clicks (B, n, d) where kept (B, n), labels (B or 1, Q, d), profiles (B, D) -> (B, Q, d), 0 without."""
        alone = self.click(r) + self.user(p)[:, None]  # (B, n, h)
        mixed = self.both.weight * self.move(r)[:, :, None] + self.label.weight  # (B, n, h, d): of q and r * q in one
        x = (mixed.flatten(1, 2) @ q.transpose(1, 2)).unflatten(1, alone.shape[1:])  # (B, n, h, Q)
        x = F.relu(x + alone[..., None])  # (B, n, h, Q)
        weight = torch.einsum("bnhq,h->bqn", x, self.out.weight[0]).masked_fill(~kept[:, None], -1e4)  # (B, Q, n)
        return (weight.softmax(-1) * kept[:, None]) @ r  # (B, Q, d)


def layers(size: int, *widths: int) -> nn.Sequential:
    """(..., size) -> (..., the last of widths), ReLU between."""
    parts: list[nn.Module] = []
    for before, after in zip((size, *widths), widths, strict=False):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Interests(nn.Module):
    """f and f_s of one task.

    Args:
        card: the task. target: (N + 2,) bool. profile: p. width: d. method: the options.
    """

    others: Tensor

    def __init__(
        self, card: TaskCard, target: Tensor, profile: ProfileVector, width: int, method: MiNet, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.profile, self.counts = profile, (method.target_clicks, method.source_clicks)
        self.labels = LabelVectors(card.label_items, width, rng)
        h, z = method.attention, 3 * width + profile.size
        self.target, self.source = (Attention(width, profile.size, h, rank) for rank in (0, method.rank))
        self.gates = nn.ModuleList(layers(z, h, 1) for _ in range(3))  # of p, a_t, a_s
        self.deep = layers(z, method.hidden, method.hidden // 2, 1)
        self.deep_source = layers(width + profile.size, method.hidden, method.hidden // 2, 1)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 2 and not name.startswith(("labels.", "profile.")):
                nn.init.xavier_uniform_(weight, generator=rng)
        nn.init.ones_(cast(nn.Linear, cast(nn.Sequential, self.gates[0])[2]).bias)
        self.register_buffer("others", (~target[FIRST:]).nonzero().squeeze(1) + FIRST, persistent=False)  # (S,)

    def told(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """User vectors -> rows of target (B, n_t) and source clicks (B, n_s), p (B, D)."""
        here, there, profile = u.split([*self.counts, self.profile.packed], 1)
        return here.long(), there.long(), self.profile.unpack(profile)

    def forward(self, u: Tensor, q: Tensor, table: Tensor) -> Tensor:
        """f: users (B, W) and labels (B or 1, Q, d), clicks from a table (N + 2, d) -> (B, Q)."""
        here, there, p = self.told(u)
        a_t = self.target(table[here], here > 0, q, p)  # (B, Q, d)
        a_s = self.source(table[there], there > 0, q, p)  # (B, Q, d)
        q, p = q.expand_as(a_t), p[:, None].expand(*a_t.shape[:2], -1)  # (B, Q, d), (B, Q, D)
        z = torch.cat([q, p, a_t, a_s], -1)  # (B, Q, 3 d + D)
        v_p, v_t, v_s = (gate(z).exp() for gate in self.gates)  # (B, Q, 1) each
        return self.deep(torch.cat([q, v_p * p, v_t * a_t, v_s * a_s], -1)).squeeze(-1)  # (B, Q)

    def elsewhere(self, u: Tensor, negatives: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """f_s of all source clicks there are (M,), and of K others of the source domain (M, K), -inf where clicked."""
        _, there, p = self.told(u)
        which = there > 0  # (B, n_s)
        rows = which.nonzero()[:, 0]  # (M,)
        right = self.deep_source(torch.cat([table[there[which]], p[rows]], 1)).squeeze(1)  # (M,)
        e = table[negatives].expand(len(u), -1, -1)  # (B, K, d)
        wrong = self.deep_source(torch.cat([e, p[:, None].expand(-1, len(negatives), -1)], 2)).squeeze(2)  # (B, K)
        met = (negatives[:, None] == there[:, None]).any(2)  # (B, K)
        return right, wrong.masked_fill(met, -torch.inf)[rows]

    @torch.no_grad()
    def score(self, u: Tensor, item_table: Tensor) -> Tensor:
        """(B, W) -> (B, Y)"""
        cells = USERS * max(self.counts) * max(self.target.click.weight.shape)  # of pairs and of what becomes of them
        columns = max(1, CELLS // cells)
        labels = self.labels(item_table)[None]  # (1, Y, d)
        return torch.cat(
            [torch.cat([self(users, q, item_table) for q in labels.split(columns, 1)], 1) for users in u.split(USERS)]
        )


class MiNet(Method):
    """A user's clicks in two domains, weighed at the level of items and of interests.

    Args:
        target_clicks, source_clicks: the last so many are read.
        attention: h.
        rank: of M.
        hidden: of the first layer of deep; the second has half of it.
        field_width: of each profile field.
        weight: gamma.
        negatives: drawn for each batch.
        loss: "bce", "bpr" or "softmax".
    """

    name: ClassVar[str] = "minet"
    paper: ClassVar[str] = "Ouyang et al., CIKM 2020"
    summary: ClassVar[str] = "clicks in a target and a source domain, attended to for every label"
    keeps: bool = True
    begins_as_backbone: bool = False

    def __init__(
        self,
        *,
        target_clicks: Annotated[int, Ge(1)] = 10,
        source_clicks: Annotated[int, Ge(1)] = 20,
        attention: Annotated[int, Ge(1)] = 64,
        rank: Annotated[int, Ge(1)] = 10,
        hidden: Annotated[int, Ge(2)] = 256,
        field_width: Annotated[int, Ge(1)] = 10,
        weight: Annotated[float, Ge(0)] = 1.0,
        negatives: Annotated[int, Ge(1)] = 16,
        loss: Literal["bce", "bpr", "softmax"] = "bce",
    ) -> None:
        super().__init__()
        self.target_clicks, self.source_clicks, self.attention, self.rank = (
            target_clicks,
            source_clicks,
            attention,
            rank,
        )
        self.hidden, self.field_width, self.weight = hidden, field_width, weight
        self.negatives, self.compare = negatives, LOSSES[loss]

    def head(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> nn.Module | None:
        """f and f_s for every task but the first."""
        if model.is_first(card.name):
            return None
        profile = ProfileVector(model.fields, card.hides, self.field_width, generator)
        return Interests(card, domain(card, model), profile, model.backbone.width, self, generator)

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Which clicks the head is told, and the task's items."""
        if model.is_first(card.name):
            return None
        head = cast(Interests, model.heads[card.name])
        return Clicks(head.counts, domain(card, model), head.profile, model.backbone.item_table)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """All that a task adds."""
        return own_unless_first(model, task)

    def terms(self, model: UserModel, task: str, batch: Batch) -> float:
        """The answers of L_t; the users with a next event where the task asks for it."""
        if model.is_first(task) or model.tasks[task].kind != "next_item":
            return model.terms(batch, task)
        return int((batch.lengths > 0).sum())

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L_t + gamma L_s, scalar."""
        if model.is_first(task):
            return model.loss(batch, task, rng)
        head = cast(Interests, model.heads[task])
        if model.tasks[task].kind == "next_item":
            batch, rows, kept = divided(batch, rng)
            kept = kept & (kept.cumsum(1) == 1)  # (B, T) the next event
            rows, kept = (rows * kept).sum(1, keepdim=True), kept.any(1, keepdim=True)  # (B, 1), (B, 1)
        else:
            rows, kept = answered(batch)  # (B, Q), (B, Q)
        u, table = model.represent(batch, task), model.item_table(task)
        labels, q = head.labels(table), rows.shape[1]  # (Y, d)
        drawn = self.drawn(len(labels), rows.device, rng)  # (K,)
        asked = torch.cat([labels[rows], labels[drawn].expand(len(rows), -1, -1)], 1)  # (B, Q + K, d)
        right, wrong = head(u, asked, table).split([q, len(drawn)], 1)  # (B, Q), (B, K)
        met = ((drawn[:, None] == rows[:, None]) & kept[:, None]).any(2)  # (B, K)
        owner = kept.nonzero()[:, 0]  # (A,)
        loss = self.compare(right[kept], wrong.masked_fill(met, -torch.inf)[owner])
        if not self.weight or not len(head.others):
            return loss
        there, others = head.elsewhere(u, head.others[self.drawn(len(head.others), rows.device, rng)], table)
        pairs = gathered(torch.cat([there[:, None], others], 1))  # (M, 1 + K) those of all processes
        return loss + self.weight * self.compare(pairs[:, 0], pairs[:, 1:]) if len(pairs) else loss

    def drawn(self, n: int, device: torch.device, rng: torch.Generator) -> Tensor:
        """(K,) numbers below n, all of them where there are no more than K."""
        if n <= self.negatives:
            return torch.arange(n, device=device)
        return torch.randint(n, (self.negatives,), generator=rng, device=rng.device).to(device)


def domain(card: TaskCard, model: UserModel) -> Tensor:
    """(N + 2,) bool: the items that are labels of a task."""
    rows = torch.as_tensor(card.label_items, dtype=torch.long)  # (Y,)
    target = torch.zeros(model.backbone.n_items + 2, dtype=torch.bool)  # (N + 2,)
    target[rows[rows >= FIRST]] = True
    return target
