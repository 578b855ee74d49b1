"""What a life must know of a task before it is learned: who can be asked, what is popular, the card the model keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from perdure.errors import DataError
from perdure.evaluation.evaluate import PRIMARY
from perdure.events.examples import Examples, TaskData
from perdure.model.user_model import TaskCard

BLOCK = 2**22  # events counted at a time


def asked(examples: Examples) -> bool:
    """Whether there is somebody with an answer to be found."""
    return bool(len(examples) and examples.answer_starts is not None and examples.answer_starts[-1] > 0)


def refuse_untested(
    datas: Mapping[str, TaskData],
    tasks: Iterable[str],
    where: str = "tasks",
    fix: str = "give [split] test a larger share",
) -> None:
    """DataError where one of the tasks has nobody to be tested on."""
    for name in tasks:
        if name not in datas or not asked(datas[name].test):
            raise DataError(
                f"task {name} has no test user with an answer", expected="one or more", where=where, fix=fix
            )


def item_counts(data: TaskData, n_items: int) -> np.ndarray:
    """(N,) int64: how often each item stands in the task's training inputs. Events are read block by block, so that a
    log that does not fit into memory can be counted."""
    items, counts = np.asarray(data.sequences.items), np.zeros(n_items + 2)
    edges = [np.sort(data.train.begin), np.sort(data.train.end)]  # (n,) where inputs begin and end
    for low in range(0, len(items), BLOCK):
        some = items[low : low + BLOCK]  # (b,)
        covered = np.zeros(len(some), np.int64)  # (b,) inputs that hold each event
        for edge, change in zip(edges, (1, -1), strict=True):
            first, last = np.searchsorted(edge, [low, low + len(some)])
            covered[0] += change * first
            covered += change * np.bincount(edge[first:last] - low, minlength=len(some))
        counts += np.bincount(some, weights=np.cumsum(covered), minlength=n_items + 2)
    return counts[2:].astype(np.int64)


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
        hides=task.attribute,
    )
