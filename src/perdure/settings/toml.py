"""TOML in and out: reading a recipe, laying one override over it, writing tables back.                      [reads]"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from perdure.errors import SettingsError, shorten
from perdure.settings.faults import Fault

__all__ = ["override", "read", "render", "value", "written"]

LIMIT = 1 << 20
SECRET = re.compile(r"(password|passwd|secret|(?<!^tuning\.)token(?!s)|api_?key|credential)", re.IGNORECASE)
BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file of at most 1 MiB.

    Raises:
        SettingsError: no such file (with the nearest folder that exists), no plain file, not readable, not TOML.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as fault:
        near = next((folder for folder in [*path.absolute().parents] if folder.is_dir()), Path("/"))
        found = "no such recipe" if isinstance(fault, FileNotFoundError) else f"the recipe cannot be read: {fault}"
        raise SettingsError(
            shorten(found), where=f"RECIPE {shorten(path)}", fix=f"nearest existing folder: {near}"
        ) from None
    if not stat.S_ISREG(info.st_mode):
        kind = "folder" if stat.S_ISDIR(info.st_mode) else "special file"
        raise SettingsError(f"the recipe is a {kind}", expected="a TOML file", where=shorten(path))
    if info.st_size > LIMIT:
        raise SettingsError(
            f"the recipe has {info.st_size} bytes", expected="at most 1 MiB of TOML", where=shorten(path)
        )
    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(LIMIT + 1).decode("utf-8-sig"))
    except PermissionError:
        found = f"the recipe cannot be read (mode {stat.S_IMODE(info.st_mode):03o}, owner {info.st_uid})"
        raise SettingsError(found, where=shorten(path), fix=f"you are user {os.getuid()}") from None
    except (ValueError, RecursionError) as fault:  # not UTF-8, not TOML, or a number that Python does not read
        yaml = path.suffix.lower() in (".yaml", ".yml")
        fix = "recipes are TOML, not YAML" if yaml else "see docs/settings.md"
        raise SettingsError(f"not TOML: {shorten(fault)}", where=shorten(path), fix=fix) from None
    except OSError as fault:
        raise SettingsError(f"the recipe cannot be read: {fault.strerror}", where=shorten(path)) from None


def value(text: str) -> Any:
    """The value of `key=value`: as TOML writes it, else as bare text."""
    said = text.partition("=")[2].strip()
    try:
        document = tomllib.loads(f"v = {said}")
    except (ValueError, RecursionError):  # not TOML, or a number that Python does not read
        return said
    return document["v"] if list(document) == ["v"] else said


def override(raw: dict[str, Any], text: str, faults: list[Fault]) -> str | None:
    """Lay `section.key=value` over `raw`, in place; the dotted key, tasks by place. Faults are added to the list."""
    key, equals, _ = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if SECRET.search(key):
        fix = "use an environment variable or a file of mode 0600"
        faults.append(Fault(shorten(key), "secrets are not taken on the command line", fix=fix))
        return None
    if not equals or len(parts) < 2 or not all(parts):
        faults.append(Fault(f"-s {shorten(text)}", "is no override", "section.key=value, such as train.epochs=3"))
        return None
    node: Any = raw
    for place, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            at = _place(node, part)
            if at is None:
                known = ", ".join(str(one.get("name", n)) for n, one in enumerate(node) if isinstance(one, dict))
                faults.append(Fault(f"-s {shorten(key)}", f"no task {shorten(part)!r}", f"one of {known}"))
                return None
            parts[place], node = str(at), node[at]
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            faults.append(Fault(f"-s {shorten(key)}", f"{part} is no table"))
            return None
    if isinstance(node, list):
        faults.append(Fault(f"-s {shorten(key)}", "names a whole task", "a key of it, such as tasks.0.train.epochs=3"))
        return None
    node[parts[-1]] = _dates_as_text(value(text))
    return ".".join(parts)


def _place(tables: list[Any], part: str) -> int | None:
    named = [n for n, one in enumerate(tables) if isinstance(one, dict) and one.get("name") == part]
    if not named and part.isdecimal() and len(part) < 5:
        named = [n for n in (int(part),) if n < len(tables)]
    return named[0] if named else None


def _dates_as_text(found: Any) -> Any:
    return found.isoformat() if hasattr(found, "isoformat") else found


def render(tables: dict[str, Any]) -> str:
    """Nested dicts as TOML: scalars and lists first, then tables, then lists of tables."""
    return "\n".join(_lines(tables, "")).strip() + "\n"


def _lines(table: dict[str, Any], path: str) -> list[str]:
    lines: list[str] = []
    later: list[str] = []
    for key, one in table.items():
        name = key if BARE.fullmatch(key) else written(key)
        whole = f"{path}.{name}" if path else name
        if isinstance(one, dict):
            later += ["", f"[{whole}]", *_lines(one, whole)]
        elif isinstance(one, list) and one and all(isinstance(entry, dict) for entry in one):
            for entry in one:
                later += ["", f"[[{whole}]]", *_lines(entry, whole)]
        else:
            lines.append(f"{name} = {written(one)}")
    return lines + later


def written(one: Any) -> str:
    """A scalar or list as TOML writes it."""
    if isinstance(one, bool):
        return "true" if one else "false"
    if isinstance(one, list):
        return "[" + ", ".join(written(entry) for entry in one) + "]"
    if isinstance(one, str):
        return json.dumps(one, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(one)
