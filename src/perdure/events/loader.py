"""Examples -> batches: gathers from the memory map, no Python per sample, and a position that can be saved.

A loader is a tape. Iterating plays the rest of the current epoch; when it has run out, the next iteration draws and
plays the next epoch. `state()` says where the tape stands, counting a batch as played once it was handed out; a loader
made the same way and given that state plays exactly the batches that this one would have played, in this epoch and all
that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from perdure.errors import UsageError
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences
from perdure.events.profiles import Profiles
from perdure.events.splits import ragged

_CHUNK = 50  # batches whose rows are sorted by length together


class Loader:
    """Batches of a task's examples.

    Without a generator the rows come in the order of the examples. With one (training) they are shuffled anew each
    epoch; answers outside the label space (-1) are dropped, and rows that had answers but keep none of them are
    dropped too.

    Args:
        sequences: the shared history; may be a read-only memory map. With its marks, `Batch.marks` is given.
        examples: what is asked.
        batch_size: rows of a batch, 1 or more; the last batch of an epoch may have fewer.
        max_length: events of a row, 1 or more (2 or more unless windows "last"): the last ones of the input range.
            For training next_item give one more than the encoder takes: input and shifted target.
        generator: the loader's own; no other part of the program may draw from it if `restore` is to be exact.
        bucket: with a generator: rows of like length share a batch (shuffled, sorted by length within 50 batches,
            batches shuffled).
        drop_last: leave out the rows that do not fill a batch (with a generator: other rows each epoch).
        times: give `Batch.times`.
        windows: "last": one window a row, its newest events. "split": a longer input gives several windows which
            overlap in one event, so that every event but the first is a shifted target once. "each": every event but
            the first is the last of a window of its own. Rows with answers are one window always.
        first: with windows "each", the first event is alone in one more: it is to be predicted from nothing.
        profiles: of all users of the log; give `Batch.profile` and `Batch.source`.

    Raises:
        UsageError: a number out of range, or times wanted from a log without.
    """

    def __init__(
        self,
        sequences: Sequences,
        examples: Examples,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
        bucket: bool = True,
        drop_last: bool = False,
        times: bool = False,
        windows: Literal["last", "split", "each"] = "last",
        first: bool = False,
        profiles: Profiles | None = None,
    ) -> None:
        if windows not in ("last", "split", "each"):
            raise UsageError(
                f"windows = {windows!r}", expected='"last", "split" or "each"', where="Loader(windows=...)"
            )
        least = 1 if windows == "last" else 2
        if batch_size < 1 or max_length < least:
            raise UsageError(
                f"batch_size = {batch_size}, max_length = {max_length}",
                expected=f"batch_size >= 1 and max_length >= {least}",
                where="Loader",
            )
        if times and sequences.times is None:
            raise UsageError("times are wanted, but the log has none", where="Loader(times=True)")
        self._items = np.asarray(sequences.items)  # (H,) a plain view of the memory map
        self._times = np.asarray(sequences.times) if times else None  # (H,)
        self._marked = sequences.marks
        self._size, self._max_length, self._drop_last = batch_size, max_length, drop_last
        self._generator, self._bucket = generator, bucket and generator is not None
        self._profiles = profiles
        self._cut(examples, windows, first)
        self._epoch, self._position = 0, 0
        self._order: np.ndarray | None = None  # (n,) rows of the epoch being played
        self._turn: np.ndarray | None = None  # batches of that epoch, in playing order
        self._drawn_from: str | None = None  # the generator's state before that epoch was drawn

    def _cut(self, examples: Examples, windows: str, first: bool) -> None:
        """Fixes the rows of an epoch: user, input range, answer range."""
        users, begin, end = (np.asarray(a, np.int64) for a in (examples.users, examples.begin, examples.end))
        self._answers: np.ndarray | None = None
        if examples.answer_starts is not None:
            answers, starts = np.asarray(examples.answers, np.int64), np.asarray(examples.answer_starts, np.int64)
            if self._generator is not None and (answers < 0).any():
                inside = answers >= 0
                starts = np.concatenate([[0], np.cumsum(inside)])[starts]
                answers = answers[inside]
            counts = np.diff(starts)
            kept = np.flatnonzero(counts > 0) if self._generator is not None else np.arange(len(users))
            self._answers, self._answer_from, self._answer_count = answers, starts[:-1][kept], counts[kept]
            users, begin, end = users[kept], begin[kept], end[kept]
        elif windows != "last":
            step, alone = (self._max_length - 1, 0) if windows == "split" else (1, int(first))
            pieces = np.maximum(-(-(end - begin - 1 + alone) // step), 1)  # (n,) windows of each row
            nth = ragged(np.zeros(len(users)), pieces)  # 0 is a row's newest window
            users, begin, end = (np.repeat(a, pieces) for a in (users, begin, end))
            end = end - nth * step
        self._users, self._end = users, end
        self._begin = np.maximum(begin, end - self._max_length)

    def __len__(self) -> int:
        """Batches of an epoch."""
        n = len(self._users)
        return n // self._size if self._drop_last else -(-n // self._size)

    @property
    def epoch(self) -> int:
        """Whole epochs played."""
        return self._epoch

    @property
    def position(self) -> int:
        """Batches of the current epoch handed out."""
        return self._position

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        if self._turn is None:
            self._draw()
        turn, order = self._turn, self._order
        if turn is None or order is None:
            return
        while self._position < len(turn):
            at = int(turn[self._position]) * self._size
            self._position += 1
            yield self._gather(order[at : at + self._size])
        self._epoch, self._position, self._turn, self._order = self._epoch + 1, 0, None, None

    def _draw(self) -> None:
        """Draws the order of one epoch; the only place that moves the generator."""
        n, batches = len(self._users), len(self)
        order, turn = np.arange(n), np.arange(batches)
        if self._generator is not None:
            self._drawn_from = _hex(self._generator)
            order = torch.randperm(n, generator=self._generator).numpy()
            if self._drop_last:
                order = order[: batches * self._size]
            if self._bucket:
                chunk = np.arange(len(order)) // (_CHUNK * self._size)
                order = order[np.lexsort(((self._end - self._begin)[order], chunk))]
            turn = torch.randperm(batches, generator=self._generator).numpy()
        self._order, self._turn = order, turn

    def _gather(self, rows: np.ndarray) -> Batch:
        begin = self._begin[rows]  # (B,)
        lengths = self._end[rows] - begin  # (B,)
        steps = np.arange(max(int(lengths.max()), 1))  # (T,)
        valid = steps < lengths[:, None]  # (B, T)
        at = begin[:, None] + steps  # (B, T)
        times = None if self._times is None else torch.from_numpy(picked(self._times, at, valid))
        answers = starts = None
        if self._answers is not None:
            counts = self._answer_count[rows]  # (B,)
            answers = torch.from_numpy(self._answers[ragged(self._answer_from[rows], counts)])  # (A,)
            starts = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))  # (B + 1,)
        items, users = torch.from_numpy(picked(self._items, at, valid)), self._users[rows]  # (B, T), (B,)
        known = (None, None) if self._profiles is None else self._profiles.of(users).tensors()
        marked = None if self._marked is None else self._marked.at(at, valid)  # (B, T, M)
        marks = None if marked is None else torch.from_numpy(marked)
        told = (torch.from_numpy(lengths), times, torch.from_numpy(users), answers, starts)
        return Batch(items, *told, *known, marks=marks)

    def state(self) -> dict:
        """Where the tape stands, fit for JSON: epoch, position, generator (hex), and the shape of what is played."""
        drawn = self._generator and (self._drawn_from if self._turn is not None else _hex(self._generator))
        return {"epoch": self._epoch, "position": self._position, "generator": drawn, "shape": self._shape()}

    def restore(self, state: dict) -> None:
        """Sets the tape, and the generator with it, to where `state` was taken.

        Raises:
            UsageError: the state is of a loader with other examples or arguments.
        """
        if list(state["shape"]) != self._shape() or (state["generator"] is None) != (self._generator is None):
            raise UsageError(
                f"a position saved with {state['shape']} (rows, events, batch size, length, bucket, drop_last)",
                expected=str(self._shape()),
                where="Loader.restore",
                fix="resume with the data and settings of the run, or start a new run",
            )
        if self._generator is not None:
            self._generator.set_state(torch.frombuffer(bytearray.fromhex(state["generator"]), dtype=torch.uint8))
        self._epoch, self._position, self._turn, self._order = int(state["epoch"]), int(state["position"]), None, None
        if self._position:
            self._draw()

    def _shape(self) -> list[int]:
        events = int((self._end - self._begin).sum())
        return [len(self._users), events, self._size, self._max_length, int(self._bucket), int(self._drop_last)]


def picked(values: np.ndarray, at: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(B, T) int64: values (H,) at the places (B, T), 0 where not valid (B, T)."""
    if not len(values):
        return np.zeros(at.shape, np.int64)
    return np.multiply(np.take(values, at, mode="clip"), valid, dtype=np.int64)


def _hex(generator: torch.Generator) -> str:
    return generator.get_state().numpy().tobytes().hex()
