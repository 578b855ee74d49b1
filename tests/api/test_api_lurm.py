"""LURM from a recipe to a saved model, and after a kill: the interests are found once and go with the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli.small import make
from training.world import At, Bomb

import perdure
from perdure import registry
from perdure.errors import SettingsError
from perdure.model import store


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A small world, read as bags of 12 interests."""
    smen = {"name": "smen", "interests": 12, "scales": [1, 2], "max_length": 40}
    made = make(tmp_path, encoder=smen, objective={"name": "lurm"}, tuning={"method": "peterrec"})
    text = made.read_text(encoding="utf-8")
    for other in ("blocks = 1\n", "heads = 2\n", "length = 3\n"):
        text = text.replace(other, "")
    made.write_text(text, encoding="utf-8")
    return made


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(store.load(run / "model", registry.find).state_dict())


def explode() -> None:
    raise Bomb


def test_the_whole_path_and_a_run_that_was_killed(recipe, tmp_path):
    done = perdure.learn(recipe, tmp_path / "run")
    assert done.metrics == {"watch": "agreement", "buy": "ndcg@10", "gender": "accuracy"}
    assert done.matrix[0][0] == done.matrix[2][0]  # the backbone is frozen
    again = perdure.evaluate(tmp_path / "run" / "model", task="watch")
    assert again[0]["value"] == pytest.approx(done.scores["watch"])
    whole = weights(tmp_path / "run")
    interests = whole["backbone.interest_of"][2:]
    assert set(interests.tolist()) == {0, *range(2, 14)}  # items of tasks to come, never met before, are none
    often, folder = ["train.checkpoint_minutes=1e-9"], tmp_path / "killed"
    with pytest.raises(Bomb):
        perdure.learn(recipe, folder, show=At(at=3, do=explode), overrides=often)
    perdure.learn(recipe, folder, resume="must", overrides=often)
    resumed = weights(folder)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_it_refuses(recipe):
    with pytest.raises(SettingsError, match="trains the state at each event"):
        perdure.check(recipe, overrides=["objective.name=masked_item"])
    with pytest.raises(SettingsError, match="names more of an event"):
        perdure.check(recipe, overrides=["input.dates=['hour']"])
