"""CIKM 2019 EComm AI, "Efficient user interests retrieval": a folder of CSV files of Taobao, without headers.

Layout: `user_behavior.csv` user,item,behaviour,time with behaviour pv, cart, fav or buy · `user.csv` user,gender,age,
purchasing power · `item.csv` item,category,shop,brand. The names may have something in front (`round1_train_user.csv`);
files of several rounds in one folder are read together. Times are seconds from a start that is not told: they order the
events, and are no times here.
Source: Tianchi, https://tianchi.aliyun.com/competition/entrance/231721
User columns become gender, age, power; item columns category, shop, brand.                                  [reads]
"""

from __future__ import annotations

from pathlib import Path

from perdure.errors import UsageError
from perdure.events.data_settings import DataSettings
from perdure.events.formats.table import attribute_tables, paths_of
from perdure.events.sources import Attributes, Reading, Table

EVENTS, USERS = ("user", "item", "behaviour", "time"), ("user", "gender", "age", "power")
ITEMS = ("item", "category", "shop", "brand")


class Cikm2019:
    """The files of the competition; `path` is the folder."""

    name = "cikm2019"
    summary = "CIKM 2019 EComm AI: user_behavior.csv, user.csv, item.csv without headers"
    reads = ()

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """The behaviours in their order, what is known of users and items."""
        folder = Path(paths_of(data)[0]).expanduser()
        logs = tuple(sorted(folder.glob("*user_behavior.csv*")))
        if not logs:
            raise UsageError(f"{folder} holds no *user_behavior.csv", expected="the folder of it", where="data.path")
        columns = {"user": "user", "item": "item", "behaviour": "behaviour", "order": "time"}
        users, items = attribute_tables(data)
        users = users or _about(folder, "*user.csv*", USERS, "data.users")
        items = items or _about(folder, "*item.csv*", ITEMS, "data.items_table")
        return Reading([Table(logs, columns, header=EVENTS)], users, items)


def _about(folder: Path, pattern: str, header: tuple[str, ...], where: str) -> Attributes | None:
    paths = tuple(sorted(folder.glob(pattern)))
    return Attributes(Table(paths, {}, header=header), header[0], where=where) if paths else None
