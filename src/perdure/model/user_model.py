"""One user model: a backbone, one small overlay per task and one head per task."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from perdure.encoders.base import Encoder
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch
from perdure.model.heads import ItemTableHead, LabelsHead
from perdure.model.overlay import Overlay
from perdure.objectives.base import Learner, Objective

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.events.ids import Ids
    from perdure.events.marks import Marks
    from perdure.events.profiles import Fields

__all__ = ["ByTask", "TaskCard", "Tuning", "UserModel", "without_dropout"]


@dataclass(eq=False)
class TaskCard:
    """What a model must know of a task to answer it.

    Attributes:
        kind: "next_item", "item" or "one_of".
        labels: text ids of the Y answers; for next_item those of all items, label row = item row - 2.
        label_items: (Y,) int32 item row of each label, -1 where a label is no item of the vocabulary.
        popularity: (Y,) training answers per label: the answer for a user of whom nothing is known.
        settled: the task is learned and its overlay final.
        hides: the profile field that is this task's answer; no overlay of the task may read it. "" where none is.
    """

    name: str
    kind: str
    labels: Ids
    label_items: np.ndarray
    popularity: np.ndarray
    description: str = ""
    metric: str = ""
    settled: bool = False
    hides: str = ""


M = TypeVar("M", bound=nn.Module)


class ByTask(nn.Module, Generic[M]):
    """Task name -> module. Unlike nn.ModuleDict a task may be called `items` or `type`."""

    def __getitem__(self, task: str) -> M:
        module = self.get(task)
        if module is None:
            raise KeyError(task)
        return module

    def __setitem__(self, task: str, module: M) -> None:
        self.add_module(f"task/{task}", module)

    def __delitem__(self, task: str) -> None:
        del self._modules[f"task/{task}"]

    def __contains__(self, task: str) -> bool:
        return f"task/{task}" in self._modules

    def get(self, task: str | None) -> M | None:
        """The module of a task, or None where it has none."""
        return cast("M | None", self._modules.get(f"task/{task}"))


class Tuning(Protocol):
    """What a model asks of its tuning method; `perdure.tuning.base.Method` has more, and knows the model."""

    keeps: bool

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None: ...

    def head(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> nn.Module | None: ...

    def capacity(self, model: UserModel) -> float | None: ...


class UserModel(nn.Module):
    """Backbone + overlays + heads.

    Args:
        backbone: the encoder all tasks share.
        method: how tasks are added (perdure.tuning).
        objective: how next_item tasks are learned (perdure.objectives).
        item_ids: text ids of the items the backbone reads; item rows start at 2.
        fields: what profiles of users can hold, for methods that read them; None where there are none.
        marks: what the backbone reads of events besides their items; None where it reads items alone.
    """

    def __init__(
        self,
        backbone: Encoder,
        method: Tuning,
        objective: Objective,
        item_ids: Ids,
        fields: Fields | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__()
        self.fields, self.marks = fields, marks
        self.backbone, self.method, self.objective, self.item_ids = backbone, method, objective, item_ids
        self.overlays: ByTask[Overlay] = ByTask()
        self.heads: ByTask[nn.Module] = ByTask()
        self.tasks: dict[str, TaskCard] = {}
        self.spec: dict[str, Any] = {}  # encoder, method and objective by name with their options
        self.manifest: dict[str, Any] = {}  # model.json, when the model was loaded from a folder
        self.folder: Path | None = None  # that folder, for those who look for the log beside it
        self.told: tuple[str, ...] = ()  # attributes of users that the models it began as were trained to tell

    def taught(self) -> list[str]:
        """Attributes of users that its backbone was trained to tell, here or before."""
        return sorted({*self.told, *self.objective.predicts(self.fields)})

    def refuse_answer(self, task: str, attribute: str) -> None:
        """SettingsError where the answer of a task is an attribute that the backbone was trained to tell."""
        self.objective.refuse_answer(task, attribute, self.fields)
        if attribute in self.told:
            raise SettingsError(
                f"task {task!r} asks for {attribute}, which a model that this one began as was trained to tell",
                expected="pre-training that knows no answer of a task",
                where="pretrain.start, tasks",
                fix=f"begin as a model that never learned from {attribute}, or leave the task out",
            )

    def add(self, card: TaskCard, generator: torch.Generator) -> None:
        """Make room for a task: its head and its overlay, drawn from `generator`, on the backbone's device."""
        if card.name.lower() in {name.lower() for name in self.tasks}:  # a name becomes a file's name
            raise UsageError(
                f"the model already knows a task {card.name!r}", fix="choose another name or resume the run"
            )
        self.refuse_answer(card.name, card.hides)
        device = self.backbone.item_table.device
        self.tasks[card.name] = card
        head = self.method.head(self, card, generator)
        if head is None and card.kind == "next_item":
            head = ItemTableHead(self.backbone.n_items, self.backbone.width, generator, self.objective.tied)
            head.parts = self.objective.parts(self.backbone, self.fields, generator)
        elif head is None:
            head = LabelsHead(len(card.labels), self.backbone.width, generator)
        self.heads[card.name] = head.to(device)
        overlay = self.method.overlay(self, card, generator)
        if overlay is not None:
            self.overlays[card.name] = overlay.to(device)

    def settle(self, task: str) -> None:
        """Mark a task as learned; its overlay drops what only training needed."""
        card = self.card(task)
        if not card.settled and task in self.overlays:
            self.overlays[task].settle()
        card.settled = True

    def card(self, task: str) -> TaskCard:
        """The card of a task; UsageError names those that exist, and the nearest."""
        if isinstance(task, str) and task in self.tasks:
            return self.tasks[task]
        near = difflib.get_close_matches(str(task), self.tasks, n=1, cutoff=0.5)
        raise UsageError(
            f"no task {task!r} in this model",
            expected="one of " + (", ".join(self.tasks) or "(it has none)"),
            where="task",
            fix=f"did you mean {near[0]}?" if near else "",
        )

    def is_first(self, task: str) -> bool:
        """Whether this task is the one that trained the backbone."""
        return next(iter(self.tasks)) == task

    def states(self, batch: Batch, task: str | None = None) -> Tensor:
        """(B, T) histories -> (B, P + T, d), through the task's overlay; the plain backbone when task is None."""
        overlay = self.overlays.get(task)
        return self.backbone(batch) if overlay is None else overlay.states(self.backbone, batch)

    def represent(self, batch: Batch, task: str | None = None) -> Tensor:
        """User vectors (B, d), read as the task's overlay reads them; as the plain backbone does when task is None."""
        overlay = self.overlays.get(task)
        if overlay is None:
            return self.backbone.vector(self.backbone.question(batch))
        return overlay.vector(self.backbone, batch)

    def item_table(self, task: str) -> Tensor:
        """(N + 2, d) item vectors a tied head of this task scores with."""
        table = self.backbone.item_table
        return self.overlays[task].item_table(table) if task in self.overlays else table

    def score_of(self, u: Tensor, task: str) -> Tensor:
        """User vectors (B, d) -> scores of the task's labels (B, Y), without what `recall` adds."""
        return self.heads[task].score(u, self.item_table(task))  # type: ignore[operator]

    def recalls(self, task: str) -> bool:
        """Whether histories add to the scores of the task's head besides the user vectors."""
        return getattr(self.heads[task], "recalls", False)

    def recall(self, batch: Batch, task: str) -> Tensor:
        """Histories -> (B, Y) what the memory of the task's head adds to its scores."""
        return self.heads[task].recall(batch)  # type: ignore[operator]

    def score(self, batch: Batch, task: str) -> Tensor:
        """Histories -> scores of the task's labels (B, Y)."""
        self.card(task)
        scores = self.score_of(self.represent(batch, task), task)
        return scores + self.recall(batch, task) if self.recalls(task) else scores

    def ranks(self, task: str) -> bool:
        """Whether scores of the task rank its labels; not where its objective learns user vectors alone, and no method
        has brought a head that ranks."""
        by_objective = self.card(task).kind == "next_item" and isinstance(self.heads[task], ItemTableHead)
        return not (by_objective and self.objective.measure)

    def loss(self, batch: Batch, task: str, rng: torch.Generator) -> Tensor:
        """The task's own loss: the objective for next_item, the head's cross-entropy for the others.

        Raises:
            SettingsError: in training, where the objective needs dropout and no layer that trains has some.
        """
        if self.tasks[task].kind == "next_item":
            if self.training and self.objective.needs_dropout and not self._drops(task):
                raise SettingsError(
                    f"objective {self.objective.name} encodes a history twice, and nothing is dropped in task {task!r}",
                    expected="an encoder with dropout, whose layers train",
                    where="objective, encoder.dropout, tuning.method",
                    fix="set encoder.dropout; a method that freezes the backbone needs other views, or no such task",
                )
            return self.objective.loss(self.learner(task), batch, rng)
        return self.heads[task].loss(self.represent(batch, task), batch, self.item_table(task))  # type: ignore[operator]

    def _drops(self, task: str) -> bool:
        """Whether a layer that is in training drops something."""
        layers = [*self.backbone.modules(), *(self.overlays[task].modules() if task in self.overlays else ())]
        rates = ("dropout", "attention_dropout")
        return any(layer.training and any(getattr(layer, rate, 0) for rate in rates) for layer in layers)

    def terms(self, batch: Batch, task: str) -> float:
        """How many terms `loss` is the mean of; see `Objective.terms`. Answers, where the head learns from them."""
        if self.tasks[task].kind == "next_item":
            return self.objective.terms(batch, self.predicts_first(task))
        return 0 if batch.answers is None else len(batch.answers)

    def predicts_first(self, task: str) -> bool:
        """Whether a next_item task learns to predict the first event too, from what its overlay puts before it."""
        overlay = self.overlays.get(task)
        return overlay is not None and overlay.predicts_first

    def judge(self, batch: Batch, task: str, rng: torch.Generator) -> Tensor:
        """(B,) what the objective of a next_item task measures of each user; see `Objective.judge`."""
        return self.objective.judge(self.learner(task), batch, rng)

    def learner(self, task: str) -> Learner:
        """A next_item task as its objective sees it."""
        head = cast(ItemTableHead, self.heads[task])
        table, bias = head.weights(self.item_table(task))
        return Learner(
            encode=lambda batch: self.states(batch, task),
            vector=lambda batch: self.represent(batch, task),
            table=table,
            bias=bias,
            parts=head.parts,
            sparse=self.backbone.sparse and bias is None,
            first=self.predicts_first(task),
        )


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """All of `module` in eval mode, and afterwards each part of it as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
