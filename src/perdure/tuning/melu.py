"""MeLU: every user is a task; the decision layers take a step on the user's own events before they answer.

H. Lee, J. Im, S. Jang, H. Cho, S. Chung, "MeLU: Meta-Learned User Preference Estimator for Cold-Start Recommendation",
KDD 2019 (arXiv 1908.00413); the inner step is MAML's (C. Finn, P. Abbeel, S. Levine, ICML 2017).

    f(y, u) = w . a(V a(A e_y + B x_u + b))                     decision layers, a = ReLU
    theta_u = theta - alpha grad_theta L(theta; support of u)   local update, of A, B, b, V, w alone
    min over theta, e, fields:  mean_u L(theta_u; query of u)   global update, through the local one
    L = mean over the support's (query's) y of loss(f(y, u) against f(z, u) of some others z)

| paper | here | shape |
|---|---|---|
| e_y | the item table, or head.labels.own where labels are no items | (d,) |
| x_u | head.profile: embedded fields | (D,) |
| A, B, b; V; w | head.decide: label, user; inner; out | (h, d), (h, D), (h,); (h, h); (1, h) |
| alpha, number of local updates | rate, steps | |
| support, query | a user's events up to a drawn one, and those from there on, or the answers of the task | (n,), (q,) |
| z | drawn others, `negatives` of them; those of the user's own events are left out | (K,) |

The user vector is what the decision layers must know to adapt: rows of the last n events and of the profile. The head
adapts itself to each user and scores, users and labels in pieces.

Differs: the paper predicts ratings and takes squared errors; here events are all there is, so events stand against
others that are drawn anew for each training batch, and once for answering. Its support is a random part of a user's
ratings, here the events before the query. Items are known by their vectors, not by contents: those of the backbone
(`vectors = "backbone"`), or a table of the task's own that begins as them ("own"), which the global update moves as
the paper's embeddings. The official code copies weights back and forth, so that the global update ignores how the local
one depends on theta; that is `order = "first"`. Its alpha of 5e-6 hardly moves anything. Classes are labels with
vectors of their own. The first task trains the backbone, which MeLU reads item vectors from and nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from perdure.encoders.base import Encoder
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, own_unless_first
from perdure.tuning.parts import FIRST, LabelVectors, ProfileVector, Told, answered, divided

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["MeLU"]

CELLS = 2**21  # numbers of a hidden layer alive at once while answering
USERS = 64  # adapted together while answering
NEVER = -1e4  # a margin that no loss feels

Weights = dict[str, Tensor]


class Decide(nn.Module):
    """f: three layers. Args: width: d. size: D. hidden: h."""

    def __init__(self, width: int, size: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.label, self.user = nn.Linear(width, hidden), nn.Linear(size, hidden, bias=False)
        self.inner, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, 1, bias=False)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.xavier_uniform_(weight, generator=generator)

    def forward(self, e: Tensor, x: Tensor) -> Tensor:
        """Vectors (Q, d) of labels and x_u (D,) of a user -> scores (Q,)."""
        return self.out(F.relu(self.inner(F.relu(self.label(e) + self.user(x))))).squeeze(-1)  # (Q,)


class Decision(nn.Module):
    """Decision layers of one task, and how they adapt.

    Args:
        card: the task. profile: x_u. backbone: whose items and length are read. method: the options.
    """

    others: Tensor

    def __init__(
        self, card: TaskCard, profile: ProfileVector, backbone: Encoder, method: MeLU, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.profile, self.length = profile, backbone.max_length
        self.decide = Decide(backbone.width, profile.size, method.hidden, generator)
        self.steps, self.rate, self.second, self.kind = method.steps, method.rate, method.second, method.kind
        self.labels = LabelVectors(card.label_items, backbone.width, generator)
        drawn = torch.randint(backbone.n_items, (method.negatives,), generator=generator) + FIRST
        self.register_buffer("others", drawn)  # (K,) item rows

    def told(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors -> rows of events (B, n), profiles x_u (B, D)."""
        items, profile = u.split([self.length, self.profile.packed], 1)
        return items.long(), self.profile.unpack(profile)

    def loss_of(self, weights: Weights, rows: Tensor, kept: Tensor, x: Tensor, table: Tensor, others: Tensor) -> Tensor:
        """L of one user, scalar: rows (Q,) of a table (N, d), where kept (Q,), against others (K,)."""
        right = functional_call(self.decide, weights, (table[rows], x))  # (Q,)
        wrong = functional_call(self.decide, weights, (table[others], x))  # (K,)
        met = ((others[:, None] == rows) & kept).any(1)  # (K,) the user's own
        margin = torch.where(met, NEVER, wrong - right[:, None])  # (Q, K)
        if self.kind == "softmax":
            each = F.softplus(margin.logsumexp(1))  # (Q,)
        else:
            each = F.softplus(margin).sum(1) / (~met).sum().clamp(min=1)  # (Q,)
        return (each * kept).sum() / kept.sum().clamp(min=1)

    def adapted(self, weights: Weights, items: Tensor, x: Tensor, table: Tensor, others: Tensor) -> Weights:
        """theta -> theta_u of one user: events (n,), 0 where there is none, and x_u (D,)."""
        for _ in range(self.steps):
            slope = grad(self.loss_of)(weights, items, items >= FIRST, x, table, others)
            slope = slope if self.second else {name: g.detach() for name, g in slope.items()}
            weights = {name: w - self.rate * slope[name] for name, w in weights.items()}
        return weights

    def loss(self, u: Tensor, rows: Tensor, kept: Tensor, table: Tensor, others: Tensor, negatives: Tensor) -> Tensor:
        """Scalar: mean over users of L after the local update.

        Args:
            u: (B, W) support. rows: (B, Q) labels of the query, where kept (B, Q). table: (N + 2, d) of the items.
            others: (K,) item rows the support stands against. negatives: (K,) labels the query stands against.
        """
        labels = self.labels(table)  # (Y, d)
        weights: Weights = {name: weight for name, weight in self.decide.named_parameters()}  # noqa: C416 (its type)

        def one(items: Tensor, x: Tensor, rows: Tensor, kept: Tensor) -> Tensor:
            own = self.adapted(weights, items, x, table, others)
            return self.loss_of(own, rows, kept, x, labels, negatives)

        asked = kept.any(1)  # (B,)
        each = vmap(one)(*self.told(u), rows, kept)  # (B,)
        return (each * asked).sum() / asked.sum().clamp(min=1)

    def score(self, u: Tensor, item_table: Tensor) -> Tensor:
        """(B, W) -> (B, Y), each user by the layers adapted to them."""

        columns = max(1, CELLS // (USERS * self.decide.inner.in_features))

        def adapted(items: Tensor, x: Tensor) -> Weights:
            return self.adapted(weights, items, x, table, self.others)

        def decided(own: Weights, x: Tensor, e: Tensor) -> Tensor:
            return functional_call(self.decide, own, (e, x))  # (Q,)

        with torch.inference_mode(False), torch.no_grad():  # a local update takes gradients, as nothing else here does
            weights = {name: weight.detach() for name, weight in self.decide.named_parameters()}
            table, labels, scores = item_table.detach(), self.labels(item_table).detach(), []
            for users in u.clone().split(USERS):
                items, x = self.told(users)
                own = vmap(adapted)(items, x)
                parts = [vmap(partial(decided, e=e))(own, x) for e in labels.split(columns)]
                scores.append(torch.cat(parts, 1))  # (b, Y)
            return torch.cat(scores)


class MeLU(Method):
    """Decision layers that adapt to each user.

    Args:
        hidden: h.
        field_width: of each profile field.
        steps: local updates.
        rate: alpha.
        order: "second" learns through the local updates, "first" takes them as constants.
        negatives: K.
        loss: "softmax" over a right label and its others, or "bpr".
        vectors: items of the task's "own", or those of the "backbone".
    """

    name: ClassVar[str] = "melu"
    paper: ClassVar[str] = "Lee et al., KDD 2019"
    summary: ClassVar[str] = "decision layers meta-learned to adapt to a user's own events by a gradient step"
    keeps: bool = True
    begins_as_backbone: bool = False

    def __init__(
        self,
        *,
        hidden: Annotated[int, Ge(1)] = 64,
        field_width: Annotated[int, Ge(1)] = 32,
        steps: Annotated[int, Ge(1)] = 1,
        rate: Annotated[float, Gt(0)] = 0.1,
        order: Literal["first", "second"] = "second",
        negatives: Annotated[int, Ge(1)] = 100,
        loss: Literal["softmax", "bpr"] = "softmax",
        vectors: Literal["own", "backbone"] = "own",
    ) -> None:
        super().__init__()
        self.hidden, self.field_width, self.steps, self.rate = hidden, field_width, steps, rate
        self.second, self.negatives, self.kind, self.vectors = order == "second", negatives, loss, vectors

    def head(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> nn.Module | None:
        """Decision layers for every task but the first."""
        if model.is_first(card.name):
            return None
        profile = ProfileVector(model.fields, card.hides, self.field_width, generator)
        return Decision(card, profile, model.backbone, self, generator)

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """What the head is told of a user, and the task's items."""
        if model.is_first(card.name):
            return None
        table = model.backbone.item_table if self.vectors == "own" else None
        return Told(model.backbone.max_length, cast(Decision, model.heads[card.name]).profile, table)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Decision layers, fields and vectors of the task."""
        return own_unless_first(model, task)

    def terms(self, model: UserModel, task: str, batch: Batch) -> float:
        """The users with a query."""
        if model.is_first(task):
            return model.terms(batch, task)
        asked = batch.lengths if batch.answer_starts is None else batch.answer_starts.diff()  # (B,)
        return int((asked > 0).sum())

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """The mean loss of users' queries after their local updates, scalar."""
        if model.is_first(task):
            return model.loss(batch, task, rng)
        head = cast(Decision, model.heads[task])
        if model.tasks[task].kind == "next_item":
            support, rows, kept = divided(batch, rng)
        else:
            support, (rows, kept) = batch, answered(batch)  # (B, Q), (B, Q)
        n, k = len(model.tasks[task].labels), self.negatives

        def drawn(n: int) -> Tensor:
            return torch.randint(n, (k,), generator=rng, device=rng.device).to(rows.device)  # (K,)

        negatives = torch.arange(n, device=rows.device) if n <= k else drawn(n)  # (K,) or all
        table, others = model.item_table(task), drawn(model.backbone.n_items) + FIRST
        return head.loss(model.represent(support, task), rows, kept, table, others, negatives)
