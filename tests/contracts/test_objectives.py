"""What objectives owe every tuning method: later tasks of histories are learned, answered, saved and loaded."""

from __future__ import annotations

import members
import pytest
import torch

from perdure import registry
from perdure.errors import SettingsError
from perdure.model import store

OBJECTIVES = {  # one that ranks nothing, one with weights of its own, one with both
    "clue_seq": ("sasrec", {"views": "mask"}),
    "ptum": ("sasrec", {"places": "user"}),
    "shopperbert": ("bert4rec+input", {}),
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
