"""From a TOML file and overrides to checked Settings, and back.                                             [reads]

Precedence: default < recipe < override. The origin of every value is kept. A path in a recipe is absolute, or begins
with `$PERDURE_DATA` (the only variable that is expanded), or is relative to the recipe's own folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from perdure.errors import SettingsError, UsageError, shorten
from perdure.events.data_settings import DataSettings
from perdure.events.examples import History, Task
from perdure.events.splits import Split
from perdure.settings import search, toml, tuned
from perdure.settings.faults import Fault, SettingsFaults, nearest, of_model
from perdure.settings.meant import mend
from perdure.settings.schema import model_of, schema_of
from perdure.settings.sections import (
    EvaluateSettings,
    InputSettings,
    Part,
    Parts,
    PretrainSettings,
    ProfileSettings,
    RunSettings,
    bad_names,
    contradictions,
)
from perdure.train_settings import TrainSettings

__all__ = ["SECTIONS", "Settings", "from_dict", "load"]

SECTIONS = [
    "data", "history", "split", "profile", "input", "encoder", "objective", "pretrain", "tuning", "train", "evaluate",
    "run", "tasks", "compare", "search",
]  # fmt: skip
VARIABLE = "PERDURE_DATA"
DEFAULTS = {"objective": "next_item"}
PARTS = {"encoder": ("encoders", "name"), "objective": ("objectives", "name"), "tuning": ("methods", "method")}


@dataclass(frozen=True)
class Settings:
    """All settings of one run, checked and complete.

    Attributes:
        data: with resolved paths; `as_dict` gives them as written.
        pretrain, task_train: only what differs from `train`; ask `train_for`.
        compare: method or encoder -> dotted key -> value, tuned for it; read by `compare` alone, so no part of a run.
        search: method, or search.EVERY -> dotted key -> values to try; read by `search` alone.
        origin: dotted key -> "default", "recipe" or "override".
        folder: what relative paths were resolved against.
        file: the recipe, or "" where settings came from Python.
        notes: what the user should know of how these settings came about.
    """

    data: DataSettings
    history: History
    split: Split
    profile: ProfileSettings
    input: InputSettings
    encoder: Part
    objective: Part
    tuning: Part
    pretrain: PretrainSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    run: RunSettings
    tasks: tuple[Task, ...]
    task_train: tuple[TrainSettings, ...]
    compare: dict[str, dict[str, Any]] = field(default_factory=dict)
    search: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    file: str = ""
    notes: tuple[str, ...] = ()
    written: dict[str, Any] = field(default_factory=dict, repr=False)

    def train_for(self, place: int) -> TrainSettings:
        """How task number `place` (from 0) is trained: [train], for the first task [pretrain], then its own `train`."""
        changed = self.pretrain.model_dump(exclude_unset=True, exclude={"model", "start"}) if place == 0 else {}
        changed |= self.task_train[place].model_dump(exclude_unset=True)
        return self.train.model_copy(update=changed)

    def spec(self) -> dict[str, Any]:
        """{"encoder", "method", "objective"}: name and options of each, as a model folder writes them."""
        return {"encoder": self.encoder.spec(), "method": self.tuning.spec(), "objective": self.objective.spec()}

    def as_dict(self) -> dict[str, Any]:
        """The whole effective settings as plain values, paths as written; `from_dict` takes it back."""
        return _plain(self.written)

    def to_toml(self) -> str:
        """The same as TOML."""
        return toml.render(self.as_dict())


def load(recipe: str | Path, overrides: Sequence[str] = (), *, parts: Parts) -> Settings:
    """Read a recipe.

    Args:
        recipe: a TOML file of at most 1 MiB.
        overrides: `section.key=value`; the value as TOML writes it, or bare, as a person types it: text, `.2`, `1,10`.
            `tasks.0.train.epochs=3` and `tasks.watch.train.epochs=3` name a task by place and by name.
        parts: where classes come from (`perdure.registry`).

    Raises:
        SettingsError: the file cannot be read, or anything in it is wrong; all faults at once.
    """
    path = Path(recipe)
    raw = toml.read(path)
    return from_dict(raw, overrides, parts=parts, folder=path.resolve().parent, file=str(recipe))


def from_dict(
    raw: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    parts: Parts,
    folder: Path | None = None,
    file: str = "",
    expand: bool = True,
) -> Settings:
    """Settings from plain values, as TOML would give them. Arguments and errors as in `load`.

    Args:
        folder: what relative paths are resolved against; the working directory by default.
        file: named in errors.
        expand: False leaves all paths as they are written, for settings whose files are not needed any more.
    """
    if isinstance(overrides, str):
        one = repr(shorten(overrides))
        raise UsageError(f"overrides = {one}", expected=f"a list: [{one}]", where="overrides")
    tables: dict[str, Any] = _plain(raw)
    given = dict.fromkeys(_keys(tables), "recipe")
    faults: list[Fault] = []
    said: dict[str, str] = {}
    for text in overrides:
        key = toml.override(tables, text, faults)
        if key:
            said = {old: told for old, told in said.items() if not old.startswith(key + ".")} | {key: text}
            given = {old: how for old, how in given.items() if not old.startswith(key + ".")}
            given |= {key: "override"} | {f"{key}.{below}": "override" for below in _keys(toml.value(text))}
    notes = _left_behind(tables, raw, given, parts)
    folder = folder or Path.cwd()
    compare, tried = tables.pop("compare", {}), tables.pop("search", {})
    settings = _build(tables, wrong := [], parts, folder, file, expand)
    if mend(tables, wrong, said):
        settings = _build(tables, wrong := [], parts, folder, file, expand)
    faults += wrong
    if settings is not None and not faults:
        again = partial(from_dict, parts=parts, folder=folder, expand=False)
        faults += contradictions(settings, parts)
        faults += (wrong := list(tuned.faults(compare, tables, parts, again)))
        faults += [] if wrong else search.faults(tried, compare, tables, parts, again)
    if faults or settings is None:
        raise SettingsFaults([replace(fault, where=_where(fault.key, said, file)) for fault in faults], file)
    settings.origin.update(_origins(settings.written, given))
    notes = (*notes, *_not_fitting(settings))
    return replace(settings, notes=notes, compare=tuned.flat(compare), search=search.flat(tried))


def _where(key: str, said: Mapping[str, str], file: str) -> str:
    """The override that gave what is wrong, or those that are part of a section that is wrong; "" where none is."""
    over = [f"-s {shorten(said[one])}" for one in said if f"{key}.".startswith(f"{one}.")]
    below = [f"-s {shorten(said[one])}" for one in said if one.startswith(f"{key}.")]
    return over[-1] if over else ", ".join([*([file] if file else []), *below]) if below else ""


def _not_fitting(settings: Settings) -> list[str]:
    """A note where evaluate.metric decides some tasks and not others."""
    other = [task.name for task in settings.tasks if not settings.evaluate.fits(task.kind)]
    told = f"evaluate.metric: {settings.evaluate.metric} does not fit {', '.join(other)}, measured by their default"
    return [told] if settings.evaluate.metric and other else []


def _left_behind(
    tables: dict[str, Any], raw: Mapping[str, Any], given: dict[str, str], parts: Parts
) -> tuple[str, ...]:
    """An override that names another encoder or objective leaves behind the recipe's options for the old one that the
    new one does not know; one that names another method all of them, as `compare` does: what two methods call alike
    need not be the same. Removes them in place; a note for each section."""
    notes = []
    for section, (kind, naming) in PARTS.items():
        name, values = _table(tables, section).get(naming), _table(tables, section)
        if given.get(f"{section}.{naming}") != "override" or name not in parts.names(kind):
            continue
        others = kind == "methods" and _table(raw, section).get(naming, name) != name
        known = schema_of(parts.find(kind, str(name))).model_fields
        own = [key for key in values if given.get(f"{section}.{key}") == "recipe"]  # of the recipe's part
        left = [key for key in own if others or key not in known]
        for key in left:
            del values[key]
        if left:
            why = "is of its own method" if others else f"means nothing to {name}"
            notes.append(f"[{section}] {', '.join(left)} of the recipe {why} and was left out")
    return tuple(notes)


def _build(
    raw: dict[str, Any], faults: list[Fault], parts: Parts, folder: Path, file: str, expand: bool
) -> Settings | None:
    """Every section by itself; None where a needed one is wrong. Faults are added to the list."""
    for section in raw:
        if section not in SECTIONS:
            faults.append(Fault(section, "unknown section", fix=nearest(section, SECTIONS)))

    def take(section: str, model: type[BaseModel], values: Any = None) -> Any:
        made, wrong = of_model(model, raw.get(section, {}) if values is None else values, section)
        faults.extend(wrong)
        return made

    data: DataSettings | None = take("data", DataSettings)
    if data is not None and (formats := parts.names("formats")) and data.format not in formats:
        faults.append(Fault("data.format", f"no format {shorten(data.format)!r}", fix=nearest(data.format, formats)))
    history, split = take("history", model_of(History)), take("split", model_of(Split))
    encoder, objective, tuning = (_part(raw, section, parts, faults) for section in PARTS)
    train, pretrain = take("train", TrainSettings), take("pretrain", PretrainSettings)
    evaluate, run = take("evaluate", EvaluateSettings), take("run", RunSettings)
    profile, inputs = take("profile", ProfileSettings), take("input", InputSettings)
    tasks, task_train = _tasks(raw, take, faults)
    if faults or data is None:
        return None
    written = {
        "data": data.model_dump(),
        "history": history.model_dump(),
        "split": split.model_dump(),
        "profile": profile.model_dump(),
        "input": inputs.model_dump(),
        "encoder": encoder.spec(),
        "objective": objective.spec(),
        "pretrain": pretrain.model_dump(exclude_unset=True),
        "tuning": {"method": tuning.name, **tuning.options},
        "train": train.model_dump(),
        "tasks": [
            asdict(task) | ({"train": own.model_dump(exclude_unset=True)} if own.model_fields_set else {})
            for task, own in zip(tasks, task_train, strict=True)
        ],
        "evaluate": evaluate.model_dump(),
        "run": run.model_dump(),
    }
    where = _Paths(folder, faults, expand)
    settings = Settings(
        where.data(data), History(**history.model_dump()), Split(**split.model_dump()),
        where.profile(profile),
        inputs.model_copy(update=where.one(inputs, "vectors", "input")), encoder, objective, tuning,
        where.pretrain(pretrain), train, evaluate,
        run.model_copy(update=where.one(run, "store", "run")), tasks, task_train,
        folder=folder, file=file, written=_plain(written),
    )  # fmt: skip
    return None if faults else settings


def _table(raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    found = raw.get(section, {})
    return found if isinstance(found, dict) else {}


def _part(raw: Mapping[str, Any], section: str, parts: Parts, faults: list[Fault]) -> Any:
    """[encoder], [objective] or [tuning]: the class by its name, its options by its signature, and a trial of both."""
    kind, naming = PARTS[section]
    if not isinstance(raw.get(section, {}), dict):
        faults.append(Fault(section, f"found {shorten(repr(raw[section]))}", "a table"))
        return None
    values = dict(_table(raw, section))
    name, known = values.pop(naming, DEFAULTS.get(section)), parts.names(kind)
    if name is None:
        faults.append(Fault(f"{section}.{naming}", "is missing", f"one of {', '.join(known)}"))
        return None
    if not isinstance(name, str) or name not in known:
        faults.append(Fault(f"{section}.{naming}", f"found {shorten(repr(name))}", fix=nearest(str(name), known)))
        return None
    made, wrong = of_model(schema_of(parts.find(kind, name)), values, section, besides=[naming])
    faults += wrong
    if made is None:
        return None
    try:
        parts.trial(kind, name, options := made.model_dump())
    except SettingsError as fault:
        faults.append(Fault(section, fault.found, fault.expected, fault.fix))
        return None
    return Part(name, options)


def _tasks(raw: Mapping[str, Any], take, faults: list[Fault]) -> tuple[tuple[Task, ...], tuple[TrainSettings, ...]]:
    tasks: list[Task] = []
    trains: list[TrainSettings] = []
    tables = raw.get("tasks", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        found = shorten(repr(tables)) if tables else "there is none"
        faults.append(Fault("tasks", found, "one [[tasks]] table or more, in the order they are learned"))
        return (), ()
    known = [*model_of(Task).model_fields, "train"]
    misnamed = list(bad_names([table.get("name") for table in tables]))
    for place, table in enumerate(tables):
        section = f"tasks.{place}"
        for key in table:
            if key not in known:
                name = shorten(str(table.get("name", place)))
                own = key in TrainSettings.model_fields
                fix = f"did you mean tasks.{name}.train.{key}?" if own else nearest(key, known)
                faults.append(Fault(f"{section}.{key}", f"unknown key of task {name}", fix=fix))
        values = {key: value for key, value in table.items() if key != "train" and key in known}
        if any(fault.key == f"{section}.name" for fault in misnamed):
            values["name"] = f"task{place}"  # told once, below
        task, own = (
            take(section, model_of(Task), values),
            take(f"{section}.train", TrainSettings, table.get("train", {})),
        )
        if task is not None and own is not None:
            tasks.append(Task(**task.model_dump()))
            trains.append(own)
    faults += misnamed
    return tuple(tasks), tuple(trains)


@dataclass
class _Paths:
    """Resolves the paths of a recipe."""

    folder: Path
    faults: list[Fault]
    expand: bool = True

    def resolve(self, text: str, key: str) -> str:
        """Absolute, from $PERDURE_DATA, or from the recipe's folder; absolute in the end."""
        if not self.expand:
            return text
        if text == f"${VARIABLE}" or text.startswith(f"${VARIABLE}/"):
            root = os.environ.get(VARIABLE)
            if not root:
                fix = f"set it to the folder that holds {text[len(VARIABLE) + 2 :] or 'the data'}"
                self.faults.append(Fault(key, f"the variable {VARIABLE} is not set", fix=fix))
                return text
            return str(Path(root).absolute() / text[len(VARIABLE) + 2 :])
        if text.startswith(("$", "~")):
            only = f"an absolute path, ${VARIABLE}/..., or a path from the recipe's folder"
            self.faults.append(Fault(key, f"found {shorten(text)!r}, which is not expanded", only))
        return str(self.folder / text)

    def data(self, data: DataSettings) -> DataSettings:
        """[data] with all its paths resolved."""
        path: Any = data.path
        if isinstance(path, str):
            path = self.resolve(path, "data.path")
        elif isinstance(path, list):
            path = [self.resolve(one, "data.path") for one in path]
        else:
            path = {name: self.resolve(one, f"data.path.{name}") for name, one in path.items()}
        update: dict[str, Any] = {"path": path}
        for key in ("users", "items_table"):
            table = getattr(data, key)
            if table is not None:
                update[key] = table.model_copy(update=self.one(table, "path", f"data.{key}"))
        return data.model_copy(update=update)

    def profile(self, profile: ProfileSettings) -> ProfileSettings:
        """[profile] with all its paths resolved."""
        update, friends = self.one(profile, "vectors", "profile"), profile.friends
        if friends is not None:
            update["friends"] = friends.model_copy(update=self.one(friends, "path", "profile.friends"))
        return profile.model_copy(update=update)

    def one(self, section: BaseModel, key: str, where: str) -> dict[str, Any]:
        """{key: resolved path}, or nothing where it is not given; a key that was not set stays unset."""
        text = getattr(section, key)
        return {} if text is None else {key: self.resolve(text, f"{where}.{key}")}

    def pretrain(self, pretrain: PretrainSettings) -> PretrainSettings:
        """[pretrain] with all its paths resolved."""
        resolved = [self.one(pretrain, key, "pretrain") for key in ("model", "start")]
        return pretrain.model_copy(update={key: path for one in resolved for key, path in one.items()})


# -- plain values and their keys ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A copy of dicts, lists and scalars: tuples become lists, dates become ISO text, None entries are left out; what
    numpy holds becomes Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else value.isoformat() if _dated(value) else str(value)


def _dated(value: Any) -> bool:
    return hasattr(value, "isoformat")


def _keys(value: Any, before: str = "") -> list[str]:
    """Every dotted key of nested tables and lists of tables; plain lists are values."""
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        entries = list(enumerate(value))
    else:
        return [before] if before else []
    found = [before] if before else []
    for key, one in entries:
        found += _keys(one, f"{before}.{key}" if before else str(key))
    return found


def _origins(written: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    return {key: given.get(key, "default") for key in _keys(written)}
