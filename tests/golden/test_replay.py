"""Replay: what is kept is a uniform sample of what was there; the loss by hand; what the model folder then holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from contracts import members
from training import world

from perdure import registry
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.events.ids import Ids
from perdure.events.profiles import Fields
from perdure.model import store
from perdure.tuning.replay import Memory, _some_of_each

USERS = 10


def told(batch: Batch) -> list[tuple]:
    """Each user of a batch: history and answers."""
    starts = batch.answer_starts.tolist() if batch.answer_starts is not None else None
    answers = [batch.answers[a:b].tolist() for a, b in pairwise(starts)] if starts else None
    return [
        (batch.items[b, :n].tolist(), answers[b] if answers else None) for b, n in enumerate(batch.lengths.tolist())
    ]


def kept(memory: Memory) -> list[tuple]:
    n = int(memory.filled)
    answers = (
        [None] * n if memory.answers is None else [[a for a in row if a >= 0] for row in memory.answers[:n].tolist()]
    )
    rows = zip(memory.items[:n].tolist(), memory.lengths[:n].tolist(), answers, strict=True)
    return [(items[:length], answer) for items, length, answer in rows]


def split(batch: Batch, at: int) -> list[Batch]:
    """The first `at` users, and the others; the first padded no longer than they need."""
    t, cut = int(batch.lengths[:at].max()), int(batch.answer_starts[at])
    return [
        Batch(batch.items[:at, :t], batch.lengths[:at], None, None, batch.answers[:cut], batch.answer_starts[: at + 1]),
        Batch(batch.items[at:], batch.lengths[at:], None, None, batch.answers[cut:], batch.answer_starts[at:] - cut),
    ]


def test_some_of_each_by_hand(monkeypatch):
    """Four users with 1, 3, 0 and 2 answers: the smallest keys of each come first."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.tensor([0.9, 0.5, 0.1, 0.3, 0.7, 0.2], dtype=torch.float64))
    answers, starts = torch.tensor([10, 20, 21, 22, 30, 31]), torch.tensor([0, 1, 4, 4, 6])
    some = _some_of_each(answers, starts, 2, torch.Generator())
    assert some.tolist() == [[10, -1], [21, 22], [-1, -1], [31, 30]]
    assert _some_of_each(answers, starts, 1, torch.Generator()).tolist() == [[10], [21], [-1], [31]]


def test_kept_examples_are_the_users_own():
    data = members.batch(0, size=USERS, answers=members.Y)
    memory = Memory(4, members.T, most=2, timed=True)
    memory.keep([data], torch.Generator().manual_seed(1))
    there = told(data)
    found = kept(memory)
    assert len(found) == 4
    for row, (history, some) in enumerate(found):
        user = next(b for b, (items, _) in enumerate(there) if items == history)
        n, rest = len(history), list(there[user][1])
        assert len(some) == min(2, len(rest))
        for answer in some:
            rest.remove(answer)
        assert torch.equal(memory.times[row, :n], data.times[user, :n])
        assert not memory.times[row, n:].any() and not memory.items[row, n:].any()


def test_every_example_is_as_likely_and_so_is_each_answer():
    """400 times 4 of 10 in two batches: about 160 times each; each answer of a user with as many as the others."""
    data = members.batch(0, size=USERS, answers=members.Y)
    parts = split(data, 7)
    there, times, answers = told(data), torch.zeros(USERS), torch.zeros(len(data.answers))
    assert len({str(items) for items, _ in there}) == USERS
    for seed in range(400):
        memory = Memory(4, members.T, most=1, timed=False)
        memory.keep(parts, torch.Generator().manual_seed(seed))
        found = kept(memory)
        assert len({str(items) for items, _ in found}) == 4, "without replacement"
        for items, (answer,) in found:
            user = next(b for b, (history, _) in enumerate(there) if history == items)
            times[user] += 1
            same = [int(data.answer_starts[user]) + i for i, a in enumerate(there[user][1]) if a == answer]
            answers[same] += 1 / len(same)
    assert times.sum() == 1600
    assert ((times - 160).abs() < 4 * (400 * 0.4 * 0.6) ** 0.5).all(), times  # four standard deviations
    for user in range(USERS):
        shares = answers[data.answer_starts[user] : data.answer_starts[user + 1]] / times[user]
        assert ((shares - 1 / len(shares)).abs() < 0.2).all()


def test_fewer_examples_than_room():
    data = members.batch(0, size=USERS, answers=members.Y)
    memory = Memory(64, members.T, most=3, timed=False)
    memory.keep(split(data, 5), torch.Generator())
    whole = {str(items): sorted(answers) for items, answers in told(data)}
    assert {str(items): sorted(answers) for items, answers in kept(memory)} == whole and int(memory.filled) == USERS
    drawn = memory.draw(300, torch.Generator())
    assert len(drawn) == USERS, "no user stands beside themselves, which contrasts would push apart"
    assert {str(items): sorted(answers) for items, answers in told(drawn)} == whole
    memory.keep([split(data, 2)[0]], torch.Generator())
    assert int(memory.filled) == 2 and not memory.items[2:].any(), "what was kept before is gone"


def test_what_teaches_nothing_is_not_kept():
    """A single event has no next item."""
    data = Batch(torch.tensor([[2, 0], [3, 4], [5, 0]]), torch.tensor([1, 2, 1]))
    memory = Memory(3, 2, most=0, timed=False)
    memory.keep([data], torch.Generator())
    assert kept(memory) == [([3, 4], None)]


def test_who_is_who_is_kept_and_nobody_is_named():
    """Examples of one user stay of one user, each has its profile, and no row of the log is in the memory."""
    items = torch.tensor([[2, 3], [4, 5], [6, 7], [8, 9], [3, 2]])
    users, profile = torch.tensor([70, 70, 30, 990, 70]), torch.tensor([[1, 0], [1, 0], [2, 4], [0, 3], [1, 0]])
    memory = Memory(5, 2, most=0, timed=False, fields=2)
    lengths = torch.full((5,), 2)
    memory.keep([Batch(items, lengths, None, users, profile=profile)], torch.Generator())
    assert memory.users.unique().tolist() == [0, 1, 2] and memory.users.dtype == torch.int32
    drawn = memory.draw(4, torch.Generator().manual_seed(1))
    own = [(items == history).all(1).nonzero().item() for history in drawn.items]
    assert torch.equal(drawn.users[:, None] == drawn.users, users[own][:, None] == users[own])
    assert torch.equal(drawn.profile, profile[own])
    memory.keep([Batch(items, lengths)], torch.Generator())
    assert sorted(memory.users.tolist()) == [0, 1, 2, 3, 4], "without users every example is another's"


def told_of_users(**objective):
    """A model whose objective tells fields of a profile from histories, and users with both."""
    fields = Fields({"age": Ids(["20", "30"], first=1), "town": Ids(["a", "b", "c"], first=1)})
    spec = {"encoder": {"name": "bert4rec", "width": 16, "max_length": members.T, "dropout": 0.0}}
    spec |= {"method": {"name": "replay"}, "objective": {"name": "uprec", "friends": 0.0, **objective}}
    ids = Ids([f"i{i:02d}" for i in range(members.N)], first=2)
    model = store.build(spec, ids, registry.find, torch.Generator().manual_seed(0), fields)
    model.add(members.card("watch", "next_item"), torch.Generator().manual_seed(1))
    data, rng = members.batch(0, size=USERS, length=members.T), torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randint(3, (USERS,), generator=rng), torch.randint(4, (USERS,), generator=rng)], 1)
    return model, replace(data, times=None, marks=None, lengths=data.lengths.clamp(min=2), profile=rows)


def test_what_an_objective_learns_of_users_is_replayed_too():
    """All users are kept: the loss of attributes is that of the batch itself."""
    model, data = told_of_users(item=0.0)
    model.method.remember(model, "watch", [], [data], torch.Generator())
    replayed = model.overlays["watch"].draw(USERS, torch.Generator())
    own, again = (model.eval().loss(batch, "watch", torch.Generator()) for batch in (data, replayed))
    assert own > 1 and len(replayed) == USERS
    torch.testing.assert_close(again, own)
    model, _ = told_of_users(attributes=0.0)
    assert model.overlays["watch"].profile is None, "nothing learns it, so nothing keeps it"


def test_who_must_be_looked_up_cannot_be_replayed():
    model, data = told_of_users()
    model.objective.reads_users = True
    with pytest.raises(SettingsError, match="uprec looks users up, and replay does not keep who they are"):
        model.method.loss(model, "watch", data, torch.Generator(), 0.0)


def life(**options):
    model = members.new_model("sasrec", "replay", encoder={"dropout": 0.0}, **options)
    for seed, (name, kind) in enumerate([("watch", "next_item"), ("buy", "item")]):
        members.learn(model, name, kind, seed=seed)
    model.add(members.card("age", "one_of"), torch.Generator().manual_seed(9))
    return model


def replayed(model, monkeypatch):
    """Replaying always the same three examples; own loss, and that of each older task's three."""
    fixed = {task: model.overlays[task].draw(3, torch.Generator().manual_seed(4)) for task in ("watch", "buy")}
    of = {id(model.overlays[task]): batch for task, batch in fixed.items()}
    asked = []
    monkeypatch.setattr(Memory, "draw", lambda self, size, rng: (asked.append(size), of[id(self)])[1])
    data = members.batch(3, answers=members.Y)
    own = model.loss(data, "age", torch.Generator())
    return data, own, {task: model.loss(batch, task, torch.Generator()) for task, batch in fixed.items()}, asked


def test_all_older_tasks_by_hand(monkeypatch):
    model = life(weight=0.5, batch=5)
    data, own, older, asked = replayed(model, monkeypatch)
    loss = model.method.loss(model, "age", data, torch.Generator(), 0.0)
    torch.testing.assert_close(loss, own + 0.5 * (older["watch"] + older["buy"]) / 2)
    assert asked == [5, 5]
    batch = members.batch(3)
    first = model.method.loss(model, "watch", batch, torch.Generator(), 0.0)
    torch.testing.assert_close(first, model.loss(batch, "watch", torch.Generator()))


def test_one_older_task_by_hand(monkeypatch):
    model = life(weight=2.0, older="one")
    data, own, older, _ = replayed(model, monkeypatch)
    rng = torch.Generator().manual_seed(0)
    losses = [model.method.loss(model, "age", data, rng, 0.0) for _ in range(40)]
    ways = {task: own + 2 * loss for task, loss in older.items()}
    counts = {task: sum(torch.allclose(loss, way) for loss in losses) for task, way in ways.items()}
    assert sum(counts.values()) == 40 and min(counts.values()) > 8


def test_older_heads_train_where_asked():
    for heads, tasks in ((True, ["watch", "buy", "age"]), (False, ["age"])):
        model = life(heads=heads)
        trained = {id(p) for p in model.method.trains(model, "age", "train")}
        expected = [*model.backbone.parameters(), *(p for t in tasks for p in model.heads[t].parameters())]
        assert trained == {id(p) for p in expected}


def test_a_memory_is_worth_having():
    """The older task's loss on what was kept of it, after a later task."""

    def after(weight):
        model = members.new_model("sasrec", "replay", encoder={"dropout": 0.0}, weight=weight)
        members.learn(model, "age", "one_of", steps=30)
        members.learn(model, "like", "one_of", steps=30, seed=1)
        with torch.no_grad():
            return float(model.loss(model.overlays["age"].draw(100, torch.Generator()), "age", torch.Generator()))

    assert after(1.0) < 0.85 * after(0.0)


def test_what_the_model_folder_holds(tmp_path):
    model = life(memory=6)
    store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", registry.find)
    for task in ("watch", "buy"):
        mine, theirs = model.overlays[task].state_dict(), again.overlays[task].state_dict()
        assert set(mine) - {"answers", "users"} == {"items", "lengths", "filled"}, "times only where they are read"
        assert ("users" in mine) == (task == "watch")
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert model.overlays["watch"].items.shape == (6, members.T + 1)


def test_what_is_replayed_learns_as_before_after_a_stop(tmp_path):
    """Negatives by popularity: an older next_item task still has its counts when the run goes on in a later task."""

    def session(folder, show=None):
        model = world.model("replay")
        model.objective.alpha = 1.0
        return world.live(folder, model=model, show=show)

    def explode():
        raise world.Bomb

    whole = world.outcome(tmp_path / "whole", *session(tmp_path / "whole"))
    with pytest.raises(world.Bomb):
        session(tmp_path / "cut", world.At(at=10, do=explode))  # in the second epoch of the second task
    assert world.outcome(tmp_path / "cut", *session(tmp_path / "cut")) == whole
