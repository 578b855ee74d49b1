"""UPRec from a recipe to a saved model: what users are and whom they know is learned, and no answer of a task."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cli.small import make
from training.test_resume import ask
from training.world import At

import perdure
from perdure.errors import Interrupted, SettingsError, UsageError

ENCODER = {"name": "bert4rec", "width": 16, "blocks": 1, "heads": 2, "max_length": 20}


def recipe(folder: Path, tasks: tuple[str, ...], profile: dict, **objective: object) -> Path:
    """A small world whose users know the two who come next."""
    made = make(
        folder,
        tasks,
        encoder=ENCODER,
        objective={"name": "uprec", **objective},
        profile=profile,
        tuning={"method": "finetune"},
    )
    text = made.read_text(encoding="utf-8").replace("length = 3\n", "")
    made.write_text(text, encoding="utf-8")
    ids = pl.read_csv(folder / "world" / "users.csv", infer_schema=False)["user"]
    pairs = [pl.DataFrame({"user": ids, "friend": ids.shift(step)}) for step in (1, 2)]
    pl.concat(pairs).drop_nulls().write_csv(folder / "friends.csv")
    return made


def test_the_whole_path(tmp_path):
    profile = {"fields": ["age", "gender", "status"], "friends": {"path": "friends.csv"}}
    made = recipe(tmp_path, ("watch", "buy", "gender"), profile, fields=["age", "status"])
    done = perdure.learn(made, tmp_path / "run")
    with pytest.raises(Interrupted):  # in the second epoch of the first task
        perdure.learn(made, tmp_path / "again", show=At(at=5, do=ask))
    again = perdure.learn(made, tmp_path / "again", resume="must")  # friends are drawn as if nothing had been
    assert done.metrics["watch"] == "ndcg@10" and done.matrix == again.matrix
    later = recipe(tmp_path, ("watch", "status"), {"fields": ["status"]})  # by a backbone that was taught it
    begin = [f"pretrain.start='{done.model}'", "objective.name=masked_item"]
    with pytest.raises(SettingsError, match="'status' asks for status, which objective uprec learns to tell"):
        perdure.learn(later, tmp_path / "later", overrides=begin)
    between = recipe(tmp_path, ("watch",), {"fields": ["status"]})  # a backbone in between forgets nothing
    second = perdure.learn(between, tmp_path / "second", overrides=[*begin, "profile.fields=[]"])
    assert perdure.load(second.model).told == ("age", "status")
    later = recipe(tmp_path, ("watch", "status"), {"fields": []})
    for key in ("start", "model"):
        changes = [f"pretrain.{key}='{second.model}'", "objective.name=masked_item"]
        with pytest.raises(SettingsError, match="'status' asks for status, which a model that this one began as"):
            perdure.check(later, overrides=changes)
    with pytest.raises(SettingsError, match="or a model it began as, was trained to tell status"):
        perdure.probe([second.folder], later, overrides=["objective.name=masked_item"])
    (tmp_path / "friends.csv").unlink()  # nobody who asks the model needs it
    answer = perdure.recommend(tmp_path / "run" / "model", task="watch", user="u0001", store=tmp_path / "run" / "store")
    assert len(answer["items"]) == 10


def test_friends_are_not_replayed(tmp_path):
    """Who they are is not kept; refused before anything is learned."""
    profile = {"fields": ["age"], "friends": {"path": "friends.csv"}}
    made = recipe(tmp_path, ("watch", "buy"), profile)
    for act in (lambda **k: perdure.check(made, **k), lambda **k: perdure.learn(made, tmp_path / "run", **k)):
        with pytest.raises(SettingsError, match="looks users up") as told:
            act(overrides=["tuning.method=replay"])
        assert "friends" in told.value.fix
    assert not (tmp_path / "run" / "run.json").exists()
    perdure.learn(made, tmp_path / "without", overrides=["tuning.method=replay", "objective.friends=0"])


def test_an_answer_of_a_task_is_no_target(tmp_path):
    made = recipe(tmp_path, ("watch", "gender"), {"fields": ["age", "gender"]})
    for act in (lambda: perdure.check(made), lambda: perdure.learn(made, tmp_path / "run")):
        with pytest.raises(
            SettingsError, match="'gender' asks for gender, which objective uprec learns to tell"
        ) as told:
            act()
        assert "objective.fields" in told.value.fix
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert perdure.check(made, overrides=["objective.fields=['age']"]).tasks
    with pytest.raises(SettingsError, match="nothing is told of users"):
        perdure.check(made, overrides=["objective.attributes=0", "objective.friends=0"])
    with pytest.raises(SettingsError, match="'gender' asks for gender"):  # who is alike would tell it, too
        perdure.check(made, overrides=["objective.attributes=0", "profile.friends={path='friends.csv'}"])


def test_friends_that_are_not_there(tmp_path):
    made = recipe(tmp_path, ("watch",), {"friends": {"path": "nobody.csv"}})
    with pytest.raises(UsageError, match=r"nobody\.csv"):
        perdure.check(made)
