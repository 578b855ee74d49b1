"""Any table with named columns: CSV, TSV, `::` text, JSON lines or Parquet; one file, several, or a glob.

Layout: one event a row; `[data.columns]` says which column is the user, the item, the time and so on.
Source: none; this is the layout of `perdure` itself, and the other formats are translated to it.
"""

from __future__ import annotations

from perdure.errors import SettingsError
from perdure.events.data_settings import LAYOUT, DataSettings, TableSettings
from perdure.events.detect import find
from perdure.events.sources import Attributes, Reading, Table


class TableFormat:
    """One event a row, columns named in the settings."""

    name = "table"
    summary = "any table with named columns (CSV, TSV, ::, JSON lines, Parquet)"
    reads = LAYOUT

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """The tables that the settings name; `{name: file}` gives each file's events `domain = name`."""
        columns = data.columns.named()
        if isinstance(data.path, dict) and "domain" not in columns:
            tables = [event_table(data, [path], columns, {"domain": name}) for name, path in data.path.items()]
        else:
            tables = [event_table(data, paths_of(data), columns, {})]
        return Reading(tables, *attribute_tables(data), time_unit=data.time_unit)


def paths_of(data: DataSettings) -> list[str]:
    """The paths of the settings as a list."""
    if isinstance(data.path, dict):
        return list(data.path.values())
    return [data.path] if isinstance(data.path, str) else list(data.path)


def event_table(data: DataSettings, paths: list[str], columns: dict[str, str], constants: dict[str, str]) -> Table:
    """A table of events written as the settings say."""
    return Table(
        paths=tuple(find(paths)),
        columns=columns,
        features=tuple(data.features),
        constants=constants,
        separator=data.separator,
        encoding=data.encoding,
        header=_header(data.header),
        quote=data.quote,
    )


def attribute_tables(data: DataSettings) -> tuple[Attributes | None, Attributes | None]:
    """The user and the item table of the settings."""
    return _attributes(data.users, "data.users"), _attributes(data.items_table, "data.items_table")


def _attributes(settings: TableSettings | None, where: str) -> Attributes | None:
    if settings is None:
        return None
    if settings.columns is not None and not settings.columns:
        raise SettingsError("columns names no column", where=f"{where}.columns", fix="leave it out to keep all")
    table = Table(tuple(find([settings.path], f"{where}.path")), {}, separator=settings.separator,
                  encoding=settings.encoding, header=_header(settings.header))  # fmt: skip
    kept = None if settings.columns is None else tuple(settings.columns)
    return Attributes(table, settings.id, kept, where=where)


def _header(header: bool | list[str]) -> bool | tuple[str, ...]:
    return header if isinstance(header, bool) else tuple(header)
