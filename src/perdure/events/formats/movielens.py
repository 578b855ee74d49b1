"""MovieLens: the original folders `ml-1m` (`::`) and `ml-latest-small`, `ml-25m` (CSV), and a folder of Parquet files.

Layout: `ratings.dat` UserID::MovieID::Rating::Timestamp · `users.dat` UserID::Gender::Age::Occupation::Zip-code ·
`movies.dat` MovieID::Title::Genres in Latin-1; or `ratings.csv`, `movies.csv` with headers; or `interactions.parquet`
(user_id, item_id, position or timestamp, rating, ...), `users.parquet`, `items.parquet`. Times are seconds.
Source: F. M. Harper and J. A. Konstan, "The MovieLens Datasets", TiiS 2015; https://grouplens.org/datasets/movielens/
User columns become gender, age, occupation, zip_code; item columns title, genres (text, `|` between genres).  [reads]
"""

from __future__ import annotations

from pathlib import Path

from perdure.errors import SettingsError, UsageError, shorten
from perdure.events.data_settings import DataSettings
from perdure.events.formats.table import attribute_tables, paths_of
from perdure.events.sources import Attributes, Reading, Table, columns_of


class MovieLens:
    """A MovieLens folder; `path` is the folder."""

    name = "movielens"
    summary = "a MovieLens folder: ratings, users, movies (ml-1m, ml-latest-small, ml-25m, or Parquet)"
    reads = ("features",)

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """The tables of the folder; value = rating."""
        paths = paths_of(data)
        folder = Path(paths[0]).expanduser()
        if len(paths) != 1 or not folder.is_dir():
            raise UsageError(f"{paths[0]} is no folder", expected="the MovieLens folder", where="data.path")
        if (folder / "ratings.dat").exists():
            return _dat(folder, data)
        if (folder / "ratings.csv").exists():
            return _csv(folder, data)
        if (folder / "interactions.parquet").exists():
            return _parquet(folder, data)
        raise UsageError(f"{folder} holds no ratings", where="data.path",
                         expected="ratings.dat, ratings.csv or interactions.parquet")  # fmt: skip


def _dat(folder: Path, data: DataSettings) -> Reading:
    if data.features:
        raise SettingsError(f"ratings.dat has no column {shorten(repr(data.features[0]))}", where="data.features",
                            expected="none: user, item, rating and time are read")  # fmt: skip
    events = Table((folder / "ratings.dat",), {"user": "user", "item": "item", "value": "rating", "time": "time"},
                   separator="::", header=("user", "item", "rating", "time"), quote=False)  # fmt: skip
    users, items = attribute_tables(data)
    if users is None and (folder / "users.dat").exists():
        names = ("user", "gender", "age", "occupation", "zip_code")
        users = Attributes(Table((folder / "users.dat",), {}, separator="::", header=names, encoding="latin-1"), "user")
    if items is None and (folder / "movies.dat").exists():
        names = ("item", "title", "genres")
        movies = Table((folder / "movies.dat",), {}, separator="::", header=names, encoding="latin-1")
        items = Attributes(movies, "item", where="data.items_table")
    return Reading([events], users, items, "s")


def _csv(folder: Path, data: DataSettings) -> Reading:
    columns = {"user": "userId", "item": "movieId", "value": "rating", "time": "timestamp"}
    events = Table((folder / "ratings.csv",), columns, features=tuple(data.features))
    users, items = attribute_tables(data)
    if items is None and (folder / "movies.csv").exists():
        items = Attributes(Table((folder / "movies.csv",), {}), "movieId", where="data.items_table")
    return Reading([events], users, items, "s")


def _parquet(folder: Path, data: DataSettings) -> Reading:
    path = folder / "interactions.parquet"
    names = columns_of(Table((path,), {}), path)
    columns = {"user": "user_id", "item": "item_id"}
    columns |= {"order": "position"} if "position" in names else {"time": "timestamp"}
    columns |= {"value": "rating"} if "rating" in names else {}
    features = tuple(data.features) or tuple(n for n in ("liked",) if n in names)
    users, items = attribute_tables(data)
    if users is None and (folder / "users.parquet").exists():
        users = Attributes(Table((folder / "users.parquet",), {}), "user_id")
    if items is None and (folder / "items.parquet").exists():
        items = Attributes(Table((folder / "items.parquet",), {}), "item_id", where="data.items_table")
    return Reading([Table((path,), columns, features)], users, items, "s")
