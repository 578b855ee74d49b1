"""What -s says, read once more where its setting wants something else than TOML makes of it.             [pure]

    encoder.dropout=.2      5.      007          a number, as Python reads it
    run.compile=True                             true or false
    evaluate.ks=1,10        10      [.8, .9]     a list
    run.name=2024                                text

Quoted values are text whatever the setting wants, and a number is never made another kind of number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perdure.settings import toml
from perdure.settings.faults import Fault

__all__ = ["mend"]


def mend(tables: dict[str, Any], faults: Sequence[Fault], said: Mapping[str, str]) -> bool:
    """Put what was meant into `tables`, in place; whether anything was.

    Args:
        faults: what is wrong with the tables.
        said: dotted key -> the override that gave its value.
    """
    mended = False
    for fault in faults:
        if fault.key not in said or fault.kind not in READ:
            continue
        *above, last = fault.key.split(".")
        node: Any = tables
        for part in above:
            node = node[int(part) if isinstance(node, list) else part]
        try:
            node[last] = READ[fault.kind](said[fault.key].partition("=")[2].strip())
        except ValueError:
            continue
        mended = True
    return mended


def number(text: str) -> int | float:
    """As Python's int() or float() reads it."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def truth(text: str) -> bool:
    """True or False in any case."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def listed(text: str) -> list[Any]:
    """`a,b`, `[a, b]` or `a` as a list of what TOML reads, else of numbers, else of text."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not bare or set(bare) & set("[]{}\"'"):
        raise ValueError(text)
    return [_one(part.strip()) for part in bare.removesuffix(",").split(",")]


def plain(text: str) -> str:
    """A number, or true or false, as the text it was written as."""
    if isinstance(toml.value(f"={text}"), list | dict):
        raise ValueError(text)
    return text


def _one(text: str) -> Any:
    found = toml.value(f"={text}")
    try:
        return number(text) if isinstance(found, str) else found
    except ValueError:
        return found


# pydantic's name for what is wrong -> how the text is read instead
READ: dict[str, Callable[[str], Any]] = {
    "int_type": number, "float_type": number, "bool_type": truth, "list_type": listed, "tuple_type": listed,
    "string_type": plain,
}  # fmt: skip
