"""A model may be asked from several threads: a task's own weights never answer for another task."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import members
import numpy as np
import pytest
import torch

from perdure.events.examples import Sequences
from perdure.inference.represent import represent, scores_of

TASKS = [("watch", "next_item"), ("buy", "item"), ("like", "item")]


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("method", members.METHODS)
def test_threads_get_the_answers_of_one(encoder, method):
    model = members.new_model(encoder, method)
    for seed, (name, kind) in enumerate(TASKS):
        members.learn(model, name, kind, seed=seed)
    people = members.batch(9)
    starts = np.append(0, people.lengths.cumsum(0).numpy())
    items = people.items[people.valid].numpy()
    empty = np.zeros(len(people), bool)

    def answer(task: str) -> torch.Tensor:
        u = represent(model, task, Sequences(items, starts), starts[:-1], starts[1:])
        return scores_of(model, task, u, empty, items, starts[:-1], starts[1:])

    alone = {name: answer(name) for name, _ in TASKS}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    every = [name for name, _ in TASKS] * 12
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(answer, every))
    finally:
        sys.setswitchinterval(old)
    for task, got in zip(every, together, strict=True):
        assert torch.equal(got, alone[task]), task
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
