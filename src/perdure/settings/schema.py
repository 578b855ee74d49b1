"""A class's typed keyword arguments are its schema: pydantic models made from signatures, and schemas told in words."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Strict, create_model, model_validator
from pydantic_core import PydanticCustomError

from perdure.errors import PerdureError

__all__ = ["model_of", "properties", "schema_of", "step", "words"]

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@functools.cache
def schema_of(cls: type) -> type[BaseModel]:
    """The keyword-only arguments of `cls.__init__` as a strict pydantic model that knows no other key.

    Ranges are written in the signature: `width: Annotated[int, Ge(1)] = 64`. A class that hands what it does not name
    itself to another (`**options`) tells which in `passes_on`: the options of that class are its own.
    """
    return create_model(cls.__name__, __config__=STRICT, **_options(cls))


def _options(cls: type) -> dict[str, Any]:
    """Name -> (annotation, default)."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    passed = getattr(cls, "passes_on", None)
    options: dict[str, Any] = {} if passed is None else _options(passed)
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            options[name] = (_listed(hints.get(name, Any)), default)
    return options


@functools.cache
def model_of(cls: type) -> type[BaseModel]:
    """A dataclass as a strict pydantic model; what its `__post_init__` refuses becomes one of the faults."""
    hints = typing.get_type_hints(cls, include_extras=True)
    entries: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        default = ... if field.default is dataclasses.MISSING else field.default
        entries[field.name] = (_listed(hints[field.name]), default)

    def build(self: BaseModel) -> BaseModel:
        try:
            cls(**{name: getattr(self, name) for name in entries})
        except PerdureError as fault:
            told = {"found": fault.found, "expected": fault.expected, "fix": fault.fix}
            raise PydanticCustomError("perdure", "{found}", told) from None
        return self

    validators: dict[str, Any] = {"build": model_validator(mode="after")(build)}
    return create_model(cls.__name__, __config__=STRICT, __validators__=validators, **entries)


def _listed(hint: Any) -> Any:
    """TOML has lists only: a tuple anywhere in the annotation is filled from a list, its entries stay strict."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inside, *notes = typing.get_args(hint)
        return Annotated[(_listed(inside), *notes)]  # type: ignore[return-value]
    if origin in (Union, types.UnionType):
        return Union[tuple(_listed(part) for part in typing.get_args(hint))]  # noqa: UP007
    return Annotated[hint, Strict(False)] if origin is tuple or hint is tuple else hint


# -- schemas in words --------------------------------------------------------------------------------------------------

NAMES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}


def words(node: dict[str, Any], root: dict[str, Any]) -> str:
    """What a JSON schema allows: `a whole number, 1 to 100000`, `one of "a", "b"`, `text or a list of text`."""
    node = _follow(node, root)
    if "anyOf" in node:
        return " or ".join(words(part, root) for part in node["anyOf"] if part.get("type") != "null")
    if "enum" in node:
        return "one of " + ", ".join(_literal(value) for value in node["enum"])
    if "const" in node:
        return _literal(node["const"])
    if "examples" in node:
        return "text such as " + ", ".join(_literal(value) for value in node["examples"])
    kind = node.get("type")
    if kind == "array":
        items = node.get("items") or next(iter(node.get("prefixItems", [])), {})
        count = f"{node['minItems']} " if node.get("minItems", 0) > 1 else ""
        return f"a list of {count}{_many(words(items, root))}" if items else "a list"
    if kind == "object":
        return "a table"
    return NAMES.get(str(kind), "a value") + _range(node)


def _many(text: str) -> str:
    return text.removeprefix("a ").replace("number", "numbers", 1)


def _range(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {_amount(low)} to {_amount(high)}"
    parts = [
        f"{_amount(low)} or more" if low is not None else "",
        f"above {_amount(above)}" if above is not None else "",
    ]
    parts += [
        f"at most {_amount(high)}" if high is not None else "",
        f"below {_amount(below)}" if below is not None else "",
    ]
    text = ", ".join(part for part in parts if part)
    return f", {text}" if text else ""


def _amount(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.15g}"


def properties(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Key -> schema of an object's keys; empty for anything else."""
    node = _follow(node, root)
    if "anyOf" in node:
        node = next((found for part in node["anyOf"] if "properties" in (found := _follow(part, root))), {})
    return node.get("properties", {})


def step(node: dict[str, Any], part: Any, root: dict[str, Any]) -> dict[str, Any] | None:
    """The schema one key further in, or None where `part` is no key."""
    return properties(node, root).get(part)


def _follow(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node["allOf"][0] if "allOf" in node else node


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
