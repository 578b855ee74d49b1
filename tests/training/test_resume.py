"""Stopped anywhere, a run goes on to the same bits: weights, matrix, log. Shuffle and dropout on, several epochs."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from training import world
from training.world import At, Bomb, evaluate, live, outcome

from perdure.errors import Interrupted

EVERY_STEP = 1e-9  # minutes between checkpoints
FANCY = {"optimizer": "adamw", "schedule": "cosine", "warmup_steps": 2, "clip": 0.5, "patience": 1, "epochs": 3}


@cache
def uninterrupted(method: str, **more) -> tuple[dict, int]:
    folder = Path(mkdtemp())
    count = At(at=-1)
    out = outcome(folder, *live(folder, method, show=count, **more))
    return out, count.count


def explode() -> None:
    raise Bomb


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_two_runs_are_equal(tmp_path):
    assert outcome(tmp_path / "a", *live(tmp_path / "a")) == uninterrupted("pcl")[0]


@pytest.mark.parametrize(
    ("method", "minutes"),
    [
        ("pcl", EVERY_STEP),
        ("finetune", 5.0),
        ("hat", EVERY_STEP),
        ("conure", 5.0),
        ("ewc", 5.0),
        ("replay", EVERY_STEP),
    ],
    ids=[
        "pcl-checkpoint-every-step",
        "finetune-checkpoint-every-epoch",
        "hat-checkpoint-every-step",
        "conure-checkpoint-every-epoch",
        "ewc-checkpoint-every-epoch",
        "replay-checkpoint-every-step",
    ],
)
def test_killed_at_every_step(tmp_path, method, minutes):
    expected, steps = uninterrupted(method)
    assert steps == 18 * len(world.METHODS[method].stages)
    for at in range(1, steps + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, method, show=At(at=at, do=explode), checkpoint_minutes=minutes)
        assert outcome(folder, *live(folder, method, checkpoint_minutes=minutes)) == expected, at


@pytest.mark.parametrize("method", world.ONE_BY_ONE)
def test_every_method_goes_on_exactly(tmp_path, method):
    """Killed while it learns a later task: what it must know of the first ones is in the checkpoint."""
    expected, steps = uninterrupted(method)
    with pytest.raises(Bomb):
        live(tmp_path, method, show=At(at=2 * steps // 3 + 2, do=explode), checkpoint_minutes=EVERY_STEP)
    assert outcome(tmp_path, *live(tmp_path, method, checkpoint_minutes=EVERY_STEP)) == expected


def test_asked_to_stop_at_every_step(tmp_path):
    expected, steps = uninterrupted("pcl", **FANCY)
    for at in range(1, steps + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Interrupted) as stop:
            live(folder, show=At(at=at, do=ask), **FANCY)
        assert stop.value.exit_code == 6
        rest = At(at=-1)
        assert outcome(folder, *live(folder, show=rest, **FANCY)) == expected, at
        assert rest.count == steps - at, "no step was done twice"


def test_stopped_again_and_again(tmp_path):
    expected, steps = uninterrupted("peterrec")
    for session in range(steps):
        with pytest.raises(Interrupted):
            live(tmp_path / "run", "peterrec", show=At(at=1, do=ask))
        assert session < steps
    assert outcome(tmp_path / "run", *live(tmp_path / "run", "peterrec")) == expected


def test_asked_to_stop_in_every_evaluation(tmp_path):
    """Validation, and the rows of R: the signal comes in the middle of the work and nothing of it is kept."""
    expected, _ = uninterrupted("pcl")
    calls = 0

    def counting(*args):
        nonlocal calls
        calls += 1
        return evaluate(*args)

    live(tmp_path / "count", evaluate=counting)
    total = calls
    assert total == 3 * 2 + 1 + 2 + 3
    for at in range(1, total + 1):
        calls = 0

        def stopping(*args, at=at):
            nonlocal calls
            calls += 1
            if calls == at:
                ask()
            return evaluate(*args)

        folder = tmp_path / str(at)
        with pytest.raises(Interrupted):
            live(folder, evaluate=stopping)
        assert outcome(folder, *live(folder)) == expected, at


def test_killed_between_the_operations_of_publishing(tmp_path):
    """After a row of R was measured, before, while and after the model folder is written."""
    from perdure.model import store

    expected, _ = uninterrupted("pcl")
    real = store.save
    for when in ("before", "after"):
        for task in range(1, 4):
            calls = 0

            def save(*args, when=when, task=task):
                nonlocal calls
                calls += 1
                if calls == task and when == "before":
                    raise Bomb
                digest = real(*args)
                if calls == task:
                    raise Bomb
                return digest

            folder = tmp_path / f"{when}{task}"
            store.save = save
            try:
                with pytest.raises(Bomb):
                    live(folder)
            finally:
                store.save = real
            assert outcome(folder, *live(folder)) == expected


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first = live(tmp_path / "run")
    count = At(at=-1)
    again = live(tmp_path / "run", show=count)
    assert count.count == 0
    assert outcome(tmp_path / "run", *again) == outcome(tmp_path / "run", *first)


def test_the_newest_checkpoint_is_damaged(tmp_path):
    expected, _ = uninterrupted("pcl")
    folder = tmp_path / "run"
    with pytest.raises(Bomb):
        live(folder, show=At(at=10, do=explode), checkpoint_minutes=EVERY_STEP)
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: p.name)
    damaged = newest / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (folder / "checkpoints" / ".000099.new").mkdir()
    result = outcome(folder, *live(folder))
    notes = [line for line in result["log"] if line["event"] == "warning"]
    assert len(notes) == 1 and "damaged" in notes[0]["text"]
    result["log"] = [line for line in result["log"] if line["event"] != "warning"]
    assert result == expected
    assert not list((folder / "checkpoints").glob(".*"))
