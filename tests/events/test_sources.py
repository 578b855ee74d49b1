"""Settings, files and readers: what is declared is believed, what is not is refused; any cut gives the same rows."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events.logs import csv, lines, settings, stored
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure.errors import DataError, PerdureError, UsageError
from perdure.events import detect
from perdure.events.columns import Columns
from perdure.events.data_settings import ColumnNames, DataSettings, TableSettings
from perdure.events.jsonl import read_jsonl
from perdure.events.sources import Attributes, Table, as_numbers, read_attributes
from perdure.events.text import Dialect, read_text

GOOD = {"path": "log.csv", "columns": {"user": "u", "item": "i"}}


@pytest.mark.parametrize(("told", "words"), [
    ({"colums": {}}, "Extra inputs"),
    ({"columns": {"user": "u"}}, "columns.user and columns.item"),
    ({"columns": {"user": "u", "item": "i", "time": "t"}}, "time_unit"),
    ({"columns": {"user": "u", "item": "i", "tiem": "t"}}, "tiem"),
    ({"time_unit": "minutes"}, "'s', 'ms'"),
    ({"time_unit": "s", "time_zone": "UTC"}, "datetime"),
    ({"time_unit": "datetime", "time_zone": "Mars/Base"}, "no time zone"),
    ({"encoding": "klingon"}, "no text encoding"),
    ({"encoding": "base64"}, "no text encoding"),
    ({"users": {"path": "u.csv", "id": "u", "encoding": "rot13"}}, "no text encoding"),
    ({"min_item_count": "3"}, "integer"),
    ({"min_item_count": True}, "integer"),
    ({"max_bad_share": 1.5}, "less than or equal"),
    ({"path": []}, "names no file"),
    ({"path": ["a", ""]}, "names no file"),
    ({"features": ["a", "a"]}, "twice"),
    ({"features": ["position"]}, "may not be called"),
    ({"duplicates": "maybe"}, "'keep' or 'drop'"),
    ({"earliest": "yesterday"}, "isoformat"),
])  # fmt: skip
def test_settings_say_what_is_wrong(told, words):
    with pytest.raises(ValidationError, match=words):
        DataSettings.model_validate({**GOOD, **told})


def test_settings_survive_toml_and_json():
    data = DataSettings.model_validate({**GOOD, "users": {"path": "u.csv", "id": "u", "header": ["u", "age"]}})
    assert DataSettings.model_validate(json.loads(data.model_dump_json())) == data
    assert data.columns.named() == {"user": "u", "item": "i"} and ColumnNames().named() == {}


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"'), max_size=6) | st.sampled_from(
    ['"', 'a"b', "a,b", "a\nb", "", " ", "::", "NA"])  # fmt: skip


@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=8), st.integers(1, 40))
def test_any_quoted_table_comes_back_whole(rows, cut):
    """RFC 4180 out, the same cells in, wherever the bytes are cut."""
    import csv as writer
    import io

    out = io.StringIO()
    writer.writer(out, lineterminator="\n").writerows([["a", "b", "c"], *rows])
    whole = out.getvalue().encode()
    parts = (whole[k : k + cut] for k in range(0, len(whole), cut))
    got = [row for piece in read_text(parts, Dialect(), None, "x") for row in piece.frame.rows()]
    assert got == [tuple(row) for row in rows]


def test_readers_end_in_declared_errors(tmp_path: Path):
    """Random bytes and broken tables: a store or an error of ours, never anything else (law I10, in small)."""
    rng = random.Random(3)
    base = csv(n=40).encode()
    for k in range(120):
        name = rng.choice(["log.csv", "log.tsv", "log.dat", "log.jsonl"])
        content = bytearray(base if rng.random() < 0.7 else rng.randbytes(300))
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(content))
            content[at : at + rng.randrange(3)] = rng.choice([b'"', b"\n", b",", b"\0", b"\xff", b"{", b"\r", b"::"])
        try:
            stored(tmp_path, bytes(content), f"{k}-{name}", max_bad_share=1.0, allow_empty=True)
        except PerdureError as error:
            assert error.exit_code in (2, 3, 4) and len(str(error).splitlines()) <= 6


def test_files_are_told_by_content(tmp_path: Path):
    pl.DataFrame({"user": ["a"]}).write_parquet(tmp_path / "odd.csv")
    (tmp_path / "x.json.gz").write_bytes(b"\x1f\x8b rest")
    assert detect.look(tmp_path / "odd.csv").kind == "parquet"
    found = detect.look(tmp_path / "x.json.gz")
    assert (found.kind, found.packed, found.notes) == ("jsonl", "gzip", [])
    for head, what in ((b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"SQLite format 3\0", "SQLite")):
        (tmp_path / "y.csv").write_bytes(head)
        with pytest.raises(PerdureError, match=what):
            detect.look(tmp_path / "y.csv")


def test_a_key_of_json_lines_may_come_late_among_many(tmp_path: Path):
    lines = [json.dumps({"user": "u", "item": "i", f"tag{k}": 1}) for k in range(1100)]
    parts = "\n".join([*lines, '{"user": "v", "item": "i", "value": 3}']).encode()
    found = list(read_jsonl(iter([parts]), ["user", "item", "value"], "log.jsonl"))
    assert pl.concat(piece.frame for piece in found)["value"].drop_nulls().to_list() == ["3"]


def test_missing_files_name_the_nearest_folder(tmp_path: Path):
    with pytest.raises(UsageError, match=str(tmp_path)):
        detect.find([str(tmp_path / "a" / "b" / "*.csv")])
    with pytest.raises(UsageError, match="NUL"):
        detect.find(["a\0b"])
    (tmp_path / "logs" / "2024").mkdir(parents=True)
    with pytest.raises(UsageError, match="no file"):
        detect.find([str(tmp_path / "logs" / "*")])  # folders alone are no files


def test_a_name_with_glob_characters_is_a_name_first(tmp_path: Path):
    (tmp_path / "log[1].csv").write_text("x")
    assert detect.find([str(tmp_path / "log[1].csv")]) == [tmp_path / "log[1].csv"]


@pytest.mark.parametrize(("texts", "dtype"), [
    (["1", "-3", "0"], pl.Int64), (["1", "2.50", None], pl.Float64), (["007", "1"], pl.String),
    (["1e5"], pl.String), (["+1"], pl.String), ([None, None], pl.String), (["9" * 16], pl.String),
    (["1", "x"], pl.String), (["-"], pl.String),
])  # fmt: skip
def test_only_plain_numbers_become_numbers(texts, dtype):
    assert as_numbers(pl.Series("x", texts, pl.String)).dtype == dtype


def test_attribute_tables(tmp_path: Path):
    (tmp_path / "u.csv").write_text("id,name\n1,a\n2\n3,c\n")
    with pytest.raises(DataError, match="1 of 3 rows are malformed; first: line 3"):
        read_attributes(Attributes(Table((tmp_path / "u.csv",), {}), "id"))
    (tmp_path / "u.csv").write_bytes("id,name\n1,\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin-1"):
        read_attributes(Attributes(Table((tmp_path / "u.csv",), {}), "id"))
    frame, _ = read_attributes(Attributes(Table((tmp_path / "u.csv",), {}, encoding="latin-1"), "id"))
    assert frame.rows() == [("1", "é")]
    (tmp_path / "u.jsonl").write_text('{"id": 1, "age": 30, "x": null}\n{"id": 2, "age": null}\n')
    frame, _ = read_attributes(Attributes(Table((tmp_path / "u.jsonl",), {}), "id", ("age",)))
    assert frame.rows() == [("1", 30), ("2", None)]
    (tmp_path / "u.jsonl").write_text('{"id": 1, "age": 30, "likes": ["a", "b"]}\n{"id": 2, "age": null}\n')
    with pytest.raises(DataError, match="line 1, json several values in 'likes'"):
        read_attributes(Attributes(Table((tmp_path / "u.jsonl",), {}), "id", ("age", "likes")))


def test_wrong_kinds_of_columns_are_named(tmp_path: Path):
    base = {"user": ["a", "b"] * 4, "item": ["x", "x", "y", "y"] * 2, "time": [1_600_000_000] * 8}
    pl.DataFrame(base).with_columns(pl.from_epoch("time")).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="time_unit"):
        stored(tmp_path, (tmp_path / "d.parquet").read_bytes(), "dd.parquet")
    pl.DataFrame(base).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match="Int64"):
        stored(tmp_path, (tmp_path / "i.parquet").read_bytes(), "ii.parquet", time_unit="datetime")
    pl.DataFrame(base).with_columns(f=pl.Series([[1]] * 8)).write_parquet(tmp_path / "n.parquet")
    with pytest.raises(DataError, match="'f' has type List"):
        stored(tmp_path, (tmp_path / "n.parquet").read_bytes(), "nn.parquet", features=["f"])


def test_attributes_may_be_lists(tmp_path: Path):
    """Lists of plain values; a filter asks `array_contains`, a task answers with each of them."""
    frame = pl.DataFrame({"id": ["x", "y", "z"], "genres": [["a", "b"], [], None], "deep": [[[1]], [], None]})
    frame.write_parquet(tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    log = "user,item,time\n" + "".join(f"u{k % 4},{'xyz'[k % 3]},{1_600_000_000 + k}\n" for k in range(12))
    events = stored(tmp_path, log, items_table=TableSettings(path=path, id="id", columns=["genres"]))
    assert events.items_table is not None and events.items_table["genres"].to_list() == [["a", "b"], [], None]
    chosen = Columns(events).select("array_contains(item.genres, 'b')", "here")
    assert chosen.tolist() == (events.items == events.item_ids.rows(["x"])[0]).tolist()
    with pytest.raises(DataError, match=r"'deep' has type List\(List") as error:
        stored(tmp_path, log, items_table=TableSettings(path=path, id="id", columns=["deep"]))
    assert "lists of these" in error.value.expected


def test_ids_of_every_shape_survive(tmp_path: Path):
    """10 thousand made-up ids through CSV and Parquet, in any piece (law I5)."""
    rng = random.Random(5)
    alphabet = string.ascii_letters + string.digits + " -_./:;#'%+=éß漢字🙂\u200b"
    made = {"".join(rng.choices(alphabet, k=rng.randrange(1, 20))) for _ in range(10_000)}
    made |= {str(rng.randrange(10**30)) for _ in range(100)} | {"NA", "null", "007", "1e5", "True", "-0", "0.0"}
    ids = sorted(pl.Series(list(made)).str.normalize("NFC").unique().to_list())
    frame = pl.DataFrame({"user": ids, "item": ids[::-1], "time": np.arange(len(ids)) + 1_600_000_000})
    frame.write_parquet(tmp_path / "a.parquet")
    for name, content in (("b.csv", frame.write_csv()), ("b.parquet", (tmp_path / "a.parquet").read_bytes())):
        events = stored(tmp_path, content, name)
        assert events.user_ids.text(np.arange(len(ids))) == ids
        assert events.item_ids.text(events.items) == ids[::-1]


def test_ten_percent_of_the_columns_are_enough(tmp_path: Path):
    """Columns that nobody named are not stored, but their quotes and widths still count."""
    text = "x,user,item,time,y\n" + "\n".join(f'"a,b",{line},z' for line in lines())
    assert stored(tmp_path, text).digest == stored(tmp_path, csv()).digest
    data = settings(tmp_path / "log.csv")
    assert data.columns.named() == {"user": "user", "item": "item", "time": "time"}
