"""What model.json says, believed only once it is checked: the parts, their options, the tasks.             [pure]

A folder whose digests are right may still have been written by anybody. Nothing is built from a manifest before every
value in it has the type and range that the classes' own signatures give, the same schema that reads a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from perdure.errors import MachineError, ModelError, PerdureError, shorten
from perdure.events import marks
from perdure.events.examples import NAME_RULE, TASK_NAME
from perdure.events.profiles import MOST_FIELDS, MOST_VALUES

__all__ = ["FORMAT", "check_manifest", "refusals"]

FORMAT = 1
LARGEST = 2**40  # of any whole number among the options of a part; `Budget` bounds what is made of them
WIDEST = 2**20  # vectors from elsewhere
PARTS = {"encoder": "encoders", "method": "methods", "objective": "objectives"}
KINDS = ("next_item", "item", "one_of")
INPUT = {"events", "items", "dates", "gaps", "places", "width", "ids", "join"}
LISTS = ("dates", "places")
FIELDS = {"name": str, "kind": str, "description": str, "metric": str, "settled": bool, "labels": int, "hides": str}


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """What fails while a model is built from a folder is the folder's fault: ModelError, naming the file."""
    try:
        yield
    except (ModelError, MachineError):
        raise
    except PerdureError as fault:
        raise ModelError(fault.found, expected=fault.expected, where=where) from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as fault:
        if "allocate memory" in str(fault):
            raise MachineError("there is not enough memory for this model", where=where) from None
        told = f"{type(fault).__name__}: {fault}"
        raise ModelError(f"not the description of a model: {shorten(told)}", where=where) from None


def check_manifest(manifest: Mapping[str, Any], find: Callable[[str, str], type], where: str) -> None:
    """Format, spec, number of items and task cards; ModelError at the first that is wrong."""
    version = manifest.get("format")
    if type(version) is not int or version != FORMAT:
        raise ModelError(
            f"model format {shorten(version)}",
            expected=f"format {FORMAT}",
            where=where,
            fix="use the release of perdure that wrote it",
        )
    _count(manifest.get("items"), "items", where)
    told = manifest.get("told", [])
    if not isinstance(told, list) or len(told) > MOST_FIELDS or not all(isinstance(one, str) for one in told):
        raise ModelError(f"told: {shorten(repr(told))}", expected="names of attributes of users", where=where)
    _profile(manifest.get("profile"), where)
    _input(manifest.get("input"), where)
    if not isinstance(settings := manifest.get("settings") or {}, dict):
        raise ModelError(f"settings: {shorten(repr(settings))}", expected="those it learned with", where=where)
    if not isinstance(settings.get("evaluate", {}), dict):
        raise ModelError(f"settings.evaluate: {shorten(repr(settings['evaluate']))}", expected="a table", where=where)
    if not isinstance(digest := manifest.get("data_digest", ""), str):
        raise ModelError(f"data_digest: {shorten(repr(digest))}", expected="text", where=where)
    with refusals(where):
        _spec(manifest.get("spec"), find, where)
    cards = manifest.get("tasks")
    if not isinstance(cards, list):
        raise ModelError(f"tasks: {shorten(repr(cards))}", expected="a list of tasks", where=where)
    seen: set[str] = set()
    for place, card in enumerate(cards):
        _card(card, f"tasks[{place}]", where)
        if card["name"].lower() in seen:
            raise ModelError(f"two tasks are named {card['name']!r}", where=where)
        seen.add(card["name"].lower())


def _count(value: Any, key: str, where: str, most: int | None = None) -> None:
    if type(value) is not int or value < 0:
        raise ModelError(f"{key}: {shorten(repr(value))}", expected="a whole number, 0 or more", where=where)
    if most is not None and value > most:
        raise ModelError(f"{key}: {value}", expected=f"at most {most}", where=where)


def _profile(told: Any, where: str) -> None:
    """None, or fields with their values and the width of vectors."""
    if told is None:
        return
    fine = isinstance(told, dict) and told.keys() == {"fields", "width"}
    if not fine or not _vocabularies(told["fields"], MOST_FIELDS, MOST_VALUES):
        raise ModelError(f"profile: {shorten(repr(told))}", expected="fields with their values", where=where)
    _count(told["width"], "profile.width", where, WIDEST)


def _input(told: Any, where: str) -> None:
    """None, or what is told of events: `Marks` without its arrays."""
    if told is None:
        return
    fine = isinstance(told, dict) and told.keys() == INPUT
    fine = fine and all(_vocabularies(told[key], marks.MOST_MARKS, marks.MOST_VALUES) for key in ("events", "items"))
    fine = fine and all(isinstance(told[key], list) and len(told[key]) <= marks.MOST_MARKS for key in LISTS)
    fine = fine and all(isinstance(part, str) and part in marks.DATES for part in told["dates"])
    fine = fine and all(type(place) is int and 0 <= place < len(told["items"]) for place in told["places"])
    fine = fine and type(told["ids"]) is bool and told["join"] in ("sum", "mlp")
    if not fine:
        raise ModelError(f"input: {shorten(repr(told))}", expected="what is read of events", where=where)
    _count(told["gaps"], "input.gaps", where, marks.MOST_MARKS)
    _count(told["width"], "input.width", where, LARGEST)


def _vocabularies(told: Any, most: int, values: int) -> bool:
    """Whether it is a list of names with their values: texts, each once."""

    def texts(found: Any) -> bool:
        fine = isinstance(found, list) and len(found) <= values and all(isinstance(value, str) for value in found)
        return fine and len(set(found)) == len(found)

    fine = isinstance(told, list) and len(told) <= most
    fine = fine and all(isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in told)
    return fine and len({one[0] for one in told}) == len(told) and all(texts(one[1]) for one in told)


def _spec(spec: Any, find: Callable[[str, str], type], where: str) -> None:
    """Each part exists, and its options are those of its signature, in their ranges."""
    from perdure.settings.faults import of_model
    from perdure.settings.schema import schema_of

    if not isinstance(spec, dict) or spec.keys() != PARTS.keys():
        raise ModelError(f"spec: {shorten(repr(spec))}", expected="encoder, method and objective", where=where)
    for part, kind in PARTS.items():
        told = spec[part]
        if not isinstance(told, dict) or not isinstance(told.get("name"), str):
            raise ModelError(f"spec.{part}: {shorten(repr(told))}", expected="a name and options", where=where)
        options = {key: value for key, value in told.items() if key != "name"}
        _, faults = of_model(schema_of(find(kind, told["name"])), options, part)
        if faults:
            raise ModelError(shorten("; ".join(map(str, faults)), 300), where=where)
        for key, value in options.items():
            for number in value if isinstance(value, list) else [value]:
                if type(number) is int and abs(number) > LARGEST:
                    raise ModelError(f"{part}.{key}: {shorten(number)}", expected=f"at most {LARGEST}", where=where)


def _card(card: Any, key: str, where: str) -> None:
    """One task's card: every field there, none else, of its type."""
    if not isinstance(card, dict) or card.keys() != FIELDS.keys():
        raise ModelError(f"{key}: {shorten(repr(card))}", expected=", ".join(FIELDS), where=where)
    for field, kind in FIELDS.items():
        if type(card[field]) is not kind:
            raise ModelError(
                f"{key}.{field}: {shorten(repr(card[field]))}", expected=f"a value of type {kind.__name__}", where=where
            )
    if not TASK_NAME.fullmatch(card["name"]):
        raise ModelError(f"{key}.name: {shorten(repr(card['name']))}", expected=NAME_RULE, where=where)
    if card["kind"] not in KINDS:
        raise ModelError(f"{key}.kind: {shorten(repr(card['kind']))}", expected=" or ".join(KINDS), where=where)
    _count(card["labels"], f"{key}.labels", where)
