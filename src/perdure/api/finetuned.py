"""The whole model trained on one more task: what frozen vectors are held against.          [reads, writes]"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perdure import registry
from perdure.errors import UsageError
from perdure.settings import Settings, from_dict

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["finetuned"]


def finetuned(
    model: UserModel, settings: Settings, events: Any, task: str, labelled: np.ndarray, repeat: int, folder: Path
) -> Any:
    """The score on the test users of a task, after the method `finetune` has learned it with backbone and all.

    Args:
        model: of a folder; its backbone is where training begins.
        settings: whose [train], [evaluate] and [run] are used.
        labelled: (U,) bool: which users have labels.
        repeat: makes the seed. folder: for the run, scratch.

    Raises:
        UsageError: the model has no folder. SettingsError: its backbone cannot be begun with, see [pretrain] start.
    """
    from perdure.api import plan, start
    from perdure.api.identity import identity
    from perdure.api.learning import evaluator
    from perdure.training import lifelong
    from perdure.training.life import seed_of
    from perdure.training.loop import make_fabric
    from perdure.training.runlog import RunLog

    if model.folder is None:
        raise UsageError("a model without a folder cannot be fine-tuned", where="finetune")
    asked, place = settings.as_dict(), [one.name for one in settings.tasks].index(task)
    seed = seed_of(settings.run.seed, "finetune", task, str(repeat))
    raw = {
        **model.manifest["settings"],
        "tuning": {"method": "finetune"},
        "tasks": [{key: value for key, value in asked["tasks"][place].items() if key != "train"}],
        "train": settings.train_for(place).model_dump(),
        "pretrain": {"start": str(model.folder.absolute())},
        "profile": {},  # the method reads none
        "evaluate": asked["evaluate"],
        "run": {**asked["run"], "seed": seed, "store": None, "name": None},
    }
    tuned = from_dict(raw, parts=registry, expand=False)
    datas = plan.tasks_of(tuned, events, [task], model)
    rows = np.flatnonzero(labelled[datas[task].train.users])
    datas[task] = replace(datas[task], train=datas[task].train.of(rows))
    measure, found = evaluator(tuned), []

    def kept(one: Any, data: Any, split: str) -> Any:
        score = measure(one, data, split)
        if (data.task.name, split) == (task, "test"):
            found.append(score)
        return score

    trained = {name: tuned.train_for(at) for at, name in enumerate(datas)}
    with RunLog(folder, identity(tuned, events)) as log:
        fabric = make_fabric(tuned.run.device, tuned.run.precision)
        lifelong.learn(
            start.begin(tuned, events, datas),
            datas,
            list(datas),
            trained,
            log,
            seed=seed,
            fabric=fabric,
            evaluate=kept,
        )
    return found[-1]
