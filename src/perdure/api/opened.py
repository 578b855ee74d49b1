"""A model that is asked, and its log: found, verified and loaded once, and kept as long as the model is.   [reads]

MODEL is a model folder, a run folder that holds one, or a model that `load` gave. What needs the log (evaluating,
embedding, a user by name) finds the store beside the model, or takes `store`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from perdure import registry
from perdure.errors import DataError, MachineError, ModelError, UsageError, shorten

if TYPE_CHECKING:
    from perdure.events.answers import Answers
    from perdure.events.examples import Sequences
    from perdure.events.ids import Ids
    from perdure.events.marks import Marked
    from perdure.events.profiles import Profiles
    from perdure.events.sequences import Events
    from perdure.inference.recommend import Met
    from perdure.model.user_model import UserModel
    from perdure.settings import Settings

__all__ = [
    "compiled", "homes", "load", "locate", "log_of", "model_of", "owned_of", "profiles_of", "read_of", "settings_of",
    "told_of",
]  # fmt: skip

# a loaded model -> its log, verified once, and the tasks made ready over it; both are read-only, and go with the model
_MADE: WeakKeyDictionary[Any, dict[tuple[str, ...], Any]] = WeakKeyDictionary()
_LOGS, _LETTING_GO = 2, Lock()  # logs kept for a model: its own and a later one, say; older ones are let go


def _once(model: Any, make: Callable[[], Any], *key: str) -> Any:
    """What was made for a model under this key before, or is made now."""
    made = _MADE.setdefault(model, {})
    found = made.get(key)
    if found is None:
        found = made[key] = make()
    return found


def _let_go(model: Any) -> None:
    """Forget the logs read before the last ones, with all that was made over them: a service meets a new one a day."""
    with _LETTING_GO:
        made = _MADE[model]
        logs = [key for key in list(made) if key[0] == "log"]
        kept = {made[key].digest for key in logs[-_LOGS:]}
        for key in list(made):
            if key in logs[:-_LOGS] or (key[0] not in ("log", "settings") and key[1] not in kept):
                made.pop(key, None)


def locate(path: str | Path, where: str = "MODEL") -> Path:
    """The model folder that `path` is, or holds; also one that stepped aside in a save that was killed.

    Raises:
        ModelError: there is none.
    """
    from perdure.model import files

    path = Path(path)
    for folder in (path, path / "model"):
        with contextlib.suppress(ModelError, ValueError):  # "/" has no name, and nothing beside it
            files.locate(folder.absolute())
            return folder  # by its own name: whoever reads it looks again where it stands
    fix = "name a run's folder or its model's" if path.exists() else "there is no such folder"
    fix = "the run has not finished its first task" if (path / "run.json").is_file() else fix
    if (path / "compare.json").is_file():
        fix = f"{shorten(path)} is a comparison: perdure report tells it; its runs are in {shorten(path / 'runs')}"
    if (path / "tries" / "compare.json").is_file():
        fix = f"{shorten(path)} is a search: its runs are in {shorten(path / 'tries' / 'runs')}"
    raise ModelError(f"no model in {shorten(path)}", expected="a folder with model.json", where=where, fix=fix)


def homes(folder: Path) -> list[Path]:
    """What a folder stands in: as its name tells, and, for a link or ".", where it really is."""
    return list(dict.fromkeys([folder.parent, folder.resolve().parent]))


def load(path: str | Path, device: str = "cpu") -> UserModel:
    """A model from its folder, every digest verified, to be asked often.

    Args:
        path: a model folder, or a run folder that holds one.
        device: "cpu", or a GPU: "cuda", "cuda:1".

    Raises:
        ModelError: names what is missing or damaged. MachineError: the device is not there.
    """
    import torch

    from perdure.model import store

    folder, have = locate(path), [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if str(device) not in (there := ["cpu", *have, *(["cuda"] if have else [])]):
        raise MachineError(
            f"there is no device {shorten(device)!r}", expected=f"one of {', '.join(there)}", where="device"
        )
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator before weights are read
        model = store.load(folder, registry.find, device)
    model.folder = folder.absolute()  # where its store may lie, wherever the caller goes
    return model


def model_of(model: UserModel | str | Path) -> UserModel:
    """A model, or the one that a folder holds. UsageError where it is neither."""
    from perdure.model.user_model import UserModel

    if not isinstance(model, UserModel | str | Path):
        raise UsageError(
            f"a {type(model).__name__} is no model",
            expected="a folder, or what perdure.load gave",
            where="model",
            fix="of what learn gave, take .model" if hasattr(model, "model") else "",
        )
    return load(model) if isinstance(model, str | Path) else model


def folder_of(model: UserModel | str | Path) -> Path:
    """A folder, or that which a model was loaded from. UsageError where it is neither."""
    if isinstance(model, str | Path):
        return Path(model)
    if (folder := model_of(model).folder) is None:
        raise UsageError("the model stands in no folder", expected="one that was saved and loaded", where="model")
    return folder


def _beside(folder: Path) -> list[Path]:
    """Where the store of a model may stand: beside it, or in the comparison that its run is a part of."""
    compared = next((home for home in folder.absolute().parents if (home / "compare.json").is_file()), None)
    return [*(home / "store" for home in homes(folder)), *([compared / "store"] if compared else [])]


def log_of(model: UserModel, store: str | Path | None, later: bool = False) -> Events:
    """The store that the model learned from; where another is named, `later` says whether it may be read."""
    from perdure.events import sequences

    folder, wanted = model.folder, model.manifest.get("data_digest", "")
    beside = [Path(store)] if store else _beside(folder) if folder else []
    found = next((place for place in beside if (place / "store.json").is_file()), None)
    if found is None:
        raise DataError(
            f"no prepared log in {store}" if store else "the prepared log is not beside the model",
            expected=f"a store in {' or '.join(map(str, beside))}" if beside else "a store",
            where="store",
            fix="name the store's folder (what the recipe has as run.store), or ask with a history of item ids",
        )
    made = (found / "store.json").stat().st_mtime_ns  # another log may take the folder over
    events = _once(model, lambda: sequences.load(found), "log", str(found.resolve()), str(made))
    _let_go(model)
    if wanted and events.digest != wanted and not (store and later):
        raise DataError(
            f"{found} holds another log (digest {events.digest[:12]}) than the model learned from",
            expected=f"{wanted[:12]}",
            where="store",
            fix="embed and recommend read another log where it is named",
        )
    return events


def settings_of(model: UserModel) -> Settings:
    """The settings a model learned with, read once."""
    from perdure.model.manifest import refusals
    from perdure.settings import from_dict

    raw = model.manifest.get("settings")
    if not raw:
        raise ModelError("the model does not tell its settings", where="model.json", fix="ask it with histories")

    def read() -> Settings:
        with refusals("model.json"):  # what stands there and is wrong is no fault of who asks
            return from_dict(raw, parts=registry, expand=False)

    return _once(model, read, "settings")


def compiled(model: UserModel, events: Events, names: Sequence[str]) -> dict[str, Any]:
    """Task data of some of the model's tasks, by the settings it learned with."""
    from perdure.api.plan import tasks_of
    from perdure.api.vectors import found

    def make() -> dict[str, Any]:
        _told_tasks(model, names)
        return tasks_of(found(settings_of(model), _folders(model, events)), events, names, model)

    return _once(model, make, "tasks", events.digest, *names)


def profiles_of(model: UserModel, events: Events) -> Profiles | None:
    """Of all users of a log, where the model reads any."""
    from perdure.api.vectors import found
    from perdure.events.profiles import profiles_as

    if (fields := model.fields) is None:
        return None

    def make() -> Profiles:
        vectors = found(settings_of(model), _folders(model, events)).profile.vectors
        return profiles_as(events, fields, vectors)

    return _once(model, make, "profiles", events.digest)


def _folders(model: UserModel, events: Events) -> list[Path]:
    """Where files that the settings name may lie."""
    return [Path(one).parent for one in (model.folder, events.folder) if one]


def told_of(model: UserModel, events: Events, name: str, row: int) -> tuple[list[str], Marked, list[str]]:
    """What the log says of a user row, as text ids: the history the task reads, what else is told of its events, and
    the answers to the task that are known.

    Known is every event outside the history that answers the task, whoever takes part in it and whatever the split.
    """
    shared, marked = _once(model, lambda: _told(model, events), "told", events.digest)
    places = np.arange(shared.starts[row], shared.starts[row + 1])
    history = events.item_ids.text(np.asarray(shared.items)[places])
    marks = marked.kept(places if shared.events is None else shared.events[places])
    if model.card(name).kind != "item":
        return history, marks, []
    answers, labels = _once(model, lambda: _answers(model, events, name), "answers", events.digest, name)
    known = labels.text(answers.codes[slice(*np.searchsorted(answers.users, [row, row + 1]))])
    rows = model.card(name).labels.rows(known)
    return history, marks, [label for label, there in zip(known, rows, strict=True) if there >= 0]


def _told(model: UserModel, events: Events) -> tuple[Sequences, Marked]:
    """What the log tells of all users, whatever the task: histories in its own rows, and marks of all its events."""
    from perdure.events.marks import Marks, marked_as
    from perdure.events.tasks import history_of

    return history_of(events, settings_of(model).history), marked_as(events, model.marks or Marks())


def owned_of(model: UserModel, events: Events, name: str, rows: np.ndarray) -> list[Met]:
    """The answers to a task that the log holds already of users by row (n,), as in `told_of`; none of row -1."""
    from perdure.inference.recommend import Met

    card = model.card(name)
    if card.kind != "item":
        return []
    answers, labels = _once(model, lambda: _answers(model, events, name), "answers", events.digest, name)
    found = np.concatenate([np.full(labels.first, -1), card.labels.rows(labels.series)])
    begin, end = np.searchsorted(answers.users, [rows, rows + 1])  # (n,)
    return [Met(found, answers.codes, begin, end)]


def read_of(model: UserModel, events: Events) -> tuple[Sequences, int]:
    """The histories of all users of a log in the model's rows, and how many of their events it does not know."""
    from perdure.events.later import read_as

    history = settings_of(model).history
    return _once(model, lambda: read_as(events, history, model.item_ids, model.marks), "read", events.digest)


def _answers(model: UserModel, events: Events, name: str) -> tuple[Answers, Ids]:
    """All users' answers to a task of kind item that a log tells, and the ids that they are rows of."""
    from perdure.events.tasks import known_answers

    return known_answers(events, _told_tasks(model, [name])[name], settings_of(model).history)


def _told_tasks(model: UserModel, names: Sequence[str]) -> dict[str, Any]:
    """Tasks by the settings that the model learned with. ModelError where those tell of none of that name."""
    told = {task.name: task for task in settings_of(model).tasks}
    if gone := [name for name in names if name not in told]:
        raise ModelError(f"its settings tell of no task {shorten(repr(gone[0]))}", where="model.json")
    return told
