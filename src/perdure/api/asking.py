"""What a model folder can say: evaluate, recommend, recommend_all, embed.                               [reads, writes]

MODEL is a model folder, a run folder that holds one, or a model that `load` gave. What needs the log (evaluating,
embedding, users by name) finds the store beside the model, or takes `store`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perdure.api.opened import compiled, log_of, model_of, owned_of, profiles_of, read_of, settings_of, told_of
from perdure.errors import DataError, UsageError, shorten

if TYPE_CHECKING:
    from perdure.events.examples import Sequences
    from perdure.model.user_model import UserModel

__all__ = ["embed", "evaluate", "recommend", "recommend_all"]

MOST = 10_000  # answers at once


def _number(value: Any) -> Any:
    """A number out of an array as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(ids: Any) -> Any:
    """Ids out of an array, a column or a generator as a list; a single text stays what it is, to be refused."""
    return list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else ids


def _few(k: Any) -> Any:
    """How many answers are wanted. UsageError where they are too many."""
    k = _number(k)
    if not isinstance(k, bool) and isinstance(k, int) and k > MOST:
        raise UsageError(f"k = {k}", expected=f"1 to {MOST}", where="k")
    return k


def _seen(model: Any) -> Any:
    """What the recipe says of items that were seen."""
    return (model.manifest.get("settings") or {}).get("evaluate", {}).get("seen", "drop")


def _left_out(shared: Sequences, left_out: int) -> list[str]:
    """What there is to say of events that are not read."""
    total = len(shared.items) + left_out
    return [f"{left_out:,} of {total:,} events are left out: the model does not know their items"] if left_out else []


def _unknown(model: Any, task: str | None, shared: Sequences, profiles: Any) -> list[str]:
    """What there is to say of users whose vectors are zeros."""
    from perdure.inference.represent import blank

    n = int(blank(model, task, shared.starts[:-1], shared.starts[1:], profiles).sum())
    if n and n == len(shared.starts) - 1:
        raise DataError("the model knows nothing of any user of this log", expected="a log of the items it learned",
                        where="store", fix="name the store that its items come from")  # fmt: skip
    return [f"users without an event that the model knows, whose vectors are zeros: {n:,}"] if n else []


def _unread(model: Any) -> list[str]:
    """What there is to say where only a part of each user's history is read."""
    share = settings_of(model).history.share
    told = f"of users of the log the first {share:.0%} of their history is read: [history] share"
    return [told] if share < 1 else []


def _unused(model: Any, marks: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """What there is to say of marks that are told to a model that reads none."""
    if model.marks is not None:
        return []
    given = dict.fromkeys(name for one in marks or [] for name, value in one.items() if value is not None)
    names = [str(name) for name in given if name != "time" or not model.backbone.reads_times]
    read = "items and times" if model.backbone.reads_times else "items"
    told = f"{model.backbone.name} reads nothing of events but their {read}: what marks tell is unused"
    return [f"{told} ({', '.join(names)})"] if names else []


def _untold(model: Any, marks: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """What there is to say of marks that the model reads and nobody tells."""
    if model.marks is None:
        return []
    given = {name for one in marks or [] if isinstance(one, Mapping) for name in one}
    lacking = [name for name in model.marks.names if name not in given and not ("time" in given and "time." in name)]
    if not lacking:
        return []
    how = " (from `time`, in seconds)" if any(name.startswith("time.") for name in lacking) else ""
    return [f"the model reads {', '.join(lacking)}{how} of events, and nothing of it is told of this history"]


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
    show: Any = None,
) -> list[dict[str, Any]]:
    """Measure a model on held-out users, as its run did: what is not given is what the recipe's [evaluate] says.

    Args:
        model: what `load` gave, a model folder, or a run folder that holds one.
        task: one task; all of them by default.
        ks: cut-offs. seen: whether items of the input are left out of a ranking.
        sampled: "100 uniform" or "100 popularity": rank among so many only; told as such. "all": the full ranking.
        store: the prepared log, where it does not stand beside the model.
        show: what tells the progress, as in `learn`.

    Returns:
        Per task: task, split, n, metric, value, low, high (95 % interval), popularity (what is reached by answering
        everybody with what is popular in training), values, protocol, notes.

    Raises:
        UsageError, DataError, ModelError.
    """
    from perdure.evaluation.evaluate import evaluate as measure
    from perdure.training.display import phase_of

    ks = _listed(ks)
    if ks is not None and not isinstance(ks, list):
        raise UsageError(f"ks = {shorten(repr(ks))}", expected="a list of whole numbers of 1 or more", where="ks")
    model = model_of(model)
    names, asked = _tasks(model, task), settings_of(model).evaluate
    given = [name for name, value in (("ks", ks), ("seen", seen), ("sampled", sampled)) if value is not None]
    datas = compiled(model, log_of(model, store), names)
    drawn = asked.drawn if sampled is None else None if sampled == "all" else sampled
    ks, told = asked.ks if ks is None else [_number(k) for k in ks], []
    for name in names:
        metric = model.card(name).metric or None
        how: Any = {"ks": ks, "seen": seen or asked.seen, "sampled": drawn, "metric": metric}
        score = measure(model, datas[name], split, **how, popularity=True, told=phase_of(show))
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
    k: int | None = None,
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
        k: 1 to 10,000; by default 10, or every class of a task of kind one_of.
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
            where="user, history, profile",
        )
    if user is not None and marks is not None:
        raise UsageError("a user, and marks", expected="marks of a history; the log tells of a user", where="marks")
    if isinstance(history, str | Set | Mapping) or not (history is None or isinstance(history, Iterable)):
        found = f"history = {shorten(repr(history))}"
        raise UsageError(found, expected="a list of item ids, oldest first", where="history")
    if profile is not None and not isinstance(profile, Mapping):
        raise UsageError(f"profile = {shorten(repr(profile))}", expected="field -> value, as text", where="profile")
    allow, deny, marks, model = _listed(allow), _listed(deny), _listed(marks), model_of(model)
    if not isinstance(marks, list | None):
        raise UsageError(f"marks = {shorten(repr(marks))}", expected="a list, a dict for each event", where="marks")
    card = model.card(task)
    every = k is None and card.kind == "one_of"
    few: int = min(len(card.labels), MOST) if every else _few(10 if k is None else k)
    raw, stranger, owned = [] if history is None else list(history), [], []
    known: Any = None if profile is None else [profile]
    told: Any = None if marks is None else [marks]
    if user is not None:
        events = log_of(model, store, later=True)
        row = int(events.user_ids.rows([user])[0])
        if row >= 0:
            raw, told, owned = told_of(model, events, card.name, row)
            profiles = profiles_of(model, events)
            known = None if profiles is None else profiles.of(np.array([row]))
        else:
            stranger = [user]
    how: Any = seen or _seen(model)
    without = [*(deny or []), *owned] if owned and how == "drop" and isinstance(deny, list | None) else deny
    answer = ask(model, card.name, [raw], few, seen=how, allow=allow, deny=without, profiles=known, marks=told)[0]
    answer = asdict(answer)
    answer["unknown"] = [*stranger, *answer["unknown"]]
    answer["truncated"] &= not every  # nobody asked for a number
    notes = _none_left(card, allow) if allow is not None and not answer["items"] else []
    if profile and not getattr(model.overlays.get(card.name), "reads_profile", False):
        notes.append(
            f"{model.spec['method']['name']} answers {card.name} without a profile: the one that was given is unused"
        )
    notes += _unused(model, marks)
    if raw and user is None:
        notes += _untold(model, marks)
    if raw and user is not None:
        notes += _unread(model)
    return {"task": card.name, "user": user, **answer, "notes": notes}


def recommend_all(
    model: UserModel | str | Path,
    out: str | Path,
    *,
    task: str,
    users: Sequence[str] | None = None,
    k: int = 10,
    seen: Literal["drop", "keep"] | None = None,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] | None = None,
    store: str | Path | None = None,
    show: Any = None,
) -> dict[str, Any]:
    """Write the k best answers of a task for all users of the log to a Parquet file, as `recommend` gives them: a row
    an answer, best first, with the columns user, item, rank (1 for the best), score and source.

    Args:
        model: what `load` gave, a model folder, or a run folder that holds one.
        out: the file; replaced only when the new one is complete.
        users: only these, in this order; who is not in the log gets what is popular, and is told of in `notes`.
        k, seen, allow, deny: as in `recommend`.
        store: a prepared log, where it does not stand beside the model, or one of later.
        show: what tells the progress, as in `learn`.

    Returns:
        path, task, users, k, model (digest), notes.

    Raises:
        UsageError, DataError, ModelError, MachineError.
    """
    import polars as pl

    from perdure.events.later import new_values
    from perdure.events.text import has_surrogate
    from perdure.inference.export import answer, check_place
    from perdure.inference.recommend import checked, forbidden, met_before
    from perdure.training.display import phase_of

    k, allow, deny, users, model = _few(k), _listed(allow), _listed(deny), _listed(users), model_of(model)
    card = checked(model, task, k, how := seen or _seen(model))
    check_place(out)
    barred, strange = forbidden(card, allow, deny)
    if not isinstance(users, list | None):
        raise UsageError(f"users = {shorten(repr(users))}", expected="a list of ids as text", where="users")
    if odd := [user for user in users or [] if not isinstance(user, str) or has_surrogate(user)]:
        raise UsageError(f"users: {shorten(repr(odd[0]))}", expected="ids as text that UTF-8 holds", where="users")
    events = log_of(model, store, later=True)  # read when all that was asked is known to be sound
    shared, left_out = read_of(model, events)
    names = events.user_ids.series if users is None else pl.Series("user", users, pl.String)
    rows = np.arange(len(names)) if users is None else events.user_ids.rows(users)  # (n,)
    there = rows >= 0  # (n,)
    begin, end = (np.where(there, bounds[rows], 0) for bounds in (shared.starts[:-1], shared.starts[1:]))
    met, profiles = [], profiles_of(model, events)
    if how == "drop":
        met = [*met_before(model, card, np.asarray(shared.items), begin, end), *owned_of(model, events, task, rows)]
    if profiles is not None:
        profiles = profiles.of(rows)
        profiles = replace(profiles, rows=profiles.rows * there[:, None], vectors=profiles.vectors * there[:, None])
    told, fewer = answer(
        model, task, shared, begin, end, names, out, k, barred=barred, met=met, profiles=profiles, told=phase_of(show)
    )
    notes = [*_left_out(shared, left_out), *new_values(events, model.marks, model.fields), *_unread(model)]
    if strangers := names.filter(~there).head(20).to_list():
        notes.append(
            f"users not in the log, answered with what is popular: {(~there).sum():,} ({', '.join(strangers)})"
        )
    if strange:
        notes.append(f"not known to the model: {', '.join(strange[:20])}")
    if fewer:
        notes.append(f"users with fewer than {k} answers, as there are no more to give: {fewer:,}")
    return {
        "path": str(out),
        "task": task,
        "users": len(names),
        "k": k,
        "model": told["perdure.model"],
        "notes": notes,
    }


def embed(
    model: UserModel | str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    store: str | Path | None = None,
    show: Any = None,
) -> dict[str, Any]:
    """Write the vectors of all users of the log to a Parquet file: columns user and vector.

    Args:
        model: what `load` gave, a model folder, or a run folder that holds one.
        out: the file; replaced only when the new one is complete.
        task: whose representation; the plain backbone's by default.
        store: a prepared log, where it does not stand beside the model, or one of later: its histories are read as the
            recipe's [history] says, without the items that the model does not know.
        show: what tells the progress, as in `learn`.

    Returns:
        path, users, width, model (digest), task, notes; one tells how many users nothing is known of.

    Raises:
        UsageError, DataError, ModelError, MachineError.
    """
    from perdure.events.later import new_values
    from perdure.inference.export import embed as export
    from perdure.training.display import phase_of

    model = model_of(model)
    _tasks(model, task)  # an unknown one is told before the log is read
    events = log_of(model, store, later=True)
    shared, left_out = read_of(model, events)
    known, to = profiles_of(model, events), Path(out)
    notes = [*_left_out(shared, left_out), *new_values(events, model.marks, model.fields), *_unread(model)]
    notes += _unknown(model, task, shared, known)
    told = export(model, shared, events.user_ids, to, task, profiles=known, told=phase_of(show))
    return {
        "path": str(out),
        "users": events.n_users,
        "width": int(told["perdure.width"]),
        "model": told["perdure.model"],
        "task": task,
        "notes": notes,
    }
