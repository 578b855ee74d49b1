"""probe: what frozen vectors tell; that it is measured as `evaluate` measures; that leaks are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cli.small import make

import perdure
from perdure.api import opened, probing
from perdure.api.frozen_vectors import profiled, represented
from perdure.evaluation.evaluate import evaluate
from perdure.evaluation.vectors import Judged, judge, solve
from perdure.training.cards import card_of

FROZEN = ["tuning.method=frozen"]
NOISE = {"name": "luck", "kind": "one_of", "answer": "noise", "classes": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(recipe, run): a next_item model that nothing else has touched, with profiles, and a task nobody can know."""
    folder = tmp_path_factory.mktemp("probe")
    recipe = make(folder, users=500, profile={"fields": ["gender", "age"]}, pretrain={"epochs": 12})
    recipe.write_text(
        recipe.read_text() + "\n[[tasks]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in NOISE.items())
    )
    return recipe, perdure.learn(recipe, folder / "run", overrides=FROZEN)


@pytest.fixture(scope="module")
def told(world, tmp_path_factory):
    recipe, run = world
    return perdure.probe([run.folder], recipe, repeats=3, out=tmp_path_factory.mktemp("told") / "out")


def means(told, task: str) -> dict[str, float]:
    return {row["representation"]: row["mean"] for row in told.rows if row["task"] == task}


def test_training_gave_what_an_untrained_encoder_has_not(told):
    buy = means(told, "buy")
    assert list(buy) == ["popularity", "profile", "run, untrained", "run"]
    assert buy["run"] > buy["run, untrained"] + 0.1 > buy["popularity"]
    gender = means(told, "gender")
    assert gender["run"] > gender["popularity"]
    assert [row["width"] for row in told.rows if row["task"] == "buy"][:1] == [0]


def test_nobody_finds_what_nobody_can_know(told):
    """A class drawn at random: 75 users, two classes of one half each."""
    for row in told.rows:
        if row["task"] == "luck":
            assert row["low"] < 0.5 < row["high"], row["representation"]


def test_rows_are_whole(told):
    for row in told.rows:
        assert row["low"] <= row["mean"] <= row["high"] and row["n"] > 50 and len(row["strengths"]) == 3
        assert row["values"][row["metric"]] == pytest.approx(row["mean"])
    wanted = {"accuracy", "macro_f1", "log_loss", "auc"}
    assert all(set(row["values"]) >= wanted for row in told.rows if row["kind"] == "one_of")
    assert told.models[0]["tasks"] == ["watch", "buy", "gender", "luck"] and told.models[0]["width"] == 16


def test_what_is_written(told):
    from pathlib import Path

    folder = Path(told.folder)
    assert json.loads((folder / "probe.json").read_text())["rows"] == told.rows
    page = (folder / "probe.md").read_text()
    assert page.count("\n| buy |") == 4 and page.count("**") == 2 * 3
    with pytest.raises(perdure.UsageError, match="not an empty folder"):
        perdure.probe([told.models[0]["folder"]], "nowhere.toml", out=folder)


def test_a_head_is_measured_as_the_model_that_holds_it(world):
    """The solved head put into the model, and `evaluate` asked: the same numbers, items and classes."""
    model = perdure.load(world[1].model)
    datas = opened.compiled(model, opened.log_of(model, None), ["buy", "gender"])
    for name, data in datas.items():
        held = represented(model, {name: data})
        train, valid = (Judged.of(held[name, part], data.part(part)) for part in ("train", "valid"))
        head = solve(train, valid, len(data.labels), torch.Generator())
        mine = judge(head, held[name, "test"], data, card_of(data), model.backbone.n_items, ks=(1, 7))
        weight, bias = head.weights
        with torch.no_grad():
            model.heads[name].table.copy_(weight / head.scale)
            model.heads[name].bias.copy_(bias - weight @ (head.mean / head.scale))
        theirs = evaluate(model, data, "test", ks=(1, 7))
        assert mine.protocol == theirs.protocol and np.array_equal(mine.users, theirs.users)
        assert mine.values == pytest.approx(dict(theirs.values), abs=1e-4)
        for metric, values in theirs.per_user.items():
            assert np.allclose(mine.per_user[metric], values, atol=2e-2), metric


def test_the_field_that_is_asked_for_is_not_in_the_profile(world):
    model = perdure.load(world[1].model)
    datas = opened.compiled(model, opened.log_of(model, None), ["buy", "gender"])
    widths = {name: len(data.profiles.fields.values["gender"]) for name, data in datas.items()}
    x = profiled(datas)
    assert x["buy", "test"].shape[1] - x["gender", "test"].shape[1] == widths["gender"]


def test_answers_of_test_users_are_not_read_by_a_head(world, monkeypatch):
    """Whatever the test users answer, the heads are the same."""
    recipe, run = world
    made = []
    real = probing._Trial._solved

    def spied(self, name, held):
        test = self.datas[name].test
        if shuffle:
            test.answers[:] = np.roll(test.answers, 1)
        found = real(self, name, held)
        made[-1] += [fact["strength"] for _, fact in found] + [fact["loss"] for _, fact in found]
        return found

    monkeypatch.setattr(probing._Trial, "_solved", spied)
    for shuffle in (False, True):  # noqa: B007
        made.append([])
        perdure.probe([run.folder], recipe, task="gender", repeats=1)
    assert made[0] == made[1]


def test_it_is_the_same_again_and_disturbs_nothing(world):
    recipe, run = world
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two = (perdure.probe([run.folder], recipe, task="buy", repeats=2, head="mlp").rows for _ in range(2))
    assert one == two
    assert torch.equal(state, torch.get_rng_state())


def test_side_by_side(world):
    """Two models of one encoder and seed share their untrained vectors; the same model has the same numbers."""
    recipe, run = world
    told = perdure.probe([run.folder, perdure.load(run.model)], recipe, task="gender", repeats=1)
    names = [row["representation"] for row in told.rows]
    assert len(names) == 5 and sum("untrained" in name for name in names) == 1
    assert told.rows[-1]["mean"] == told.rows[-2]["mean"]


def test_few_labels(world):
    recipe, run = world
    few = perdure.probe([run.folder], recipe, task="buy", repeats=2, labelled=0.05)
    rows = {row["representation"]: row for row in few.rows}
    assert rows["run"]["labelled"] < 40


def test_fine_tuning_stands_beside_it(world):
    recipe, run = world
    told = perdure.probe([run.folder], recipe, task="gender", repeats=1, finetune=True)
    row = told.rows[-1]
    assert row["representation"] == "run, fine-tuned" and row["strengths"] == [None]
    assert row["labelled"] == told.rows[0]["labelled"] and 0 < row["mean"] < 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("split.seed=9", r"another \[split\]"),
        ("history.share=0.5", r"another \[history\]"),
        ("split.kind=example", "test users of its own"),
    ],
)
def test_another_partition_is_refused(world, change, found):
    recipe, run = world
    with pytest.raises(perdure.SettingsError, match=found):
        perdure.probe([run.folder], recipe, overrides=[change, "evaluate.seen=keep"])


def test_another_log_is_refused(world, tmp_path):
    recipe = make(tmp_path, users=130)
    with pytest.raises(perdure.DataError, match="another log"):
        perdure.probe([world[1].folder], recipe)


def test_what_the_model_was_trained_to_tell_is_refused(world, monkeypatch):
    recipe, run = world
    model = perdure.load(run.model)
    monkeypatch.setattr(type(model.objective), "predicts", lambda self, fields: ["gender"])
    with pytest.raises(perdure.SettingsError, match="trained to tell gender"):
        perdure.probe([model], recipe)
    assert perdure.probe([model], recipe, task="buy", repeats=1).rows


@pytest.mark.parametrize(
    "more",
    [
        {"task": "bu"},
        {"task": "watch"},
        {"repeats": 0},
        {"labelled": 0.0},
        {"labelled": 1.5},
        {"head": "forest"},
        {"models": []},
    ],
)
def test_what_makes_no_sense(world, more):
    recipe, run = world
    models = more.pop("models", [run.folder])
    with pytest.raises(perdure.UsageError):
        perdure.probe(models, recipe, **more)
