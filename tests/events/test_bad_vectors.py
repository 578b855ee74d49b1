"""Files of vectors, of friends and of profile fields that are not what they should be: one clear error each."""

from __future__ import annotations

import polars as pl
import pytest
from pydantic import ValidationError

from perdure.errors import DataError
from perdure.events.friends import read_friends
from perdure.events.ids import Ids
from perdure.events.profiles import read_vectors
from perdure.settings.sections import ProfileSettings

IDS = Ids(["a", "b", "c"])
TWO = [[1.0, 2.0], [3.0, 4.0]]
BAD = {
    "text for vectors": ({"user": ["a", "b"], "vector": ["x", "y"]}, "of type String"),
    "numbers for vectors": ({"user": ["a", "b"], "vector": [1.0, 2.0]}, "of type Float64"),
    "vectors of text": ({"user": ["a", "b"], "vector": [["x"], ["y"]]}, r"of type List\(String\)"),
    "vectors of lists": ({"user": ["a", "b"], "vector": [[[1.0]], [[2.0]]]}, r"of type List\(List"),
    "lists for ids": ({"user": [["a"], ["b"]], "vector": TWO}, r"ids of type List\(String\)"),
    "decimal numbers for ids": ({"user": [1.0, 2.0], "vector": TWO}, "ids of type Float64"),
    "an id twice": ({"user": ["b", "b"], "vector": TWO}, "'b' stands twice"),
    "only strangers": ({"user": ["x", "y"], "vector": TWO}, "none of 2 ids is known"),
}


@pytest.mark.parametrize("case", BAD)
def test_vectors_that_are_none(case, tmp_path):
    columns, message = BAD[case]
    pl.DataFrame(columns).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / "v.parquet", IDS, "user")


def test_strangers_among_others_are_left_out(tmp_path):
    pl.DataFrame({"user": ["x", "b", "x"], "vector": [*TWO, [5, 6]]}).write_parquet(tmp_path / "v.parquet")
    flat, rows = read_vectors(tmp_path / "v.parquet", IDS, "user")
    assert flat[1].tolist() == [3.0, 4.0] and rows.tolist() == [-1, 1, -1]


def test_friends_of_the_wrong_width(tmp_path):
    (tmp_path / "f.csv").write_text("user,friend\na,b\na,b,c\n")
    with pytest.raises(DataError, match=r"1 of 2 rows are malformed; first: line 3, width"):
        read_friends(str(tmp_path / "f.csv"), "user", "friend", IDS)


def test_a_profile_field_that_is_named_twice():
    with pytest.raises(ValidationError, match="names gender twice"):
        ProfileSettings(fields=["gender", "gender", "age"])
