"""As many settings tried with every method, and the best of each by the validation users.

OUT/tries/         a comparison: METHOD is the recipe as it stands, METHOD-try2, METHOD-try3, ... what [search] lists
OUT/search.json    what was tried and what came of it
OUT/tuned.toml     [compare.METHOD] with the best of each, to put into the recipe
                                                                                                     [reads, writes]
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from perdure.api import asking, cells, results
from perdure.api.cells import Cell, Plan
from perdure.api.comparing import compared
from perdure.api.identity import effective
from perdure.api.learning import Recipe
from perdure.errors import SettingsError, UsageError, shorten
from perdure.settings import Settings, toml, tuned
from perdure.settings import search as searched

__all__ = ["Search", "Try", "search"]


@dataclass(frozen=True)
class Try:
    """One method with one choice of settings.

    Attributes:
        settings: what differs from the recipe, dotted key -> value; nothing for the recipe as it stands.
        folders: of its runs, one a seed.
        average: mean over all tasks of their measures on validation users, after the last task; None if a run failed.
        tasks: those measures, means over seeds. best: whether it is the first with the best average of its method.
        fault: why a run failed, one line.
    """

    method: str
    settings: dict[str, Any]
    folders: list[str]
    average: float | None
    tasks: dict[str, float]
    best: bool
    fault: str | None


@dataclass(frozen=True)
class Search:
    """What a search gave.

    Attributes:
        tuned: the file of [compare.<method>] sections. seeds: of every try.
        failed: those among tries that failed.
    """

    folder: str
    tuned: str
    seeds: list[int]
    tries: list[Try] = field(repr=False)
    failed: list[Try]
    notes: list[str]
    seconds: float


def search(
    recipe: Recipe,
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    tries: int | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    allow_leaks: bool = False,
    show: Any = None,
) -> Search:
    """Try settings with every method, the same number with each, and tell the best by validation users.

    The first try is the recipe as it stands; the others are drawn from what [search] lists. Test users are measured, as
    in every comparison, and have no part in the choice. Run again on the same folder, it does what is missing; more
    methods and tries may be asked for.

    Args:
        recipe: a TOML file with a section [search], or the same as nested dicts.
        out: the search's folder: new or empty, or one where the same search stands.
        methods: names, or variants of [compare]; the recipe's method by default.
        tries: with each method; by default as many as the method with the fewest choices has.
        seeds: of every try, the recipe's by default; several (with [split] folds, of several folds) judge by more
            validation users, who are test users of other folds. The first draws what is tried.
        overrides, allow_leaks, show: as in `compare`.

    Raises:
        SettingsError, DataError, RunLocked, Interrupted: as `compare`. SettingsError: nobody validates a task.
        UsageError: nothing to try, too many tries, or a try whose name is another's.
    """
    from perdure.model.disk import machine_faults
    from perdure.model.files import render, write_file

    began, out = time.monotonic(), Path(out)
    if tries is not None and (not isinstance(tries, int) or tries < 2):
        raise UsageError(f"tries = {shorten(repr(tries))}", expected="a whole number, 2 or more", where="tries")
    plan = Plan.read(recipe, overrides, out / "tries")
    _validated(plan.settings)
    names = cells.chosen(methods, [plan.settings.tuning.name], plan.known("methods"), "method")
    seeds = cells.chosen(seeds, [plan.settings.run.seed], None, "seed")
    named = _named({name: _choices(plan, name, seeds[0]) for name in names}, tries, plan.settings.compare)
    _same(out, named)
    with machine_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    changes = [*overrides, *(text for name in named for text in _variant(plan, name, *named[name]))]
    axes = ([*named], None, seeds, None, None)
    done = compared(recipe, out / "tries", axes, changes, allow_leaks=allow_leaks, validated=True, show=show)
    asked = [cell for cell in done.cells if cell["seed"] in seeds]
    runs = {name: [cell for cell in asked if cell["method"] == name] for name in named}
    told = _judged([_try(out / "tries", runs[name], *one) for name, one in named.items()])
    best = {one.method: one.settings for one in told if one.best}
    write_file(out / "search.json", render({"seeds": seeds, "tries": [asdict(one) for one in told]}))
    write_file(out / "tuned.toml", _sections(plan, best, len(told) // len(names), seeds).encode())
    failed, notes = [one for one in told if one.fault], list(plan.settings.notes)
    return Search(str(out), str(out / "tuned.toml"), seeds, told, failed, notes, round(time.monotonic() - began, 1))


def _validated(settings: Settings) -> None:
    """Refuse a split that leaves a task without validation users, before anything is learned."""
    split = settings.split
    for task in settings.tasks:
        last = split.kind == "last" and task.kind == "next_item"
        if split.valid_last == 0 if last else split.valid == 0 and split.kind != "time":
            key = "valid_last" if last else "valid"
            raise SettingsError(
                f"split.{key} is 0, so nobody validates task {task.name}",
                expected="validation users, by whom the best try is chosen",
                where=settings.file,
                fix=f"set split.{key} above 0",
            )


def _same(out: Path, named: Collection[str]) -> None:
    """Refuse a folder where tries stand that are none of these."""
    if (out / "tries" / "compare.json").is_file():
        standing = {cell["method"] for cell in results.read(out / "tries" / "compare.json")["cells"]}
        if other := sorted(standing - set(named)):
            raise UsageError(
                f"other tries stand here: {shorten(', '.join(other))}",
                expected="the methods and tries of before, or more",
                where=str(out),
                fix="choose another folder",
            )


def _choices(plan: Plan, method: str, seed: int) -> list[dict[str, Any]]:
    """What can be tried with a method, the recipe as it stands first; each once, whatever it is called."""
    own, told = plan.settings.compare.get(method, {}), {}
    cell = Cell(plan.settings.encoder.name, method, "forward", "clean", seed)
    for choice in [{}, *searched.choices(plan.settings.search, method, seed)]:
        compared = {**plan.settings.compare, method: {**own, **choice}}
        tried = replace(plan, settings=replace(plan.settings, compare=compared))
        whole = effective(cells.settings_of(tried.request(cell, shared=False)))
        told.setdefault(json.dumps(whole, sort_keys=True), choice)
    return list(told.values())


def _named(
    choices: Mapping[str, list[dict[str, Any]]], tries: int | None, taken: Collection[str] = ()
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of a try -> method and settings: as many with each method. No try has one of the names that are taken."""
    fewest = min(choices, key=lambda name: len(choices[name]))
    most = len(choices[fewest])
    if most < 2 or (tries or most) > most:
        raise UsageError(
            f"{most - 1 or 'nothing'} to try with {fewest} besides the recipe as it stands",
            expected=f"{tries or 'as many'} tries with every method",
            where="[search]",
            fix=f"give [search] or [search.{fewest}] lists of values, see docs/compare.md",
        )
    named, held = dict[str, tuple[str, dict[str, Any]]](), {one.casefold() for one in (*taken, *choices)}
    for method, told in choices.items():
        named[method] = (method, told[0])
        for place, one in enumerate(told[1 : tries or most], 2):
            name = f"{method.replace('.', '-')}-try{place}"
            if name.casefold() in held or not tuned.NAME.fullmatch(name):
                raise UsageError(
                    f"try {place} of {method} would be called {shorten(name)!r}",
                    expected="a name of at most 64 characters that nothing else has",
                    where=f"[compare.{method}]",
                    fix="give this variant, or the one with that name, a shorter or another name",
                )
            named[name] = (method, one)
            held.add(name.casefold())
    return named


def _variant(plan: Plan, name: str, method: str, choice: dict[str, Any]) -> list[str]:
    """A try as a variant of [compare]: what was tuned for its method, and what is tried."""
    if name == method:
        return []
    own = plan.settings.compare.get(method, {})
    values = {**own, **choice, "method": tuned.part(plan.settings.compare, method)}
    return [f"compare.{name}.{key}={toml.written(value)}" for key, value in values.items()]


def _try(out: Path, runs: list[dict[str, Any]], method: str, choice: dict[str, Any]) -> Try:
    """What came of the runs of a try, one a seed."""
    folders, values = [out / cell["folder"] for cell in runs], {}
    if all(cell["state"] == "done" for cell in runs):
        scores = [one for folder in folders for one in asking.evaluate(folder, split="valid", store=out / "store")]
        values = {task: fmean(s["value"] for s in scores if s["task"] == task) for task in (s["task"] for s in scores)}
    fault = next((cell["fault"] for cell in runs if cell["fault"]), None)
    return Try(method, choice, [*map(str, folders)], fmean(values.values()) if values else None, values, False, fault)


def _judged(tries: list[Try]) -> list[Try]:
    """The same, with the best of each method told."""
    best: dict[str, Try] = {}
    for one in tries:
        before = best.get(one.method)
        if one.average is not None and (before is None or one.average > (before.average or 0.0)):
            best[one.method] = one
    return [replace(one, best=best.get(one.method) is one) for one in tries]


def _sections(plan: Plan, best: dict[str, dict[str, Any]], tries: int, seeds: Sequence[int]) -> str:
    """tuned.toml"""
    whose = f"{'seeds' if seeds[1:] else 'seed'} {', '.join(map(str, seeds))}"
    text = f"# of {tries} tries with each method the best on the validation users of {whose}\n"
    for method, choice in best.items():
        values = {**plan.settings.compare.get(method, {}), **choice}
        said = toml.render({"compare": {method: values}}).removeprefix("[compare]\n\n")
        text += "\n" + (said if values else f"# {method}: the recipe as it stands\n")
    return text
