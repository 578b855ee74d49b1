"""What objectives owe every tuning method: later tasks of histories are learned, answered, saved and loaded."""

from __future__ import annotations

import members
import pytest
import torch

from perdure import registry
from perdure.errors import SettingsError
from perdure.model import store
from perdure.training.loop import freeze, set_modes

STILL = "nothing is dropped"
OBJECTIVES = {  # one that ranks nothing, one with weights of its own, one with both, one of the last events alone
    "clue_seq": ("sasrec", {"views": "mask"}),
    "ptum": ("sasrec", {"places": "user"}),
    "shopperbert": ("bert4rec+input", {}),
    "next_item": ("sasrec", {"targets": "last"}),
}
CASES = [(objective, method) for objective in OBJECTIVES for method in members.METHODS]


@torch.inference_mode()
def answers(model):
    """Scores of tasks that rank, and measures of the others."""
    data, rng = members.batch(99, size=16), torch.Generator
    return {
        task: model.score(data, task) if model.ranks(task) else model.judge(data, task, rng().manual_seed(0))
        for task in model.tasks
    }


@pytest.mark.parametrize(("objective", "method"), CASES)
def test_later_tasks_of_histories(objective, method, tmp_path):
    encoder, options = OBJECTIVES[objective]
    model = members.new_model(encoder, method, objective={"name": objective, **options})
    members.learn(model, "watch", "next_item", steps=1)
    before = answers(model)
    try:
        if method != "frozen":  # which has nothing to learn where a task has no weights of its own
            members.learn(model, "read", "next_item", steps=1, seed=1)
    except SettingsError as refused:
        assert refused.found and refused.fix
        return
    members.learn(model, "buy", "item", steps=1, seed=2)
    found = answers(model)
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    assert not model.method.keeps or all(torch.equal(found[task], value) for task, value in before.items())
    store.save(model, tmp_path / "model")
    again = answers(store.load(tmp_path / "model", registry.find))
    assert all(torch.equal(again[task], value) for task, value in found.items())


@pytest.mark.parametrize("objective", ["clue_seq", "adaptssr"])
@pytest.mark.parametrize(("method", "still"), [("pcl", True), ("finetune", False), ("single", False)])
def test_views_that_differ_by_dropout_are_refused_on_a_frozen_backbone(objective, method, still):
    """Where the same history is encoded twice, a frozen backbone gives the same vector twice."""
    model = members.new_model("sasrec", method, objective=objective)
    members.learn(model, "watch", "next_item", steps=1)
    rng = torch.Generator().manual_seed(1)
    model.add(members.card("read", "next_item"), rng)
    set_modes(model, set(freeze(model, "read", "train").values()))
    if still:
        with pytest.raises(SettingsError, match=STILL):
            model.method.loss(model, "read", members.batch(1), rng, 0.0)
    else:
        assert torch.isfinite(model.method.loss(model, "read", members.batch(1), rng, 0.0))


@pytest.mark.parametrize("objective", ["clue_seq", "adaptssr"])
def test_views_that_differ_by_dropout_are_refused_where_there_is_none(objective):
    with pytest.raises(SettingsError, match=STILL):
        members.learn(members.new_model("nextitnet", "finetune", objective=objective), "watch", "next_item", steps=1)
    dropping = members.new_model("nextitnet", "finetune", encoder={"dropout": 0.1}, objective=objective)
    members.learn(dropping, "watch", "next_item", steps=1)
    views = members.new_model("nextitnet", "finetune", objective={"name": "clue_seq", "views": "crop"})
    members.learn(views, "watch", "next_item", steps=1)
