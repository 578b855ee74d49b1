"""The outside's ids (text) and the inside's rows (int32).

Ids are opaque text: `007` is not `7`, `NA` and `null` are ordinary, a number of 30 digits keeps all of them. They are
compared after Unicode NFC. Item rows: 0 is padding, 1 the mask, items start at 2. User and label rows start at 0.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import polars as pl

from perdure.errors import DataError, UsageError, shorten
from perdure.events.text import has_surrogate

FIRST_ITEM = 2  # rows 0 and 1 of an item table are padding and mask
FEW = 16  # so many ids are looked up one by one: a question to Polars costs more than twenty comparisons each


class Ids:
    """Immutable map between text ids and rows `first`, `first + 1`, ...

    Args:
        ids: distinct texts, in row order.
        first: row of the first id; 2 for items, 0 for users and labels.

    Raises:
        DataError: an id stands twice or is missing.
    """

    def __init__(self, ids: Sequence[str] | pl.Series, first: int = 0) -> None:
        self._ids = _as_text(ids)
        self.first = first
        if self._ids.null_count() or self._ids.n_unique() != len(self._ids):
            twice = self._ids.filter(self._ids.is_duplicated()).head(1).to_list()
            raise DataError(f"id {shorten(repr(twice[0] if twice else None))} is missing or stands twice",
                            expected="distinct ids", fix="build Ids from unique ids")  # fmt: skip

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and self.first == other.first and self._ids.equals(other._ids)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Ids({len(self)} ids from row {self.first})"

    @property
    def series(self) -> pl.Series:
        """The texts in row order (no copy)."""
        return self._ids

    @cached_property
    def _sorted(self) -> tuple[pl.Series, np.ndarray]:
        order = self._ids.arg_sort()
        return self._ids.gather(order), order.to_numpy()

    def rows(self, ids: Sequence[str] | pl.Series) -> np.ndarray:
        """Row of each id.

        Args:
            ids: (n,) texts; compared after NFC.

        Returns:
            (n,) int32, -1 where the id is unknown.
        """
        if len(ids) <= FEW and not isinstance(ids, str) and all(isinstance(i, str) and i.isascii() for i in ids):
            return np.array([self._row(i) for i in ids], np.int32)  # (n,)
        wanted = nfc(_as_text(ids))
        if not len(self._ids) or not len(wanted):
            return np.full(len(wanted), -1, np.int32)
        if 16 * len(wanted) > len(self._ids):
            table = pl.DataFrame({"id": self._ids}).with_row_index("row", offset=self.first)
            found = wanted.to_frame("id").join(table, on="id", how="left", maintain_order="left")["row"]
            return found.cast(pl.Int32).fill_null(-1).to_numpy().copy()  # (n,)
        ordered, order = self._sorted
        at = ordered.search_sorted(wanted).to_numpy().clip(max=len(ordered) - 1)  # (n,)
        hit = (ordered.gather(at) == wanted).fill_null(False).to_numpy()  # (n,)
        return np.where(hit, order[at] + self.first, -1).astype(np.int32)  # (n,)

    def _row(self, text: str) -> int:
        ordered, order = self._sorted  # by code points, as Python compares
        at = bisect_left(ordered, text)
        return int(order[at]) + self.first if at < len(ordered) and ordered[at] == text else -1

    def text(self, rows: np.ndarray) -> list[str]:
        """Ids of rows.

        Args:
            rows: (n,) integers in [first, first + len).

        Raises:
            UsageError: a row is outside.
        """
        rows = np.asarray(rows, np.int64) - self.first  # (n,)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise UsageError("a row has no id", expected=f"rows {self.first} to {self.first + len(self) - 1}",
                             where="Ids.text")  # fmt: skip
        return self._ids.gather(rows).to_list()

    def lots(self, key: str) -> np.ndarray:
        """Two numbers drawn for each id, (n, 2) uint64: they depend on the id and the key, on no other id or order."""
        salt = hashlib.blake2b(key.encode(), digest_size=16).digest()
        drawn = b"".join(hashlib.blake2b(i.encode(), digest_size=16, key=salt).digest() for i in self._ids)
        return np.frombuffer(drawn, "<u8").reshape(-1, 2)  # (n, 2)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all ids in row order and of `first`."""
        return text_digest(self._ids, f"ids {self.first}")


def _as_text(ids: Sequence[str] | pl.Series) -> pl.Series:
    if isinstance(ids, pl.Series) and ids.dtype in (pl.String, pl.Null):
        return ids.cast(pl.String).rename("id")
    if isinstance(ids, (str, bytes)):
        raise UsageError(f"a single text {shorten(ids)!r} was given for ids", expected="a list of texts", where="ids")
    values = ids.to_list() if isinstance(ids, pl.Series) else list(ids)
    for value in values:
        if value is not None and not isinstance(value, str):
            raise UsageError(f"id {shorten(repr(value))} is no text", expected="ids as text, exactly as in the source",
                             where="ids", fix="write the id in quotes, or convert it with str()")  # fmt: skip
    try:
        return pl.Series("id", values, pl.String)
    except UnicodeEncodeError:
        clean = [None if v is None or has_surrogate(v) else v for v in values]
        return pl.Series("id", clean, pl.String)  # a lone surrogate is in no log: unknown


def nfc(texts: pl.Series) -> pl.Series:
    """`texts` in Unicode normal form C; no work is done when all are ASCII."""
    if (texts.str.len_bytes() == texts.str.len_chars()).all():
        return texts
    return texts.str.normalize("NFC")


def text_digest(texts: pl.Series, salt: str = "") -> str:
    """SHA-256 over the lengths and bytes of `texts`, a block at a time; a null differs from an empty text."""
    sha = hashlib.sha256(f"{salt} {len(texts)}\n".encode())
    for block in texts.to_frame("t").iter_slices(1 << 18):
        column = block["t"]
        sha.update(column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes())
        sha.update(column.drop_nulls().str.join("").item().encode() if column.len() > column.null_count() else b"")
    return sha.hexdigest()
