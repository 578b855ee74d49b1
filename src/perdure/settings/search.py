"""[search]: settings that `search` tries with the methods of a recipe, with each as many.

    [search]
    "train.learning_rate" = [3e-4, 1e-3, 3e-3]      # with every method

    [search.pcl]                                     # with one method, or variant of [compare], besides
    "tuning.length" = [3, 6]

What can be tried with a method is every choice of one value from each of its lists. Nothing else reads the section, and
it is checked as strictly as the rest of the recipe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from perdure.errors import shorten
from perdure.settings import tuned
from perdure.settings.faults import Fault
from perdure.settings.sections import Parts

__all__ = ["EVERY", "choices", "faults", "flat"]

EVERY = ""  # the name under which `flat` gives what is tried with every method
COMMON = ("train", "tasks")  # sections that mean the same to every method
MOST = 200  # choices for one method


def flat(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method or EVERY -> dotted key -> values."""
    own = {name: value for name, value in table.items() if name.partition(".")[0] not in tuned.MAY["methods"]}
    return tuned.flat({EVERY: {key: table[key] for key in table if key not in own}} | own)


def choices(search: Mapping[str, Mapping[str, Any]], method: str, seed: int) -> list[dict[str, Any]]:
    """Every choice for a method, dotted key -> value, in an order that the seed draws.

    Args:
        search: as `flat` gives it.
    """
    lists = {**search.get(EVERY, {}), **search.get(method, {})}
    told = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())] if lists else []
    order = np.random.default_rng([seed, *method.encode()]).permutation(len(told))
    return [told[at] for at in order]


def faults(
    search: Any, compare: Mapping[str, Any], tables: Mapping[str, Any], parts: Parts, build: Callable[..., Any]
) -> Iterator[Fault]:
    """What is wrong with [search]: every value is tried with the rest of the recipe.

    Args:
        compare, tables, build: as in `tuned.faults`; compare is sound.
    """
    if not isinstance(search, Mapping):
        yield Fault("search", f"found {shorten(repr(search))}", "lists, such as train.learning_rate, and tables")
        return
    asked, lists_of = str(tables.get("tuning", {}).get("method")), flat(search)
    known = tuned.flat(compare)
    for name, lists in lists_of.items():
        where = "search" if name == EVERY else f"search.{name}"
        if name != EVERY and not isinstance(search[name], Mapping):
            yield Fault(where, f"found {shorten(repr(search[name]))}", "a table for a method, such as [search.pcl]")
            continue
        for key, values in lists.items():
            if name == EVERY and key.partition(".")[0] not in COMMON:
                yield Fault(f"{where}.{key}", "not for every method", f"a key of {', '.join(COMMON)}, or [search.pcl]")
            elif not isinstance(values, list) or not values:
                yield Fault(f"{where}.{key}", f"found {shorten(repr(values))}", "a list of values to try")
            else:
                for value in values:
                    tried = {name or asked: {**known.get(name or asked, {}), key: value}}
                    for fault in tuned.faults(tried, tables, parts, build):
                        key_of = fault.key.removeprefix(f"compare.{name or asked}")
                        yield Fault(where + key_of, fault.found, fault.expected, fault.fix)
        wide = math.prod(len(one) for one in {**lists_of[EVERY], **lists}.values() if isinstance(one, list))
        if wide > MOST:
            yield Fault(where, f"{wide} choices", f"at most {MOST} for a method", "list fewer values")
