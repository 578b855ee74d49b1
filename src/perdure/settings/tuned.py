"""[compare.<method>] and [compare.<encoder>]: settings that `compare` gives one of them alone, each found with the same
search budget.

    [compare.pcl]
    "tuning.length" = 6                  # or tuning.length = 6, or a table [compare.pcl.tuning]
    "train.learning_rate" = 3e-3

    [compare.bert4rec]
    "objective.name" = "masked_item"

    [compare.ppr-full]                   # a variant: another name for a method or encoder with other settings
    method = "ppr"                       # or encoder = "sasrec"
    "tuning.variant" = "full"

A run by itself (`learn`) does not read them, and they are checked as strictly as the rest of the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from perdure.errors import shorten
from perdure.settings import toml
from perdure.settings.faults import Fault, SettingsFaults, nearest
from perdure.settings.sections import Parts

__all__ = ["MAY", "faults", "flat", "for_method", "overrides", "part", "variants"]

# what may differ; all else is what those that are compared have in common
MAY = {
    "methods": ("tuning", "train", "pretrain", "tasks", "history"),
    "encoders": ("encoder", "objective", "train", "pretrain", "tasks"),
}
NAMING = {"methods": "tuning.method", "encoders": "encoder.name"}
VARIANT = {"methods": "method", "encoders": "encoder"}  # the key by which a variant says of what
VARIANT_OF = "a method, an encoder, or a variant with the key method or encoder"
# of a variant: it becomes a folder's, on every system
NAME = re.compile(
    r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
)


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
    """Dotted keys and values as overrides, `tuning.length=6`; without the key that makes a variant."""
    return [f"{key}={toml.written(value)}" for key, value in values.items() if key not in VARIANT.values()]


def part(compare: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The method or encoder that a name stands for: what a variant is a variant of, else itself.

    Args:
        compare: as `flat` gives it.
    """
    values = compare.get(name, {})
    return next((values[key] for key in VARIANT.values() if key in values), name)


def variants(compare: Mapping[str, Mapping[str, Any]], kind: str) -> list[str]:
    """The names of all variants of methods, or of encoders."""
    return [name for name, values in compare.items() if VARIANT[kind] in values]


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
    met: dict[str, str] = {}
    for name, values in flat(compare).items():
        where, of = f"compare.{name}", part({name: values}, name)
        if (first := met.setdefault(name.lower(), name)) != name:
            yield Fault(where, f"differs from {first} in case alone", "another name for a variant")
        kind = kinds.get(of) if isinstance(of, str) else None
        wrong = _naming(where, name, values, kind, kinds)
        if kind is None or wrong is not None:
            yield wrong or Fault(where, "no such method or encoder", VARIANT_OF, nearest(name, kinds))
            continue
        named = {key: value for key, value in values.items() if key != VARIANT[kind]}
        strange = [key for key in named if not _may(key, kind)]
        for key in strange:
            expected = "a key of " + ", ".join(MAY[kind]).replace("tasks", "tasks.<task>.train")
            yield Fault(f"{where}.{key}", f"cannot differ between {kind}", expected)
        if not strange:
            try:
                own = for_method(tables, of) if kind == "methods" else tables
                build(own, [f"{NAMING[kind]}={of}", *overrides(named)])
            except SettingsFaults as fault:
                for one in fault.faults:
                    yield Fault(f"{where}.{one.key}", one.found, one.expected, one.fix)


def _may(key: str, kind: str) -> bool:
    """Whether methods, or encoders, may differ in a key; in nothing that a task asks, or they would do other tasks."""
    section, _, rest = key.partition(".")
    asked = section == "tasks" and rest.split(".")[1:2] != ["train"]
    return section in MAY[kind] and key != NAMING[kind] and not asked


def _naming(
    where: str, name: str, values: Mapping[str, Any], kind: str | None, kinds: Mapping[str, str]
) -> Fault | None:
    """What is wrong with how a variant is named, or with what it says it is a variant of."""
    given = [key for key in VARIANT.values() if key in values]
    if not given:
        return None
    if kind is None or VARIANT[kind] != given[0]:
        names: Iterable[str] = [one for one, its in kinds.items() if VARIANT[its] == given[0]]
        found = f"found {shorten(repr(values[given[0]]))}"
        return Fault(f"{where}.{given[0]}", found, f"one of {', '.join(names)}", nearest(str(values[given[0]]), names))
    if len(given) > 1:
        return Fault(where, "a variant of a method and of an encoder", "one of the two")
    if name.lower() in {one.lower() for one in kinds}:
        return Fault(where, f"{name} is the name of a method or encoder", "another name for a variant")
    if not NAME.fullmatch(name):
        return Fault(
            where, "no name for a variant", "up to 64 letters, digits, dots, dashes; no dot last; not con, nul, ..."
        )
    return None
