"""What a log says is what is stored: Unicode, fractions of seconds, repeats, archives, and settings that count."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import zstandard
from events.logs import HEADER, NOW, balanced, csv, lines, reasons, settings, stored

from perdure.errors import DataError, PerdureError, SettingsError, UsageError
from perdure.events import detect
from perdure.events.data_settings import DataSettings, TableSettings
from perdure.events.filters import check
from perdure.events.marks import marked
from perdure.events.profiles import profiles_of
from perdure.events.sequences import Events, prepare

BRANDS = ["plain", "Cafe\u0301", "Café", "ZE\u0301", ""]


def packed(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(part) for part in parts))
    return path


def history(events: Events, user: str) -> list[str]:
    return events.item_ids.text(events.history(int(events.user_ids.rows([user])[0])))


def test_attributes_are_found_however_they_are_composed(tmp_path: Path):
    (tmp_path / "log.csv").write_text(csv())
    for role, prefix, n in (("users", "u", 30), ("items", "i", 17)):
        told = [BRANDS[k % len(BRANDS)] for k in range(n)]
        pl.DataFrame({"id": [f"{prefix}{k}" for k in range(n)], "kind": told, "tags": [[one, "x"] for one in told]}
                     ).write_parquet(tmp_path / f"{role}.parquet")  # fmt: skip
    table = {"id": "id", "path": str(tmp_path / "users.parquet"), "columns": ["kind"]}
    data = settings(tmp_path / "log.csv", users=TableSettings(**table), items_table=TableSettings(
        path=str(tmp_path / "items.parquet"), id="id"))  # fmt: skip
    events = prepare(data, tmp_path / "store", now=NOW)
    assert set(events.users["kind"].drop_nulls()) == {"plain", "Café", "ZÉ"}
    known = profiles_of(events, ["kind"])
    assert known is not None and (known.rows[:, 0] > 0).sum() == 24  # all but those with an empty one
    given = marked(events, items=["kind", "tags"])
    held = given.marks.attributes
    assert held is not None and (held >= 0).all() and (held[2:, 0] > 0).sum() == 14 and (held[2:, 1:].max(1) > 0).all()


def test_fractions_of_seconds_order_events_and_part_them(tmp_path: Path):
    rows = ["x,late,1600000000.9", "x,early,1600000000.1", "x,twice,1600000001.2", "x,twice,1600000001.8"]
    events = stored(tmp_path, csv(rows))
    assert history(events, "x") == ["early", "late", "twice", "twice"] and balanced(events)
    assert events.columns(["user", "time"]).collect().filter(pl.col("user") == "x")["time"].to_list() == [
        1_600_000_000, 1_600_000_000, 1_600_000_001, 1_600_000_001]  # fmt: skip
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.csv").write_text(csv())
    (tmp_path / "a" / "2.csv").write_text(HEADER + "\n".join(rows) + "\n")
    apart = prepare(settings(tmp_path / "a" / "*.csv"), tmp_path / "again", now=NOW)
    assert apart.digest == events.digest
    assert stored(tmp_path, csv(["x,a,1e300", "x,b,nan"]), max_bad_share=0.1).card["quarantined"] == {
        "time": 1, "time_range": 1}  # fmt: skip


def test_an_order_is_a_whole_number(tmp_path: Path):
    text = "user,item,time,n\n" + "\n".join(f"u{k % 30},i{k % 17},1600000000,{k}.0" for k in range(300))
    bad = ["x,a,1600000000,0.5", "x,b,1600000000,1e300", "x,c,1600000000,7"]
    events = stored(tmp_path, "\n".join([text, *bad]), columns={"order": "n"}, max_bad_share=0.1)
    assert [(column, reason) for _, column, reason in reasons(events)] == [("n", "order")] * 2
    assert history(events, "x") == ["c"]


def test_without_times_and_order_equal_rows_are_repeats(tmp_path: Path):
    text = csv(["x,a,1", "x,b,1", "x,a,1", "x,a,1"])
    events = stored(tmp_path, text, columns={"time": None})
    assert history(events, "x") == ["a", "b", "a", "a"] and events.card["books"]["duplicate"] == 0
    assert any("repeats" in note for note in events.card["notes"])


def test_conflicts_of_event_ids_count_as_bad_rows(tmp_path: Path):
    text = "user,item,time,id\n" + "\n".join(f"u{k % 30},i{k % 17},{1_600_000_000 + k},same" for k in range(300))
    with pytest.raises(DataError, match=r"299 of 300 rows are bad: conflict 299"):
        stored(tmp_path, text, columns={"event": "id"})


def test_zstd_is_read_byte_for_byte(tmp_path: Path):
    body = csv(["x\x01y,i1,1600000000", '"a\r\nb",i1,1600000000', "\ufffd,i1,1600000000"]).encode()
    plain = stored(tmp_path, body, max_bad_share=0.1)
    half = len(body) // 2
    path = packed(tmp_path / "log.csv.zst", body[:half], body[half:])  # two frames
    events = prepare(settings(path, max_bad_share=0.1), tmp_path / "packed", now=NOW)
    assert events.digest == plain.digest
    assert [row[1:] for row in reasons(events)] == [row[1:] for row in reasons(plain)] == [("user", "id_chars")]
    latin = packed(tmp_path / "latin.csv.zst", csv(["é,i1,1600000000"]).encode("latin-1"))
    assert history(prepare(settings(latin, encoding="latin-1"), tmp_path / "latin", now=NOW), "é") == ["i1"]
    (tmp_path / "cut.csv.zst").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cut off or damaged"):
        prepare(settings(tmp_path / "cut.csv.zst"), tmp_path / "cut", now=NOW)
    for name, user in (("x[1]", "mine"), ("x1", "other")):  # a name is no glob
        (tmp_path / name).mkdir()
        packed(tmp_path / name / "a.csv.zst", csv([f"{user},i1,1600000000"]).encode())
    assert history(prepare(settings(tmp_path / "x[1]" / "a.csv.zst"), tmp_path / "named", now=NOW), "mine") == ["i1"]


def test_a_zstd_bomb_is_bounded(tmp_path: Path):
    path = packed(tmp_path / "log.csv.zst", (b"u," + b"i" * 240 + b",1600000000\n") * (1 << 19))
    with pytest.raises(DataError, match="unpacks to more than"):
        prepare(settings(path, header=["user", "item", "time"]), tmp_path / "store", now=NOW)


def test_a_carriage_return_is_read_alike_with_quotes_elsewhere(tmp_path: Path):
    """By the reader that takes a block record by record the row is set aside; no other row suffers."""
    events = stored(tmp_path, csv(["x,b\rc,1600000000", 'y,"q ""r""",1600000000']), max_bad_share=0.1)
    assert balanced(events) and [reason for *_, reason in reasons(events)] == ["quote"]
    assert events.card["books"]["received"] == 302 and history(events, "y") == ['q "r"']


def test_headers_may_begin_like_other_formats(tmp_path: Path):
    for head in ("ORCID", "BZh_code", "%PDF share"):
        text = csv(header=f"{head},item,time\n")
        assert stored(tmp_path, text, "log.csv", columns={"user": head}).n_events == 300
    (tmp_path / "real.csv").write_bytes(b"ORC\x0a\x0b\x00\x01")
    with pytest.raises(PerdureError, match="an ORC file"):
        detect.look(tmp_path / "real.csv")


def test_a_scope_may_stand_within_quotes():
    expression, names = check("\"user.odd name\" = 'x'", ["odd name"], where="[task]", own="user.")
    told = pl.DataFrame({"odd name": ["x", "y"]}).select(expression).to_series()
    assert names == ["odd name"] and told.to_list() == [True, False]


def test_minus_zero_is_zero(tmp_path: Path):
    text = "user,item,time,value\n" + "\n".join(
        f"u{k % 30},i{k % 17},{1_600_000_000 + k},{('-0.0', '0', '1')[k % 3]}" for k in range(300)
    )
    events = stored(tmp_path, text, columns={"value": "value"})
    assert events.categories["value"].series.to_list() == ["0", "1"]
    assert (events.marks[:, 0] > 0).all()


def test_tables_of_attributes_may_have_their_columns_in_any_order(tmp_path: Path):
    (tmp_path / "log.csv").write_text(csv())
    (tmp_path / "users-1.csv").write_text("id,kind,size\n" + "\n".join(f"u{k},a,1" for k in range(15)))
    (tmp_path / "users-2.csv").write_text("size,id,kind\n" + "\n".join(f"2,u{k},b" for k in range(15, 30)))
    data = settings(tmp_path / "log.csv", users=TableSettings(path=str(tmp_path / "users-*.csv"), id="id"))
    events = prepare(data, tmp_path / "store", now=NOW)
    assert events.users.rows()[0] == ("a", 1) and set(events.users.rows()) == {("a", 1), ("b", 2)}
    (tmp_path / "users-2.csv").write_text("id,kind\nu20,b\n")
    with pytest.raises(DataError, match=r"'size' is in one file of data\.users and not in another"):
        prepare(data, tmp_path / "other", now=NOW)


@pytest.mark.parametrize(
    ("format", "told", "key"),
    [
        ("ttl", {"separator": "\t"}, "separator"),
        ("cikm2019", {"columns": {"user": "who"}}, "columns"),
        ("movielens", {"time_unit": "ms"}, "time_unit"),
        ("recbole", {"header": False}, "header"),
        ("qqbrowser", {"encoding": "latin-1"}, "encoding"),
    ],
)
def test_a_setting_that_a_format_does_not_heed_is_refused(tmp_path: Path, format: str, told: dict, key: str):
    data = DataSettings.model_validate({"path": str(tmp_path), "format": format, **told})
    with pytest.raises(SettingsError, match=f"does not read {key}"):
        prepare(data, tmp_path / "store")


def test_names_and_files_of_classes_tell_one_store_from_another(tmp_path: Path):
    (tmp_path / "click.csv").write_text("5,7,9\n8,9,5\n1,2,3\n")
    (tmp_path / "class.csv").write_text("5,7,9,,1\n8,9,5,,2\n")

    def made(name: str) -> Events:
        path = {"click": str(tmp_path / "click.csv"), name: str(tmp_path / "class.csv")}
        return prepare(DataSettings(path=path, format="qqbrowser", max_bad_share=0.5), tmp_path / "store")

    assert sorted(made("gender").users["gender"].drop_nulls().to_list()) == [1, 2]
    with pytest.raises(UsageError, match="the store of another log"):
        made("age")
    assert made("gender").n_events == 9
    (tmp_path / "class.csv").write_text("5,7,9,,3\n8,9,5,,4\n")
    with pytest.raises(UsageError, match="the store of another log"):
        made("gender")


def test_recbole_reads_tables_of_the_settings_and_no_empty_class(tmp_path: Path):
    folder = tmp_path / "atomic"
    folder.mkdir()
    rows = "\n".join(f"u{k % 30}\ti{k % 17}\t{1_600_000_000 + k}" for k in range(300))
    (folder / "a.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows + "\n")
    who = "\n".join(f"u{k}\t{('f', 'm', '')[k % 3]}" for k in range(30))
    (folder / "a.user").write_text("user_id:token\tgender:token\n" + who + "\n")
    events = prepare(DataSettings(path=str(folder), format="recbole"), tmp_path / "store")
    assert set(events.users["gender"]) == {"f", "m", None}
    (tmp_path / "own.csv").write_text("id,size\n" + "\n".join(f"u{k},{k}" for k in range(30)))
    table = TableSettings(path=str(tmp_path / "own.csv"), id="id")
    own = prepare(DataSettings(path=str(folder), format="recbole", users=table), tmp_path / "own")
    assert own.users.columns == ["size"]


def test_a_column_that_is_missing_throughout_one_file_is_of_the_kind_of_the_others(tmp_path: Path):
    first = pl.DataFrame(
        {"user": ["u0", "u1"] * 40, "item": ["a", "b", "c", "d"] * 20, "time": range(NOW - 160, NOW - 80)}
    )
    later = first.with_columns(pl.col("time") + 80)
    for number, moods in enumerate([(None, "glad"), ("glad", None), (None, None)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, part, mood in zip("ab", (first, later), moods, strict=True):
            part.with_columns(mood=pl.lit(mood)).write_parquet(folder / f"{name}.parquet")
        events = prepare(settings(str(folder / "*.parquet"), features=["mood"]), folder / "store", now=NOW)
        told = events.columns().sort("time").select("mood").collect()["mood"]
        assert told.to_list() == [mood for mood in moods for _ in range(80)]


def test_a_carriage_return_within_a_line_is_no_end_of_it(tmp_path: Path):
    body = [f"u{k % 30}\r,i{k % 17},{1_600_000_000 + k}" for k in range(3)] + lines()
    events = stored(tmp_path, HEADER + "\n".join(body) + "\n")
    assert [i for i in events.user_ids.series if "\r" in i] == ["u0\r", "u1\r", "u2\r"]
