"""Ali_Display_Ad_Click: what users of Taobao did in the shop, and which of the ads shown they clicked; a folder of CSV.

Layout: `behavior_log.csv` user,time_stamp,btag,cate,brand with btag pv, cart, fav or buy · `raw_sample.csv`
user,time_stamp,adgroup_id,pid,nonclk,clk · `user_profile.csv` userid,cms_segid,cms_group_id,final_gender_code,
age_level,pvalue_level,shopping_level,occupation,"new_user_class_level " (a blank ends this name in the source) ·
`ad_feature.csv` adgroup_id,cate_id,campaign_id,customer,brand,price; all with headers, times in seconds. Either log may
be missing.
Source: Tianchi, https://tianchi.aliyun.com/dataset/56

Events of the shop have domain = "ec"; it tells no items: an item is a category and a brand, `cate:brand`. Ads have
domain = "ad", the ad as item, and behaviour = "click" or "show".                                           [reads]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from perdure.errors import UsageError
from perdure.events.data_settings import DataSettings
from perdure.events.formats.table import attribute_tables, paths_of
from perdure.events.sources import Attributes, Reading, Table
from perdure.events.text import Dialect, Piece, read_text

LOGS = ("behavior_log.csv", "raw_sample.csv")
ROLES = {"user": "user", "item": "item", "time": "time_stamp", "behaviour": "behaviour"}


class AliDisplay:
    """The files of the data set; `path` is the folder."""

    name = "alidisplay"
    summary = "Ali_Display_Ad_Click: behavior_log, raw_sample, user_profile, ad_feature (CSV)"
    reads = ()

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """Both logs, as two domains with no item in common; profiles of users, features of ads."""
        folder = Path(paths_of(data)[0]).expanduser()
        both = pl.concat_str("cate", "brand", separator=":")
        shop = pl.when(both != ":").then(both).alias("item"), pl.col("btag").alias("behaviour")
        clicked = pl.col("clk").replace_strict({"1": "click", "0": "show"}, default=None, return_dtype=pl.String)
        ads = pl.col("adgroup_id").alias("item"), clicked.alias("behaviour")
        readers = (
            _reader(["user", "time_stamp", "btag", "cate", "brand"], *shop),
            _reader(["user", "time_stamp", "adgroup_id", "clk"], *ads),
        )
        tables = [
            Table((folder / name,), ROLES, constants={"domain": domain}, rows=rows)
            for name, domain, rows in zip(LOGS, ("ec", "ad"), readers, strict=True)
            if (folder / name).exists()
        ]
        if not tables:
            raise UsageError(f"{folder} holds no log", expected=f"{LOGS[0]} or {LOGS[1]}", where="data.path")
        users, items = attribute_tables(data)
        if users is None and (folder / "user_profile.csv").exists():
            users = Attributes(Table((folder / "user_profile.csv",), {}), "userid")
        if items is None and (folder / "ad_feature.csv").exists():
            items = Attributes(Table((folder / "ad_feature.csv",), {}), "adgroup_id", where="data.items_table")
        return Reading(tables, users, items, "s")


def _reader(columns: list[str], *made: pl.Expr) -> Callable[[Iterator[bytes], str], Iterator[Piece]]:
    """Reads some columns and makes others of them."""

    def rows(parts: Iterator[bytes], where: str) -> Iterator[Piece]:
        for piece in read_text(parts, Dialect(), columns, where):
            yield replace(piece, frame=piece.frame.with_columns(*made).select(*ROLES.values()))

    return rows
