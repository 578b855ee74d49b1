"""Values of columns as text, so that a value keeps its row whatever else its column holds.

A column of 1, 2, 3 is of whole numbers in one log and, with one 2.5 or one missing value more, of decimal ones in the
next; a model that read the first must still know 1, 2 and 3. So every number is written by itself, as short as it can
be: 1.0 is "1".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl

from perdure.events.ids import Ids

__all__ = ["as_text", "rows_of"]

EXACT = 2.0**53  # up to here a decimal number holds every whole one


def as_text(column: pl.Series) -> pl.Series:
    """Each value as text, whole numbers without a point; null where missing."""
    if not column.dtype.is_float():
        return column.cast(pl.String, strict=False)
    whole = ((column % 1 == 0) & (column.abs() < EXACT)).fill_null(True)  # (n,) nulls stay what they are
    texts = column.set(~whole, None).cast(pl.Int64).cast(pl.String)
    return texts if whole.all() else texts.zip_with(whole, column.cast(pl.String))


def rows_of(values: Ids, texts: pl.Series) -> np.ndarray:
    """Rows of values in a vocabulary, (n,) int32, -1 where unknown or missing; a number is known however it is written
    (2.50 as 2.5), unless the vocabulary holds both ways."""
    rows = values.rows(texts)
    missed = rows < 0  # (n,)
    if missed.any() and (short := _shortened(values)) is not None:
        rows[missed] = short.rows(_short(texts.filter(pl.Series(missed))))
    return rows


@lru_cache(maxsize=128)  # asked for every value that somebody tells and nobody had
def _shortened(values: Ids) -> Ids | None:
    """The vocabulary with its numbers as short as they can be; None where it holds two ways of writing one."""
    short = _short(values.series)
    return Ids(short, values.first) if short.n_unique() == len(short) else None


def _short(texts: pl.Series) -> pl.Series:
    """Decimal numbers without the zeros at their end."""
    return texts.str.replace(r"^(-?\d+)\.0*$", "${1}").str.replace(r"^(-?\d+\.\d*[1-9])0+$", "${1}")
