"""The recipes of the repository against the real data they name, and a stream with nothing to learn in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli.small import make
from realdata import real

from perdure import registry
from perdure.api import check, learn
from perdure.evaluation.leakage import audit
from perdure.events.sequences import prepare
from perdure.events.tasks import compile_tasks
from perdure.settings import load, toml
from perdure.settings.streams import with_noise

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_its_check_and_the_audit(recipe, tmp_path, monkeypatch):
    path = toml.read(recipe)["data"]["path"]
    folder = Path(path if isinstance(path, str) else next(iter(path.values()))).parts[1]
    monkeypatch.setenv("PERDURE_DATA", str(real(folder).parent))
    settings = load(recipe, parts=registry)
    events = prepare(settings.data, tmp_path / "store")
    checked = check(recipe, overrides=[f"run.store='{tmp_path / 'store'}'", "run.threads=1"])
    assert len(checked.tasks) == len(settings.tasks)
    assert all(task["test"] >= 100 for task in checked.tasks)
    found = audit(events, compile_tasks(events, settings.tasks, settings.history, settings.split))
    assert [one.text for one in found if one.severity == "leak"] == []
    of_data = (" rows are set aside: ", " test answers were never met in training: ", " users are not in data.users")
    notes = {note for note in checked.notes if not any(words in note for words in of_data)}
    assert notes <= {one.text for one in found}  # what the audit only notes


def test_nobody_learns_random_labels(tmp_path):
    """At most three standard deviations above chance, though the model has an epoch for each user it could remember."""
    recipe = make(tmp_path, ("watch", "buy"), users=400)
    raw = toml.read(recipe)
    raw["tasks"] = with_noise(raw["tasks"], classes=4)
    raw["tasks"][1]["train"] = {"epochs": 20, "learning_rate": 0.01, "patience": 0}
    raw["data"] = load(recipe, parts=registry).data.model_dump(exclude_unset=True)
    done = learn({**raw, "tuning": {"method": "finetune"}}, tmp_path / "run")
    assert done.tasks == ["watch", "noise", "buy"] and done.metrics["noise"] == "accuracy"
    spread = np.sqrt(0.25 * 0.75 / 80)  # of the accuracy of 80 test users who guess
    assert done.matrix[1][1] <= 0.25 + 3 * spread
