"""Tenrec: CSV logs of Tencent's video and article feeds, one exposure a row, no times.

Layout: user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age (articles have other
feedback columns); header line; the order of the rows is the order of the events.
Source: Yuan et al., "Tenrec: A Large-scale Multipurpose Benchmark Dataset for Recommender Systems", NeurIPS 2022;
https://github.com/yuangh-x/2022-NIPS-Tenrec
Every feedback column is kept as a feature (`where = "like = 1"`); gender and age move to the user table (the user's
first value that is not missing; 0 means unknown in the source and is kept as 0). `{name: file}` gives each
scenario's events `domain = name`; ids are taken to mean the same in all of them.
"""

from __future__ import annotations

from dataclasses import replace

from perdure.events.data_settings import LAYOUT, DataSettings
from perdure.events.formats.table import attribute_tables, event_table, paths_of
from perdure.events.sources import Reading, Table, columns_of

ABOUT_USER = ("gender", "age")


class Tenrec:
    """Tenrec CSV files; `path` is a file, several, or {scenario: file}."""

    name = "tenrec"
    summary = "Tenrec CSV (user_id, item_id, click, follow, like, share, ..., gender, age; row order)"
    reads = LAYOUT

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """Feedback columns as features, gender and age as user attributes."""
        columns = {"user": "user_id", "item": "item_id", **data.columns.named()}
        named = data.path.items() if isinstance(data.path, dict) else [("", path) for path in paths_of(data)]
        tables = [_table(data, columns, name, path) for name, path in named]
        return Reading(tables, *attribute_tables(data), time_unit=data.time_unit)


def _table(data: DataSettings, columns: dict[str, str], name: str, path: str) -> Table:
    table = event_table(data, [path], columns, {"domain": name} if name else {})
    found = [c for c in columns_of(table, table.paths[0]) if c not in columns.values()]
    features = table.features or tuple(c for c in found if c not in ABOUT_USER)
    about = tuple(c for c in ABOUT_USER if c in found and c not in features)
    return replace(table, features=features, user_columns=about)
