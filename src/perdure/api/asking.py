"""What a model folder can say: evaluate, recommend, embed.                                              [reads, writes]

MODEL is a model folder, a run folder that holds one, or a model that `load` gave. What needs the log (evaluating,
embedding, a user by name) finds the store beside the model, or takes `store`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal
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
    from perdure.model.user_model import UserModel
    from perdure.settings import Settings

__all__ = ["embed", "evaluate", "load", "locate", "recommend"]

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
            if key in logs[:-_LOGS] or (key[0] != "log" and key[1] not in kept):
                made.pop(key, None)


def locate(path: str | Path) -> Path:
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
    raise ModelError(f"no model in {shorten(path)}", expected="a folder with model.json", where="MODEL", fix=fix)


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
    model.folder = folder.absolute()  # type: ignore[assignment]  # where its store may lie, wherever the caller goes
    return model


def _opened(model: UserModel | str | Path) -> UserModel:
    from perdure.model.user_model import UserModel

    if not isinstance(model, UserModel | str | Path):
        raise UsageError(
            f"a {type(model).__name__} is no model",
            expected="a folder, or what perdure.load gave",
            where="model",
            fix="of what learn gave, take .model" if hasattr(model, "model") else "",
        )
    return load(model) if isinstance(model, str | Path) else model


def _log(model: Any, store: str | Path | None, later: bool = False) -> Events:
    """The store that the model learned from; where another is named, `later` says whether it may be read."""
    from perdure.events import sequences

    folder, wanted = getattr(model, "folder", None), model.manifest.get("data_digest", "")
    beside = [Path(store)] if store else [home / "store" for home in homes(folder)] if folder else []
    found = next((place for place in beside if (place / "store.json").is_file()), None)
    if found is None:
        raise DataError(
            f"no prepared log in {store}" if store else "the prepared log is not beside the model",
            expected=f"a store in {' or '.join(map(str, beside))}" if beside else "a store",
            where="--store",
            fix="name the store's folder, or ask with a history of item ids",
        )
    made = (found / "store.json").stat().st_mtime_ns  # another log may take the folder over
    events = _once(model, lambda: sequences.load(found), "log", str(found.resolve()), str(made))
    _let_go(model)
    if wanted and events.digest != wanted and not (store and later):
        raise DataError(
            f"{found} holds another log (digest {events.digest[:12]}) than the model learned from",
            expected=f"{wanted[:12]}",
            where="--store",
            fix="embed and recommend read another log where it is named",
        )
    return events


def _settings(model: Any) -> Settings:
    """The settings a model learned with."""
    from perdure.settings import from_dict

    raw = model.manifest.get("settings")
    if not raw:
        raise ModelError("the model does not tell its settings", where="model.json", fix="ask it with histories")
    return from_dict(raw, parts=registry, expand=False)


def _compiled(model: Any, events: Events, names: Sequence[str]) -> dict[str, Any]:
    """Task data of some of the model's tasks, by the settings it learned with."""
    from perdure.api.plan import tasks_of
    from perdure.api.vectors import found

    def make() -> dict[str, Any]:
        return tasks_of(found(_settings(model), _folders(model, events)), events, names, model)

    return _once(model, make, "tasks", events.digest, *names)


def _profiles(model: Any, events: Events) -> Profiles | None:
    """Of all users of a log, where the model reads any."""
    from perdure.api.vectors import found
    from perdure.events.profiles import profiles_as

    def make() -> Profiles:
        vectors = found(_settings(model), _folders(model, events)).profile.vectors
        return profiles_as(events, model.fields, vectors)

    return None if model.fields is None else _once(model, make, "profiles", events.digest)


def _folders(model: Any, events: Events) -> list[Path]:
    """Where files that the settings name may lie."""
    return [Path(one).parent for one in (getattr(model, "folder", None), events.folder) if one]


def _user(model: Any, events: Events, name: str, row: int) -> tuple[list[str], Marked, list[str]]:
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


def _told(model: Any, events: Events) -> tuple[Sequences, Marked]:
    """What the log tells of all users, whatever the task: histories in its own rows, and marks of all its events."""
    from perdure.events.marks import Marks, marked_as
    from perdure.events.tasks import history_of

    return history_of(events, _settings(model).history), marked_as(events, model.marks or Marks())


def _answers(model: Any, events: Events, name: str) -> tuple[Answers, Ids]:
    """All users' answers to a task of kind item that a log tells, and the ids that they are rows of."""
    from perdure.events.tasks import known_answers

    settings = _settings(model)
    return known_answers(events, next(task for task in settings.tasks if task.name == name), settings.history)


def _number(value: Any) -> Any:
    """A number out of an array as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(ids: Any) -> Any:
    """Ids out of an array, a column or a generator as a list; a single text stays what it is, to be refused."""
    return list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else ids


def _none_left(card: Any, allow: Sequence[str]) -> list[str]:
    """Why an allow list leaves no answer."""
    named = bool(allow) and bool((card.labels.rows(allow) >= 0).any())
    why = "all that allow names is denied, or met already" if named else "allow names no answer of this task"
    return [f"{why}, so there is none to give"]


def _tasks(model: Any, task: str | None) -> list[str]:
    return list(model.tasks) if task is None else [model.card(task).name]


def evaluate(
    model: UserModel | str | Path,
    *,
    task: str | None = None,
    split: Literal["valid", "test"] = "test",
    ks: Sequence[int] | None = None,
    seen: Literal["drop", "keep"] | None = None,
    sampled: str | None = None,
    store: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Measure a model on held-out users, as its run did: what is not given is what the recipe's [evaluate] says.

    Args:
        model: what `load` gave, a model folder, or a run folder that holds one.
        task: one task; all of them by default.
        ks: cut-offs. seen: whether items of the input are left out of a ranking.
        sampled: "100 uniform" or "100 popularity": rank among so many only; told as such. "all": the full ranking.
        store: the prepared log, where it does not stand beside the model.

    Returns:
        Per task: task, split, n, metric, value, low, high (95 % interval), popularity (what is reached by answering
        everybody with what is popular in training), values, protocol, notes.

    Raises:
        UsageError, DataError, ModelError.
    """
    from perdure.evaluation.evaluate import evaluate as measure

    ks = _listed(ks)
    if ks is not None and not isinstance(ks, list):
        raise UsageError(f"ks = {shorten(repr(ks))}", expected="a list of whole numbers of 1 or more", where="ks")
    model = _opened(model)
    names, asked = _tasks(model, task), _settings(model).evaluate
    given = [name for name, value in (("ks", ks), ("seen", seen), ("sampled", sampled)) if value is not None]
    datas = _compiled(model, _log(model, store), names)
    drawn = asked.drawn if sampled is None else None if sampled == "all" else sampled
    ks, told = asked.ks if ks is None else [_number(k) for k in ks], []
    for name in names:
        metric = model.card(name).metric or None
        how: Any = {"ks": ks, "seen": seen or asked.seen, "sampled": drawn, "metric": metric}
        score = measure(model, datas[name], split, **how, popularity=True)
        told.append(score.to_dict())
        if given and model.card(name).kind == "one_of":
            told[-1]["notes"].append(f"{', '.join(given)} ignored: all classes are compared")
    return told


def recommend(
    model: UserModel | str | Path,
    *,
    task: str,
    user: str | None = None,
    history: Sequence[str] | None = None,
    profile: Mapping[str, str | None] | None = None,
    marks: Sequence[Mapping[str, Any]] | None = None,
    k: int = 10,
    seen: Literal["drop", "keep"] | None = None,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] | None = None,
    store: str | Path | None = None,
) -> dict[str, Any]:
    """The k best answers of a task, for a user of the log, or for any history of item ids, oldest first, and profile.

    Items and values the model does not know are ignored and listed in `unknown`. Where nothing is known that the task
    reads, what is popular in the task is the answer, and `source` says so. Ids are text, as the log has them.

    Args:
        model: what `load` gave, which is asked fastest; or a model folder, or a run folder that holds one.
        profile: field -> value, as text, for a model that reads profiles; what is left out is missing.
        marks: one for each event of the history, for a model that reads more of events than their items: column ->
            value, as text, and "time" -> seconds.
        k: 1 to 10,000.
        seen: with "drop" items of the history are no answers, nor, for a user of the log, what the log holds as the
            user's answers to this task already: who has bought a book is not told to buy it. With "keep" they are. What
            is not given is what the recipe's [evaluate] says.
        allow: only these may be answers. deny: these may not. What stands in both may not.
        store: for a user of the log, where it does not stand beside the model, or one of later.

    Returns:
        task, user, items, scores (probabilities for one_of; training counts where popularity answers), source ("model"
        or "popularity"), unknown, truncated (fewer than k answers were left to give), notes.

    Raises:
        UsageError: unknown task or none, k below 1 or above 10,000, a user and a history or profile, or none of them;
            a profile field the model does not read.
        DataError, ModelError.
    """
    from perdure.inference.recommend import recommend as ask

    if (user is None) == (history is None and profile is None):
        raise UsageError(
            "a user and a history or profile" if user is not None else "no user, no history and no profile",
            expected="a user of the log, or a history, a profile or both",
            where="--user, --history, --profile",
        )
    if user is not None and marks is not None:
        raise UsageError("a user, and marks", expected="marks of a history; the log tells of a user", where="marks")
    if isinstance(history, str | Set | Mapping) or not (history is None or isinstance(history, Iterable)):
        found = f"history = {shorten(repr(history))}"
        raise UsageError(found, expected="a list of item ids, oldest first", where="history")
    if profile is not None and not isinstance(profile, Mapping):
        raise UsageError(f"profile = {shorten(repr(profile))}", expected="field -> value, as text", where="profile")
    k, allow, deny = _number(k), _listed(allow), _listed(deny)
    if not isinstance(k, bool) and isinstance(k, int) and k > 10_000:
        raise UsageError(f"k = {k}", expected="1 to 10000", where="k")
    model = _opened(model)
    card, raw, stranger, owned = model.card(task), [] if history is None else list(history), [], []
    known: Any = None if profile is None else [profile]
    told: Any = None if marks is None else [marks]
    if user is not None:
        events = _log(model, store, later=True)
        row = int(events.user_ids.rows([user])[0])
        if row >= 0:
            raw, told, owned = _user(model, events, card.name, row)
            profiles = _profiles(model, events)
            known = None if profiles is None else profiles.of(np.array([row]))
        else:
            stranger = [user]
    said = (model.manifest.get("settings") or {}).get("evaluate", {}).get("seen", "drop")
    how: Any = seen or said
    without = [*(deny or []), *owned] if owned and how == "drop" and not isinstance(deny, str) else deny
    answer = ask(model, card.name, [raw], k, seen=how, allow=allow, deny=without, profiles=known, marks=told)[0]
    answer = asdict(answer)
    answer["unknown"] = [*stranger, *answer["unknown"]]
    notes = _none_left(card, allow) if allow is not None and not answer["items"] else []
    if profile and not getattr(model.overlays.get(card.name), "reads_profile", False):
        notes.append(
            f"{model.spec['method']['name']} answers {card.name} without a profile: what --profile tells is unused"
        )
    if raw and told is None and model.marks is not None and model.marks.names:
        notes.append(f"nothing but its items is told of this history; the model reads {', '.join(model.marks.names)}")
    return {"task": card.name, "user": user, **answer, "notes": notes}


def embed(
    model: UserModel | str | Path, out: str | Path, *, task: str | None = None, store: str | Path | None = None
) -> dict[str, Any]:
    """Write the vectors of all users of the log to a Parquet file: columns user and vector.

    Args:
        model: what `load` gave, a model folder, or a run folder that holds one.
        out: the file; replaced only when the new one is complete.
        task: whose representation; the plain backbone's by default.
        store: a prepared log, where it does not stand beside the model, or one of later: its histories are read as the
            recipe's [history] says, without the items that the model does not know.

    Returns:
        path, users, width, model (digest), task, notes.

    Raises:
        UsageError, DataError, ModelError, MachineError.
    """
    from perdure.events.later import read_as
    from perdure.inference.export import embed as export

    model = _opened(model)
    _tasks(model, task)  # an unknown one is told before the log is read
    events = _log(model, store, later=True)
    shared, left_out = _once(
        model,
        lambda: read_as(events, _settings(model).history, model.item_ids, model.marks),
        "read",
        events.digest,
    )
    told = export(model, shared, events.user_ids, Path(out), task, profiles=_profiles(model, events))
    total = len(shared.items) + left_out
    return {
        "path": str(out),
        "users": events.n_users,
        "width": int(told["perdure.width"]),
        "model": told["perdure.model"],
        "task": task,
        "notes": [f"{left_out:,} of {total:,} events are left out: the model does not know their items"]
        if left_out
        else [],
    }
