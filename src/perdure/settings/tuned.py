"""[compare.<method>] and [compare.<encoder>]: settings that `compare` gives one of them alone, each found with the same
search budget.

    [compare.pcl]
    "tuning.length" = 6                  # or tuning.length = 6, or a table [compare.pcl.tuning]
    "train.learning_rate" = 3e-3

    [compare.bert4rec]
    "objective.name" = "masked_item"

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

# what may differ; all else is what those that are compared have in common
MAY = {
    "methods": ("tuning", "train", "pretrain", "tasks"),
    "encoders": ("encoder", "objective", "train", "pretrain", "tasks"),
}
NAMING = {"methods": "tuning.method", "encoders": "encoder.name"}


def flat(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method or encoder -> dotted key -> value; of a key that is given twice, the last."""
    return {name: dict(_flat(table, "")) for name, table in tables.items()}


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
    """What is wrong with [compare]: the settings of each method and encoder are tried with the rest of the recipe.

    Args:
        tables: the recipe without [compare], sound by itself.
        build: `from_dict` of tables and overrides.
    """
    if not isinstance(compare, Mapping) or not all(isinstance(table, Mapping) for table in compare.values()):
        yield Fault("compare", f"found {shorten(repr(compare))}", "a table for each method, such as [compare.pcl]")
        return
    kinds = {name: kind for kind in MAY for name in parts.names(kind)}
    for name, values in flat(compare).items():
        where, kind = f"compare.{name}", kinds.get(name)
        if kind is None:
            yield Fault(where, "no such method or encoder", fix=nearest(name, kinds))
            continue
        strange = [key for key in values if key.partition(".")[0] not in MAY[kind] or key == NAMING[kind]]
        for key in strange:
            yield Fault(f"{where}.{key}", f"cannot differ between {kind}", f"a key of {', '.join(MAY[kind])}")
        if not strange:
            try:
                own = for_method(tables, name) if kind == "methods" else tables
                build(own, [f"{NAMING[kind]}={name}", *overrides(values)])
            except SettingsFaults as fault:
                for one in fault.faults:
                    yield Fault(f"{where}.{one.key}", one.found, one.expected, one.fix)
