"""[compare.<method>]: settings that `compare` gives one method alone, each found with the same search budget.

    [compare.pcl]
    "tuning.length" = 6                  # or tuning.length = 6, or a table [compare.pcl.tuning]
    "train.learning_rate" = 3e-3

A run by itself (`learn`) does not read them, and they are checked as strictly as the rest of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from perdure.errors import shorten
from perdure.settings import toml
from perdure.settings.faults import Fault, SettingsFaults, nearest
from perdure.settings.sections import Parts

__all__ = ["MAY", "faults", "flat", "for_method", "overrides"]

MAY = ("tuning", "train", "pretrain", "tasks")  # all else is what the methods have in common


def flat(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method -> dotted key -> value; of a key that is given twice, the last."""
    return {method: dict(_flat(table, "")) for method, table in tables.items()}


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flat(one, f"{key}.{name}" if key else name)
    else:
        yield key, value


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Dotted keys and values as overrides, `tuning.length=6`."""
    return [f"{key}={toml.written(value)}" for key, value in values.items()]


def for_method(tables: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A recipe's tables for another method: the options in [tuning] belong to the method named there."""
    own = tables.get("tuning", {})
    same = isinstance(own, Mapping) and own.get("method") == method
    return {**tables, "tuning": own if same else {"method": method}}


def faults(compare: Any, tables: Mapping[str, Any], parts: Parts, build: Callable[..., Any]) -> Iterator[Fault]:
    """What is wrong with [compare]: each method's settings are tried with the rest of the recipe.

    Args:
        tables: the recipe without [compare], sound by itself.
        build: `from_dict` of tables and overrides.
    """
    if not isinstance(compare, Mapping) or not all(isinstance(table, Mapping) for table in compare.values()):
        yield Fault("compare", f"found {shorten(repr(compare))}", "a table for each method, such as [compare.pcl]")
        return
    for method, values in flat(compare).items():
        where, known = f"compare.{method}", parts.names("methods")
        if method not in known:
            yield Fault(where, "no such method", fix=nearest(method, known))
            continue
        strange = [key for key in values if key.partition(".")[0] not in MAY or key in ("tuning.method", "tuning")]
        for key in strange:
            yield Fault(f"{where}.{key}", "cannot differ between methods", f"a key of {', '.join(MAY)}")
        if not strange:
            try:
                build(for_method(tables, method), overrides(values))
            except SettingsFaults as fault:
                for one in fault.faults:
                    yield Fault(f"{where}.{one.key}", one.found, one.expected, one.fix)
