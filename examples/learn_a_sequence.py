"""Three tasks in sequence, once with a method that keeps and once with one that forgets.

    python examples/learn_a_sequence.py FOLDER

A world of 500 users, well under a minute; the tests run it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import perdure
from perdure.events.synthetic import world

RECIPE = """
[data]
path = "world/events.csv"
columns = { user = "user", item = "item", time = "time", domain = "domain" }
time_unit = "s"
users = { path = "world/users.csv", id = "user" }
[history]
where = "domain = 'source'"
[encoder]
name = "sasrec"
width = 32
blocks = 1
[tuning]
method = "pcl"
[train]
epochs = 12
learning_rate = 2e-3
[[tasks]]
name = "watch"
kind = "next_item"
[[tasks]]
name = "buy"
kind = "item"
where = "domain = 'target'"
[[tasks]]
name = "gender"
kind = "one_of"
answer = "user.gender"
"""


def main(folder: Path) -> None:
    """Make the world, learn twice, compare the two matrices."""
    world(folder / "world", users=500)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    for method in ("pcl", "finetune"):
        run = perdure.learn(recipe, folder / method, overrides=[f"tuning.method={method}"])
        print(method)
        for task, row in zip(run.tasks, run.matrix, strict=True):
            print(f"  after {task:7}", "  ".join(f"{value:.3f}" for value in row))
        print(f"  forgetting {run.forgetting:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/example"))
