"""Who a user is besides what they did: attributes as rows of vocabularies, and vectors that another model gave.

Values are text, numbers as short as they can be (25, 2.5). Row 0 of every field means: missing, or a value nobody had.
A user of whom neither a field nor a vector is known has no profile.                                             [reads]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from perdure.errors import DataError, SettingsError, UsageError, closest, shorten
from perdure.events.ids import Ids
from perdure.events.probe import probe
from perdure.events.values import as_text, rows_of

if TYPE_CHECKING:
    from perdure.events.sequences import Events

__all__ = ["Fields", "Profiles", "profiles_as", "profiles_of", "read_vectors"]

MOST_FIELDS = 64
MOST_VALUES = 1000  # of a field; a column with more is a number or an id, no attribute


@dataclass(frozen=True)
class Fields:
    """What a profile can hold.

    Attributes:
        values: field -> its values, rows from 1; in the order of the settings.
        width: of vectors from elsewhere, 0 without.
    """

    values: Mapping[str, Ids]
    width: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def place(self, name: str) -> int:
        """Which column a field is. UsageError names the nearest."""
        names = list(self.values)
        if name in names:
            return names.index(name)
        near = closest(name, names, 0.5)
        raise UsageError(
            f"no profile field {shorten(name)!r}",
            expected=f"one of {', '.join(names)}" if names else "none: this model reads no profile",
            where="profile",
            fix=f"did you mean {near}?" if near else "",
        )

    def told(self, profiles: Sequence[Mapping[str, str | None]]) -> tuple[Profiles, list[list[str]]]:
        """Profiles as somebody tells them: field -> value, fields left out are missing.

        Returns:
            The profiles, and per profile the values nobody had, as `field=value`.

        Raises:
            UsageError: an unknown field (the nearest is named), or a value that is no text.
        """
        rows = np.zeros((len(profiles), len(self)), np.int32)  # (n, F)
        strange: list[list[str]] = [[] for _ in profiles]
        for user, profile in enumerate(profiles):
            for name, value in profile.items():
                place = self.place(name)
                if value is None:
                    continue
                if not isinstance(value, str):
                    raise UsageError(f"{name} = {value!r} is no text", expected="values as text", where="profile")
                row = int(rows_of(self.values[name], pl.Series([value]))[0])
                rows[user, place] = max(row, 0)
                if row < 0:
                    strange[user].append(f"{name}={value}")
        return Profiles(self, rows, np.zeros((len(profiles), self.width), np.float32)), strange


@dataclass(frozen=True)
class Profiles:
    """Profiles of n users.

    Attributes:
        fields: what they can hold.
        rows: (n, F) int32, 0 where missing or unknown.
        vectors: (n, S) float32 from elsewhere, zeros where there is none.
    """

    fields: Fields
    rows: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, users: np.ndarray) -> Profiles:
        """The profiles of some users, in their order."""
        return Profiles(self.fields, self.rows[users], self.vectors[users])

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """`Batch.profile` (n, F) int64 and `Batch.source` (n, S) float32; None where there are no fields or vectors."""
        rows = torch.from_numpy(self.rows.astype(np.int64)) if self.rows.shape[1] else None  # (n, F)
        return rows, torch.from_numpy(self.vectors) if self.vectors.shape[1] else None  # (n, S)

    def known(self, without: str = "") -> np.ndarray:
        """(n,) bool: whether anything is known of a user, one field not counted."""
        counted = [place for place, name in enumerate(self.fields.values) if name != without]
        return (self.rows[:, counted] > 0).any(1) | (self.vectors != 0).any(1)


def profiles_of(events: Events, fields: Sequence[str], vectors: str | None = None) -> Profiles | None:
    """Profiles of all users of a log, in row order; None where nothing is asked for.

    Args:
        fields: user attributes, read as text. vectors: a Parquet file with the columns user and vector.

    Raises:
        SettingsError: a field that the log's users do not have, or that has more than 1,000 values. DataError: the file
        of vectors cannot be read, or holds no column user, or vectors of different widths.
    """
    if not fields and vectors is None:
        return None
    values = {}
    for name in fields:
        found = _column(events, name).drop_nulls().unique().sort()
        if len(found) > MOST_VALUES:
            raise SettingsError(
                f"profile.fields: {name} has {len(found):,} values",
                expected=f"at most {MOST_VALUES:,}: groups, not numbers or ids",
                where="[profile]",
                fix="give it as bands",
            )
        values[name] = Ids(found, first=1)
    return profiles_as(events, Fields(values), vectors)


def profiles_as(events: Events, fields: Fields, vectors: str | None = None) -> Profiles:
    """Profiles of all users of a log in the rows of these fields; values that are none of theirs are missing.

    Args:
        vectors: as in `profiles_of`; the width of `fields` is then that of the file.

    Raises:
        SettingsError: a field that the log's users do not have. DataError: as `profiles_of`.
    """
    rows = np.zeros((events.n_users, len(fields)), np.int32)  # (U, F)
    for place, (name, values) in enumerate(fields.values.items()):
        column = _column(events, name)
        rows[:, place] = np.maximum(rows_of(values, column), 0)
    given = _vectors(Path(vectors), events.user_ids) if vectors else np.zeros((events.n_users, 0), np.float32)
    return Profiles(Fields(fields.values, given.shape[1]), rows, given)


def _column(events: Events, name: str) -> pl.Series:
    """An attribute of all users as text."""
    users = events.users
    if users is None or name not in users.columns:
        have = ", ".join(users.columns) if users is not None else "no attributes: see [data] users"
        near = closest(name, users.columns if users is not None else [])
        raise SettingsError(
            f"profile.fields: users have no attribute {shorten(name)!r}",
            expected=f"of {have}",
            where="[profile]",
            fix=f"did you mean {near}?" if near else "",
        )
    if users[name].dtype.is_nested():
        raise SettingsError(f"profile.fields: {name} holds lists", expected="one value a user", where="[profile]")
    return as_text(users[name])


def _vectors(path: Path, users: Ids) -> np.ndarray:
    """(U, S) float32: the vector of each user, zeros where the file has none."""
    flat, at = read_vectors(path, users, "user")
    vectors = np.zeros((len(users), flat.shape[1]), np.float32)  # (U, S)
    vectors[at[at >= 0]] = flat[at >= 0]
    return vectors


def read_vectors(path: Path, ids: Ids, column: Literal["user", "item"]) -> tuple[np.ndarray, np.ndarray]:
    """A Parquet file of ids and their vectors, as `perdure embed` writes it: (n, S) float32, and the rows (n,) of the
    ids, -1 where unknown.

    Raises:
        DataError: it cannot be read, has other columns or types, vectors of different widths or numbers that are not
            finite, no id that is known, or one that stands twice. ModelError: it is damaged.
    """

    def refuse(found: str) -> DataError:
        return DataError(
            found, expected=f"columns {column} (text) and vector, as `perdure embed` writes them", where=str(path)
        )

    if path.exists() and not path.is_file():  # a FIFO would never end
        raise refuse("vectors cannot be read: that is no ordinary file")
    if path.exists():
        probe([(path, [column, "vector"])])
    try:
        frame = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as fault:
        raise refuse(f"vectors cannot be read: {shorten(fault)}") from None
    if column not in frame.columns or "vector" not in frame.columns or not frame.height:
        raise refuse(f"columns {', '.join(frame.columns[:8])}, {frame.height} rows")
    held: Any = frame["vector"]
    kind, named = held.dtype, frame[column]
    if not isinstance(kind, pl.List | pl.Array) or not kind.inner.is_numeric():  # type: ignore[attr-defined]
        raise refuse(f"vectors of type {shorten(kind)}")
    if not (named.dtype.is_integer() or named.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise refuse(f"ids of type {shorten(named.dtype)}")
    widths = (held.arr if isinstance(kind, pl.Array) else held.list).len().unique().to_list()
    if len(widths) != 1 or not widths[0]:
        raise refuse(f"vectors of {', '.join(map(str, widths[:4]))} numbers")
    flat = held.explode().cast(pl.Float32).to_numpy().reshape(frame.height, widths[0])  # (n, S)
    if not np.isfinite(flat).all():
        raise refuse("a vector is not finite")
    texts = named.cast(pl.String)
    rows = ids.rows(texts)  # (n,)
    known = rows >= 0
    if not known.any():
        raise refuse(f"none of {frame.height:,} ids is known, such as {shorten(texts[0])!r}")
    twice = known.copy()
    twice[np.unique(np.where(known, rows, -1), return_index=True)[1]] = False
    if twice.any():
        raise refuse(f"{shorten(texts[int(twice.argmax())])!r} stands twice")
    return flat, rows
