"""A method that learns from the model before it: stopped and gone on with, it has the same teacher, the same bits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from training import world
from training.test_resume import EVERY_STEP, ask, explode
from training.world import At, Bomb, live, outcome

from perdure.errors import Interrupted
from perdure.model import store

TAUGHT = [("teracon", {}), ("teracon", {"relations": "anew"}), ("lwf", {}), ("lwf", {"warm_up": True})]
IDS = ["teracon", "teracon-anew", "lwf", "lwf-warm-up"]
STEPS = 6  # of a stage of a task


def fresh(method: str, options: dict):
    return world.model(method, **options)


@cache
def uninterrupted(method: str, options: tuple) -> dict:
    folder = Path(mkdtemp())
    return outcome(folder, *live(folder, model=fresh(method, dict(options))))


@pytest.mark.parametrize(("method", "options"), TAUGHT, ids=IDS)
def test_stopped_in_the_middle_of_the_third_task(tmp_path, method, options):
    expected = uninterrupted(method, tuple(options.items()))
    stages = len(fresh(method, options).method.stages)
    first = STEPS  # where there is nothing to distil from, warming up is no step
    for at in range(first + STEPS * stages + 1, first + 2 * STEPS * stages + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Interrupted):
            live(folder, model=fresh(method, options), show=At(at=at, do=ask))
        assert outcome(folder, *live(folder, model=fresh(method, options))) == expected, at


@pytest.mark.parametrize(("method", "options"), TAUGHT[:1], ids=IDS[:1])
def test_killed_at_every_step(tmp_path, method, options):
    expected = uninterrupted(method, tuple(options.items()))
    for at in range(1, 3 * STEPS + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, model=fresh(method, options), show=At(at=at, do=explode), checkpoint_minutes=EVERY_STEP)
        again = live(folder, model=fresh(method, options), checkpoint_minutes=EVERY_STEP)
        assert outcome(folder, *again) == expected, at


def test_the_newest_checkpoint_of_the_next_task_is_damaged(tmp_path):
    """The run falls back on the checkpoint before, whose teacher may be one task older than the last one saved."""
    expected = uninterrupted("lwf", ())
    for at in (2 * STEPS + 1, 3 * STEPS):  # the first falls back into the second task
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, "lwf", show=At(at=at, do=explode))
        newest = max((folder / "checkpoints").iterdir(), key=lambda p: p.name)
        damaged = newest / "model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        result = outcome(folder, *live(folder, "lwf"))
        result["log"] = [line for line in result["log"] if line["event"] != "warning"]
        assert result == expected, at


def test_the_teacher_is_the_model_before_the_task_and_reads_its_weights_from_disk(tmp_path, monkeypatch):
    seen = []
    real = store.twin

    def twin(model, folder):
        seen.append((real(model, folder), {n: t.clone() for n, t in model.state_dict().items()}))
        return seen[-1][0]

    monkeypatch.setattr(store, "twin", twin)
    _, built = live(tmp_path / "run", "teracon")
    assert [list(teacher.tasks) for teacher, _ in seen] == [["next"], ["next", "later"]]
    for teacher, then in seen:
        now = teacher.state_dict()
        assert all(torch.equal(now[n], t) for n, t in then.items()) and now.keys() == then.keys()
        assert not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(RuntimeError, match="no teacher"):
        _ = built.method.teacher
