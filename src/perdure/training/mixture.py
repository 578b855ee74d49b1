"""Training batches of a task; and of several: for each a task is drawn, and its own loader gives the next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from perdure.errors import DataError, UsageError
from perdure.events.batch import Batch
from perdure.events.examples import TaskData
from perdure.events.loader import Loader
from perdure.model.user_model import UserModel
from perdure.train_settings import TrainSettings
from perdure.tuning.base import Method


def loader_of(model: UserModel, data: TaskData, settings: TrainSettings, generator: torch.Generator) -> Loader:
    """Training batches of one task, as the encoder and the objective read them, in an order that `generator` draws."""
    shifted = data.train.answer_starts is None
    return Loader(
        data.sequences,
        data.train,
        batch_size=settings.batch_size,
        max_length=model.backbone.max_length + (model.objective.extra if shifted else 0),
        generator=generator,
        times=model.backbone.reads_times or (shifted and model.objective.reads_times),
        windows=("each" if model.objective.each else settings.windows) if shifted else "last",
        first=model.predicts_first(data.task.name),
        profiles=data.profiles,
    )


class Mixture:
    """A tape of tapes. An epoch has as many batches as one epoch of every loader; which loader gives a batch is chance,
    so a small task may be played several times in it and a large one not to its end. Like `Loader` it can be stopped
    anywhere and put back to go on exactly.

    Args:
        loaders: task -> batches of its training examples.
        shares: task -> how often it is drawn, in proportion, above 0.
        generator: the mixture's own; nothing else may draw from it.

    Attributes:
        task: whose the newest batch is.

    Raises:
        DataError: a task without training examples. UsageError: a share that is no positive number.
    """

    def __init__(self, loaders: Mapping[str, Loader], shares: Mapping[str, float], generator: torch.Generator) -> None:
        for task, loader in loaders.items():
            if len(loader) == 0:
                raise DataError(f"task {task} has no training examples", where=f"[[tasks]] {task}")
            if not 0 < shares[task] < float("inf"):
                raise UsageError(f"task {task} is drawn with share {shares[task]}", expected="more than 0")
        self._loaders, self._generator, self._position = dict(loaders), generator, 0
        self._shares = torch.tensor([shares[task] for task in loaders], dtype=torch.float64)  # (K,)
        self.task = next(iter(loaders))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(len(loader) for loader in self._loaders.values())

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        tasks = list(self._loaders)
        while self._position < len(self):
            self.task = tasks[int(torch.multinomial(self._shares, 1, generator=self._generator))]
            self._position += 1
            yield _next(self._loaders[self.task])
        self._position = 0

    def state(self) -> dict:
        """Where all tapes stand, fit for JSON."""
        generator = self._generator.get_state().numpy().tobytes().hex()
        loaders = {task: loader.state() for task, loader in self._loaders.items()}
        return {"position": self._position, "generator": generator, "loaders": loaders}

    def restore(self, state: dict) -> None:
        """Go on where `state` was taken. Raises UsageError when it is of other tasks or loaders."""
        if sorted(state["loaders"]) != sorted(self._loaders):
            raise UsageError(f"a position of {', '.join(state['loaders'])}", expected=", ".join(self._loaders))
        for task, loader in self._loaders.items():
            loader.restore(state["loaders"][task])
        self._generator.set_state(torch.frombuffer(bytearray.fromhex(state["generator"]), dtype=torch.uint8))
        self._position = int(state["position"])


def refuse_torn_groups(method: Method, known: Sequence[str], order: Sequence[str]) -> None:
    """UsageError where the model has learned some of the tasks that its method learns at once, and not the others."""
    groups = method.order(order)
    whole = [0, *(order.index(group[-1]) + 1 for group in groups)]
    if len(known) in whole:
        return
    group = next(group for group in groups if order.index(group[-1]) >= len(known))
    raise UsageError(
        f"{method.name} learns {', '.join(group)} together, and this model has learned {', '.join(known)} already",
        expected=f"a model that has learned {' or '.join(', '.join(order[:n]) or 'nothing' for n in whole[:-1])}",
        where="tasks",
        fix="train a new model on the data of all tasks",
    )


def _next(loader: Loader) -> Batch:
    """The next batch; the first of the next epoch where this one is over."""
    batch = next(iter(loader), None)
    return next(iter(loader)) if batch is None else batch
