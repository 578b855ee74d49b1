"""RecBole atomic files: `name.inter`, and beside it `name.user` and `name.item` when they are there.

Layout: tab-separated, first line `user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float ...`; types are
token, token_seq (words separated by blanks), float, float_seq. Quotes are ordinary characters.
Source: https://recbole.io/docs/user_guide/data/atomic_files.html
Names are used without their type. Defaults: user = user_id, item = item_id, time = timestamp (seconds) and
value = rating where they exist; `[data.columns]` overrides. Tokens of users and items stay text; a feature of events
whose every value is a plain number is numbers, whatever its type says.  [reads]
"""

from __future__ import annotations

from pathlib import Path

from perdure.errors import UsageError, shorten
from perdure.events.data_settings import DataSettings
from perdure.events.detect import chunks, find, look
from perdure.events.formats.table import attribute_tables, paths_of
from perdure.events.sources import Attributes, Reading, Table, columns_of
from perdure.events.text import Dialect, header_of

KNOWN = {"user": "user_id", "item": "item_id", "time": "timestamp", "value": "rating"}


class RecBole:
    """Atomic files; `path` is the folder or the .inter file."""

    name = "recbole"
    summary = "RecBole atomic files (.inter, .user, .item with typed headers)"
    reads = ("columns", "features", "time_unit", "time_zone")

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """The .inter file, and the .user and .item files of the same name."""
        inter = _inter(data)
        table = _table(inter, {})
        names = columns_of(table, inter)
        columns = {role: name for role, name in KNOWN.items() if name in names or role in ("user", "item")}
        columns |= data.columns.named()
        users, items = attribute_tables(data)
        users = users or _attributes(inter, ".user", columns["user"])
        items = items or _attributes(inter, ".item", columns["item"])
        return Reading([_table(inter, columns, tuple(data.features))], users, items, data.time_unit or "s")


def _inter(data: DataSettings) -> Path:
    path = Path(paths_of(data)[0]).expanduser()
    if not path.is_dir():
        return find(paths_of(data))[0]
    found = sorted(path.glob("*.inter*"))
    if len(found) != 1:
        raise UsageError(f"{shorten(path)} holds {len(found)} .inter files", expected="one", where="data.path")
    return found[0]


def _table(path: Path, columns: dict[str, str], features: tuple[str, ...] = ()) -> Table:
    return Table((path,), columns, features, separator="\t", quote=False, typed=True)


def _attributes(inter: Path, ending: str, id_: str) -> Attributes | None:
    stem = inter.name.partition(".inter")[0]
    path = next((p for p in sorted(inter.parent.glob(f"{stem}{ending}*")) if p.is_file()), None)
    if path is None:
        return None
    typed = header_of(chunks(look(path)), Dialect("\t", quote=False), str(path))
    tokens = tuple(name.partition(":")[0] for name in typed if name.partition(":")[2] != "float")
    return Attributes(_table(path, {}), id_, where=f"data.path ({ending})", texts=tokens)
