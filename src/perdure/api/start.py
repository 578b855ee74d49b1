"""What a run begins with: a fresh model, one whose backbone has learned elsewhere, or one that knows the first task
already.                                                                                        [reads]
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from perdure import registry
from perdure.api import opened, plan
from perdure.errors import ModelError, SettingsError, shorten
from perdure.events.examples import TaskData
from perdure.events.ids import FIRST_ITEM
from perdure.events.marks import Marks
from perdure.events.sequences import Events
from perdure.events.splits import Split
from perdure.model.user_model import UserModel
from perdure.settings import Settings
from perdure.settings.schema import schema_of

__all__ = ["begin"]

ONLY_START = "pretrain.start takes a model of other"


def begin(
    settings: Settings, events: Events, datas: Mapping[str, TaskData], notes: list[str] | None = None
) -> UserModel:
    """The model that a run teaches, as `pretrain.model` or else `pretrain.start` tells.

    Args:
        notes: gets what is to be known of a model from another log.

    Raises:
        SettingsError, ModelError: the model named there is not one to begin with.
    """
    model, notes = plan.fresh(settings, events.item_ids, datas), [] if notes is None else notes
    if settings.pretrain.model:
        _take_over(model, settings, events, notes)
    elif settings.pretrain.start:
        _start(model, settings, events, notes)
    return model


def _found(
    folder: str, model: UserModel, settings: Settings, events: Events, notes: list[str], other: bool = False
) -> UserModel:
    """A model that reads of events what `model` reads, and whose backbone was not taught the answer of a task, as its
    objective and its split tell. It may know `other` items, and other values of what it reads."""
    found = opened.load(opened.locate(folder, "pretrain.start" if other else "pretrain.model"))
    notes += _apart(found, settings, events, folder)
    for task in settings.tasks:
        found.refuse_answer(task.name, task.attribute)
    knows = bool((model.item_ids.rows(found.item_ids.series) >= 0).any())
    grows = knows and isinstance(found.backbone.item_table, nn.Parameter)  # not where items are clustered anew
    if found.item_ids.digest != model.item_ids.digest and not (other and grows):
        raise _other_items(set(model.item_ids.series), set(found.item_ids.series), folder, grows)
    ours, theirs = model.marks or Marks(), found.marks or Marks()
    alike = ours.alike(theirs)
    if not (alike if other else found.marks == model.marks):
        raise ModelError(
            f"the model reads {_told(found.marks)} of events besides their items",
            expected=_told(model.marks) + (", with the values that this log has" if alike else ""),
            where=folder,
            fix=f"{ONLY_START} values, and learns the first task on; model does not"
            if alike
            else "give [input] as the model had it",
        )
    return found


def _other_items(log: set[str], model: set[str], folder: str, grows: bool) -> ModelError:
    """The error for a log that has grown, or is another."""
    new, gone = sorted(log - model), sorted(model - log)
    told = [f"{len(new):,} of the log are new to it, such as {shorten(new[0])!r}"] if new else []
    told += [f"{len(gone):,} of its own are not in the log, such as {shorten(gone[0])!r}"] if gone else []
    return ModelError(
        f"the model reads other items than this log has: {'; '.join(told)}",
        expected=f"its {len(model):,} items, no more and no fewer",
        where=folder,
        fix=f"{ONLY_START} items, and learns the first task on; model does not" if grows else "learn anew",
    )


def _apart(found: UserModel, settings: Settings, events: Events, folder: str) -> list[str]:
    """SettingsError where it learned from this log what this recipe holds out; a note where nobody can tell, as it
    learned from another. "example" leaks, and says so."""
    ours = settings.split
    if found.manifest.get("data_digest") != events.digest:
        return _of_another_log(found, ours, folder)
    if ours.kind == "example":
        return []
    own = opened.settings_of(found)
    same = _same(ours, own.split)
    if not same or (ours.kind == "last" and own.history != settings.history):
        differ, ours = ("split", ours) if not same else ("history", settings.history)
        raise SettingsError(
            f"{folder} learned from this log with another [{differ}]: {shorten(getattr(own, differ), 150)}",
            expected=shorten(ours, 150),
            where="[pretrain]",
            fix=f"give both the same [{differ}]: it may have met answers that this recipe holds out",
        )
    return []


def _same(ours: Split, theirs: Split) -> bool:
    """Whether both hold out the same; "user-each" holds out the users that "user" does."""
    by_user = {theirs.kind, ours.kind} <= {"user", "user-each"}
    return theirs == (dataclasses.replace(ours, kind=theirs.kind) if by_user else ours)


def _of_another_log(found: UserModel, ours: Split, folder: str) -> list[str]:
    """A note that a model of another log may know users held out here; none where users are drawn by their ids, so
    that those it learned from train here too."""
    own = opened.settings_of(found) if "settings" in found.manifest else None
    if own is None or not ours.by_id or ours.kind not in ("user", "user-each") or not _same(ours, own.split):
        return [f"{folder} learned from another log, and maybe from users who are held out here"]
    if own.pretrain.start or own.pretrain.model:
        return [f"{folder} went on from another model: what its own run noted of that holds here too"]
    return []


def _told(marks: Marks | None) -> str:
    return ", ".join([*marks.names, *marks.items, *(["vectors"] if marks.width else [])]) if marks else "nothing"


def _start(model: UserModel, settings: Settings, events: Events, notes: list[str]) -> None:
    """The weights of another model's backbone, whatever its tasks and objective. Its readout may be another one, and is
    then drawn as in a fresh model; so are the vectors of items that it does not know."""
    folder = str(settings.pretrain.start)
    found = _found(folder, model, settings, events, notes, other=True)
    model.told = tuple(found.taught())
    refused = SettingsError(
        f"pretrain.start: its encoder is {found.spec['encoder']}",
        expected=f"one with the weights of {settings.encoder.spec()}",
        where=settings.file,
        fix="only the readout, and what brings no weights, may be another",
    )
    if found.spec["encoder"]["name"] != settings.encoder.name or found.backbone.width != model.backbone.width:
        raise refused
    notes += _grow(found, model, folder)
    theirs, mine = found.backbone.sites(), model.backbone.sites()
    differ = {site for site in theirs.keys() | mine.keys() if _shapes(theirs.get(site)) != _shapes(mine.get(site))}
    if any(getattr({**theirs, **mine}[site], "role", "") != "read" for site in differ):
        raise refused
    for site in mine.keys() - differ:
        mine[site].load_state_dict(theirs[site].state_dict())
    model.backbone.begin_as(found.backbone)


def _grow(found: UserModel, model: UserModel, folder: str) -> list[str]:
    """Gives a found model the items of `model`, those it knows with its own vectors, and the values that are read of
    events and items likewise; what is to be known of it."""
    if model.marks is not None and found.marks is not None:
        found.backbone.resettle(model.backbone, found.marks, model.marks)
    if found.item_ids.digest == model.item_ids.digest:
        return []
    rows = torch.from_numpy(model.item_ids.rows(found.item_ids.series)).long()  # (N,) where its items stand now, or -1
    kept, table, own = rows >= 0, model.backbone.item_table.detach().clone(), found.backbone.item_table.detach()
    table[:FIRST_ITEM] = own[:FIRST_ITEM]
    table[rows[kept]] = own[FIRST_ITEM:][kept]
    found.backbone.item_table.data = table
    new, gone = len(model.item_ids) - int(kept.sum()), int((~kept).sum())
    return [f"items new to {folder}, begun as drawn: {new:,}; of its own, gone: {gone:,}"]


def _shapes(layer: nn.Module | None) -> dict[str, tuple[int, ...]] | None:
    return None if layer is None else {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}


def _whole(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an encoder, with the defaults of those that are newer than its folder."""
    fields = schema_of(registry.find("encoders", encoder["name"])).model_fields
    return {"name": encoder["name"], **{name: field.default for name, field in fields.items()}, **encoder}


def _take_over(model: UserModel, settings: Settings, events: Events, notes: list[str]) -> None:
    """The first task as another model learned it, and the backbone it was learned with."""
    where, folder = "pretrain.model", str(settings.pretrain.model)
    found = _found(folder, model, settings, events, notes)
    model.told = tuple(found.taught())
    first = next(iter(found.tasks), None)
    if first is None or first != settings.tasks[0].name:
        raise SettingsError(f"{where}: its first task is {first}", expected=settings.tasks[0].name, where=settings.file)
    wanted = json.loads(json.dumps(settings.encoder.spec()))  # as model.json would hold it
    if (encoder := _whole(found.spec["encoder"])) != wanted:
        raise SettingsError(f"{where}: its encoder is {encoder}", expected=f"{wanted}", where=settings.file)
    if len(found.tasks) > 1 and not found.method.keeps:
        raise SettingsError(
            f"{where}: {found.spec['method']['name']} has moved its backbone since the first task",
            fix="take a model that learned the first task alone, or one whose method keeps",
        )
    if first in found.overlays:
        raise SettingsError(
            f"{where}: its first task has an overlay of its own", fix="take a model whose backbone it is"
        )
    model.backbone.load_state_dict(found.backbone.state_dict())
    model.add(dataclasses.replace(found.tasks[first], settled=False), torch.Generator())
    if first in model.overlays and not model.overlays[first].passive:
        raise SettingsError(
            f"{where}: the method {settings.tuning.name} trains its first task in its own way",
            fix="leave pretrain.model out: it must learn the first task itself",
        )
    theirs, mine = found.heads[first].state_dict(), model.heads[first].state_dict()
    if theirs.keys() != mine.keys():
        raise SettingsError(
            f"{where}: its first task was learned by {found.spec['objective']}",
            expected=f"{settings.objective.spec()}",
            where=settings.file,
        )
    model.heads[first].load_state_dict(theirs)
    model.settle(first)
