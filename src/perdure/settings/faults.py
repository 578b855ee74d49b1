"""What is wrong with settings, said in one line each and all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from perdure.errors import SettingsError, closest, shorten
from perdure.settings.schema import properties, step, words

__all__ = ["Fault", "SettingsFaults", "nearest", "of_model"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        key: `train.learning_rate`, `tasks.0.name`, or a section alone.
        found: what stands there, in words.
        expected: type and range, or what would be right.
        fix: the nearest known key, or the next thing to do.
        where: the override it comes from, `-s train.epochs=0`; "" where that is the recipe.
        kind: pydantic's name for what is wrong, "" where another found it.
    """

    key: str
    found: str
    expected: str = ""
    fix: str = ""
    where: str = ""
    kind: str = ""

    def __str__(self) -> str:
        """One line."""
        text = f"{self.key}: {self.found}" if self.key else self.found
        text += f"; expected {self.expected}" if self.expected else ""
        text += f"; {self.fix}" if self.fix else ""
        return text + (f" ({self.where})" if self.where else "")


class SettingsFaults(SettingsError):
    """All faults of one recipe and its overrides.

    Attributes:
        faults: each of them, in the order of the sections.
        file: the recipe, or "" where settings came from Python.
    """

    def __init__(self, faults: Sequence[Fault], file: str = "") -> None:
        one = faults[0]
        if len(faults) == 1:
            found = f"{one.key}: {one.found}" if one.key else one.found
            where = one.where or ("" if one.key.startswith("-s ") else file)
            super().__init__(found, expected=one.expected, where=where, fix=one.fix)
        else:
            lines = [str(fault) for fault in faults]
            super().__init__(f"{len(faults)} faults in the settings\n" + "\n".join(lines), where=file)
        self.faults, self.file = list(faults), file

    def mended(self, fix: str) -> SettingsFaults:
        """The same faults, each with one more thing to do."""
        return SettingsFaults(
            [replace(one, fix="; ".join(filter(None, [one.fix, fix]))) for one in self.faults], self.file
        )

    def as_dict(self) -> dict[str, object]:
        """For `--json`: with every fault by itself."""
        keys = ("key", "found", "expected", "fix", "where")
        told = [{key: getattr(fault, key) for key in keys} for fault in self.faults]
        return {**super().as_dict(), "error": "SettingsError", "faults": told}


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean learning_rate?`, or the known names where none is near."""
    known = list(known)
    return _meant(name, known) or (f"known: {', '.join(known)}" if known else "")


def _meant(name: str, known: Sequence[str]) -> str:
    """`did you mean learning_rate?`, or nothing where none is near."""
    close = closest(name, known)
    return f"did you mean {close}?" if close else ""


def of_model(model: type[BaseModel], values: Any, section: str, besides: Sequence[str] = ()) -> tuple[Any, list[Fault]]:
    """Validate `values` against a pydantic model: (the object or None, its faults, one a key).

    Args:
        besides: keys of the section that the model does not hold; an unknown key may have meant one of them.
    """
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        schema = model.model_json_schema()
        faults: dict[str, Fault] = {}
        for one in error.errors(include_url=False):
            fault = _fault(one, schema, values, section, besides)
            faults.setdefault(fault.key + (one["msg"] if one["type"] in ("value_error", "perdure") else ""), fault)
        return None, list(faults.values())


def _fault(
    error: Mapping[str, Any], schema: dict[str, Any], values: Any, section: str, besides: Sequence[str]
) -> Fault:
    """One pydantic error as a Fault: the key it stands at, what was found there, what the schema wants."""
    key, node, value, known = section, schema, values, [*besides, *properties(schema, schema)]
    for part in error["loc"]:
        if error["type"] == "extra_forbidden" and part == error["loc"][-1]:
            return Fault(f"{key}.{part}", "unknown key", fix=nearest(str(part), known))
        below = step(node, part, schema)
        if below is None:  # the tag of a union, or the place in a list: the key before it is named
            continue
        node, known, key = below, properties(below, schema), f"{key}.{part}"
        value = _at(value, part)
    if error["type"] == "missing" and not isinstance(error["loc"][-1], int):  # or else a list is too short
        return Fault(key, "is missing", words(node, schema))
    if error["type"] == "perdure":
        return Fault(key, error["msg"], error["ctx"]["expected"], error["ctx"]["fix"])
    if error["type"] == "value_error":
        return Fault(key, str(error["ctx"]["error"]))
    expected = words(node, schema)
    fix = _meant(value, re.findall(r'"(\w+)"', expected)) if isinstance(value, str) else ""
    return Fault(key, f"found {shorten(repr(value))}", expected, fix, kind=error["type"])


def _at(value: Any, part: Any) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return value
