"""What exists, by name: encoders, objectives, methods, formats. Found by listing the folders of the package.   [reads]

A file `tuning/pcl.py` holds the class whose `name` is "pcl"; adding a file adds a method. Nothing outside the
package is ever imported.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perdure.errors import UsageError, shorten

__all__ = ["KINDS", "about", "find", "names", "trial"]

KINDS = {"encoders": "encoders", "objectives": "objectives", "methods": "tuning", "formats": "events/formats"}
NOT_PARTS = {"__init__", "base", "features", "parts", "readouts"}
DECLARED = {
    "encoders": ("paper", "summary"),
    "objectives": ("paper", "summary"),
    "methods": ("paper", "summary", "keeps"),
}


def _near(name: str, known: Iterable[str]) -> str:
    """`did you mean pcl?`, or nothing."""
    close = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise UsageError(f"no kind {shorten(kind)!r}", expected=f"one of {', '.join(KINDS)}", fix=_near(kind, KINDS))
    return Path(__file__).parent / KINDS[kind]


@functools.cache
def _names(kind: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in _folder(kind).glob("*.py") if file.stem not in NOT_PARTS))


def names(kind: str) -> list[str]:
    """Names of a kind, sorted: "encoders", "objectives", "methods" or "formats". Imports none of them."""
    return list(_names(kind))


def find(kind: str, name: str) -> Any:
    """The class registered under a name.

    Raises:
        UsageError: no such kind or name, and tells the nearest; the file holds no such class, or it does not declare
            what all of its kind do.
    """
    if name not in _names(kind):
        raise UsageError(
            f"no {kind.removesuffix('s')} {shorten(name)!r}",
            expected=f"one of {', '.join(_names(kind))}",
            fix=_near(name, _names(kind)),
        )
    module = importlib.import_module("perdure." + KINDS[kind].replace("/", ".") + "." + name)
    own = [thing for thing in vars(module).values() if isinstance(thing, type) and thing.__module__ == module.__name__]
    found = next((thing for thing in own if getattr(thing, "name", None) == name), None)
    where = f"{KINDS[kind]}/{name}.py"
    if found is None:
        said = [repr(thing.name) for thing in own if isinstance(getattr(thing, "name", None), str)]
        raise UsageError(
            f"the file {where} holds no class of that name" + (f", but {', '.join(said)}" if said else ""),
            expected=f'a class that declares name: ClassVar[str] = "{name}"',
            where=where,
            fix="give the class the name of its file, or move the file out of the folder",
        )
    lacking = [what for what in DECLARED.get(kind, ()) if not hasattr(found, what)]
    if lacking:
        raise UsageError(
            f"the {kind.removesuffix('s')} {name} does not declare {', '.join(lacking)}",
            expected="what all of its kind declare as class attributes: " + ", ".join(DECLARED[kind]),
            where=f"{where}, class {found.__name__}",
            fix="see docs/add-a-method.md",
        )
    return found


def about(kind: str) -> list[dict[str, Any]]:
    """One entry a name: name, paper, keeps (methods), summary."""
    told = []
    for name in names(kind):
        found = find(kind, name)
        summary = getattr(found, "summary", None) or (found.__doc__ or "").strip().split("\n")[0]
        entry = {"name": name, "paper": getattr(found, "paper", ""), "summary": summary}
        if kind == "methods":
            entry["keeps"] = bool(found.keeps)
        told.append(entry)
    return told


def trial(kind: str, name: str, options: dict[str, Any]) -> None:
    """Build the part once, without memory for its weights, so that it can refuse options that contradict each other.

    Raises:
        SettingsError: what the constructor refuses.
    """
    import torch

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        find(kind, name)(*([1] if kind == "encoders" else []), **options)
