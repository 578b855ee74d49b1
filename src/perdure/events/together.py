"""What stood together: in how many users' training baskets an item and a label were both.

    B_u   the items that training user u met, histories and the task's answers
    f(i)      = #{u : i in B_u}
    f(i, y)   = #{u : i in B_u and y in B_u},  y another item than i

table: B_u -> `users`, `items` of `baskets`, entry by entry; f(i, y) -> what `pairs` counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from perdure.events.ids import FIRST_ITEM
from perdure.events.splits import ragged

if TYPE_CHECKING:
    from perdure.events.examples import TaskData

__all__ = ["baskets", "met", "pairs"]

AT_ONCE = 2**23  # pairs of events looked at together: 64 MiB of keys
SAME = 1e-5  # share by which two pairs differ that are worth the same


def baskets(tasks: Sequence[TaskData], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """What the training users of some tasks met: the last `max_length` events of each training input, and the answers
    of the last task that are items.

    Returns:
        users, items: (E,) int64, user by user, each item of a user once, in rising order.
    """
    inputs = [np.stack([t.train.users, t.train.begin, t.train.end], 1).astype(np.int64) for t in tasks]
    users, begin, end = np.unique(np.concatenate(inputs), axis=0).T  # (n,) each
    begin = np.maximum(begin, end - max_length)
    items = np.asarray(tasks[-1].sequences.items)[ragged(begin, end - begin)].astype(np.int64)  # (E',)
    users = np.repeat(users, end - begin)
    last = tasks[-1].train
    if last.answer_starts is not None:
        label_items = tasks[-1].label_items[last.answers]  # (A,)
        owners = np.repeat(last.users, np.diff(last.answer_starts)).astype(np.int64)
        users, items = np.append(users, owners), np.append(items, label_items)
    return _once(users, items)


def met(task: TaskData, users: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All that some training users, by their rows, did before a task's answers, however long ago: as `baskets`."""
    asked = np.isin(task.train.users, users)
    begin, end = task.train.begin[asked].astype(np.int64), task.train.end[asked].astype(np.int64)
    items = np.asarray(task.sequences.items)[ragged(begin, end - begin)].astype(np.int64)
    return _once(np.repeat(task.train.users[asked].astype(np.int64), end - begin), items)


def _once(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item of a user once: entries (E',) -> (E,), user by user, items in rising order."""
    width = int(items.max(initial=0)) + 1
    keys = np.unique((users * width + items)[items >= FIRST_ITEM])
    return keys // width, keys % width


def pairs(
    users: np.ndarray, items: np.ndarray, label_items: np.ndarray, n_items: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The pairs of an item and a label that tell most, f(i, y) / sqrt(f(i)) the larger the better.

    Args:
        users, items: of `baskets`. label_items: (Y,) item row of each label. n_items: N.
        most: pairs kept at most.

    Returns:
        item rows, label rows and f(i, y) of the pairs: (P,) int64 each, by item, then by label; and what all of them
        are worth more than, 0 where all pairs are kept.
    """
    met = np.bincount(items, minlength=n_items + 2)  # (N + 2,) f(i)
    kept, size, least = [np.zeros((0, 3), np.int32)], 0, 0.0
    for found in _counted(users, items, label_items, n_items + 2):
        kept.append(found)
        size += len(found)
        if size > 2 * most:  # so that memory stays in proportion to what is kept
            best, least = _best(np.concatenate(kept), met, most, least)
            kept, size = [best], len(best)
    best, least = _best(np.concatenate(kept), met, most, least)
    best = best[np.lexsort((best[:, 1], best[:, 0]))]
    item, label, count = best.astype(np.int64).T
    return item, label, count, least


def _best(found: np.ndarray, met: np.ndarray, most: int, least: float) -> tuple[np.ndarray, float]:
    """(P', 3) item, label, count -> those worth more than `least`, or than the best that is one too many, and that."""
    worth = found[:, 2] / np.sqrt(met[found[:, 0]])
    if len(found) > most:
        least = max(least, float(np.partition(worth, -most - 1)[-most - 1]) * (1 + SAME))
    return found[worth > least], least


def _counted(users: np.ndarray, items: np.ndarray, label_items: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """(P', 3) int32 item, label, f(i, y) of all pairs that were met, some labels after the others."""
    _, place = np.unique(users, return_inverse=True)  # (E,) whose basket
    sizes = np.bincount(place, minlength=1)
    starts = np.append(0, np.cumsum(sizes))  # user u owns items[starts[u]:starts[u + 1]]
    by_item = np.argsort(items, kind="stable")
    first = np.searchsorted(items[by_item], np.arange(rows + 1))  # item i: by_item[first[i]:first[i + 1]]
    times = np.diff(first)[label_items]  # (Y,) in how many baskets
    holders = place[by_item[ragged(first[label_items], times)]]  # (sum of times,) label by label
    labels = np.repeat(np.arange(len(label_items)), times)
    ends = np.cumsum(sizes[holders])
    low = 0
    while low < len(holders):
        done = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, done + AT_ONCE, "right")))
        if high < len(holders):  # whole labels only, so that a pair is counted at once
            newest = labels[high - 1]
            high = int(np.searchsorted(labels, newest, "right" if labels[low] == newest else "left"))
        whose = holders[low:high]
        others = items[ragged(starts[whose], sizes[whose])]  # (Q,)
        keys = np.repeat(labels[low:high], sizes[whose]) * rows + others
        keys, counts = np.unique(keys, return_counts=True)
        label, item = keys // rows, keys % rows
        real = label_items[label] != item
        yield np.stack([item[real], label[real], counts[real]], 1).astype(np.int32)
        low = high
