"""Objectives go from a recipe to answers: learned, measured, saved, loaded, and learned again to the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli.small import make

import perdure
from perdure import registry
from perdure.errors import SettingsError
from perdure.model import store

SERVICES = ["input.events=['behaviour']", "objective.by=behaviour", "history.where=behaviour <> 'buy'"]
CASES = {
    "next_item-last": ["objective.targets=last", "objective.loss=sampled", "encoder.positions=last"],
    "cl4srec-last": ["objective.targets=last", "tuning.method=ppr"],
    "cl4srec": ["objective.similarity=cosine", "objective.loss=sampled", "objective.negatives=8"],
    "cl4srec-windows": ["objective.tied=false", "pretrain.windows=split", "encoder.max_length=8"],
    "ptum": ["encoder.readout=attention"],
    "ptum-user": ["objective.places=user", "objective.others=uniform", "encoder.name=bert4rec"],
    "ptum-token": ["encoder.readout=cls"],
    "ptum-own": ["objective.tied=false", "objective.following=1", "encoder.readout=max"],
    "lurm": ["objective.views=samples", "encoder.readout=anchors"],
    "clue_service": [*SERVICES, "encoder.readout=mean", "objective.chunk=16"],
    "clue_service-windows": [*SERVICES, "objective.alone=windows", "objective.learn_tau=false"],
    "adaptssr": ["encoder.readout=attention", "encoder.name=bert4rec"],
    "adaptssr-batch": ["objective.adapt=batch", "encoder.readout=mean", "encoder.dropout=0.1"],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make(tmp_path_factory.mktemp("objectives"), ("watch", "buy", "gender"))


@pytest.mark.parametrize("case", CASES)
def test_from_a_recipe_to_answers(recipe, tmp_path, case):
    options = ["tuning.method=finetune", f"objective.name={case.partition('-')[0]}", *CASES[case]]
    run = perdure.learn(recipe, tmp_path / "run", overrides=options)
    ranks = not registry.find("objectives", case.partition("-")[0]).measure
    assert run.metrics["watch"] == ("ndcg@10" if ranks else "agreement")
    assert perdure.evaluate(run.model, task="watch")[0]["value"] == pytest.approx(run.scores["watch"], abs=1e-6)
    if ranks:
        assert len(perdure.recommend(run.model, task="watch", history=["s0001", "s0013"], k=5)["items"]) == 5
    assert perdure.recommend(run.model, task="gender", user="u0001")["source"] == "model"
    again = perdure.learn(recipe, tmp_path / "again", overrides=options)
    first, second = (store.load(one.model, registry.find).state_dict() for one in (run, again))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("objective", ["next_item", "cl4srec"])
def test_every_event_but_the_first_has_a_window_of_its_own_in_each_epoch(recipe, tmp_path, objective):
    wanted = perdure.check(recipe).tasks[0]["notes"]["answers"]["train"]
    options = [f"objective.name={objective}", "pretrain.batch_size=64", "pretrain.epochs=1"]
    for targets, windows in (("last", wanted), ("all", 84)):
        run = perdure.learn(recipe, tmp_path / targets, overrides=[*options, f"objective.targets={targets}"])
        lines = [json.loads(line) for line in Path(run.folder, "log.jsonl").read_text().splitlines()]
        epoch = next(line for line in lines if line["event"] == "epoch" and line["task"] == "watch")
        assert epoch["step"] == -(-windows // 64)


def test_vectors_of_places_are_saved_with_the_task(recipe, tmp_path):
    options = ["tuning.method=frozen", "objective.name=ptum", "objective.places=user", "objective.following=3"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=options)
    assert store.load(run.model, registry.find).heads["watch"].parts.table.shape == (20 + 3 - 1, 16)


def test_options_of_next_item_are_checked_in_cl4srec(recipe):
    with pytest.raises(SettingsError, match="negatives"):
        perdure.check(recipe, overrides=["objective.name=cl4srec", "objective.negatives=0"])
    told = perdure.check(recipe, overrides=["objective.name=cl4srec", "objective.loss=gbce"]).settings["objective"]
    assert told["loss"] == "gbce" and told["weight"] == 0.1


@pytest.mark.parametrize("objective", ["next_item", "cl4srec"])
def test_a_softmax_over_all_items_is_refused_where_few_rows_may_move(recipe, tmp_path, objective):
    options = ["tuning.method=finetune", f"objective.name={objective}", "encoder.sparse=true"]
    with pytest.raises(SettingsError, match=r"softmax over all items .*sparse"):
        perdure.learn(recipe, tmp_path / "run", overrides=options)
    sampled = [*options, "objective.loss=sampled", "objective.negatives=8"]
    assert perdure.learn(recipe, tmp_path / "sampled", overrides=sampled).metrics["watch"] == "ndcg@10"


@pytest.mark.parametrize("change", [["encoder.name=bert4rec"], ["encoder.readout=mean"]])
def test_cl4srec_is_refused_where_next_item_is(recipe, change):
    with pytest.raises(SettingsError, match="objective cl4srec"):
        perdure.check(recipe, overrides=["objective.name=cl4srec", *change])
