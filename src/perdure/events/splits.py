"""Who is judged on what: partitions of users or examples, leave-last-n, cuts in time. Pure functions of arrays."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from perdure.errors import SettingsError, shorten
from perdure.events.ids import Ids

PARTS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
KINDS = ("user", "last", "time", "example", "user-each")


@dataclass(frozen=True)
class Split:
    """How examples are divided into train, valid and test.

    Attributes:
        kind: "user": every user is in one part, the same part for all tasks. "last": the last events of every user are
            held out (next_item). "time": events from two moments on are held out. "example": every answer of a user is
            an example of its own, and each task shuffles and divides its examples by itself (next_item by rows), as the
            official code of CONURE and TERACON does. It leaks, since the same history is in train and in test, and who
            is test in one task trains the others; for comparison only, with [evaluate] seen = "keep". "user-each":
            users as in "user", examples as in "example"; what differs between these two is the leak.
        valid, test: shares of the users (each 0 to 1, together below 1); read by "user", and by tasks that fall back
            on it. Of the examples for "example".
        seed: draws the partition of users; with the task's name, the shuffle of "example" and random labels.
        folds: cut the users (or examples) into so many parts of like size, one of which is test in place of `test` of
            them: over all folds everyone is tested once, by a model that never met them. 0 for none.
        fold: which one is test, 1 to folds. `compare` gives seeds 1, 2, 3 ... folds 1, 2, 3 ..., and begins anew.
        by_id: draw the part of a user by the seed and the user's id alone, so that it stays the same when the log grows
            and a model is taught on (`pretrain.start`). Shares and folds are then met on average, not exactly.
        last: events of a user that are test (kind "last").
        valid_last: events before them that are valid (kind "last"); as many as `last` where none is given. With 0 they
            train: for a last run, whose number of epochs an earlier run has chosen.
        valid_from, test_from: ISO dates or seconds since the epoch (kind "time"; UTC where no zone is given).

    Raises:
        SettingsError: a value outside its range.
    """

    kind: Literal["user", "last", "time", "example", "user-each"] = "user"
    valid: float = 0.05
    test: float = 0.15
    seed: int = 0
    folds: int = 0
    fold: int = 1
    by_id: bool = False
    last: int = 1
    valid_last: int | None = None
    valid_from: str | int | None = None
    test_from: str | int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(
                f"kind = {self.kind!r}", expected="one of " + ", ".join(KINDS), where="[split], key kind"
            )
        for key, share in (("valid", self.valid), ("test", self.test)):
            if not 0 <= share < 1:
                raise SettingsError(
                    f"{key} = {share!r}", expected="a share from 0 to below 1", where=f"[split], key {key}"
                )
        if self.folds < 0 or self.folds == 1:
            raise SettingsError(f"folds = {self.folds!r}", expected="0, or 2 or more", where="[split], key folds")
        if not 1 <= self.fold <= max(self.folds, 1):
            expected = f"1 to {self.folds}" if self.folds else "1 where there are no folds"
            raise SettingsError(f"fold = {self.fold!r}", expected=expected, where="[split], key fold")
        if self.valid + self.tested >= 1:
            tested = f"1 / {self.folds} (one of the folds)" if self.folds else "test"
            raise SettingsError(
                f"valid + {tested} = {self.valid + self.tested:g}",
                expected="less than 1: some users must train",
                where="[split]",
            )
        if self.last < 1:
            raise SettingsError(f"last = {self.last!r}", expected="1 or more", where="[split], key last")
        if self.valid_last is not None and self.valid_last < 0:
            raise SettingsError(
                f"valid_last = {self.valid_last!r}", expected="0 or more", where="[split], key valid_last"
            )
        if self.seed < 0:
            raise SettingsError(f"seed = {self.seed!r}", expected="0 or more", where="[split], key seed")
        if self.by_id and self.kind == "example":
            raise SettingsError(
                'by_id = true with kind = "example"',
                expected='a kind that draws users, such as "user"',
                where="[split], key by_id",
            )
        if self.kind == "time":
            valid_from, test_from = self.cuts
            if valid_from >= test_from:
                raise SettingsError(
                    f"valid_from {self.valid_from} is not before test_from {self.test_from}",
                    expected="valid_from < test_from",
                    where="[split]",
                )

    @property
    def tested(self) -> float:
        """Share of the users that is test."""
        return 1 / self.folds if self.folds else self.test

    @property
    def cuts(self) -> tuple[int, int]:
        """(valid_from, test_from) in seconds since the epoch (kind "time")."""
        return seconds(self.valid_from, "valid_from"), seconds(self.test_from, "test_from")


def seconds(moment: str | int | None, key: str) -> int:
    """A moment of the settings as seconds since the epoch.

    Raises:
        SettingsError: missing, or neither an ISO date nor a whole number.
    """
    wanted = 'an ISO date such as "2020-01-31" or "2020-01-31T12:00:00Z", or seconds since the epoch'
    if moment is None:
        raise SettingsError(f"{key} is missing", expected=wanted, where=f"[split], key {key}")
    digits = str(moment).lstrip("+-").isdigit()
    if digits and not (isinstance(moment, str) and len(moment) == 8):  # eight digits of a text are 20200131
        return int(moment)
    try:
        when = datetime.fromisoformat(str(moment))
    except ValueError:
        raise SettingsError(f"{key} = {shorten(moment)!r}", expected=wanted, where=f"[split], key {key}") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def partition(n: int, split: Split, task: str = "") -> np.ndarray:
    """(n,) int8: the part (TRAIN, VALID, TEST) of each of n user rows, drawn once for all tasks.

    From three on, a part whose share is above 0 has at least one; so has each fold where there are as many users.

    Args:
        n: users; or the examples of one task.
        split: shares and seed.
        task: its name where the draw is that task's own.
    """
    own = [zlib.crc32(task.encode())] if task else []
    order = np.random.default_rng([split.seed, *own] if own else split.seed).permutation(n)
    shares = (split.valid, split.tested)
    counts = [round(share * n) for share in shares]
    if split.folds:
        begin, end = (split.fold - 1) * n // split.folds, split.fold * n // split.folds
        order, counts[1] = np.roll(order, -begin), end - begin
    if n >= 3:
        counts = [max(c, 1) if share else 0 for c, share in zip(counts, shares, strict=True)]
    n_valid, n_test = counts
    parts = np.full(n, TRAIN, dtype=np.int8)  # (n,)
    parts[order[:n_test]] = TEST
    parts[order[n_test : n_test + n_valid]] = VALID
    return parts


def partition_by_id(users: Ids, split: Split) -> np.ndarray:
    """(U,) int8: the part of each user, told by the seed and the user's own id alone, whoever else is there.

    A lot is a place on a circle of length 1; a fold begins at (fold - 1) / folds, and as much as is tested, and then as
    much as is valid, lies behind it.
    """
    lots = users.lots(f"{split.seed} parts")[:, 0] / 2.0**64  # (U,) 0 to 1
    begin = (split.fold - 1) / split.folds if split.folds else 0.0
    place = (lots - begin) % 1.0  # (U,)
    return np.select([place < split.tested, place < split.tested + split.valid], [TEST, VALID], TRAIN).astype(np.int8)


def ragged(begin: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ranges begin[i] .. begin[i] + counts[i] one after the other, (counts.sum(),) int64."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)  # (n,)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begin.astype(np.int64) - (ends - counts), counts) + np.arange(total, dtype=np.int64)  # (total,)


def counts_in(mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(U,) int64: how many of each user's rows are True in `mask` (rows in CSR order)."""
    return np.diff(np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])[starts])
