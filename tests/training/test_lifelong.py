"""Lives of three tasks in a tiny world: what is kept, what is measured, what is published, what breaks a promise."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from training import world
from training.world import At, Bomb, evaluate, live

from perdure.encoders.base import Encoder
from perdure.errors import Interrupted, MachineError, ModelError, NonFiniteError, PromiseBroken, UsageError
from perdure.model import files, store
from perdure.training import cards, lifelong
from perdure.training.cards import card_of, item_counts
from perdure.training.life import seed_of
from perdure.training.promises import probe
from perdure.tuning.base import Method, added, everything
from perdure.tuning.ewc import EWC
from perdure.tuning.pcl import PCL


@pytest.mark.parametrize("method", world.ONE_BY_ONE)
def test_a_life(tmp_path, method):
    out, _ = live(tmp_path, method, epochs=4)
    rows = out.matrix.rows
    assert [len(row) for row in rows] == [1, 2, 3]
    keeps = world.METHODS[method].keeps
    assert all(rows[-1][k] == rows[k][k] for k in range(3)) or not keeps
    assert json.loads((tmp_path / "matrix.json").read_text()) == json.loads(files.render(out.matrix.to_dict()))
    assert [s["after"] for s in out.scores] == ["next", "later", "later", "kind", "kind", "kind"]
    assert [c["task"] for c in out.costs] == world.ORDER
    stored = {path.name: path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors")}
    for place, cost in enumerate(out.costs):  # what a method keeps besides has its size from the first task on
        more = 0 if place else stored.get("method.safetensors", 0)
        assert cost["bytes"] == stored[f"{cost['task']}.safetensors"] + more
        assert (
            cost["epochs"] == 4 * len(world.METHODS[method].stages)
            and cost["trainable"] > 0
            and cost["seconds"] > 0
            and cost["peak_rss"] > 2**20
        )
    again = store.load(tmp_path / "model", world.find)
    assert [evaluate(again, data, "test").value for data in world.datas().values()] == list(rows[-1])
    assert again.manifest["matrix"] == json.loads((tmp_path / "matrix.json").read_text())
    told = again.manifest["probes"]
    if keeps:
        assert told == {name: probe(again, data) for name, data in world.datas().items()}
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


def test_keeping_can_be_seen_with_sha256(tmp_path):
    digests = []

    class Look(At):
        def row(self, task, scores, protocols) -> None: ...

    real = store.save

    def save(model, folder, extra):
        out = real(model, folder, extra)
        digests.append({p.name: files.sha256(p.read_bytes()) for p in folder.rglob("*.safetensors")})
        return out

    store.save = save
    try:
        live(tmp_path, "pcl", show=Look(at=-1))
    finally:
        store.save = real
    for older, newer in pairwise(digests):
        assert len(newer) == len(older) + 1
        assert {name: newer[name] for name in older} == older


class Leak(Method):
    """Says it keeps; what it trains, or does on the side, is set by the test."""

    name: ClassVar[str] = "leak"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    keeps: ClassVar[bool] = True
    how: ClassVar[str] = ""

    def trains(self, model, task, stage):
        if model.is_first(task) or self.how in ("everything", "all-shut"):
            return everything(model, task)
        return added(model, task) + (list(model.heads["later"].parameters()) if self.leaks(task) else [])

    def leaks(self, task):
        return self.how == "older-head" and task == "kind"

    def loss(self, model, task, batch, rng, progress):
        more = model.heads["later"].table.square().sum() if self.leaks(task) else 0
        return model.loss(batch, task, rng) + more

    def shut(self, model, task, stage):
        if model.is_first(task) or self.how != "all-shut":
            return {}
        return {p: torch.ones_like(p) for p in model.backbone.parameters()}

    def enter(self, stage, model, task):
        if self.how == "enter" and not model.is_first(task):
            with torch.no_grad():
                model.backbone.item_table[3, 0] += 1e-6

    def leave(self, stage, model, task):
        if self.how == "leave" and not model.is_first(task):
            with torch.no_grad():
                model.backbone.item_table[3, 0] += 1e-6


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("everything", "what older tasks stand on: answers of next"),  # free to move, but the probes see it
        ("older-head", "heads.later.table"),
        ("enter", "backbone.layers.input"),
        ("leave", "backbone.layers.input"),
    ],
)
def test_a_broken_promise_is_caught(tmp_path, monkeypatch, how, named):
    monkeypatch.setitem(world.METHODS, "leak", Leak)
    monkeypatch.setattr(Leak, "how", how)
    with pytest.raises(PromiseBroken) as fault:
        live(tmp_path, "leak")
    assert named in str(fault.value) and "`trains`" in fault.value.fix
    assert fault.value.exit_code == 70
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("how", ["nothing", "all-shut"])
def test_a_kept_promise_passes(tmp_path, monkeypatch, how):
    """With weight decay and momentum on, a backbone that is trained but shut does not move by one bit."""
    monkeypatch.setitem(world.METHODS, "leak", Leak)
    monkeypatch.setattr(Leak, "how", how)
    out, _ = live(tmp_path, "leak", optimizer="adamw", weight_decay=0.1)
    assert out.matrix.forgetting() == 0


class TwoStages(PCL):
    """A method with two stages that remembers, between them, something that is no tensor."""

    name: ClassVar[str] = "stages"
    stages: ClassVar[tuple[str, ...]] = ("train", "retrain")

    def enter(self, stage, model, task):
        self.now = stage

    def leave(self, stage, model, task):
        self.now = None

    def loss(self, model, task, batch, rng, progress):
        return super().loss(model, task, batch, rng, progress) * (2.0 if self.now == "retrain" else 1.0)


def test_stages_stop_and_resume(tmp_path, monkeypatch):
    monkeypatch.setitem(world.METHODS, "stages", TwoStages)
    count = At(at=-1)
    expected = world.outcome(tmp_path / "whole", *live(tmp_path / "whole", "stages", show=count, epochs=1))
    assert count.count == 18
    assert [line["stage"] for line in expected["log"] if line["event"] == "epoch"] == ["train", "retrain"] * 3

    def explode() -> None:
        raise Bomb

    for at in (3, 4, 6, 7, 9, 10, 12, 15, 16):
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, "stages", show=At(at=at, do=explode), epochs=1)
        assert world.outcome(folder, *live(folder, "stages", epochs=1)) == expected, at


@pytest.mark.parametrize("phase", ["study", "remember", "probe"])
def test_long_work_beside_the_steps_is_stopped_by_a_signal(tmp_path, monkeypatch, phase):
    """At once, and the run goes on from the steps done before as if nothing had been."""
    expected = world.outcome(tmp_path / "whole", *live(tmp_path / "whole", "ewc"))
    where = {"study": Encoder, "remember": EWC, "probe": lifelong}[phase]
    real, went_on = getattr(where, phase), []

    def slow(*given, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.02)
        went_on.append(phase)
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(where, phase, slow)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            live(tmp_path / "cut", "ewc")
    assert not went_on
    assert world.outcome(tmp_path / "cut", *live(tmp_path / "cut", "ewc")) == expected


def test_a_pretrained_model_is_taken_over(tmp_path):
    """The first task comes from a folder: measured, not trained, and the rest is as if it had been one run."""
    first = world.ORDER[:1]
    whole, _ = live(tmp_path / "whole")
    data, settings = world.datas(), world.settings()
    with world.RunLog(tmp_path / "first", world.IDENTITY) as run:
        world.learn(world.model(), data, first, settings, run, evaluate=evaluate)
    loaded = store.load(tmp_path / "first" / "model", world.find)
    count = At(at=-1)
    out, _ = live(tmp_path / "second", model=loaded, show=count)
    assert out.matrix.rows == whole.matrix.rows
    assert count.count == 12
    assert out.costs[0]["seconds"] == 0 and out.costs[0]["epochs"] == 0
    # and it resumes
    loaded = store.load(tmp_path / "first" / "model", world.find)

    def explode() -> None:
        raise Bomb

    with pytest.raises(Bomb):
        live(tmp_path / "third", model=loaded, show=At(at=5, do=explode))
    loaded = store.load(tmp_path / "first" / "model", world.find)
    third, _ = live(tmp_path / "third", model=loaded)
    assert third.matrix.rows == whole.matrix.rows


@pytest.mark.parametrize("method", [name for name in world.ONE_BY_ONE if world.METHODS[name].keeps])
def test_a_model_that_is_taught_on_with_other_users_answers_as_before(tmp_path, method):
    """What a method took of a task's users when the task was learned is not taken again of those it has now."""
    live(tmp_path / "first", method)
    model, data = store.load(tmp_path / "first" / "model", world.find), world.datas()
    before = {name: probe(model, data[name]) for name in world.ORDER}
    train, order = data["later"].train, [*world.ORDER, "again"]
    n = len(train.users) // 2
    cut = {"users": train.users[:n], "begin": train.begin[:n], "end": train.end[:n]}
    told = {"answer_starts": train.answer_starts[: n + 1], "answers": train.answers[: train.answer_starts[n]]}
    fewer = replace(data["later"], train=replace(train, **cut, **told))
    again = replace(data["kind"], task=replace(data["kind"].task, name="again"))
    settings = dict.fromkeys(order, next(iter(world.settings().values())))
    with world.RunLog(tmp_path / "then", world.IDENTITY) as run:
        world.learn(model, {**data, "later": fewer, "again": again}, order, settings, run, evaluate=evaluate)
    assert {name: probe(model, data[name]) for name in world.ORDER} == before


def test_a_model_that_knows_other_tasks_is_refused(tmp_path):
    model = world.model()
    model.add(card_of(world.datas()["kind"]), torch.Generator())
    with pytest.raises(UsageError, match="the model knows kind"):
        live(tmp_path, model=model)


def test_numbers_that_break_leave_a_good_checkpoint(tmp_path):
    expected, _ = live(tmp_path / "whole")
    model = world.model()

    def poison() -> None:
        with torch.no_grad():
            model.heads["later"].table[0, 0] = float("nan")

    with pytest.raises(NonFiniteError, match="task later, epoch 2, step 5"):
        live(tmp_path / "run", model=model, show=At(at=10, do=poison))
    again, _ = live(tmp_path / "run")
    assert again.matrix.rows == expected.matrix.rows


def test_disk_is_checked_first(tmp_path, monkeypatch):
    import os
    from types import SimpleNamespace

    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=1024))
    with pytest.raises(MachineError, match="MiB needed"):
        live(tmp_path)


def test_another_model_on_resume_is_refused(tmp_path):
    def explode() -> None:
        raise Bomb

    with pytest.raises(Bomb):
        live(tmp_path, show=At(at=10, do=explode))
    with pytest.raises(ModelError, match="expected"):
        live(tmp_path, method="peterrec")


@pytest.mark.parametrize("block", [7, 2**22])
def test_item_counts_and_cards(block, monkeypatch):
    monkeypatch.setattr(cards, "BLOCK", block)
    data = world.datas()["next"]
    slow = np.zeros(world.ITEMS, np.int64)
    for begin, end in zip(data.train.begin, data.train.end, strict=True):
        np.add.at(slow, data.sequences.items[begin:end] - 2, 1)
    assert (item_counts(data, world.ITEMS) == slow).all()
    assert (card_of(data).popularity == slow).all()
    later = world.datas()["later"]
    assert card_of(later).popularity.sum() == len(later.train.answers)
    assert card_of(later).metric == "ndcg@10"


def test_every_use_has_a_seed_of_its_own():
    seeds = {seed_of(s, t, u) for s in range(3) for t in world.ORDER for u in ("init", "order", "loss", "dropout")}
    assert len(seeds) == 36 and all(0 <= s < 2**63 for s in seeds)
