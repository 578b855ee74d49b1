"""EWC: elastic weight consolidation. One backbone, held the tighter the more earlier tasks hang on a weight.

J. Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017; the online form after J.
Schwarz et al., "Progress & Compress: A scalable framework for continual learning", ICML 2018.

    L' = L_k + lambda/2 sum_{j<k} sum_i F_j,i (theta_i - theta*_j,i)^2                  form = "sum"
       = L_k + lambda/2 sum_i A_i (theta_i - m_i)^2 + const,   A = sum_j F_j,  m = sum_j F_j theta*_j / A
    L' = L_k + lambda/2 sum_i A_i (theta_i - theta*_{k-1,i})^2,   A <- gamma A + F_{k-1}    form = "online"
    F  = 1/n sum_c (|c| dL_c/dtheta)^2        over groups c of users, n users in all, once the task is learned

| paper | here | shape |
|---|---|---|
| theta | the backbone; the item table as `table` says | |
| A, the sum of the Fisher diagonals | method.fisher/... | as the weight |
| m, or theta* of the newest task | method.anchor/... | as the weight |
| lambda, gamma | strength, gamma | |
| c | `group` users | |

A sum of parabolas is a parabola: however many tasks there are, two tensors of the backbone's size are kept.

What F estimates: L_c is the mean loss of the group's answers. With one user a group, F is the mean of squared gradients
of single users. With more, and users independent, it is that plus (|c| - 1) times the square of the mean gradient,
which is near 0 at a minimum, and 0 in expectation for drawn labels. labels = "data" takes the task's own loss on its
training answers (the "empirical" Fisher); "drawn" takes -log p(y | history) for one y a user drawn from p, the softmax
of the scores that the model answers with: the Fisher proper, of that answer. For a next_item task it is the answer to
the history without its last event.

Differs: heads of older tasks stay as they were. F is estimated on at most `users` users, and not normalised. Dropout is
off while it is, unless the task's objective makes its two views by dropout (`needs_dropout`): of equal views its loss
is another. An objective that compares users compares those of a group. A task whose objective ranks no items
(`measure`) has no answers to draw: of it, "drawn" takes the task's own loss, too. Nothing is held while the first task
is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, everything

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["EWC"]


class EWC(Method):
    """A quadratic penalty on what earlier tasks hang on.

    Args:
        strength: lambda.
        form: "sum" holds weights to the values each task left, "online" to those the newest task left.
        gamma: what is kept of the older tasks' Fisher in the online form; 1 keeps all.
        labels: gradients of the training answers ("data"), or of answers drawn from the model ("drawn").
        users: how many users of a task its Fisher is estimated on, at most.
        group: users whose gradients are averaged before they are squared; 1 is exact and slowest.
        table: the item table on later tasks: "held" by the penalty, "frozen", or "free" to move.
    """

    name: ClassVar[str] = "ewc"
    paper: ClassVar[str] = "Kirkpatrick et al., PNAS 2017; Schwarz et al., ICML 2018"
    summary: ClassVar[str] = "one model; weights that earlier tasks hang on are held by a quadratic penalty"
    keeps: ClassVar[bool] = False

    counted: Tensor

    def __init__(
        self,
        *,
        strength: Annotated[float, Ge(0)] = 1000.0,
        form: Literal["sum", "online"] = "sum",
        gamma: Annotated[float, Gt(0), Le(1)] = 1.0,
        labels: Literal["data", "drawn"] = "data",
        users: Annotated[int, Ge(1)] = 2000,
        group: Annotated[int, Ge(1)] = 4,
        table: Literal["held", "frozen", "free"] = "held",
    ) -> None:
        super().__init__()
        self.strength, self.form, self.gamma, self.labels = strength, form, gamma, labels
        self.users, self.group, self.table = users, group, table
        self.register_buffer("counted", torch.tensor(0))  # tasks whose Fisher is in A

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """None; the first task makes room for A and m. SettingsError where a sparse item table would be held, or where
        users that an objective compares would be met one by one."""
        if card.kind == "next_item" and self.group == 1 and model.objective.whole_batch:
            raise SettingsError(
                f"groups of one user, and objective {model.objective.name} compares users with each other",
                expected="groups of 2 users or more",
                where="tuning.group, objective.name",
                fix="leave tuning.group out",
            )
        if model.is_first(card.name):
            if model.backbone.sparse and self.table == "held":
                raise SettingsError(
                    "a penalty moves every row of the item table, and encoder.sparse moves few",
                    where="tuning.table, encoder.sparse",
                    fix='table = "frozen" or "free", or sparse = false',
                )
            for name, weight in self.held(model).items():
                self.register_buffer(f"fisher/{name}", torch.zeros_like(weight))
                self.register_buffer(f"anchor/{name}", torch.zeros_like(weight))
        return None

    def held(self, model: UserModel) -> dict[str, nn.Parameter]:
        """What the penalty holds, by the name of its buffers."""
        table = model.backbone.event_table
        named = model.backbone.named_parameters()
        return {n.replace(".", "/"): p for n, p in named if p is not table or self.table == "held"}

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The backbone and the task's head; the item table too unless it is frozen."""
        still = model.backbone.event_table if self.table == "frozen" and not model.is_first(task) else None
        return [p for p in everything(model, task) if p is not still]

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L_k, and on later tasks the penalty."""
        own = model.loss(batch, task, rng)
        return own if model.is_first(task) else own + self.strength / 2 * self.distance(model)

    def distance(self, model: UserModel) -> Tensor:
        """sum_i A_i (theta_i - m_i)^2, scalar."""
        return torch.stack(
            [
                (self.get_buffer(f"fisher/{name}") * (weight - self.get_buffer(f"anchor/{name}")).square()).sum()
                for name, weight in self.held(model).items()
            ]
        ).sum()

    def remember(
        self, model: UserModel, task: str, datas: Sequence[TaskData], batches: Iterable[Batch], rng: torch.Generator
    ) -> None:
        """Take the task's Fisher into A, and its weights into m."""
        number = list(model.tasks).index(task) + 1
        if number <= int(self.counted):  # a model that was loaded and knows the task
            return
        for (name, weight), f in zip(self.held(model).items(), self.fisher(model, task, batches, rng), strict=True):
            total, anchor = self.get_buffer(f"fisher/{name}"), self.get_buffer(f"anchor/{name}")
            theta = weight.detach()
            if self.form == "online":
                total.mul_(self.gamma).add_(f)
                anchor.copy_(theta)
            else:
                total.add_(f)
                anchor.lerp_(theta, torch.where(total > 0, f / total.clamp(min=1e-38), 1.0))
        self.counted.fill_(number)

    def fisher(self, model: UserModel, task: str, batches: Iterable[Batch], rng: torch.Generator) -> list[Tensor]:
        """F of every weight held, of its shape, from the first users of `batches`."""
        weights = list(self.held(model).values())
        squares, n = [torch.zeros_like(p) for p in weights], 0
        objective = model.objective if model.tasks[task].kind == "next_item" else None
        drawn = self.labels == "drawn" and model.ranks(task)
        model.train(objective is not None and objective.needs_dropout)  # or else eval
        for few in _groups(batches, self.group, drawn):
            if n >= self.users:
                break
            if len(few) == 1 and objective is not None and objective.whole_batch:
                continue  # what is left of a batch, with nobody to be compared with
            loss = self._surprise(model, task, few, drawn, rng)  # ()
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            for square, gradient in zip(squares, gradients, strict=True):
                if gradient is not None:
                    square.addcmul_(gradient, gradient, value=len(few) ** 2)
            n += len(few)
        model.eval()
        return [square / max(n, 1) for square in squares]

    def _surprise(self, model: UserModel, task: str, batch: Batch, drawn: bool, rng: torch.Generator) -> Tensor:
        """L_c: mean loss of the training answers, or of one drawn answer a user; scalar."""
        if not drawn:
            return model.loss(batch, task, rng)
        if batch.answers is None:
            batch = _cut(batch, slice(None), batch.lengths - 1)
        scores = model.score(batch, task)  # (B, Y)
        answers = torch.multinomial(scores.detach().softmax(1), 1, generator=rng)[:, 0]  # (B,)
        return F.cross_entropy(scores, answers)


def _groups(batches: Iterable[Batch], size: int, drawn: bool) -> Iterator[Batch]:
    """Users with something to learn from, `size` at a time; for answers that are drawn, to events before the last."""
    for batch in batches:
        if drawn and batch.answers is None:
            batch = batch.having(2)
        for at in range(0, len(batch), size):
            few = _cut(batch, slice(at, at + size), batch.lengths[at : at + size])
            if few.answers is not None or int(few.lengths.max()) > 1:
                yield few


def _cut(batch: Batch, rows: slice, lengths: Tensor) -> Batch:
    """Some users of a batch, with histories of these lengths, padded no longer than they need."""
    told = {f.name: tensor for f in fields(batch) if (tensor := getattr(batch, f.name)) is not None}
    answers, starts = told.pop("answers", None), told.pop("answer_starts", None)
    if answers is not None and starts is not None:
        starts = starts[rows.start or 0 : (rows.stop or len(batch)) + 1]  # (b + 1,)
        answers, starts = answers[int(starts[0]) : int(starts[-1])], starts - starts[0]
    few = {name: tensor[rows] for name, tensor in told.items()}  # (b, ...)
    events = {name: few[name][:, : max(int(lengths.max()), 1)] for name in Batch.OF_EVENTS if name in few}  # (b, T)
    return Batch(**{**few, **events, "lengths": lengths, "answers": answers, "answer_starts": starts})
