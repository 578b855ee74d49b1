"""Ids of attribute tables are as strict as those of events."""

from __future__ import annotations

import polars as pl
import pytest
from events.logs import csv, stored

from perdure.errors import DataError


def test_decimal_ids_of_an_attribute_table_are_refused(tmp_path):
    """A column of whole numbers with a gap becomes decimals on its way through pandas: "2.0" is nobody's id."""
    pl.DataFrame({"id": [1.0, 2.0, None], "age": ["a", "b", "c"]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(DataError, match=r"column 'id' of .* holds decimal numbers, no ids"):
        stored(tmp_path, csv([]), users={"path": str(tmp_path / "users.parquet"), "id": "id"})
