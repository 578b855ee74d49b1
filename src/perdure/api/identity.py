"""What a run is a run of: the settings its result depends on, and whether two are the same.                 [reads]"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from perdure.errors import ModelError, SettingsError
from perdure.settings import Settings

__all__ = ["check_same", "effective", "identity"]


def effective(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on: threads, names, folders and where epochs are drawn change none. A model
    that was taken over is told by its digest, wherever it stands."""
    from perdure.api import opened
    from perdure.model import files

    told = settings.as_dict()
    free = ("threads", "store", "name", "tensorboard")
    told["run"] = {key: value for key, value in told["run"].items() if key not in free}
    for key in ("model", "start"):
        if folder := getattr(settings.pretrain, key):
            with contextlib.suppress(ModelError):
                told["pretrain"][key] = files.read_manifest(opened.locate(folder))["digest"]
    return told


def identity(settings: Settings, events: Any) -> dict[str, Any]:
    """What run.json tells of a run before it begins."""
    return {
        "settings": effective(settings),
        "origin": settings.origin,
        "data_digest": events.digest,
        "data_card": events.card,
        "seed": settings.run.seed,
        "device": settings.run.device,
        "name": settings.run.name or "",
        "method": settings.tuning.name,
    }


def check_same(out: Path, settings: Settings) -> None:
    """Refuse to go on with a run that was begun with other settings. One that did not exist then was its default; where
    the files of the log lie and how often is saved may change.

    Raises:
        SettingsError: lists the differences. ModelError: run.json cannot be read.
    """
    from perdure.training.runlog import completed, differences, weighed

    now = effective(settings)
    changed = differences(weighed(completed(_settings_of(out), now, settings.origin)), weighed(now), "settings")
    changed.sort(key=lambda one: one.endswith("-> None") or ": None ->" in one)  # what is there in both, first
    if changed:
        listed = "\n".join([*changed[:20], *([f"and {len(changed) - 20} more"] if len(changed) > 20 else [])])
        found = f"this is not the run that stands here, then -> now:\n{listed}"
        fix = "resume with its settings, or choose another folder"
        if any(one.startswith("settings.tasks:") for one in changed):  # more of them, or fewer
            fix += f"; there, -s pretrain.model={(out / 'model').absolute()} takes over what the first task learned"
        raise SettingsError(found, where=str(out / "run.json"), fix=fix)


def _settings_of(out: Path) -> Any:
    try:
        return json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(f"run.json cannot be read: {fault}", where=str(out / "run.json")) from None
