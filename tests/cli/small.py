"""A small world with a recipe, and ways to run commands: what the tests of settings, API and command line share."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from perdure.cli.main import main
from perdure.events.synthetic import world
from perdure.settings.toml import render

ROOT = Path(__file__).resolve().parents[2]

TABLES: dict[str, Any] = {
    "run": {"seed": 3, "threads": 1},
    "encoder": {"name": "sasrec", "width": 16, "blocks": 1, "heads": 2, "max_length": 20},
    "tuning": {"method": "pcl", "length": 3},
    "pretrain": {"epochs": 2},
    "train": {"epochs": 1, "batch_size": 32},
}


def make(folder: Path, names: tuple[str, ...] = ("watch", "buy", "gender"), users: int = 120, **sections: Any) -> Path:
    """A world in `folder`/world and `folder`/recipe.toml over it; the recipe. Sections replace or add keys."""
    made = world(folder / "world", users=users, items=60, targets=24, longest=20)
    tables = {**made.settings(), **copy.deepcopy(TABLES)}
    tables["tasks"] = [task for name in names for task in tables["tasks"] if task["name"] == name]
    tables["data"] |= {"path": "world/events.csv", "users": {"path": "world/users.csv", "id": "user"}}
    for section, values in sections.items():
        tables[section] = {**tables.get(section, {}), **values} if isinstance(values, dict) else values
    recipe = folder / "recipe.toml"
    recipe.write_text(render(tables), encoding="utf-8")
    return recipe


def call(*arguments: str | Path) -> int:
    """A command in this process; its exit code."""
    return main([str(one) for one in arguments])


def environment(**more: str) -> dict[str, str]:
    """For a command in a process of its own."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def start(*arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
    """A command in a process of its own, running."""
    command = [sys.executable, "-m", "perdure.cli.main", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command, text=True, env=environment(), **pipes)
