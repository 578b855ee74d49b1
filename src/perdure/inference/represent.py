"""Histories -> user vectors -> scores: the one path by which a model is measured, served and exported.

Histories that need the same padded length share a batch. That length is the history's own, rounded up to a multiple
of 8 (and at most max_length), so it never depends on who else is asked. A history without events is answered by what
is popular in the task's training answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import Lock, RLock
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from perdure.errors import DataError, NonFiniteError, UsageError
from perdure.events.batch import Batch
from perdure.events.loader import picked
from perdure.events.marks import Marked
from perdure.events.profiles import Profiles
from perdure.events.splits import ragged
from perdure.functional.products import one_shape
from perdure.model.user_model import without_dropout

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = [
    "HasItems",
    "blank",
    "label_of_item",
    "popular",
    "represent",
    "scores_of",
    "seen_cells",
    "users_at_once",
    "width_of",
]

FEWEST = 4  # users scored together at least: a lone user goes through the kernels, and gets the bits, of a crowd
TOKENS = 2**13  # events of a batch on a CPU: few calls, and memory that stays small
OFTEN = 8  # batches of one shape from which kernels made for it pay
GRID = 8  # padded lengths are multiples of this
CELLS = 2**20  # scores of one block on a CPU: 4 MiB, so that it is still in the cache when it is looked at again
MOST_CELLS = 2**23  # never more scores than this at once, unless one user alone has more: larger blocks, above 32 MiB,
# are given back and asked for anew each time by the C library, which costs more than reading a large table more often


_locks: WeakKeyDictionary[nn.Module, AbstractContextManager] = WeakKeyDictionary()
_guard = Lock()


def alone(model: nn.Module) -> AbstractContextManager:
    """Lets one thread at a time compute with a model: a task's own weights stand in the layers while it does."""
    with _guard:
        return _locks.setdefault(model, RLock())


class HasItems(Protocol):
    """(H,) item rows of many histories, one after the other: Sequences of the log, or raw ones."""

    @property
    def items(self) -> np.ndarray: ...


def represent(
    model: UserModel,
    task: str | None,
    sequences: HasItems,
    begin: np.ndarray,
    end: np.ndarray,
    batch_size: int = 256,
    profiles: Profiles | None = None,
) -> Tensor:
    """User vectors of n histories.

    Args:
        task: the task whose overlay is used; None for the plain backbone.
        sequences: anything with `items`, (H,) integer item rows, and `times`, (H,) seconds, if the encoder reads them;
            with `marks` of the same events, where it has some.
        begin, end: (n,) int64; a history is items[begin:end], of which the last max_length events are read.
        batch_size: most histories of a batch, 1 or more; on a CPU long histories come in smaller batches.
        profiles: of the same n users, for tasks that read them.

    Returns:
        (n, d) float32 on the model's device, in the order asked; zeros for the `blank`.

    Raises:
        UsageError: unknown task, batch_size below 1, no times where the encoder reads them.
        DataError: an item row the model does not have.
        NonFiniteError: the model gave a NaN or an infinity.
    """
    if task is not None:
        model.card(task)
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}", expected="1 or more", where="represent")
    begin, end = np.asarray(begin, np.int64), np.asarray(end, np.int64)
    begin = np.maximum(begin, end - model.backbone.max_length)
    items, device = np.asarray(sequences.items), _device(model)
    times = getattr(sequences, "times", None) if model.backbone.reads_times else None
    marks = getattr(sequences, "marks", None)
    u = torch.zeros(len(begin), width_of(model, task), device=device)  # (n, d)
    asked = ~blank(model, task, begin, end, profiles)  # (n,)
    with without_dropout(model), torch.inference_mode():
        tokens = TOKENS if device.type == "cpu" else None
        for rows, width, often in _batches(end - begin, asked, model.backbone.max_length, batch_size, tokens):
            batch = _batch(items, times, marks, begin[rows], end[rows], width, model.backbone.n_items)
            if profiles is not None:
                batch = replace(batch, **dict(zip(("profile", "source"), profiles.of(rows).tensors(), strict=True)))
            with one_shape(often), alone(model):
                u[torch.from_numpy(rows).to(device)] = model.represent(batch.to(device), task).float()
    _finite(u, "user vectors", task)
    return u


def width_of(model: UserModel, task: str | None) -> int:
    """d of the user vectors of a task: the backbone's, unless the task's overlay gives others."""
    overlay = model.overlays.get(task)
    own = None if overlay is None else overlay.width
    return model.backbone.width if own is None else own


def blank(
    model: UserModel, task: str | None, begin: np.ndarray, end: np.ndarray, profiles: Profiles | None = None
) -> np.ndarray:
    """(n,) bool: of whom nothing is known that the task reads. They have no event, and no profile the task would read;
    what is popular answers them."""
    empty = np.asarray(begin) == np.asarray(end)  # (n,)
    overlay = model.overlays.get(task) if profiles is not None else None
    if profiles is None or overlay is None or not overlay.reads_profile:
        return empty
    return empty & ~profiles.known(without=model.tasks[str(task)].hides)


def scores_of(
    model: UserModel, task: str, u: Tensor, empty: np.ndarray, items: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> Tensor:
    """Scores (B, Y) float32 of the task's labels, fresh, so that the caller may write into them.

    Args:
        u: (B, d) user vectors of `represent`.
        empty: (B,) bool; those users get what is `popular` instead.
        items: (H,) item rows. begin, end: (B,) the histories items[begin:end] of the same users, for heads that look at
            them too.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    with without_dropout(model), torch.no_grad(), alone(model):
        few = max(FEWEST - len(u), 0)
        asked = u if not few else torch.cat([u, u.new_zeros(few, u.shape[1])])  # (max(B, FEWEST), d)
        scores = model.score_of(asked, task).float()[: len(u)]  # (B, Y)
        if model.recalls(task):
            begin = np.maximum(begin, end - model.backbone.max_length)
            read = _batch(items, None, None, begin, end, int((end - begin).max(initial=1)), model.backbone.n_items)
            scores = scores + model.recall(read.to(u.device), task)
        if empty.any():
            scores[torch.from_numpy(np.flatnonzero(empty)).to(scores.device)] = popular(
                model.tasks[task], scores.device
            )
    _finite(scores, "scores", task)
    return scores


def popular(card: TaskCard, device: torch.device | str = "cpu") -> Tensor:
    """(Y,) float32, what is answered where nothing is known: training counts of the labels, or for one_of the logarithm
    of their shares."""
    counts = torch.as_tensor(np.asarray(card.popularity), dtype=torch.float32, device=device)  # (Y,)
    return (counts.clamp(min=1e-6) / counts.sum().clamp(min=1e-6)).log() if card.kind == "one_of" else counts


def users_at_once(n_labels: int) -> int:
    """How many users to score together: a block fits the cache, but a large table is not read for a few users only."""
    return max(1, min(MOST_CELLS // max(n_labels, 1), max(CELLS // max(n_labels, 1), 64)))


def label_of_item(card: TaskCard, n_items: int) -> np.ndarray | None:
    """(n_items + 2,) int64 label row of each item row, -1 where none; None for tasks whose labels are no items."""
    rows = np.asarray(card.label_items)  # (Y,)
    if card.kind == "one_of" or not (rows >= 0).any():
        return None
    found = np.full(n_items + 2, -1, np.int64)
    known = np.flatnonzero(rows >= 0)
    found[rows[known]] = known
    return found


def seen_cells(
    labels: np.ndarray, items: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which labels each of B users has already met, from the whole history and not only the part the encoder reads.

    Args:
        labels: label row of each item row, from `label_of_item`.
        items: (H,) item rows. begin, end: (B,) int64 ranges.

    Returns:
        (user 0 to B - 1, label row), int64, one entry an event; entries may repeat.
    """
    counts = end - begin
    columns = labels[items[ragged(begin, counts)]]  # (E,)
    rows = np.repeat(np.arange(len(begin)), counts)  # (E,)
    known = columns >= 0
    return (rows, columns) if known.all() else (rows[known], columns[known])


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _batches(
    lengths: np.ndarray, asked: np.ndarray, most: int, size: int, tokens: int | None
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Rows of like padded length, that length, and whether batches of this shape come often; rows that are not asked
    (n,) are left out."""
    padded = np.minimum(np.maximum(-(-lengths // GRID), 1) * GRID, most)  # (n,)
    order = np.argsort(padded, kind="stable")
    order = order[asked[order]]
    cuts = np.flatnonzero(np.diff(padded[order])) + 1
    for rows in np.split(order, cuts):
        width = int(padded[rows[0]]) if len(rows) else 1
        step = size if tokens is None else max(1, min(size, tokens // width))
        for at in range(0, len(rows), step):
            yield rows[at : at + step], width, at + step <= len(rows) and len(rows) >= OFTEN * step


def _batch(
    items: np.ndarray,
    times: np.ndarray | None,
    marks: Marked | None,
    begin: np.ndarray,
    end: np.ndarray,
    width: int,
    n_items: int,
) -> Batch:
    """Histories items[begin:end] of at most `width` events as a Batch of exactly that width."""
    at = begin[:, None] + np.arange(width)  # (B, T)
    inside = at < end[:, None]  # (B, T)
    rows = picked(items, at, inside)  # (B, T)
    if rows.max() >= n_items + 2 or rows.min() < 0:
        raise DataError(
            f"item row {int(rows.max())} is not in the model's vocabulary",
            expected=f"rows 2 to {n_items + 1}",
            where="histories",
            fix="use the store this model was trained on",
        )
    when = None if times is None else torch.from_numpy(picked(times, at, inside))  # (B, T)
    told = None if marks is None else marks.at(at, inside)  # (B, T, M)
    known = None if told is None else torch.from_numpy(told)
    return Batch(torch.from_numpy(rows), torch.from_numpy(end - begin), when, marks=known)


def _finite(values: Tensor, what: str, task: str | None) -> None:
    """One quick pass; a sum that overflows is looked at again, number by number."""
    if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
        return
    raise NonFiniteError(
        f"the model's {what} are not finite",
        expected="finite numbers",
        where=f"task {task!r}" if task else "backbone",
        fix="the weights are damaged: load an earlier model folder",
    )
