"""Formats: on small files made here, and on the real ones where they are at hand."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from events.logs import balanced
from realdata import real

from perdure.errors import DataError, UsageError
from perdure.events import formats
from perdure.events.data_settings import ColumnNames, DataSettings, TableSettings
from perdure.events.sequences import Events, prepare


def made(folder: Path, path: Any, format: str = "table", **told: Any) -> Events:
    path = {k: str(v) for k, v in path.items()} if isinstance(path, dict) else str(path)
    events = prepare(DataSettings(path=path, format=format, **told), folder / "store")
    assert balanced(events)
    return events


def ids(events: Events, user: str) -> list[str]:
    return events.item_ids.text(events.history(int(events.user_ids.rows([user])[0])))


@pytest.mark.parametrize("name", formats.names())
def test_every_format_says_what_it_is(name: str):
    found = formats.find(name)
    assert found.name == name and 0 < len(found.summary) <= 100 and "\n" not in found.summary
    assert found.__module__.endswith(f".{name}")


# --- MovieLens ---------------------------------------------------------------------------------------------------


def test_movielens_dat(tmp_path: Path):
    folder = tmp_path / "ml"
    folder.mkdir()
    rows = ["2::10::5::978300760", "1::10::3::978300760", "1::20::4::978300700", "2::20::1::978300000"]
    (folder / "ratings.dat").write_text("\n".join(rows))
    (folder / "users.dat").write_text("1::F::1::10::01234\n2::M::56::16::70072\n3::M::25::15::55117-001\n")
    movies = '10::Les Misérables (1995)::Drama|Musical\n20::X: "Y" (1990)::Comedy\n'
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    events = made(tmp_path, folder, "movielens")
    assert ids(events, "1") == ["20", "10"] and events.columns(["value"]).collect()["value"].to_list() == [4, 3, 1, 5]
    assert events.users.rows() == [("F", 1, 10, "01234"), ("M", 56, 16, "70072")]
    assert events.items_table["title"].to_list() == ["Les Misérables (1995)", 'X: "Y" (1990)']
    assert events.items_table["genres"].to_list() == ["Drama|Musical", "Comedy"]


def test_movielens_csv(tmp_path: Path):
    folder = tmp_path / "ml"
    folder.mkdir()
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n2,32,3.0,1260759179\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n31,"Monsters, Inc. (2001)",Comedy\n')
    events = made(tmp_path, folder, "movielens")
    assert events.items_table["title"].to_list() == ["Monsters, Inc. (2001)", None]
    (tmp_path / "nothing").mkdir()
    for path in (folder / "ratings.csv", tmp_path / "nothing"):
        with pytest.raises(UsageError, match=r"data\.path"):
            prepare(DataSettings(path=str(path), format="movielens"), tmp_path / "other")


def test_real_movielens_1m_original(tmp_path: Path):
    events = made(tmp_path, real("ml-1m/original"), "movielens")
    assert (events.n_events, events.n_users) == (49_856, 330) and not events.quarantine.height
    assert events.users.columns == ["gender", "age", "occupation", "zip_code"]
    assert events.users["zip_code"].dtype == pl.String and events.users["age"].is_in([1, 18, 25, 35, 45, 50, 56]).all()
    titles = events.items_table["title"]
    assert titles.null_count() == 0 and titles.str.contains("é").any() and not titles.str.contains("\ufffd").any()
    assert (np.diff(events.times)[np.diff(np.repeat(np.arange(330), np.diff(events.starts))) == 0] >= 0).all()


def test_real_movielens_small(tmp_path: Path):
    events = made(tmp_path, real("ml-latest-small/original"), "movielens")
    assert (events.n_events, events.n_users, events.n_items) == (100_004, 671, 9_066)
    assert events.items_table["title"].null_count() == 0


def test_real_movielens_parquet(tmp_path: Path):
    root = real("ml-1m")
    events = made(tmp_path, root, "movielens")
    assert (events.n_events, events.n_users, events.n_items) == (997_658, 6_040, 3_416)
    source = pl.read_parquet(root / "interactions.parquet").filter(pl.col("user_id") == 42).sort("position")
    assert ids(events, "42") == source["item_id"].cast(pl.String).to_list()
    assert events.users["gender"].value_counts().sort("gender").rows() == [("F", 1709), ("M", 4331)]
    assert events.items_table["genres"].dtype == pl.List(pl.String)
    assert events.columns(["liked"]).collect()["liked"].dtype == pl.Boolean


# --- CIKM 2019 ----------------------------------------------------------------------------------------------------


def test_cikm2019(tmp_path: Path):
    folder = tmp_path / "round1"
    folder.mkdir()
    behaviours = ["1001,55,pv,86400", "1001,77,buy,100", "1002,55,fav,7", "1001,55,pv,99"]
    (folder / "round1_train_user_behavior.csv").write_text("\n".join(behaviours) + "\n")
    (folder / "round1_train_user.csv").write_text("1001,0,3,5\n1002,1,,2\n1003,1,4,4\n")
    (folder / "round1_train_item.csv").write_text("55,10,200,3000\n77,11,201,3001\n")
    events = made(tmp_path, folder, "cikm2019")
    assert ids(events, "1001") == ["55", "77", "55"] and events.times is None
    rows = events.columns(["user", "behaviour"]).collect()
    assert rows["behaviour"].to_list() == ["pv", "buy", "pv", "fav"]
    assert events.users.columns == ["gender", "age", "power"]
    assert events.users.rows() == [(0, 3, 5), (1, None, 2)]
    assert events.items_table.columns == ["category", "shop", "brand"] and events.items_table["brand"][1] == 3001
    clicks = made(tmp_path / "clicks", folder, "cikm2019", where="behaviour = 'pv'", allow_empty=True)
    assert clicks.n_users == 1 and clicks.n_events == 2
    with pytest.raises(UsageError, match=r"no \*user_behavior\.csv"):
        prepare(DataSettings(path=str(tmp_path), format="cikm2019"), tmp_path / "other")


# --- Ali_Display_Ad_Click -----------------------------------------------------------------------------------------


def ali(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    log = ["user,time_stamp,btag,cate,brand", "558157,1493741625,pv,6250,91286", "558157,1493741626,cart,6250,91286",
           "728690,1493776998,pv,11800,62353", "558157,1493741627,pv,7001,91286", "72869,1493776999,pv,,5"]  # fmt: skip
    ads = ["user,time_stamp,adgroup_id,pid,nonclk,clk", "581738,1494137644,1,430548_1007,1,0",
           "449818,1494638778,3,430548_1007,1,0", "558157,1494650879,4,430548_1007,0,1"]  # fmt: skip
    profile = ["userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
               "new_user_class_level ", "558157,0,5,2,5,,3,0,3", "581738,19,5,2,5,2,3,1,2"]  # fmt: skip
    (folder / "behavior_log.csv").write_text("\n".join(log))
    (folder / "raw_sample.csv").write_text("\n".join(ads) + "\n")
    (folder / "user_profile.csv").write_text("\n".join(profile) + "\n")
    (folder / "ad_feature.csv").write_text("adgroup_id,cate_id,campaign_id,customer,brand,price\n1,90,108,16,NULL,7\n")
    return folder


def test_alidisplay(tmp_path: Path):
    events = made(tmp_path, ali(tmp_path / "ali"), "alidisplay", max_bad_share=0.2)
    assert ids(events, "558157") == ["6250:91286", "6250:91286", "7001:91286", "4"]
    rows = events.columns(["user", "item", "behaviour", "domain"]).collect()
    assert rows.filter(pl.col("domain") == "ad")["behaviour"].to_list() == ["show", "click", "show"]
    assert set(rows.filter(pl.col("domain") == "ec")["item"]) == {"6250:91286", "7001:91286", "11800:62353", ":5"}
    assert events.users["final_gender_code"].to_list() == [None, 2, 2, None, None]  # 449818, 558157, 581738, 72869, ...
    assert events.users["pvalue_level"].to_list() == [None, None, 2, None, None]
    assert events.items_table["campaign_id"].drop_nulls().to_list() == [108]
    assert not set(rows.filter(pl.col("domain") == "ec")["item"]) & set(rows.filter(pl.col("domain") == "ad")["item"])


def test_alidisplay_with_one_log(tmp_path: Path):
    folder = ali(tmp_path / "ali")
    (folder / "behavior_log.csv").unlink()
    clicks = made(tmp_path, folder, "alidisplay", where="behaviour = 'click'", allow_empty=True)
    assert clicks.n_events == 1 and ids(clicks, "558157") == ["4"]
    sample = folder / "raw_sample.csv"
    sample.write_text(sample.read_text().replace("430548_1007,0,1", "430548_1007,0,yes"))
    odd = made(tmp_path / "odd", folder, "alidisplay").columns(["item", "behaviour"]).collect()
    assert dict(odd.rows()) == {"1": "show", "3": "show", "4": None}  # neither clicked nor not
    sample.unlink()
    (folder / "behavior_log.csv").write_text(
        "user,time_stamp,btag,cate,brand\n1,1493741625,pv,,\n1,1493741626,pv,3,\n2,1493741627,pv,4,5\n"
    )
    events = made(tmp_path / "half", folder, "alidisplay", max_bad_share=0.4)
    assert events.item_ids.text([2, 3]) == ["3:", "4:5"] and events.quarantine["reason"].to_list() == ["id_empty"]
    (folder / "behavior_log.csv").unlink()
    with pytest.raises(UsageError, match="holds no log"):
        prepare(DataSettings(path=str(folder), format="alidisplay"), tmp_path / "other")


# --- QQBrowser ----------------------------------------------------------------------------------------------------


def test_qqbrowser(tmp_path: Path):
    (tmp_path / "click.csv").write_bytes(b"0,0,5,7\n0,8,9,5\n0,0,5,7\n0,0,0\n1,2,,3\n1,\xe9,3\n4,4,6")
    (tmp_path / "gender.csv").write_text("0,8,9,5,,2\n5,7,,1\n")  # padded or not: the same history
    (tmp_path / "age.csv").write_text("0,0,5,7,,30\n0,0,5,7,,40\n3,3,3,,20")
    path = {"click": tmp_path / "click.csv", "gender": tmp_path / "gender.csv", "age": tmp_path / "age.csv"}
    events = made(tmp_path, path, "qqbrowser", max_bad_share=0.5)
    told = dict(
        zip(map(tuple, (events.item_ids.text(events.history(u)) for u in range(3))), events.users.rows(), strict=True)
    )
    assert told == {("5", "7"): (1, 30), ("8", "9", "5"): (2, None), ("4", "4", "6"): (None, None)}
    assert events.users.columns == ["gender", "age"]
    assert events.quarantine.select("line", "reason").rows() == [(4, "width"), (5, "width"), (6, "encoding")]
    (tmp_path / "age.csv").write_text("0,0,5,7\n")
    with pytest.raises(DataError, match="tell no class"):
        made(tmp_path / "again", path, "qqbrowser")
    with pytest.raises(UsageError, match="one path"):
        made(tmp_path / "again", tmp_path / "click.csv", "qqbrowser")
    for name in ("user", "item"):
        with pytest.raises(UsageError, match=f"an attribute named '{name}'"):
            made(tmp_path / "again", {"click": path["click"], name: path["gender"]}, "qqbrowser")


# --- TTL ----------------------------------------------------------------------------------------------------------


def test_ttl_joins_users_by_history(tmp_path: Path):
    (tmp_path / "t1.csv").write_text("0,0,5,7\n0,8,9,5\n0,0,5,7\n")
    (tmp_path / "t2.csv").write_text("0,8,9,5,,12,13\n0,0,0,5,7,,5\n0,4,4,4,,12\nno answer\n1,2,,\n,,3")
    (tmp_path / "age.csv").write_text("0,0,5,7,,3")  # the last line lacks its newline
    path = {"watch": tmp_path / "t1.csv", "like": tmp_path / "t2.csv", "age": tmp_path / "age.csv"}
    events = made(tmp_path, path, "ttl", max_bad_share=0.5)
    rows = events.columns(["user", "item", "position", "domain"]).collect()
    histories = {tuple(g["item"]) for _, g in rows.group_by("user", maintain_order=True)}
    with_answers = {("5", "7", "like:5", "age:3"), ("8", "9", "5", "like:12", "like:13"), ("4", "4", "4", "like:12")}
    assert histories == {*with_answers, ("1", "2")}
    assert set(rows.filter(pl.col("item").str.starts_with("like:"))["domain"]) == {"like"}
    assert events.card["books"]["duplicate"] == 2  # the repeated first line
    assert sorted(events.quarantine.select("line", "reason").rows()) == [(4, "width"), (5, "id_empty"), (6, "width")]


def test_real_teracon_samples(tmp_path: Path):
    folder = real("ttl-format-samples/teracon")
    events = made(tmp_path, {"t1": folder / "example_task1.csv", "t2": folder / "example_task2.csv"}, "ttl")
    assert events.n_users == 20 and (np.diff(events.starts) > 0).all()
    last = events.columns().filter(pl.col("item") == "t2:51").collect()  # the digit that the original reader cuts off
    assert last.height == 1 and last["domain"].to_list() == ["t2"]
    lines = (folder / "example_task1.csv").read_text().split("\n")
    wanted = {tuple(i for i in line.split(",") if i != "0") for line in lines if line}
    frame = events.columns().filter(pl.col("domain") == "t1").collect()
    assert {tuple(g["item"]) for _, g in frame.group_by("user", maintain_order=True)} == wanted


def test_real_peterrec_samples(tmp_path: Path):
    files = sorted(real("ttl-format-samples/peterrec").iterdir(), reverse=True)  # pretrain, then finetune
    events = prepare(DataSettings(path=[str(f) for f in files], format="ttl"), tmp_path / "store")
    assert events.n_users == 30
    answers = events.columns().filter(pl.col("domain") != files[0].stem).collect()
    lines = files[1].read_text().strip().split("\n")
    assert answers.height == sum(len(line.split(",,")[1].split(",")) for line in lines)


# --- Tenrec -------------------------------------------------------------------------------------------------------

TENREC = """user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age
1,10,1,0,0,0,3,2,1,4
2,11,1,0,1,0,,1,2,0
1,12,0,0,0,0,1,0,1,4
"""


def test_tenrec(tmp_path: Path):
    (tmp_path / "qk.csv").write_text(TENREC)
    (tmp_path / "qb.csv").write_text("user_id,item_id,click,read,gender,age\n1,99,1,1,1,4\n3,98,0,0,,\n")
    events = made(tmp_path, {"qk": tmp_path / "qk.csv", "qb": tmp_path / "qb.csv"}, "tenrec")
    assert events.users.rows() == [(1, 4), (2, 0), (None, None)] and events.users.columns == ["gender", "age"]
    assert ids(events, "1") == ["10", "12", "99"] and events.times is None
    frame = events.columns().collect()
    assert frame["click"].to_list() == [1, 0, 1, 1, 0] and frame["read"].to_list() == [None, None, 1, None, 0]
    assert frame["video_category"].to_list() == [3, 1, None, None, None]
    assert frame["domain"].to_list() == ["qk", "qk", "qb", "qk", "qb"]


@pytest.mark.parametrize("first", ["qk", "qb"])
def test_a_feedback_column_may_stand_in_one_scenario_alone(tmp_path: Path, first: str):
    told = {"qk": {"click": [1, 0], "read": [7, 8], "said": ["a", None]}, "qb": {"click": [1, 1]}}
    for name, columns in told.items():
        pl.DataFrame({"user_id": [1, 2], "item_id": [10, 11], **columns}).write_parquet(tmp_path / f"{name}.parquet")
    path = {name: tmp_path / f"{name}.parquet" for name in sorted(told, key=lambda name: name != first)}
    frame = made(tmp_path, path, "tenrec").columns().collect().sort("domain", "user")
    assert frame["click"].to_list() == [1, 1, 1, 0] and frame["read"].to_list() == [None, None, 7, 8]
    assert frame["said"].to_list() == [None, None, "a", None] and frame.schema["read"] == pl.Int64


def test_times_with_a_zone_in_one_file_alone_are_no_column(tmp_path: Path):
    for name, zone in (("a", None), ("b", "UTC")):
        seen = pl.Series([datetime(2020, 1, 1)] * 2, dtype=pl.Datetime("us", zone))
        pl.DataFrame({"user": ["u", "v"], "item": ["x", "y"], "seen": seen}).write_parquet(tmp_path / f"{name}.parquet")
    columns = ColumnNames(user="user", item="item")
    with pytest.raises(DataError, match="'seen' is not of one type"):
        made(tmp_path, tmp_path / "*.parquet", columns=columns, features=["seen"])


# --- RecBole ------------------------------------------------------------------------------------------------------


def test_recbole(tmp_path: Path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tkind:token\n"
        '007\ta"b\t3\t881250949\tview\n7\tc d\t4.5\t891717742.0\tbuy\n007\tc d\t1\t8.8e8\tview\n')  # fmt: skip
    (folder / "set.user").write_text("user_id:token\tage:token\tweight:float\n007\t49\t1\n")
    (folder / "set.item").write_text("item_id:token\tclass:token_seq\nc d\tComedy Drama\n")
    for path in (folder, folder / "set.inter"):
        data = DataSettings(path=str(path), format="recbole", features=["kind"])
        events = prepare(data, tmp_path / f"to-{path.name}")
        assert ids(events, "007") == ["c d", 'a"b'] and events.times.tolist() == [880000000, 881250949, 891717742]
        assert events.users.rows() == [("49", 1), (None, None)] and events.users["age"].dtype == pl.String
        assert events.items_table["class"].to_list() == [None, "Comedy Drama"]
        assert events.columns(["kind"]).collect()["kind"].to_list() == ["view", "view", "buy"]
    (folder / "set.inter").write_text("who:token\titem_id:token\n1\t2\n")
    with pytest.raises(DataError, match="no column 'user_id'"):
        prepare(DataSettings(path=str(folder), format="recbole"), tmp_path / "x")


# --- tables -------------------------------------------------------------------------------------------------------


def test_real_json_lines(tmp_path: Path):
    path = real("amazon-musical-instruments/original_format_sample_500.jsonl")
    columns = ColumnNames(user="reviewerID", item="asin", time="unixReviewTime", value="overall")
    events = made(tmp_path, path, columns=columns, time_unit="s", features=["summary"])
    assert events.n_events == 500 and events.columns(["summary"]).collect()["summary"].dtype == pl.String
    assert "1384719342" in events.item_ids.text(np.arange(2, events.n_items + 2))


def test_real_behaviours(tmp_path: Path):
    path = real("retailrocket/interactions.parquet")
    columns = ColumnNames(user="user_id", item="item_id", time="timestamp", behaviour="behavior")
    events = made(tmp_path, path, columns=columns, time_unit="s")
    counts = dict(events.columns(["behaviour"]).collect()["behaviour"].value_counts().rows())
    assert counts == {"view": 75_374, "cart": 12_456, "buy": 9_551}


def test_real_movietweetings(tmp_path: Path):
    folder = real("movietweetings-100k/original")
    events = made(tmp_path, folder / "ratings.dat", columns=ColumnNames(user="1", item="2", value="3", time="4"),
                  time_unit="s", header=False, items_table=TableSettings(
                      path=str(folder / "movies.dat"), id="item", header=["item", "title", "genres"]))  # fmt: skip
    assert events.n_events == 100_000 and events.n_users == 16_554
    assert pl.Series(events.item_ids.text(np.arange(2, events.n_items + 2))).str.starts_with("00").any()
