"""Replay: one model, trained on every new task together with a few stored examples of the older ones.

D. Rolnick, A. Ahuja, J. Schwarz, T. Lillicrap, G. Wayne, "Experience Replay for Continual Learning", NeurIPS 2019;
A. Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486); the reservoir after J.
Vitter, "Random Sampling with a Reservoir", 1985.

    L'  = L_k(B) + weight / (k - 1) sum_{j<k} L_j(B_j)      older = "all"
        = L_k(B) + weight L_j(B_j),  j drawn from 1 .. k-1  older = "one", the same in expectation
    M_j = the m examples of task j with the largest of random keys: a uniform sample without replacement

| paper | here | shape |
|---|---|---|
| M_j: histories, their lengths, up to A answers of each | overlays[j].items, lengths, answers | (m, L), (m,), (m, A) |
| of M_j for a next_item task: whose, and rows of the profile | overlays[j].users, profile | (m,), (m, F) |
| m, A | memory, answers | |
| |B_j| | batch, drawn from M_j, none twice | |

L is what the encoder reads, and for a next_item task what its targets need besides.

Privacy: M_j holds histories of users, item by item and, where the encoder reads them, with times and marks; where an
objective learns them, with the profile. It is stored in the file of task j in the model folder: whoever has the model
has these histories. Who the users are is not stored: of a next_item task only which examples are of one user, whom an
objective must not tell apart. So friends cannot be looked up, and an objective that reads them is refused.

Differs: the papers store classes or transitions; here an example is a user's history with at most A of the user's
answers, a uniform sample of them. Every task has a head of its own: those of older tasks stay as they were unless
`heads`, as a head with many labels fits a small memory by heart. Of a task with fewer than m examples all are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, everything

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.model.user_model import TaskCard, UserModel
    from perdure.objectives.base import Objective

__all__ = ["Replay"]


class Memory(Overlay):
    """Examples of one task.

    Args:
        size: m. length: L. most: A, answers kept of a history; 0 where the task has none, and users are then told
            apart. timed: events have times.
        marks: M, of each event. fields: F, of each profile.
    """

    passive: ClassVar[bool] = True

    items: Tensor
    lengths: Tensor
    answers: Tensor | None
    times: Tensor | None
    marks: Tensor | None
    users: Tensor | None
    profile: Tensor | None
    filled: Tensor

    def __init__(self, size: int, length: int, most: int, timed: bool, marks: int = 0, fields: int = 0) -> None:
        super().__init__()
        self.register_buffer("items", torch.zeros(size, length, dtype=torch.int32))
        self.register_buffer("lengths", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("answers", torch.full((size, most), -1, dtype=torch.int32) if most else None)
        self.register_buffer("times", torch.zeros(size, length, dtype=torch.int64) if timed else None)
        self.register_buffer("marks", torch.zeros(size, length, marks, dtype=torch.int16) if marks else None)
        self.register_buffer("users", None if most else torch.zeros(size, dtype=torch.int32))
        self.register_buffer("profile", torch.zeros(size, fields, dtype=torch.int16) if fields else None)
        self.register_buffer("filled", torch.tensor(0))  # rows in use, from the first

    def keep(self, batches: Iterable[Batch], rng: torch.Generator) -> None:
        """Take m examples of all, each as likely as any other; what was kept before is gone."""
        size, length = self.items.shape
        kept: dict[str, Tensor] = {}
        for batch in batches:
            some = {"items": _wide(batch.items, length), "lengths": batch.lengths}  # (B, L), (B,)
            if self.answers is not None and batch.answers is not None and batch.answer_starts is not None:
                most = self.answers.shape[1]
                some["answers"] = _some_of_each(batch.answers, batch.answer_starts, most, rng)  # (B, A)
            if self.times is not None and batch.times is not None:
                some["times"] = _wide(batch.times, length)  # (B, L)
            if self.marks is not None and batch.marks is not None:
                some["marks"] = _wide(batch.marks, length)  # (B, L, M)
            if self.users is not None and batch.users is not None:
                some["users"] = batch.users  # (B,)
            if self.profile is not None and batch.profile is not None:
                some["profile"] = batch.profile  # (B, F)
            some["key"] = torch.rand(len(batch), generator=rng, device=rng.device, dtype=torch.float64)  # (B,)
            teaches = batch.lengths > (1 if self.answers is None else 0)  # (B,)
            some = {name: t[teaches] for name, t in some.items()}
            both = {name: torch.cat([kept[name], t]) if kept else t for name, t in some.items()}  # (<= m + B, ...)
            best = both["key"].topk(min(size, len(both["key"]))).indices
            kept = {name: t[best] for name, t in both.items()}
        self.filled.fill_(len(kept.pop("key", ())))
        if self.users is not None:  # numbers from 0 in place of rows of the log
            one = torch.arange(int(self.filled), device=self.users.device)  # (m,)
            kept["users"] = kept["users"].unique(return_inverse=True)[1] if "users" in kept else one
        for name, tensor in kept.items():
            buffer = self.get_buffer(name)  # (m, ...)
            buffer.zero_()[: len(tensor)] = tensor.to(buffer.dtype)

    def draw(self, size: int, rng: torch.Generator) -> Batch:
        """`size` examples, or all there are; none twice, as an objective may hold users against each other."""
        rows = torch.randperm(int(self.filled), generator=rng, device=rng.device)[:size]  # (B,)
        lengths = self.lengths[rows].long()  # (B,)
        t = max(int(lengths.max()), 1)
        times = None if self.times is None else self.times[rows, :t]  # (B, T)
        marks = None if self.marks is None else self.marks[rows, :t].long()  # (B, T, M)
        users = None if self.users is None else self.users[rows].long()  # (B,)
        profile = None if self.profile is None else self.profile[rows].long()  # (B, F)
        answers = starts = None
        if self.answers is not None:
            kept = self.answers[rows]  # (B, A)
            answers, counts = kept[kept >= 0].long(), (kept >= 0).sum(1)  # (all,), (B,)
            starts = F.pad(counts.cumsum(0), (1, 0))  # (B + 1,)
        return Batch(self.items[rows, :t].long(), lengths, times, users, answers, starts, profile, marks=marks)


class Replay(Method):
    """Experience replay.

    Args:
        memory: m, examples kept of each task.
        answers: A, the most answers kept of an example; a class is one answer.
        batch: examples drawn from the memory of an older task in each step.
        older: tasks replayed in a step: "all" the older ones, or "one", drawn uniformly.
        weight: of the older tasks' mean loss against the new task's.
        heads: train the heads of older tasks along.
    """

    name: ClassVar[str] = "replay"
    paper: ClassVar[str] = "Rolnick et al., NeurIPS 2019; Chaudhry et al., 2019"
    summary: ClassVar[str] = "one model; each step also sees stored examples of older tasks"
    keeps: ClassVar[bool] = False

    def __init__(
        self,
        *,
        memory: Annotated[int, Ge(1)] = 500,
        answers: Annotated[int, Ge(1)] = 10,
        batch: Annotated[int, Ge(1)] = 32,
        older: Literal["all", "one"] = "all",
        weight: Annotated[float, Ge(0)] = 1.0,
        heads: bool = False,
    ) -> None:
        super().__init__()
        self.memory, self.answers = memory, answers
        self.batch, self.older, self.weight, self.heads = batch, older, weight, heads

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """An empty memory; the backbone serves as it is. SettingsError: see `loss`."""
        marks = 0 if model.marks is None else len(model.marks.sizes)
        length, timed = model.backbone.max_length, model.backbone.reads_times
        if card.kind != "next_item":
            return Memory(self.memory, length, 1 if card.kind == "one_of" else self.answers, timed, marks)
        objective = model.objective
        _refuse_lookups(objective)
        fields = len(model.fields) if model.fields is not None and objective.predicts(model.fields) else 0
        return Memory(self.memory, length + objective.extra, 0, timed or objective.reads_times, marks, fields)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The backbone and the task's head, and where asked those of older tasks."""
        older = _older(model, task) if self.heads else []
        return [*everything(model, task), *(p for j in older for p in model.heads[j].parameters())]

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """The task's own loss and, on later tasks, that of what is replayed.

        Raises:
            SettingsError: the objective reads who a user's friends are.
        """
        _refuse_lookups(model.objective)
        own = model.loss(batch, task, rng)
        older = [j for j in _older(model, task) if int(cast(Memory, model.overlays[j]).filled)]
        if not older:
            return own
        if self.older == "one":
            older = [older[int(torch.randint(len(older), (), generator=rng, device=rng.device))]]
        losses = [model.loss(cast(Memory, model.overlays[j]).draw(self.batch, rng), j, rng) for j in older]
        return own + self.weight * torch.stack(losses).mean()

    def remember(
        self, model: UserModel, task: str, datas: Sequence[TaskData], batches: Iterable[Batch], rng: torch.Generator
    ) -> None:
        """Fill the task's memory."""
        cast(Memory, model.overlays[task]).keep(batches, rng)


def _refuse_lookups(objective: Objective) -> None:
    if objective.reads_users:
        raise SettingsError(
            f"objective {objective.name} looks users up, and replay does not keep who they are",
            expected="an objective that learns from histories and profiles, or another method",
            where="tuning.method, profile.friends",
            fix="leave [profile] friends out, or set objective.friends = 0",
        )


def _older(model: UserModel, task: str) -> list[str]:
    """The tasks before this one."""
    names = list(model.tasks)
    return names[: names.index(task)]


def _wide(events: Tensor, length: int) -> Tensor:
    """(B, T, ...) -> (B, L, ...), padded with zeros."""
    return F.pad(events, (0, 0) * (events.dim() - 2) + (0, length - events.shape[1]))


def _some_of_each(answers: Tensor, starts: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """At most `most` of each user's answers, a uniform sample: (A,), (B + 1,) -> (B, most), -1 where there are less."""
    counts = starts.diff()  # (B,)
    row = torch.repeat_interleave(torch.arange(len(counts), device=answers.device), counts)  # (A,)
    order = torch.rand(len(answers), generator=rng, device=rng.device, dtype=torch.float64).argsort()  # (A,)
    order = order[row[order].argsort(stable=True)]  # by user, and by chance within
    place = torch.arange(len(answers), device=answers.device) - starts[:-1][row]  # (A,) from 0 for each user
    kept = place < most
    some = answers.new_full((len(counts), most), -1)  # (B, most)
    some[row[kept], place[kept]] = answers[order][kept]
    return some
