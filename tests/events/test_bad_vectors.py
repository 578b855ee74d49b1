"""Files of vectors, of friends and of profile fields that are not what they should be: one clear error each."""

from __future__ import annotations

import math

import polars as pl
import pytest
from pydantic import ValidationError

from perdure.errors import DataError, SettingsError
from perdure.events.data_settings import DataSettings
from perdure.events.friends import read_friends
from perdure.events.ids import Ids
from perdure.events.marks import marked
from perdure.events.profiles import profiles_of, read_vectors
from perdure.events.sequences import prepare
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


WORLD = {"user": ["u", "u", "v", "v"], "item": ["a", "b", "b", "a"], "mood": [1.0, math.nan, 2.0, math.nan]}


def log(folder, items: dict, users: dict | None = None):
    """A log of two users and two items, with attributes from Parquet files."""
    for name, columns in (("log", WORLD), ("items", {"id": ["a", "b"], **items}), ("users", users or {"id": ["u"]})):
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    tables = {key: {"path": str(folder / f"{name}.parquet"), "id": "id"}
              for key, name in (("items_table", "items"), ("users", "users"))}  # fmt: skip
    columns = {"user": "user", "item": "item"}
    return prepare(
        DataSettings(path=str(folder / "log.parquet"), columns=columns, features=["mood"], **tables), folder / "store"
    )


@pytest.mark.parametrize("value", [b"\xff", {"a": 1}, [[1], [2]]], ids=["bytes", "struct", "lists of lists"])
def test_an_attribute_that_cannot_be_kept_is_refused_by_name(value, tmp_path):
    with pytest.raises(DataError, match="column 'kind' has type") as fault:
        log(tmp_path, {"kind": [value, value]})
    assert "name the columns that are needed" in fault.value.fix


def test_arrays_of_one_length_are_lists(tmp_path):
    kinds = pl.Series([["x", "y"], ["y", "z"]], dtype=pl.Array(pl.String, 2))
    told = marked(log(tmp_path, {"kind": kinds}), items=["kind"])
    assert told.marks.attributes[2:].tolist() == [[1, 2], [2, 3]]


def test_what_is_no_number_is_missing(tmp_path):
    events = log(tmp_path, {"price": [1.5, math.nan]}, {"id": ["u", "v"], "age": [math.nan, 30.0]})
    told = marked(events, columns=["mood"], items=["price"])
    assert told.marks.events["mood"].text([1, 2]) == ["1", "2"] and len(told.marks.events["mood"]) == 2
    assert len(told.marks.items["price"]) == 1 and told.marks.attributes[2:].tolist() == [[1], [0]]
    assert profiles_of(events, ["age"]).rows.tolist() == [[0], [1]]


def test_an_attribute_no_item_has_and_a_field_of_lists_are_refused(tmp_path):
    events = log(tmp_path, {"kind": pl.Series([None, None], dtype=pl.String)}, {"id": ["u"], "age": [[1, 2]]})
    with pytest.raises(SettingsError, match="no item of the log has a kind"):
        marked(events, items=["kind"])
    with pytest.raises(SettingsError, match="age holds lists"):
        profiles_of(events, ["age"])
