"""What every tuning method is: a way of making the next task's overlay without spoiling the others.

A method reaches an encoder only through `Via`. What it adds for a task is an Overlay; what it must remember between
tasks is a buffer or parameter of the Method, hence saved with the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure.encoders.base import Via
from perdure.events.batch import Batch
from perdure.model.overlay import Overlay

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.model.user_model import TaskCard, UserModel

__all__ = [
    "Method",
    "Overlay",
    "Reweighted",
    "added",
    "everything",
    "key",
    "matrices",
    "method_of",
    "own_unless_first",
    "through",
]


def through(layer: nn.Module, weights: Mapping[str, Tensor], x: Tensor, *context: Tensor) -> Tensor:
    """layer(x, *context) with some of its parameters replaced for this call."""
    return functional_call(layer, dict(weights), (x, *context))


class Reweighted(Overlay, ABC):
    """An overlay that serves some of the backbone's weights with other values and leaves all else as it is."""

    def via(self, batch: Batch) -> Via:
        """Every layer with the weights that `weights` gives for it."""
        return self._via

    def _via(self, site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        weights = self.weights(site, layer)
        return through(layer, weights, x, *context) if weights else layer(x, *context)

    @abstractmethod
    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """Name of a parameter of the layer -> what stands in for it, of its shape; empty: the layer as it is."""


class Method(nn.Module, ABC):
    """One way of learning task after task. Subclasses are final.

    Attributes:
        keeps: promise that older tasks answer bit for bit as before; the training loop holds the method to it.
        begins_as_backbone: before its first step a new task's vectors of users with events equal the backbone's.
        stages: names of the phases of one task; a run can stop and resume between them.
        needs_teacher: learns from the model as it was before the task: the loop sets `teacher` while later tasks are
            learned.
        whole_batch: its loss compares users of a batch with each other, so that processes cannot share one.
        stage_steps: most steps of the stage being trained; set by the loop before its first.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    keeps: bool
    begins_as_backbone: bool = True
    stages: ClassVar[tuple[str, ...]] = ("train",)
    needs_teacher: ClassVar[bool] = False
    whole_batch: bool = False
    stage_steps: int = 1

    def __init__(self) -> None:
        super().__init__()
        self._teacher: tuple[UserModel, ...] = ()  # in a tuple, as it is no part of the method

    @property
    def teacher(self) -> UserModel:
        """The frozen model from before the task being learned; RuntimeError where the loop was not asked for one."""
        if not self._teacher:
            raise RuntimeError(f"{self.name} has no teacher: is this its first task?")
        return self._teacher[0]

    def taught_by(self, teacher: UserModel | None) -> None:
        """The loop's way of giving a teacher before the first `enter` of a task, and taking it away at its end."""
        self._teacher = () if teacher is None else (teacher,)

    def order(self, tasks: Sequence[str]) -> list[list[str]]:
        """The tasks in groups; those of a group are learned at once, under the name of its last. One by one, unless a
        method needs several together. A group may name tasks of earlier groups again, and ends with a new one."""
        return [[task] for task in tasks]

    def shares(self, examples: Mapping[str, int]) -> dict[str, float]:
        """How often each task of a group is drawn, in proportion, given its number of training examples."""
        return dict(examples)

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """The overlay of a new task, or None where the backbone serves as it is."""
        return None

    def head(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> nn.Module | None:
        """The head of a new task, made before its overlay, or None for the one that tasks of its kind have."""
        return None

    @abstractmethod
    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Parameters the optimiser may touch in this stage. The first task trains the backbone for every method."""

    def enter(self, stage: str, model: UserModel, task: str) -> None:
        """Before a stage; when a stopped run goes on, before all tensors are put back. What is set here besides tensors
        may depend on the stage alone."""
        return

    def leave(self, stage: str, model: UserModel, task: str) -> None:
        """After a stage; the best weights are in place."""
        return

    def remember(
        self, model: UserModel, task: str, datas: Sequence[TaskData], batches: Iterable[Batch], rng: torch.Generator
    ) -> None:
        """Once a task is learned, before it is settled: one more look at its training batches, one epoch in an order
        of its own, and at the data of the tasks so far, this one last, for what the method keeps of them. What is kept
        lives in buffers made by `overlay` or `head`, so that their shapes are known before any data is. Dropout, where
        it is on, draws from global generators that were seeded."""
        return

    def relations(self, model: UserModel, task: str) -> dict[str, float]:
        """How much a task just learned, not yet settled, draws on each earlier one; empty where the method has no such
        thing. Reports show it."""
        return {}

    def capacity(self, model: UserModel) -> float | None:
        """Share in [0, 1] of what tasks take of the backbone that is left to later ones; None where tasks take none. Of
        a model with a task. Its card shows it."""
        return None

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """Scalar. The task's own loss unless the method adds to it; progress in [0, 1] through the stage."""
        return model.loss(batch, task, rng)

    def terms(self, model: UserModel, task: str, batch: Batch) -> float:
        """How many terms `loss` is the mean of: what a share of a batch weighs where several processes have one each.
        Those of the task's own loss, unless a method's is the mean of others."""
        return model.terms(batch, task)

    def shut(self, model: UserModel, task: str, stage: str) -> dict[nn.Parameter, Tensor]:
        """Weight -> share in [0, 1] of each entry that may not move (1 = shut). Held on the optimiser's step."""
        return {}


def method_of(model: UserModel) -> Method:
    """The method of a model, which knows no more of it than what it asks of it itself."""
    return cast(Method, model.method)


def added(model: UserModel, task: str) -> list[nn.Parameter]:
    """Parameters of the task's own overlay and head."""
    overlay = model.overlays.get(task)
    return [*(overlay.parameters() if overlay is not None else ()), *model.heads[task].parameters()]


def everything(model: UserModel, task: str) -> list[nn.Parameter]:
    """The backbone's parameters and the task's own."""
    return [*model.backbone.parameters(), *added(model, task)]


def own_unless_first(model: UserModel, task: str) -> list[nn.Parameter]:
    """What methods with a frozen backbone train: all on the first task, only what is added on later ones."""
    return everything(model, task) if model.is_first(task) else added(model, task)


def matrices(model: UserModel) -> dict[str, dict[str, nn.Parameter]]:
    """Site -> name in its layer -> weight, for every matrix of the layers that mix: what masks and updates stand on."""
    return {
        site: {name: weight for name, weight in layer.named_parameters() if weight.dim() == 2}
        for site, layer in model.backbone.sites().items()
        if getattr(layer, "role", "") == "mix"
    }


def key(site: str, name: str) -> str:
    """Under what a method or overlay keeps something for one weight of a site: torch allows no dots there."""
    return f"{site}/{name}".replace(".", "/")
