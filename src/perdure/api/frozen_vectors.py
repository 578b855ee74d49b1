"""Models whose user vectors may be judged by a recipe, and the vectors of the users that its tasks ask about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perdure.errors import DataError, SettingsError, shorten
from perdure.events.splits import PARTS
from perdure.settings import Settings
from perdure.settings.sections import ProfileSettings

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["Opened", "Vectors", "opened", "profiled", "represented", "untrained"]

Vectors = dict[tuple[str, str], Any]  # (task, part) -> (n, d) of its examples; a row of NaN where nothing is known


@dataclass
class Opened:
    """A model that may be judged: with the settings it learned with, and the recipe's tasks as it reads them."""

    name: str
    model: UserModel
    settings: Settings
    datas: Mapping[str, Any]
    notes: list[str]

    def card(self) -> dict[str, Any]:
        spec, folder = self.model.spec, self.model.folder
        return {
            "name": self.name,
            "folder": None if folder is None else str(folder),
            "digest": self.model.manifest.get("digest"),
            "encoder": spec["encoder"]["name"],
            "objective": spec["objective"]["name"],
            "width": self.model.backbone.width,
            "tasks": list(self.model.tasks),
        }


def opened(model: UserModel | str | Path, name: str, settings: Settings, events: Any, names: Sequence[str]) -> Opened:
    """Open a model and refuse one that may have met an answer of a test user."""
    from perdure.api import plan
    from perdure.api.opened import model_of, settings_of

    model = model_of(model)
    digest = model.manifest.get("data_digest", "")
    if digest != events.digest:
        raise DataError(
            f"{name} learned from another log (digest {shorten(digest[:12]) or 'unknown'})",
            expected=f"that of the recipe ({events.digest[:12]})",
            where="MODEL",
            fix="train it on the log of this recipe",
        )
    own = settings_of(model)
    for section in ("history", "split"):
        theirs, ours = getattr(own, section), getattr(settings, section)
        if theirs != ours:
            raise SettingsError(
                f"{name} learned with another [{section}]: {shorten(theirs, 150)}",
                expected=shorten(ours, 150),
                where=settings.file,
                fix="its backbone may have met answers of this recipe's test users",
            )
    began = own.pretrain.start
    own = dataclasses.replace(own, tasks=settings.tasks, profile=ProfileSettings(fields=[]))  # it reads none
    datas = plan.tasks_of(own, events, names, model)
    told = model.taught()
    asked = {one.name: one.attribute for one in settings.tasks if one.name in names}
    if bad := [task for task, attribute in asked.items() if attribute in told]:
        raise SettingsError(
            f"{name}, or a model it began as, was trained to tell {asked[bad[0]]}, which task {bad[0]} asks for",
            where=settings.file,
            fix="leave the task out, or train the model without that field",
        )
    notes, later = [], list(model.tasks)[1:]
    if began:
        notes.append(f"{name} began as {began}, its untrained row as drawn: what lies between is what both learned")
    if later and not model.method.keeps:
        notes.append(f"{name}: {', '.join(later)} moved its backbone, too (answers of training users)")
    return Opened(name, model, own, datas, notes)


def untrained(one: Opened) -> UserModel:
    """The model before its first step: drawn as its run drew it, with what it was given and did not learn (attributes
    and vectors of items, what an encoder found in the log), which are its backbone's buffers."""
    from perdure.api import plan

    start = plan.fresh(one.settings, one.model.item_ids, one.datas)
    given = dict(one.model.backbone.named_buffers())
    for name, buffer in start.backbone.named_buffers():
        buffer.copy_(given[name])
    return start


def represented(model: UserModel, datas: Mapping[str, Any]) -> Vectors:
    """Vectors of the plain backbone; a history that several tasks or parts ask about is encoded once."""
    import torch

    from perdure.inference.represent import represent

    spans = {(name, part): data.part(part) for name, data in datas.items() for part in PARTS}
    pairs = np.concatenate([np.stack([one.begin, one.end], 1) for one in spans.values()])  # (n, 2)
    once, at = np.unique(pairs, axis=0, return_inverse=True)
    u = represent(model, None, next(iter(datas.values())).sequences, once[:, 0], once[:, 1]).cpu()  # (n', d)
    u[torch.from_numpy(once[:, 0] == once[:, 1])] = torch.nan
    ends = np.cumsum([len(one) for one in spans.values()])[:-1]
    return {key: u[torch.from_numpy(rows)] for key, rows in zip(spans, np.split(at.reshape(-1), ends), strict=True)}


def profiled(datas: Mapping[str, Any]) -> Vectors:
    """One place for each value of each profile field, but of the field that a task asks for, and the vectors given."""
    import torch

    found: Vectors = {}
    for name, data in datas.items():
        if data.profiles is None:
            continue
        fields, hidden = data.profiles.fields.values, data.task.attribute
        kept = [place for place, field in enumerate(fields) if field != hidden]
        sizes = [len(ids) + 1 for ids in fields.values()]
        if not kept and not data.profiles.fields.width:
            continue
        for part in PARTS:
            profiles = data.profiles.of(data.part(part).users)
            rows = torch.from_numpy(profiles.rows.astype(np.int64))  # (n, F)
            hot = [torch.nn.functional.one_hot(rows[:, at], sizes[at])[:, 1:].float() for at in kept]
            x = torch.cat([*hot, torch.from_numpy(profiles.vectors).float()], 1)  # (n, d)
            x[torch.from_numpy(~profiles.known(without=hidden))] = torch.nan
            found[name, part] = x
    return found
