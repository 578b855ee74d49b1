"""Ids: opaque text outside, rows inside; a map only grows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import DataError, UsageError
from perdure.events.ids import Ids, nfc, text_digest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SLOW = settings(deadline=None, max_examples=60)


@SLOW
@given(st.lists(TEXT.map(lambda t: nfc(pl.Series([t]))[0]), unique=True, max_size=30), st.sampled_from([0, 2]))
def test_rows_and_text_are_inverse(ids, first):
    book = Ids(ids, first)
    rows = book.rows(ids)
    assert rows.dtype == np.int32 and rows.tolist() == list(range(first, first + len(ids)))
    assert book.text(rows) == ids


def test_unknown_is_minus_one_whatever_the_size():
    book = Ids([f"{k:04d}" for k in range(1000)], 2)
    few = book.rows(["0005", "5", "", "0999", "zz", "0000"])  # one by one
    many = book.rows(["0005", "5", "", "0999", "zz", "0000"] * 50)  # hash join
    assert few.tolist() == [7, -1, -1, 1001, -1, 2] and many.tolist() == few.tolist() * 50
    assert book.rows([]).shape == (0,) and Ids([]).rows(["a"]).tolist() == [-1]
    assert book.rows([None, "0001"]).tolist() == [-1, 3]  # type: ignore[list-item]
    assert book.rows(pl.Series([None, None])).tolist() == [-1, -1]
    assert book.rows(["\ud800"]).tolist() == [-1]


@SLOW
@given(st.sets(TEXT.map(lambda t: nfc(pl.Series([t]))[0]), min_size=1, max_size=20), st.lists(TEXT, max_size=20))
def test_one_by_one_and_all_at_once_agree(ids, asked):
    book = Ids([*ids, *(f"row {k}" for k in range(600))], 2)
    asked = [*asked, *list(ids)[:3]]
    alone = [book.rows([text]).item() for text in asked]  # compared one by one where all are ASCII
    assert book.rows([*asked, *["-"] * 17])[: len(asked)].tolist() == alone  # binary search
    assert book.rows([*asked, *["-"] * 99])[: len(asked)].tolist() == alone  # hash join


def test_composed_and_decomposed_are_one():
    book = Ids(["caf\u00e9"])
    assert book.rows(["cafe\u0301"]).tolist() == [0]


def test_ids_that_are_no_text_are_refused():
    with pytest.raises(UsageError, match="no text"):
        Ids([7])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="single text"):
        Ids("abc")
    with pytest.raises(UsageError, match="single text"):
        Ids(["a"]).rows("abc")
    with pytest.raises(DataError, match="twice"):
        Ids(["a", "a"])
    with pytest.raises(UsageError, match="no id"):
        Ids(["a"], 2).text(np.array([0]))


def test_digest_knows_order_borders_and_nulls():
    texts = [["a", "b"], ["b", "a"], ["ab"], ["", "ab"], ["a", None], ["a", ""], []]
    digests = [text_digest(pl.Series("t", t, pl.String)) for t in texts]
    assert len(set(digests)) == len(texts)
    assert Ids(["a"]).digest != Ids(["a"], 2).digest
    assert Ids(["a", "b"]) == Ids(["a", "b"]) and Ids(["a"]) != Ids(["a"], 2)
