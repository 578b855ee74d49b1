"""What a life must know of a task before it is learned: who can be asked, what is popular, the card the model keeps."""

from __future__ import annotations

import numpy as np

from perdure.evaluation.evaluate import PRIMARY
from perdure.events.examples import Examples, TaskData
from perdure.model.user_model import TaskCard


def asked(examples: Examples) -> bool:
    """Whether there is somebody with an answer to be found."""
    return bool(len(examples) and examples.answer_starts is not None and examples.answer_starts[-1] > 0)


def item_counts(data: TaskData, n_items: int) -> np.ndarray:
    """(N,) int64: how often each item stands in the task's training inputs."""
    examples, items = data.train, np.asarray(data.sequences.items)
    edges = np.bincount(examples.begin, minlength=len(items) + 1) - np.bincount(examples.end, minlength=len(items) + 1)
    covered = np.cumsum(edges)[:-1][: len(items)]  # (H,) inputs that hold each event
    return np.bincount(items, weights=covered, minlength=n_items + 2)[2:].astype(np.int64)


def card_of(data: TaskData) -> TaskCard:
    """What the model must know of a task: labels, training popularity, metric."""
    task = data.task
    if data.train.answer_starts is None:
        popularity = item_counts(data, len(data.labels))
    else:
        inside = data.train.answers[data.train.answers >= 0]
        popularity = np.bincount(inside, minlength=len(data.labels)).astype(np.int64)
    return TaskCard(
        name=task.name,
        kind=task.kind,
        description=task.description,
        labels=data.labels,
        label_items=data.label_items,
        popularity=popularity,
        metric=PRIMARY[task.kind],  # until it is measured; then what stands for it in R
        hides=task.answer.removeprefix("user.") if task.answer.startswith("user.") else "",
    )
