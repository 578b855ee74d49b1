"""prepare and load: balanced books, one digest, an atomic store that knows its own damage."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events.logs import HEADER, NOW, balanced, csv, lines, settings, stored

from perdure.errors import DataError, ModelError, SettingsError, UsageError
from perdure.events import store
from perdure.events.card import in_words
from perdure.events.data_settings import DataSettings
from perdure.events.detect import find
from perdure.events.sequences import load, prepare
from perdure.events.tasks import History, Split, Task, compile_tasks

FAULTS = {
    "width": ["u1,i1", "u1,i1,1,1", "u1"],
    "encoding": ["u\udcff,i1,1600000000", "u1,\udcc3,1600000000"],
    "id_empty": [",i1,1600000000", "u1,,1600000000"],
    "id_chars": ["u\0,i1,1600000000", "u1,i\x1b,1600000000"],
    "id_length": ["y" * 300 + ",i1,1600000000"],
    "null_time": ["u1,i1,"],
    "time": ["u1,i1,yesterday", "u1,i1,12:30"],
    "time_range": ["u1,i1,5", "u1,i1,99999999999999"],
    "time_future": [f"u1,i1,{NOW + 1000}"],
    "quote": ['"a"b,i1,1600000000'],
}


def test_books_balance_on_generated_files(tmp_path: Path):
    """Planted faults of known number, in any place, are found one by one (law I1)."""
    rng = random.Random(7)
    for k in range(60):
        planted = [(reason, rng.choice(FAULTS[reason])) for reason in rng.choices(list(FAULTS), k=rng.randrange(6))]
        body = lines(200)
        repeats = rng.choices(body, k=rng.randrange(5))
        body += [line for _, line in planted] + repeats
        rng.shuffle(body)
        end = rng.choice(["\n", "\r\n"])
        text = end.join([HEADER.strip(), *body]) + rng.choice(["", end])
        events = stored(tmp_path, text.encode("utf-8", "surrogateescape"), f"log{k}.csv", max_bad_share=0.5)
        books, wanted = events.card["books"], [reason for reason, _ in planted]
        assert events.card["quarantined"] == {reason: wanted.count(reason) for reason in sorted(set(wanted))}, text
        assert (books["received"], books["stored"], books["duplicate"]) == (len(body), 200, len(repeats))
        assert balanced(events)
        for row in events.quarantine.to_dicts():
            line = body[row["line"] - 2]
            assert line in FAULTS[row["reason"]]


def test_blocks_do_not_change_the_result(tmp_path: Path, monkeypatch):
    """Cutting the file anywhere gives the same store and the same line numbers."""
    from perdure.events import detect, text

    bad = ["u1,i1", '"multi\nline",i1,1600000000', "u1,i1,x"]
    whole = stored(tmp_path, csv(bad, n=600))
    for block, chunk in ((64, 16), (200, 7), (1000, 1000), (37, 41)):
        monkeypatch.setattr(text, "BLOCK", block)
        monkeypatch.setattr(detect, "CHUNK", chunk)
        cut = stored(tmp_path, csv(bad, n=600), f"cut{block}.csv")
        assert cut.digest == whole.digest
        assert cut.quarantine.drop("file").equals(whole.quarantine.drop("file"))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_it_tells_how_far_it_is(tmp_path: Path, monkeypatch, kind: str):
    """Of reading in MiB of the file as it lies there, of writing in events; a store that stands tells nothing."""
    import gzip

    from perdure.events import detect, sources, text
    from perdure.events import prepare as room

    monkeypatch.setattr(text, "BLOCK", 1 << 18)
    monkeypatch.setattr(detect, "CHUNK", 1 << 18)
    monkeypatch.setattr(sources, "ROWS", 1 << 14)
    monkeypatch.setattr(room, "SLICE", 1 << 15)
    path, body = tmp_path / f"log.{kind}", csv(n=100_000).encode()
    if kind == "parquet":
        more = pl.DataFrame(np.random.default_rng(0).random((100_000, 3)))  # or it would be less than a MiB
        pl.read_csv(body).hstack(more).write_parquet(path, compression="uncompressed")
    else:
        path.write_bytes(gzip.compress(body, 0) if kind == "csv.gz" else body)
    told: list[tuple[str, int, int, str]] = []
    prepare(settings(path), tmp_path / "store", now=NOW, told=lambda *line: told.append(line))
    size, reading = path.stat().st_size >> 20, [line for line in told if line[0] == "reading the log"]
    steps = [line[1] for line in reading]
    assert size >= 1 and len(reading) > 4 and {line[2:] for line in reading} == {(size, "MiB")}
    assert steps == sorted(steps) and steps[0] < size and steps[-1] == size
    writing = told[len(reading) :]
    assert writing == [("writing the store", min(n << 15, 100_000), 100_000, "events") for n in (1, 2, 3, 4)]
    prepare(settings(path), tmp_path / "store", now=NOW, told=lambda *line: pytest.fail(f"{line}"))


def test_every_container_gives_one_digest(tmp_path: Path):
    import gzip

    frame = pl.DataFrame([line.split(",") for line in lines()], ["user", "item", "time"], orient="row")
    frame = frame.with_columns(pl.col("time").cast(pl.Int64))
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.zst", compression="zstd", check_extension=False)
    contents = {
        "a.csv": csv(), "a.tsv": csv().replace(",", "\t"), "a.dat": csv().replace(",", "::"),
        "crlf.csv": csv().replace("\n", "\r\n"), "quoted.csv": '"' + csv().strip().replace(",", '","').replace(
            "\n", '"\n"') + '"\n', "a.jsonl": "\n".join(json.dumps(r) for r in frame.to_dicts()),
        "a.csv.gz": gzip.compress(csv().encode()), "a.csv.zst": (tmp_path / "a.zst").read_bytes(),
        "b.parquet": (tmp_path / "a.parquet").read_bytes(),
    }  # fmt: skip
    digests = {name: stored(tmp_path, content, name).digest for name, content in contents.items()}
    assert len(set(digests.values())) == 1, digests
    pipe = stored(tmp_path, csv().replace(",", "|"), "pipe.txt", separator="|")
    bare = stored(tmp_path, csv().partition("\n")[2], "bare.csv", header=["user", "item", "time"])
    assert {pipe.digest, bare.digest} == set(digests.values())


def test_several_files_and_globs(tmp_path: Path):
    body = lines()
    for k in range(3):
        (tmp_path / f"part-{k}.csv").write_text(HEADER + "\n".join(body[k::3]) + "\n")
    whole = stored(tmp_path, csv())
    by_glob = prepare(settings(tmp_path / "part-*.csv"), tmp_path / "s1", now=NOW)
    by_list = prepare(settings([str(tmp_path / f"part-{k}.csv") for k in (2, 0, 1)]), tmp_path / "s2", now=NOW)
    assert by_glob.digest == by_list.digest == whole.digest
    with pytest.raises(UsageError):
        prepare(settings(tmp_path / "nothing-*.csv"), tmp_path / "s3")
    named = settings("x").model_copy(update={"path": {n: str(tmp_path / f"part-{k}.csv") for k, n in enumerate("abc")}})
    domains = prepare(named, tmp_path / "s4", now=NOW).columns(["domain"]).collect()["domain"]
    assert domains.value_counts().sort("domain").rows() == [("a", 100), ("b", 100), ("c", 100)]


def test_a_glob_in_a_folder_with_brackets(tmp_path: Path):
    (folder := tmp_path / "run [1] of {2}" / "a*").mkdir(parents=True)
    for part in "12":
        (folder / f"part{part}.csv").write_text(csv())
    assert find([str(folder / "part?.csv")]) == [folder / "part1.csv", folder / "part2.csv"]
    assert find([str(tmp_path / "*" / "*" / "part1.csv")]) == [folder / "part1.csv"]


def test_histories_are_what_the_log_says(tmp_path: Path):
    text = "who,what,when,stars,kind,shop,day,note\n" + "\n".join([
        "b,x,1600000300,5,view,books,1,007", "a,y,1600000200,,buy,books,2,a", "a,x,1600000100,3.5,view,,3,",
        "b,y,1600000100,0,view,toys,4,7",
    ])  # fmt: skip
    columns = {"user": "who", "item": "what", "time": "when", "value": "stars", "behaviour": "kind", "domain": "shop"}
    events = stored(tmp_path, text, columns=columns, features=["note", "day"])
    assert events.user_ids.text(np.arange(2)) == ["a", "b"] and events.item_ids.text(np.arange(2, 4)) == ["x", "y"]
    assert events.items.tolist() == [2, 3, 3, 2] and events.starts.tolist() == [0, 2, 4]
    assert events.times.tolist() == [1600000100, 1600000200, 1600000100, 1600000300]
    assert isinstance(events.items, np.memmap) and not events.items.flags.writeable
    frame = events.columns().collect()
    assert frame.columns == ["user", "item", "position", "time", "value", "behaviour", "domain", "note", "day"]
    assert frame.rows()[0] == ("a", "x", 0, 1600000100, 3.5, "view", None, None, 3)
    assert frame["note"].to_list() == [None, "a", "7", "007"]  # one value is no plain number: all stay text
    assert events.columns(["item", "value"]).collect().width == 2


def test_order_column_stands_in_for_time(tmp_path: Path):
    text = "user,item,n\na,x,10\na,y,9\nb,x,-1\nb,y,2\n"
    events = stored(tmp_path, text, columns={"time": None, "order": "n"})
    assert events.times is None and events.items.tolist() == [3, 2, 2, 3]
    rows = "user,item\na,x\na,y\na,x\nb,y\n"
    events = stored(tmp_path, rows, columns={"time": None}, duplicates="keep")
    assert events.items.tolist() == [2, 3, 2, 3] and "order of the rows" in events.card["notes"][-1]


def test_sub_second_order_survives(tmp_path: Path):
    events = stored(tmp_path, HEADER + "a,x,1600000000900\na,y,1600000000100\nb,x,1600000000000\n", time_unit="ms")
    assert events.items.tolist() == [3, 2, 2] and events.times.tolist() == [1600000000] * 3


def test_rare_items_and_users_are_left_out_and_counted(tmp_path: Path):
    text = HEADER + "".join(f"{u},{i},{1600000000 + k}\n" for k, (u, i) in enumerate(
        [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y"), ("a", "rare"), ("c", "x")]))  # fmt: skip
    events = stored(tmp_path, text, min_item_count=2, min_user_count=2)
    assert events.card["filtered"] == {"where": 0, "min_item_count": 1, "min_user_count": 1} and balanced(events)
    assert (events.n_users, events.n_items, events.n_events) == (2, 2, 4)


def test_attributes_follow_the_rows(tmp_path: Path):
    (tmp_path / "u.csv").write_text("uid,age,zip,id\nu3,30,01234,k\nu1,10,98107,k\nu1,11,0,k\nnobody,1,1,k\n")
    events = stored(tmp_path, csv(), users={"path": str(tmp_path / "u.csv"), "id": "uid"})
    rows = events.user_ids.rows(["u1", "u3", "u2"])
    assert events.users.columns == ["age", "zip", "id_"] and events.users.height == events.n_users
    assert events.users["age"].gather(rows).to_list() == [10, 30, None]
    assert events.users["zip"].gather(rows).to_list() == ["98107", "01234", None]
    assert events.card["user_unknown"] == 28
    notes = " ".join(events.card["notes"])
    assert "repeat an id" in notes and "without events" in notes
    some = stored(tmp_path, csv(), users={"path": str(tmp_path / "u.csv"), "id": "uid", "columns": ["age"]})
    assert some.users.columns == ["age"] and some.digest != events.digest
    with pytest.raises(DataError, match="'agee'"):
        stored(tmp_path, csv(), users={"path": str(tmp_path / "u.csv"), "id": "uid", "columns": ["agee"]})


def test_the_card_tells_the_log(tmp_path: Path):
    card = stored(tmp_path, csv(["u1,i1"])).card
    assert card["counts"] == {"events": 300, "users": 30, "items": 17}
    assert card["time_range"]["first"] == "2020-09-13T12:26:40Z"
    assert card["density"] == 300 / 30 / 17 and card["history_length"]["50%"] == 10
    assert json.loads(json.dumps(card)) == card


def test_the_card_tells_the_columns_whatever_the_order(tmp_path: Path):
    kinds, shops = ["view", "view", "view", "buy", ""], [f"s{k}" for k in range(7)]
    rows = [f"{line},{kinds[k % 5]},{k},{k % 2},{shops[k % 7]}" for k, line in enumerate(lines(70))]
    rows.append(f"{lines(70)[0]},cart,9,9,s9")  # not stored, so not told: left out by the filter
    head, asked = "user,item,time,kind,price,new,shop\n", {"columns": {"behaviour": "kind", "value": "price"}}
    asked |= {"features": ["new", "shop"], "where": "behaviour is null or behaviour <> 'cart'"}
    told = [
        stored(tmp_path, head + "\n".join(order) + "\n", **asked).card["columns"]
        for order in (rows, sorted(rows)[::-1])
    ]
    assert told[0] == told[1] == {
        "behaviour": {"values": 2, "missing": 14, "often": {"view": 42, "buy": 14}},
        "value": {"values": 70, "missing": 0, "least": 0.0, "median": 34.5, "greatest": 69.0},
        "new": {"values": 2, "missing": 0, "often": {"0": 35, "1": 35}},
        "shop": {"values": 7, "missing": 0, "often": {f"s{k}": 10 for k in range(5)}},
    }  # fmt: skip
    lines_of = {name: in_words(column) for name, column in told[0].items()}
    assert lines_of["behaviour"] == "view 42, buy 14, none 14"
    assert lines_of["value"] == "0 to 69, median 34.5"
    assert lines_of["shop"] == "7 values, most often s0 10, s1 10, s2 10, s3 10, s4 10"


def test_a_store_is_used_again(tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_text(csv())
    first = prepare(settings(path), tmp_path / "s", now=NOW)
    stamp = (tmp_path / "s" / "items.npy").stat().st_mtime_ns
    again = prepare(settings(path), tmp_path / "s", now=NOW + 9)
    assert again.digest == first.digest and (tmp_path / "s" / "items.npy").stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="the store of another log"):
        prepare(settings(path, min_user_count=2), tmp_path / "s", now=NOW)
    path.write_text(csv(n=301))
    with pytest.raises(UsageError, match="the store of another log"):
        prepare(settings(path), tmp_path / "s", now=NOW)


def test_two_preparations_are_equal_bit_for_bit(tmp_path: Path):
    one, two = (stored(tmp_path, csv(["x"]), columns={"value": "time"}) for _ in range(2))
    for file in sorted(p.name for p in one.folder.iterdir()):
        assert (one.folder / file).read_bytes() == (two.folder / file).read_bytes(), file


def test_load_names_the_damaged_file(tmp_path: Path):
    events = stored(tmp_path, csv(["x"]), users=None)
    for path in sorted(events.folder.iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        for bent in (whole[:-5], bytes([whole[0] ^ 1]) + whole[1:], whole[:middle] + b"#" + whole[middle + 1 :]):
            path.write_bytes(bent)
            with pytest.raises(ModelError, match=path.name.replace(".", r"\.")):
                load(events.folder)
        path.unlink()
        with pytest.raises((ModelError, UsageError), match=path.name.replace(".", r"\.")):
            load(events.folder)
        path.write_bytes(whole)
    assert load(events.folder).digest == events.digest


def test_load_refuses_what_is_not_its_own(tmp_path: Path):
    with pytest.raises(UsageError, match="no event store"):
        load(tmp_path)
    events = stored(tmp_path, csv())
    card = json.loads((events.folder / "store.json").read_text())
    card["files"]["../log.csv"] = card["files"].pop("items.npy")
    card["seal"] = store._seal(card)
    (events.folder / "store.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="no plain file"):
        load(events.folder)
    card["format_version"] = 99
    (events.folder / "store.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="version 99"):
        load(events.folder)


def test_a_store_is_whole_or_absent(tmp_path: Path, monkeypatch):
    """An error at any write leaves no store, no leftover, and the next try works."""

    def no_space(*_):
        raise OSError(28, "No space left on device")

    from perdure.errors import MachineError
    from perdure.events import prepare as making

    for name in ("write_array", "write_frames", "write_table", "write_card"):
        with monkeypatch.context() as patch:
            patch.setattr(making, name, no_space)
            with pytest.raises(MachineError, match="No space"):
                stored(tmp_path, csv())
        assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv"]


def test_a_disk_that_refuses_is_told_whoever_writes(tmp_path: Path, files_of_at_most):
    """numpy, Polars and Python each tell it in their own way."""
    from perdure.errors import MachineError

    told, made = settings(tmp_path / "log.csv"), stored(tmp_path, csv()).folder
    for size in sorted({file.stat().st_size for file in made.iterdir()})[:-1]:  # too small for one file more each time
        with files_of_at_most(size), pytest.raises(MachineError, match="File too large"):
            prepare(told, tmp_path / "again", now=NOW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", made.name]


def test_what_was_left_half_done_is_swept_and_what_is_being_made_is_not(tmp_path: Path):
    """Whoever makes a store holds a lock on it, so that nobody asks for a process by its number."""
    (left := tmp_path / ".made.part-left").mkdir()
    with store.published(tmp_path / "made") as first:
        assert not left.exists() and first.is_dir()
        with store.published(tmp_path / "made") as second:
            assert first.is_dir() and second != first
            (second / "a").write_text("")
        assert [file.name for file in (tmp_path / "made").iterdir()] == ["a"]
        (tmp_path / "made" / "a").unlink()
        (first / "b").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["b"]


def test_two_make_one_store_at_once(tmp_path: Path):
    """Whoever is slower takes the store that stands, if it is of the same log."""
    (tmp_path / "log.csv").write_text(csv())
    (tmp_path / "other.csv").write_text(csv(n=200))

    def meanwhile(name: str):
        left = [name]

        def told(*_):
            while left:
                prepare(settings(tmp_path / left.pop()), tmp_path / "made", now=NOW)

        return told

    events = prepare(settings(tmp_path / "log.csv"), tmp_path / "made", now=NOW, told=meanwhile("log.csv"))
    assert events.n_events == 300
    shutil.rmtree(tmp_path / "made")
    with pytest.raises(UsageError, match="the store of another log"):
        prepare(settings(tmp_path / "log.csv"), tmp_path / "made", now=NOW, told=meanwhile("other.csv"))
    assert load(tmp_path / "made").n_events == 200
    shutil.rmtree(tmp_path / "made")
    with pytest.raises(UsageError, match="filled by somebody else"), store.published(tmp_path / "made"):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "a").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "made", "other.csv"]


def test_a_moved_log_is_the_same_log(tmp_path: Path):
    """The store of a recipe folder that moved is used again; another name, content or role makes another store."""
    for home in ("old", "new"):
        (tmp_path / home).mkdir()
        (tmp_path / home / "log.csv").write_text(csv())
        (tmp_path / home / "users.csv").write_text("id,age\n" + "".join(f"u{k},{k}\n" for k in range(30)))

    def told(home: str, **more):
        path = more.pop("path", str(tmp_path / home / "log.csv"))
        users = {"path": str(tmp_path / home / "users.csv"), "id": "id", **more.pop("users", {})}
        data = settings("x", **more).model_dump() | {"path": path, "users": users}
        return DataSettings.model_validate(data)

    first = prepare(told("old"), tmp_path / "s", now=NOW)
    (tmp_path / "s").rename(tmp_path / "moved")
    stamp = (tmp_path / "moved" / "items.npy").stat().st_mtime_ns
    assert prepare(told("new"), tmp_path / "moved", now=NOW).digest == first.digest
    assert prepare(told("new", path=[str(tmp_path / "new" / "*.csv").replace("*", "log")]), tmp_path / "moved")
    assert (tmp_path / "moved" / "items.npy").stat().st_mtime_ns == stamp
    log, other = str(tmp_path / "new" / "log.csv"), tmp_path / "new" / "other.csv"
    other.write_text(csv())
    for data in (
        told("new", path=str(other)),
        told("new", path={"books": log}),
        told("new", path=[log, str(other)]),
        told("new", users={"columns": ["age"]}),
        told("new", users={"path": str(other), "id": "user"}),
        told("new", ties="item"),
    ):
        with pytest.raises(UsageError, match="the store of another log, or of other settings") as fault:
            prepare(data, tmp_path / "moved", now=NOW)
        assert "remove" not in fault.value.fix  # runs stand on it


@pytest.mark.skipif(os.name != "posix", reason="folders by mode")
def test_an_output_folder_that_is_taken_is_left_alone(tmp_path: Path):
    (tmp_path / "log.csv").write_text(csv())
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        prepare(settings(tmp_path / "log.csv"), taken)
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert prepare(settings(tmp_path / "log.csv"), tmp_path / "empty").n_events == 300


def test_unknown_format_names_the_nearest(tmp_path: Path):
    with pytest.raises(SettingsError, match="did you mean 'tenrec'"):
        stored(tmp_path, csv(), format="tenrek")


def test_where_leaves_other_events_out_and_the_books_balance(tmp_path):
    lines = ["user,item,domain,value", "a,x,books,1", "a,y,films,5", "b,x,films,3", "b,z,films,2", "c,x,books,9"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    data = DataSettings.model_validate(
        {
            "path": str(tmp_path / "log.csv"),
            "columns": {"user": "user", "item": "item", "domain": "domain", "value": "value"},
            "where": "domain = 'films' and value > 2.5 or item = 'z'",
        }
    )
    events = prepare(data, tmp_path / "store")
    assert events.item_ids.text(np.asarray(events.items)) == ["y", "x", "z"]
    assert len(events.user_ids) == 2 and len(events.item_ids) == 3
    books = events.card["books"]
    assert books["received"] == 5 == books["stored"] + books["filtered"]
    assert events.card["filtered"]["where"] == 2
    with pytest.raises(SettingsError, match="no column 'domian'"):
        prepare(data.model_copy(update={"where": "domian = 'films'"}), tmp_path / "other")


def test_a_filter_in_the_words_of_the_file_is_told_ours(tmp_path: Path):
    head, asked = "user,item,time,kind\n", {"columns": {"behaviour": "kind"}}
    text = head + "".join(f"{line},{'buy' if k % 2 else 'view'}\n" for k, line in enumerate(lines()))
    with pytest.raises(SettingsError, match="no column 'kind'") as caught:
        stored(tmp_path, text, **asked, where="kind = 'buy'")
    assert caught.value.fix == "column 'kind' of the source is called behaviour here"
    events = stored(tmp_path, text, **asked)
    assert events.card["renamed"] == {"kind": "behaviour"}
    task = Task("buy", "item", where="kind = 'buy'")
    with pytest.raises(SettingsError) as caught:
        compile_tasks(events, [task], History(share=0.5), Split())
    assert caught.value.fix == "column 'kind' of the source is called behaviour here"


def test_a_store_is_found_wherever_the_caller_goes(tmp_path: Path, monkeypatch):
    (tmp_path / "log.csv").write_text(csv())
    monkeypatch.chdir(tmp_path)
    made = prepare(settings(tmp_path / "log.csv"), "made", now=NOW)
    events = load("made")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert made.columns().collect().equals(events.columns().collect())
    assert events.folder == tmp_path / "made" and events.quarantine.is_empty() and events.users is None


def test_a_home_folder_is_not_guessed(tmp_path: Path, monkeypatch):
    """Polars reads `~` as a home folder, pathlib as a name: half of a store would lie here and half there."""
    (tmp_path / "log.csv").write_text(csv())
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    for name in ("~/made", "~"):
        with pytest.raises(UsageError, match=r"not expanded(.|\n)*\$HOME"):
            prepare(settings(tmp_path / "log.csv"), name, now=NOW)
        with pytest.raises(UsageError, match="not expanded"):
            load(name)
    assert not list((tmp_path / "work").iterdir())
    assert load(prepare(settings(tmp_path / "log.csv"), "~made", now=NOW).folder).n_users == 30
    with pytest.raises(UsageError, match="UTF-8"):
        prepare(settings(tmp_path / "log.csv"), "\udcff", now=NOW)
