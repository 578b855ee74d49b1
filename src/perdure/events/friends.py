"""Who knows whom: pairs of users from a table, as a graph over user rows.                                    [reads]

A friendship holds both ways, whichever way it is written; pairs with a user the log does not know, and users paired
with themselves, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import DataError
from perdure.events.ids import Ids

__all__ = ["Friends", "read_friends"]


@dataclass(frozen=True, eq=False)
class Friends:
    """A graph over U users.

    Attributes:
        starts: (U + 1,) int64; the friends of user row u are others[starts[u]:starts[u + 1]].
        others: (E,) int64 user rows, ascending within a user.
    """

    starts: np.ndarray
    others: np.ndarray

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, n_users: int) -> Friends:
        """From pairs of user rows a, b (n,), each from 0 to n_users - 1."""
        apart = a != b
        a, b = a[apart].astype(np.int64), b[apart].astype(np.int64)
        keys = np.unique(np.concatenate([a * n_users + b, b * n_users + a]))  # (E,)
        starts = np.searchsorted(keys, np.arange(n_users + 1, dtype=np.int64) * n_users)  # (U + 1,)
        return cls(starts.astype(np.int64), keys % n_users)

    def among(self, wanted: np.ndarray) -> Friends:
        """Only the friends, of anybody, that are `wanted` (U,) bool."""
        kept = wanted[self.others]  # (E,)
        return Friends(np.concatenate([[0], np.cumsum(kept)])[self.starts], self.others[kept])

    def one(self, users: np.ndarray, lots: np.ndarray) -> np.ndarray:
        """A friend of each of `users` (B,), chosen by `lots` (B,) from 0 to below 1; -1 where there is none."""
        begin, degree = self.starts[users], self.starts[users + 1] - self.starts[users]  # (B,)
        if not len(self.others):
            return np.full(len(users), -1, np.int64)
        at = begin + np.minimum((lots * degree).astype(np.int64), degree - 1)  # (B,)
        return np.where(degree > 0, self.others[np.clip(at, 0, len(self.others) - 1)], -1)

    def close(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether b_j is a_i, a friend of a_i, or a friend of a friend: user rows a (A,), b (B,) -> (A, B) bool."""
        ours, theirs = self._around(a), self._around(b)  # user and each friend, as (owner, row) pairs
        met, at = np.unique(np.concatenate([ours[1], theirs[1]]), return_inverse=True)
        left, right = np.zeros((len(a), len(met)), np.float32), np.zeros((len(b), len(met)), np.float32)
        left[ours[0], at[: len(ours[0])]] = 1  # (A, W)
        right[theirs[0], at[len(ours[0]) :]] = 1  # (B, W)
        return left @ right.T > 0

    def _around(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each of `users` (B,) with every one of its friends, and with itself: (n,) its place, (n,) the other's row."""
        degree = self.starts[users + 1] - self.starts[users]  # (B,)
        place = np.repeat(np.arange(len(users)), degree)  # (E',)
        nth = np.arange(len(place)) - np.repeat(np.cumsum(degree) - degree, degree)  # (E',)
        friends = self.others[self.starts[users][place] + nth]  # (E',)
        return np.concatenate([place, np.arange(len(users))]), np.concatenate([friends, users])


def read_friends(path: str, user: str, friend: str, ids: Ids) -> Friends:
    """The graph in a table: text (.csv, .tsv, .dat, also packed), Parquet or JSON lines, one friendship a row.

    Args:
        user, friend: its columns. ids: the users of the log.

    Raises:
        UsageError, ModelError: as for every table. DataError: a column is missing, more than 1 % of the rows are
            malformed, or no pair of users is in the log.
    """
    from perdure.events.detect import look
    from perdure.events.sources import Table, pieces

    source = look(Path(path), None, "profile.friends.path")
    table = Table((Path(path),), {"user": user, "friend": friend})
    read = list(pieces(table, source))
    bad, rows = [one for piece in read for one in piece.bad], sum(piece.frame.height for piece in read)
    if len(bad) > 0.01 * (rows + len(bad)):
        found = f"{len(bad)} of {rows + len(bad)} rows are malformed; first: line {bad[0].line}, {bad[0].reason}"
        raise DataError(f"{found} {bad[0].sample}", expected="two columns of users", where=path)
    pairs = pl.concat([piece.frame.select(pl.col(user, friend).cast(pl.String)) for piece in read]).drop_nulls()
    a, b = ids.rows(pairs[user]), ids.rows(pairs[friend])  # (n,)
    known = (a >= 0) & (b >= 0)
    if not (known & (a != b)).any():
        raise DataError(
            f"none of {pairs.height:,} pairs is of two users of the log", expected="ids as in the log", where=path
        )
    return Friends.of(a[known], b[known], len(ids))
