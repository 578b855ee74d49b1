"""The whole library in minutes: a synthetic world whose right answers are known, six tasks learned in sequence.

DIR/world/         the log: events.csv, users.csv
DIR/recipe.toml    what was run; change it and learn it again
DIR/store/         the log prepared
DIR/model/         the model, one file a task
DIR/report.html    the page
DIR/compare/       the same tasks by finetune and by single
                                                                                                    [reads, writes]
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perdure import registry
from perdure.api.learning import Evaluate, Run, run
from perdure.api.reporting import reported
from perdure.errors import UsageError
from perdure.evaluation.matrix import Matrix
from perdure.model.disk import machine_faults
from perdure.settings import from_dict, load
from perdure.settings.toml import render

__all__ = ["quickstart", "tiny"]

OURS = ("world", "store", "recipe.toml", "compare", "oracle.json", "alone.json")


def quickstart(out: str | Path, *, seed: int = 0, users: int = 2400, show: Any = None) -> dict[str, Any]:
    """Make a world, teach a model six tasks with `pcl`, and the same with `finetune` and `single` for comparison.

    Args:
        out: a new or empty folder.
        seed: of the world and of the learning.
        users: of the world; fewer learn less, and faster.
        show: what tells the progress, as in `learn`.

    Returns:
        tasks, metrics (task -> value after the last task), measured (task -> name of the measure), matrix, average,
        forgetting, oracle (task -> what a perfect model would score on these users), alone (task -> its own model),
        forward_transfer, changed ({"answers", "of"}: answers of older tasks that differ in any bit from the day their
        task was learned), finetune (the same of the method that forgets), model, report, recipe, seconds.

    Raises:
        UsageError: the folder is not empty. Else as `learn`.
    """
    began, out = time.monotonic(), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "the folder is not empty", expected="a new or empty folder", where=str(out), fix="choose another"
        )
    with machine_faults(out):
        recipe, best = _world(out, seed, users)
    kept, lost = Watcher(), Watcher()
    oracle: dict[str, float] = {}

    def started(events: Any, datas: Mapping[str, Any]) -> None:
        """The best score on the very users that are tested."""
        for name, data in datas.items():
            oracle[name] = best(name, events.user_ids.text(data.test.users))
        _write(out / "oracle.json", oracle)

    now = getattr(show, "whole", lambda *_: None)
    now(0, 3, "pcl")
    pcl = run(load(recipe, parts=registry), out, show=show, expected=OURS, measure=kept, started=started, page=False)
    others = {}
    for done, method in enumerate(("finetune", "single"), 1):
        now(done, 3, f"{method}, the same tasks to compare with")
        changes = [f"tuning.method={method}", "run.store=store", "pretrain.model=model"]
        settings = load(recipe, changes, parts=registry)
        measure = lost if method == "finetune" else None
        others[method] = run(settings, out / "compare" / method, show=show, measure=measure, page=False)
    alone = dict(others["single"].scores)
    _write(out / "alone.json", alone)
    page = reported(out, [])
    finetune: Run = others["finetune"]
    return {
        "tasks": pcl.tasks,
        "metrics": pcl.scores,
        "measured": pcl.metrics,
        "matrix": pcl.matrix,
        "average": pcl.average,
        "forgetting": pcl.forgetting,
        "oracle": oracle,
        "alone": alone,
        "forward_transfer": Matrix(pcl.tasks, pcl.matrix).forward_transfer(alone),
        "changed": kept.told(),
        "finetune": {
            "metrics": finetune.scores,
            "matrix": finetune.matrix,
            "average": finetune.average,
            "forgetting": finetune.forgetting,
            "changed": lost.told(),
        },
        "costs": pcl.costs,
        "model": pcl.model,
        "report": page,
        "recipe": str(recipe),
        "seconds": round(time.monotonic() - began, 1),
    }


@dataclass
class Watcher:
    """Keeps each task's answers to its test users from the day it was learned; counts those that change, bit for bit.

    Attributes:
        first: task -> (n, Y) float32 scores when it was learned.
        changed: task -> users whose answer to it differs from `first` after the newest task.
    """

    first: dict[str, np.ndarray] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def __call__(self, evaluate: Evaluate) -> Evaluate:
        """The same function, watched."""

        def measure(model: Any, data: Any, split: str) -> Any:
            if split == "test":
                self._look(model, data)
            return evaluate(model, data, split)

        return measure

    def _look(self, model: Any, data: Any) -> None:
        from perdure.inference.represent import represent, scores_of

        name, asked = data.task.name, data.test
        u = represent(model, name, data.sequences, asked.begin, asked.end)  # (n, d)
        none, items = asked.begin == asked.end, np.asarray(data.sequences.items)
        now = scores_of(model, name, u, none, items, asked.begin, asked.end).cpu().numpy()  # (n, Y)
        before = self.first.setdefault(name, now)
        self.changed[name] = int((now.view(np.int32) != before.view(np.int32)).any(1).sum())

    def told(self) -> dict[str, int]:
        """Answers of all tasks but the last that changed, and how many were compared."""
        older = list(self.first)[:-1]
        return {"answers": sum(self.changed[n] for n in older), "of": sum(len(self.first[n]) for n in older)}


def _world(out: Path, seed: int, users: int):
    """The log and the recipe on disk; what tells the best score of a task on some users."""
    from perdure.evaluation.evaluate import PRIMARY
    from perdure.events.synthetic import world

    made = world(out / "world", seed=seed, users=users)
    recipe = out / "recipe.toml"
    recipe.write_text(HEAD + render(_tables(made.settings(), seed)), encoding="utf-8")
    measures = {task["name"]: PRIMARY[task["kind"]] for task in made.settings()["tasks"]}
    return recipe, lambda task, users: made.best(task, measures[task], users)


HEAD = """# The world of `perdure quickstart`: six tasks, learned one after the other.
# Change it and learn it again:  perdure learn recipe.toml --out again

"""


def _tables(world: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The recipe: the world's own sections, a small SASRec, and how long to train."""
    data = {**world["data"], "path": "world/events.csv", "users": {**world["data"]["users"], "path": "world/users.csv"}}
    return {
        "run": {"name": "quickstart", "seed": seed, "threads": 1},
        "data": data,
        "history": world["history"],
        "split": world["split"],
        "encoder": {"name": "sasrec", "width": 48, "blocks": 2, "heads": 2, "max_length": 40, "dropout": 0.2},
        "objective": {"name": "next_item", "loss": "softmax"},
        "pretrain": {
            "epochs": 40,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "patience": 0,
        },
        "tuning": {"method": "pcl"},
        "train": {"epochs": 30, "batch_size": 128, "learning_rate": 2e-3, "patience": 4},
        "tasks": world["tasks"],
    }


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def tiny(folder: Path) -> str:
    """The doctor's self test: two tasks of a world of 120 users, learned for an epoch, saved, loaded and asked."""
    from perdure.api.asking import recommend
    from perdure.events.synthetic import world

    made = world(folder / "world", users=120, items=60, targets=24, longest=20)
    tables = _tables(made.settings(), 0)
    tables["encoder"] |= {"width": 16, "blocks": 1, "heads": 1}
    tables["train"] |= {"epochs": 1}
    tables["pretrain"] = {"epochs": 1}
    tables["tasks"] = [task for task in tables["tasks"] if task["name"] in ("watch", "gender")]
    done = run(from_dict(tables, parts=registry, folder=folder), folder / "run")
    answer = recommend(done.model, task="gender", user="u0000", k=1)
    return f"learned {' and '.join(done.tasks)}, and asked of a user's gender: {answer['items'][0]}"
