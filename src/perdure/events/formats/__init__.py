"""Layouts of public data sets: one file each, found by listing this folder.

A format is a class with `name` (the name of its file), `summary` (one line), `reads` (the settings of LAYOUT that it
heeds) and `read(data: DataSettings) -> Reading`, which says what the columns of its files mean. Nothing is registered
by hand.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import ClassVar, Protocol

from perdure.errors import SettingsError, shorten
from perdure.events.data_settings import LAYOUT, DataSettings
from perdure.events.sources import Reading


class Format(Protocol):
    """What every file of this folder defines."""

    name: str
    summary: str
    reads: ClassVar[tuple[str, ...]]

    @staticmethod
    def read(data: DataSettings) -> Reading:
        """What to read, and as what."""
        ...


def names() -> list[str]:
    """All formats, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Format]:
    """The format called `name`.

    Raises:
        SettingsError: there is none; tells the nearest.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        raise SettingsError(f"no format {shorten(name)!r}", expected=f"one of: {', '.join(names())}",
                            where="data.format", fix=f"did you mean {close[0]!r}?" if close else "")  # fmt: skip
    module = importlib.import_module(f"{__name__}.{name}")
    return next(v for v in vars(module).values() if isinstance(v, type) and vars(v).get("name") == name)


def read(data: DataSettings) -> Reading:
    """What the settings name, as their format reads it.

    Raises:
        SettingsError: no such format, or a setting that it does not heed.
    """
    form = find(data.format)
    fields = DataSettings.model_fields
    for key in LAYOUT:
        if key not in form.reads and getattr(data, key) != fields[key].default:
            told = ", ".join(form.reads) or "none of " + ", ".join(LAYOUT)
            raise SettingsError(f"format {data.format} does not read {key}", expected=f"of the layout: {told}",
                                where=f"data.{key}", fix="leave it out, or use format 'table'")  # fmt: skip
    return form.read(data)
