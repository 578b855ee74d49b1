"""The catalogue of bad event files: one test a row (the number is the row), each with its stated behaviour.

X2 is SettingsError or UsageError, X3 DataError, X4 ModelError; Q is quarantine under a reason, with balanced books.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events.logs import HEADER, NOW, balanced, csv, lines, reasons, settings, stored

from perdure.errors import DataError, PerdureError, closest
from perdure.events import detect
from perdure.events.data_settings import DataSettings
from perdure.events.sequences import prepare

ROWS: dict[str, Callable[[Path], None]] = {}


def row(number: str):
    def keep(test: Callable[[Path], None]):
        ROWS[number] = test
        return test

    return keep


@pytest.mark.parametrize("number", sorted(str(n) for n in range(1, 49)), ids=lambda n: f"row{n}")
def test_row(number: str, tmp_path: Path):
    ROWS[number](tmp_path)


def refused(code: int, *words: str, work: Callable[[], object]) -> PerdureError:
    """Runs `work`, which must be refused with this exit code and these words, in at most six lines."""
    with pytest.raises(PerdureError) as caught:
        work()
    error = caught.value
    assert error.exit_code == code, error
    assert len(str(error).splitlines()) <= 6
    for word in words:
        assert word in str(error), (word, str(error))
    return error


def nothing_left(folder: Path) -> bool:
    return not [p for p in folder.iterdir() if "store" in p.name or p.name.startswith(".")]


def set_aside(folder: Path, line: str, reason: str, column: str = "", **told) -> None:
    """One bad line among 300 good ones: quarantined as line 4 under `reason`, the rest stored."""
    events = stored(folder, csv([line]), **told)
    assert reasons(events) == [(4, column, reason)]
    assert events.n_events == 300 and balanced(events)


@row("1")
def _(folder):
    refused(2, "data.path", f"nearest folder that exists: {folder}",
            work=lambda: prepare(settings(folder / "no" / "log.csv"), folder / "store"))  # fmt: skip
    refused(2, "data.users", work=lambda: stored(folder, csv(), users={"path": str(folder / "x.csv"), "id": "u"}))


@row("2")
def _(folder):
    refused(3, "no header", work=lambda: stored(folder, b""))
    refused(3, "no header", work=lambda: stored(folder, gzip.compress(b"")))
    assert nothing_left(folder)


@row("3")
def _(folder):
    refused(3, "0 events", work=lambda: stored(folder, HEADER))
    events = stored(folder, HEADER, allow_empty=True)
    assert (events.n_events, events.n_users, events.n_items) == (0, 0, 0) and balanced(events)


@row("4")
def _(folder):
    os.mkfifo(folder / "pipe")
    for path in (folder, folder / "pipe", Path("/dev/null")):
        refused(2, str(path), work=lambda path=path: prepare(settings(path), folder / "store"))
        for table in ("users", "items_table"):
            told = {table: {"path": str(path), "id": "id"}}
            refused(2, str(path), f"data.{table}", work=lambda told=told: stored(folder, csv(), **told))


@row("5")
def _(folder):
    path = folder / "log.csv"
    path.write_text(csv())
    path.chmod(0)

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        if os.access(path, os.R_OK):  # root may read everything
            patch.setattr(detect, "open", closed, raising=False)
        refused(2, "owner", "----------", work=lambda: prepare(settings(path), folder / "store"))


@row("6")
def _(folder):
    plain = stored(folder, csv())
    packed = stored(folder, gzip.compress(csv().encode()), "packed.csv")
    misnamed = stored(folder, csv(), "plain.csv.gz")
    assert plain.digest == packed.digest == misnamed.digest
    assert "is gzip" in packed.card["notes"][0] and "is plain" in misnamed.card["notes"][0]
    assert not plain.card["notes"]


@row("7")
def _(folder):
    whole = gzip.compress(csv(n=5000).encode())
    refused(3, "cut off", "at byte", work=lambda: stored(folder, whole[:-50]))
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF
    refused(3, "gzip", work=lambda: stored(folder, bytes(broken)))
    assert nothing_left(folder)


@row("8")
def _(folder):
    with gzip.open(folder / "bomb.gz", "wb") as file:
        file.write(HEADER.encode())
        for _ in range(160):
            file.write(b"u,i,1600000000\n" * 70_000)
    refused(3, "unpacks to more than", "max_ratio",
            work=lambda: prepare(settings(folder / "bomb.gz"), folder / "store"))  # fmt: skip
    assert nothing_left(folder)


@row("9")
def _(folder):
    plain = stored(folder, csv())
    for name in ("utf-16-le", "utf-16-be"):
        wide = stored(folder, ("\ufeff" + csv()).encode(name))
        assert wide.digest == plain.digest and "UTF-16" in wide.card["notes"][0]


@row("10")
def _(folder):
    assert stored(folder, "\ufeff" + csv()).digest == stored(folder, csv()).digest


@row("11")
def _(folder):
    text = csv(["u\udce91,i1,1600000000"]).encode("utf-8", "surrogateescape")
    events = stored(folder, text)
    assert reasons(events) == [(4, "user", "encoding")] and balanced(events)
    assert "0xe9" in events.quarantine["sample"][0] and events.n_events == 300


@row("12")
def _(folder):
    latin = csv([f"é{k},i1,1600000000" for k in range(30)]).encode("latin-1")
    refused(3, "encoding 30", "latin-1", work=lambda: stored(folder, latin))
    assert nothing_left(folder)
    events = stored(folder, latin, encoding="latin-1")
    assert "é7" in events.user_ids.text(np.arange(events.n_users))


@row("13")
def _(folder):
    refused(3, "no column 'time'", "user, item, timestamp", "'timestamp'",
            work=lambda: stored(folder, csv(header="user,item,timestamp\n")))  # fmt: skip
    for mark in (";", "\t", "|"):
        refused(3, "no column 'user'", repr(mark), "data.separator",
                work=lambda mark=mark: stored(folder, csv().replace(",", mark)))  # fmt: skip
    refused(3, "no column 'user'", "','", "data.separator", work=lambda: stored(folder, csv(), separator=";"))


@row("14")
def _(folder):
    refused(3, "'item'", "twice", work=lambda: stored(folder, csv(header="user,item,item\n")))


@row("15")
def _(folder):
    set_aside(folder, "u1,i1,9,1600000000", "width")


@row("16")
def _(folder):
    set_aside(folder, "u1,i1", "width")
    both = stored(folder, csv(["u1,i1", "u1,i1,9,1600000000"]))  # one too few and one too many do not cancel out
    assert [r[2] for r in reasons(both)] == ["width", "width"]


@row("17")
def _(folder):
    refused(3, "never closed", "line 4", work=lambda: stored(folder, csv(['"u1,i1,1600000000'])))
    refused(3, "never closed", "line 302", work=lambda: stored(folder, csv() + 'u1,"i1,1600000000\n'))
    long = csv(['"' + "u, " * 50_000 + '",i1,1600000000'])
    refused(3, "never closed, or holds over 131,072 characters", "line 4", work=lambda: stored(folder, long))


@row("18")
def _(folder):
    events = stored(folder, csv(['"a\nb",i1,1600000000', '"c,\td",i1,1600000000', '"e""f",i1,1600000000']))
    assert {"a\nb", "c,\td", 'e"f'} <= set(events.user_ids.text(np.arange(events.n_users)))
    assert events.n_events == 303 and balanced(events)


@row("19")
def _(folder):
    set_aside(folder, "a\0b,i1,1600000000", "id_chars", "user")
    set_aside(folder, "u1,i\x07,1600000000", "id_chars", "item")


@row("20")
def _(folder):
    words = ["NA", "null", "nan", "None", "-", "NaN", "N/A", "NULL"]
    events = stored(folder, csv([f"{word},i1,1600000000" for word in words]))
    assert set(words) <= set(events.user_ids.text(np.arange(events.n_users)))
    set_aside(folder, ",i1,1600000000", "id_empty", "user")
    set_aside(folder, 'u1,"",1600000000', "id_empty", "item")


def same_text(folder: Path, ids: list[str]) -> None:
    """`ids` come back exactly, through CSV, JSON lines and Parquet."""
    base = [line.split(",") for line in lines()] + [[i, i, "1600000000"] for i in ids]
    frame = pl.DataFrame(base, schema={"user": pl.String, "item": pl.String, "time": pl.String}, orient="row")
    frame.write_parquet(folder / "log.parquet")
    as_json = "\n".join(json.dumps(dict(zip(frame.columns, r, strict=True))) for r in base)
    digests = set()
    for name, content in (("log.csv", frame.write_csv()), ("log.jsonl", as_json),
                          ("log.parquet", (folder / "log.parquet").read_bytes())):  # fmt: skip
        events = stored(folder, content, name)
        assert set(ids) <= set(events.user_ids.text(np.arange(events.n_users)))
        assert set(ids) <= set(events.item_ids.text(np.arange(2, events.n_items + 2)))
        digests.add(events.digest)
    assert len(digests) == 1


@row("21")
def _(folder):
    same_text(folder, ["007", "7", "07"])


@row("22")
def _(folder):
    same_text(folder, ["9007199254740993", "9007199254740992", "123456789012345678901234567890"])
    events = stored(folder, '{"user": 123456789012345678901234567890, "item": 7, "time": 1600000000}\n', "n.jsonl",
                    allow_empty=True)  # fmt: skip
    assert events.user_ids.text(np.arange(1)) == ["123456789012345678901234567890"]


@row("23")
def _(folder):
    same_text(folder, ["1e5", "1.0", "True", "false", "0x10", "1_000", " 1", "+1"])


@row("24")
def _(folder):
    set_aside(folder, "x" * 257 + ",i1,1600000000", "id_length", "user")
    set_aside(folder, "😀" * 256 + "é,i1,1600000000", "id_length", "user")
    assert stored(folder, csv(["x" * 256 + ",i1,1600000000"])).n_events == 301


@row("25")
def _(folder):
    events = stored(folder, csv(["caf\u00e9,i1,1600000000", "cafe\u0301,i2,1600000060", "A\u030a,i1,1600000000"]))
    users = events.user_ids.text(np.arange(events.n_users))
    assert users.count("café") == 1 and "Å" in users
    assert events.card["id_spellings_merged"] == {"user": 1, "item": 0}
    assert events.user_ids.rows(["cafe\u0301"])[0] >= 0


@row("26")
def _(folder):
    odd = ["a\u200fb", "a\u200bb", "👩\u200d👩\u200d👧", "ab"]
    same_text(folder, odd)
    good = [json.dumps(dict(zip(("user", "item", "time"), line.split(","), strict=True))) for line in lines()]
    events = stored(folder, "\n".join([*good, '{"user": "\\ud800", "item": "i", "time": 1600000000}']), "s.jsonl")
    assert reasons(events) == [(301, "", "encoding")]
    error = refused(3, work=lambda: stored(folder, csv(header="user,it\u202eem,time\n")))
    assert all(line.isprintable() for line in str(error).splitlines())


@row("27")
def _(folder):
    events = stored(folder, csv(["same,same,1600000000"]))
    assert events.user_ids.rows(["same"])[0] >= 0 and events.item_ids.rows(["same"])[0] >= 2


@row("28")
def _(folder):
    events = stored(folder, csv(["12,i1,1600000000", "x12,34,1600000000"]))
    assert {"12", "x12"} <= set(events.user_ids.text(np.arange(events.n_users)))


@row("29")
def _(folder):
    base = [line.split(",") for line in lines()]
    base += [[None, "i", "1600000000"], ["u", None, "1600000000"], ["u", "i", None]]
    frame = pl.DataFrame(base, schema={"user": pl.String, "item": pl.String, "time": pl.String}, orient="row")
    frame = frame.with_columns(pl.col("time").cast(pl.Int64))
    frame.write_parquet(folder / "log.parquet")
    frame.write_ndjson(folder / "log.jsonl")
    for name in ("log.parquet", "log.jsonl"):
        events = stored(folder, (folder / name).read_bytes(), name)
        assert reasons(events) == [(301, "user", "null_user"), (302, "item", "null_item"), (303, "time", "null_time")]
    set_aside(folder, "u1,i1,", "null_time", "time")


@row("30")
def _(folder):
    events = stored(folder, csv([lines()[0], lines()[1], lines()[1]]))
    assert events.n_events == 300 and events.card["books"]["duplicate"] == 3 and balanced(events)
    assert stored(folder, csv([lines()[0]]), duplicates="keep").n_events == 301


@row("31")
def _(folder):
    body = [f"{line},e{k}" for k, line in enumerate(lines())]
    text = "\n".join(["user,item,time,id", *body, body[5], "u9,other,1600000000,e6", "u8,i1,1600000000,"])
    events = stored(folder, text + "\n", columns={"event": "id"})
    assert reasons(events) == [(303, "event", "conflict")]
    assert events.card["books"]["duplicate"] == 1 and events.n_events == 301 and balanced(events)


@row("32")
def _(folder):
    for time in ("-5", "0", "631151999"):
        set_aside(folder, f"u1,i1,{time}", "time_range", "time")
    ranks = HEADER + "\n".join(f"u{k % 5},i{k % 3},{k}" for k in range(50))
    refused(3, "1990-01-01 to 2099", "`order`", work=lambda: stored(folder, ranks))


@row("33")
def _(folder):
    late = HEADER + "\n".join(f"{u},{i},{t}000" for u, i, t in (line.split(",") for line in lines()))
    refused(3, "look like ms", 'time_unit = "ms"', work=lambda: stored(folder, late))
    assert stored(folder, late, time_unit="ms").digest == stored(folder, csv()).digest
    few = HEADER + "\n".join(f"{u},{i},{t}000" for u, i, t in (line.split(",") for line in lines(20)))
    refused(3, 'time_unit = "ms"', work=lambda: stored(folder, few))


@row("34")
def _(folder):
    late = HEADER + "\n".join(f"{u},{i},{t}000000" for u, i, t in (line.split(",") for line in lines()))
    refused(3, "look like us", work=lambda: stored(folder, late))
    for time in (str(2**63 - 1), str(2**63), "9" * 40, str(-(2**63))):
        set_aside(folder, f"u1,i1,{time}", "time_range", "time")


@row("35")
def _(folder):
    events = stored(folder, csv([f"u1,i1,{NOW + 86400}", f"u1,i1,{NOW + 200}"]))
    assert reasons(events) == [(4, "time", "time_future")] and events.n_events == 301
    assert events.card["ahead_of_now"] == {"rows": 1, "most_seconds": 86400}


@row("36")
def _(folder):
    zoned = ["a,x,2020-06-01T12:00:00Z", "b,y,2020-06-01T14:00:00+02:00", "a,y,2020-06-01 12:00:00.5+00:00"]
    zoned += ["c,x,2020-06-01T12:00Z", "c,y,2020-06-01 14:00+0200"]
    events = stored(folder, HEADER + "\n".join(zoned), time_unit="datetime")
    assert set(events.times) == {1591012800}
    local = [*zoned, "b,z,2020-06-01T14:00:00", "b,z,2020-10-25T02:30:00", "a,z,2020-06-01"]
    text = HEADER + "\n".join(local)
    refused(3, "has no zone", "data.time_zone", work=lambda: stored(folder, text, time_unit="datetime"))
    events = stored(folder, text, time_unit="datetime", time_zone="Europe/Paris")
    times = dict(zip(events.columns().collect().select("user", "item", "position").rows(), events.times, strict=True))
    assert sorted(times.values())[-1] == 1603585800  # 02:30 comes twice that night: the earlier, +02:00
    gap = HEADER + "\n".join([*local, "a,x,2020-03-29T02:30:00"])
    events = stored(folder, gap, time_unit="datetime", time_zone="Europe/Paris", max_bad_share=0.5)
    assert reasons(events) == [(10, "time", "time")]  # 02:30 did not exist
    frame = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": [datetime(2020, 6, 1, 14)] * 2})
    frame = frame.with_columns(pl.col("time").dt.replace_time_zone("Europe/Paris"))
    frame.write_parquet(folder / "z.parquet")
    events = stored(folder, (folder / "z.parquet").read_bytes(), "zz.parquet", time_unit="datetime")
    assert set(events.times) == {1591012800}


@row("37")
def _(folder):
    body = lines()
    sorted_, rng = stored(folder, csv()), random.Random(0)
    for _ in range(5):
        rng.shuffle(body)
        assert stored(folder, HEADER + "\n".join(body)).digest == sorted_.digest
    tied = [f"u{k % 5},i{k},1600000000" for k in range(100)]
    digests = set()
    for _ in range(5):
        rng.shuffle(tied)
        digests.add(stored(folder, HEADER + "\n".join(tied), ties="item").digest)
    assert len(digests) == 1
    events = stored(folder, HEADER + "a,z,1600000000\nb,y,1600000000\na,x,1600000000\n")
    assert events.item_ids.text(events.history(0)) == ["z", "x"]  # ties = "file": as they came


@row("38")
def _(folder):
    n = 1_000_000
    frame = pl.DataFrame({"user": ["big"] * n + ["u1", "u2"], "item": np.arange(n + 2) % 1000,
                          "time": 1_500_000_000 + np.arange(n + 2)})  # fmt: skip
    frame.write_parquet(folder / "log.parquet")
    events = prepare(settings(folder / "log.parquet"), folder / "store", now=NOW)
    assert len(events.history(0)) == n and any("1000000 events" in note for note in events.card["notes"])


@row("39")
def _(folder):
    events = stored(folder, csv(["once,i1,1600000000"]))
    assert len(events.history(int(events.user_ids.rows(["once"])[0]))) == 1 and events.card["users_with_one_event"] == 1


@row("40")
def _(folder):
    (folder / "items.csv").write_text("id,title\n" + "\n".join(f"i{k},t{k}" for k in range(16)))
    events = stored(folder, csv(), items_table={"path": str(folder / "items.csv"), "id": "id"})
    assert events.n_items == 17 and events.card["item_unknown"] == 1
    assert events.items_table["title"].null_count() == 1


@row("41")
def _(folder):
    one_user = HEADER + "\n".join(f"u,i{k},{1_600_000_000 + k}" for k in range(40))
    one_item = HEADER + "\n".join(f"u{k},i,{1_600_000_000 + k}" for k in range(40))
    for text in (one_user, one_item):
        refused(3, "cannot train: needs ≥ 25 users", work=lambda text=text: stored(folder, text))
        assert stored(folder, text, allow_empty=True).n_events == 40


@row("42")
def _(folder):
    body = [f"{line},{k % 5}" for k, line in enumerate(lines(1000))]
    bad = ["NaN", "inf", "-inf", "1e400", "-1", "good"]
    text = "\n".join(["user,item,time,v", *body, *(f"u1,i1,1600000000,{v}" for v in bad), "u1,i1,1600000000,"])
    events = stored(folder, text + "\n", columns={"value": "v"})
    assert reasons(events) == [(1002 + k, "v", "value") for k in range(len(bad))]
    assert events.columns(["value"]).collect()["value"].null_count() == 1 and events.n_events == 1001


@row("43")
def _(folder):
    from decimal import Decimal

    base = {"user": ["a", "b"] * 2, "item": ["x", "x", "y", "y"], "time": [1_600_000_000] * 4}
    good = {
        "categories": pl.Series(["a", "b", "a", "b"], dtype=pl.Categorical),
        "whole": pl.Series([1, 2, 1, 2], dtype=pl.UInt64),
        "decimal": pl.Series([Decimal(1), Decimal(2)] * 2, dtype=pl.Decimal(20, 0)),
    }
    for name, column in good.items():
        pl.DataFrame({**base, "user": column}).write_parquet(folder / f"{name}.parquet")
        events = prepare(settings(folder / f"{name}.parquet"), folder / f"store-{name}", now=NOW)
        assert events.user_ids.text(np.arange(2)) in (["a", "b"], ["1", "2"])
    nested = {"list": [[1]] * 4, "struct": [{"k": 1}] * 4, "binary": [b"x"] * 4, "float": [1.5] * 4}
    for name, column in nested.items():
        pl.DataFrame({**base, "user": column}).write_parquet(folder / f"{name}.parquet")
        refused(3, "'user'", work=lambda name=name: prepare(settings(folder / f"{name}.parquet"), folder / "store"))


@row("44")
def _(folder):
    frame = pl.DataFrame({"user": [f"u{k % 9}" for k in range(900)], "item": [f"i{k % 11}" for k in range(900)],
                          "time": [1_600_000_000 + k for k in range(900)]})  # fmt: skip
    frame.write_parquet(folder / "whole.parquet", compression="uncompressed")
    whole = (folder / "whole.parquet").read_bytes()
    refused(4, "Parquet", work=lambda: stored(folder, whole[:-20], "cut.parquet"))
    refused(4, "Parquet", work=lambda: stored(folder, b"PAR1" + b"\xff" * 100 + b"PAR1", "footer.parquet"))
    refused(4, "Parquet", work=lambda: stored(folder, b"hello", "text.parquet"))
    rng, footer = random.Random(1), len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for k in range(12):  # damage anywhere: an honest error or a store, never a crash
        bent = bytearray(whole)
        for _ in range(3):
            bent[rng.randrange(footer if k % 2 else 4, len(bent))] = rng.randrange(256)
        try:
            assert balanced(stored(folder, bytes(bent), f"bent{k}.parquet", max_bad_share=1.0))
        except PerdureError as error:
            assert error.exit_code in (3, 4)


@row("45")
def _(folder):
    good = [json.dumps(dict(zip(("user", "item", "time"), line.split(","), strict=True))) for line in lines(1000)]
    event = '"user": "u", "item": "i", "time": 1600000000'
    bad = ["[1, 2]", "{" + event + ",}", "{" + event + "} // x", "{" + event + ', "user": "v"}', "[" * 10_000,
           '{"user": ' + "9" * 300 + "}", '{"a":' * 10_000, "{",
           "{" + event.replace('"u"', '["u"]') + "}", "{" + event.replace('"i"', '{"id": 1}') + "}"]  # fmt: skip
    events = stored(folder, "\n".join([*good, *bad]), "log.jsonl")
    assert reasons(events) == [(1001 + k, "", "json") for k in range(len(bad))] and balanced(events)
    refused(3, "json", work=lambda: stored(folder, "[\n" + ",\n".join(good) + "\n]", "array.jsonl"))


@row("46")
def _(folder):
    pickle = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    for content, name in ((pickle, "log.pkl"), (pickle, "log.csv"), (b"\x93NUMPY\x01\x00", "log.npy"),
                          (b"PK\x03\x04....", "log.xlsx"), (b"PK\x03\x04....", "log.csv")):  # fmt: skip
        refused(4, "format not accepted", work=lambda c=content, n=name: stored(folder, c, n))
    assert nothing_left(folder)


@row("47")
def _(folder):
    path = folder / "log.csv"
    path.write_text(csv())
    true = detect._plain

    def growing(source):
        yield from true(source)
        with open(path, "a") as file:
            file.write("u1,i1,1600000000\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "_plain", growing)
        refused(3, "changed during import", work=lambda: prepare(settings(path), folder / "store", now=NOW))
    assert nothing_left(folder)


@row("48")
def _(folder):
    once = stored(folder, csv())
    twice = prepare(settings([str(folder / "log.csv")] * 2), folder / "store-twice", now=NOW)
    assert twice.digest == once.digest and twice.card["books"]["duplicate"] == 300 and balanced(twice)


@pytest.mark.parametrize("name", ["log.csv", "log.json", "log.ttl"])
def test_a_file_of_one_long_line_is_not_held_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr("perdure.events.text.BLOCK", 4096)
    monkeypatch.setattr("perdure.events.text.LONGEST", 16384)
    monkeypatch.setattr(detect, "CHUNK", 4096)
    (tmp_path / name).write_text("1,2,3," * 9000)
    told = DataSettings(path=str(tmp_path / name), format="ttl") if name == "log.ttl" else settings(tmp_path / name)
    refused(3, f"{name}, line 1", "more than", work=lambda: prepare(told, tmp_path / "s"))
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (csv().replace("\n", "\r"), "carriage returns alone"),
        (csv().encode("utf-16-le"), "name the file's encoding"),
        ("a" * 200_000, "first line cannot be read"),
        (b"\0" * 5000, "NUL characters"),
    ],
    ids=["old Mac", "no byte order mark", "long", "zeros"],
)
def test_a_first_line_that_is_no_header(tmp_path, content, words):
    refused(3, words, "log.csv, line 1", work=lambda: stored(tmp_path, content))
    assert nothing_left(tmp_path)


def test_every_row_has_its_test():
    assert sorted(ROWS, key=int) == [str(n) for n in range(1, 49)]


def test_a_failed_import_leaves_nothing(tmp_path):
    with pytest.raises(DataError):
        stored(tmp_path, csv(["broken"] * 50))
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("unit", "time", "fix"),
    [
        ("datetime", "01.03.2024 22:00", "write times as 2024-03-31 22:00:30"),
        ("datetime", "1709330430000", 'set data.time_unit = "ms" (now: "datetime")'),
        ("s", "2024-03-01 22:00:30", 'set data.time_unit = "datetime" (now: "s")'),
        ("s", "tomorrow", 'write whole numbers, in "s"'),
    ],
)
def test_times_that_cannot_be_read_are_shown(tmp_path, unit, time, fix):
    text = HEADER + "\n".join(f"u{k},i{k % 3},{time}" for k in range(9))
    zone = "UTC" if unit == "datetime" else None
    refused(
        3, "9 of 9 rows are bad", f"{time!r}", fix, work=lambda: stored(tmp_path, text, time_unit=unit, time_zone=zone)
    )


@pytest.mark.parametrize(
    ("name", "near"), [("itemid", "ItemID"), ("item id", "ItemID"), ("PRICE", "Price"), ("titel", "Title"), ("x", "")]
)
def test_the_nearest_name_is_one_of_another_case_first(name, near):
    assert closest(name, ["ItemID", "Title", "Category", "Price"]) == near
