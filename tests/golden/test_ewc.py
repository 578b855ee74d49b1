"""EWC: the merged parabola by hand, the Fisher diagonal against loops over users and labels, and what is held."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from contracts import members
from torch import nn
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.ewc import EWC, _cut

PARABOLAS = [(1.0, 2.0), (3.0, 6.0), (0.0, 9.0)]  # F_j and theta*_j of three tasks


def one_weight(monkeypatch, **options):
    """A method that holds a single number w, and meets the three parabolas."""
    method, w = EWC(**options), nn.Parameter(torch.tensor([0.0]))
    monkeypatch.setattr(EWC, "held", lambda self, model: {"w": w})
    model = SimpleNamespace(tasks={}, backbone=SimpleNamespace(sparse=False), is_first=lambda name: name == "0")
    for number, (f, theta) in enumerate(PARABOLAS):
        model.tasks[str(number)] = None
        method.overlay(model, SimpleNamespace(name=str(number), kind="item"), torch.Generator())
        w.data.fill_(theta)
        monkeypatch.setattr(EWC, "fisher", lambda *_, f=f: [torch.tensor([f])])
        method.remember(model, str(number), [], [], torch.Generator())
    return method, model, w


def penalty(method, model, w, theta):
    w.data.fill_(theta)
    return method.distance(model).item()


def test_a_sum_of_parabolas_by_hand(monkeypatch):
    """1 (t - 2)^2 + 3 (t - 6)^2 + 0 (t - 9)^2 = 4 (t - 5)^2 + 12."""
    method, model, w = one_weight(monkeypatch)
    assert method.get_buffer("fisher/w").item() == 4.0 and method.get_buffer("anchor/w").item() == 5.0
    for theta in (-1.0, 2.0, 5.0, 7.0):
        each = sum(f * (theta - star) ** 2 for f, star in PARABOLAS)
        assert penalty(method, model, w, theta) == each - 12


def test_the_online_form_by_hand(monkeypatch):
    """A = 1/2 (1/2 1 + 3) + 0 = 1.75 around the newest task's 9."""
    method, model, w = one_weight(monkeypatch, form="online", gamma=0.5)
    assert penalty(method, model, w, 9.0) == 0.0
    assert penalty(method, model, w, 7.0) == 1.75 * 4


def test_a_task_is_counted_once(monkeypatch):
    method, model, _ = one_weight(monkeypatch)
    monkeypatch.setattr(EWC, "fisher", lambda *_: [torch.tensor([100.0])])
    method.remember(model, "2", [], [], torch.Generator())
    assert method.get_buffer("fisher/w").item() == 4.0 and int(method.counted) == 3


def made(encoder="sasrec", kind="one_of", dropout=0.5, **options):
    """A model in the middle of learning one task, and three batches of it."""
    model = members.new_model(encoder, "ewc", encoder={"dropout": dropout}, **options)
    model.add(members.card("task", kind), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)  # away from the flat beginning
    batches = [members.batch(s, answers=None if kind == "next_item" else members.Y) for s in range(3)]
    return model, batches


def alone(batch: Batch, b: int) -> Batch:
    n = int(batch.lengths[b])
    one = Batch(batch.items[b : b + 1, :n], batch.lengths[b : b + 1])
    if batch.answers is None:
        return one
    begin, end = batch.answer_starts[b], batch.answer_starts[b + 1]
    return Batch(one.items, one.lengths, None, None, batch.answers[begin:end], torch.tensor([0, int(end - begin)]))


def gradients(model, loss):
    given = torch.autograd.grad(loss, list(model.method.held(model).values()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g for p, g in zip(model.method.held(model).values(), given, strict=True)
    ]


def close(found, expected, **how):
    for name, f, e in zip(range(len(found)), found, expected, strict=True):
        torch.testing.assert_close(f, e, msg=lambda text, name=name: f"{name}: {text}", **how)


@pytest.mark.parametrize("encoder", members.STATEFUL)
@pytest.mark.parametrize("kind", ["next_item", "item", "one_of"])
def test_fisher_against_a_loop_over_users(encoder, kind):
    model, batches = made(encoder, kind, group=1)
    model.train()
    found = model.method.fisher(model, "task", batches, torch.Generator())
    users = [alone(batch, b) for batch in batches for b in range(len(batch))]
    users = [one for one in users if one.answers is not None or one.lengths > 1]
    rng = torch.Generator()
    slow = [gradients(model, model.loss(one, "task", rng)) for one in users]
    close(found, [torch.stack(gs).square().mean(0) for gs in zip(*slow, strict=True)], rtol=1e-3, atol=1e-8)
    assert sum(float(f.sum()) for f in found) > 0


@pytest.mark.parametrize("objective", ["clue_seq", "adaptssr"])
def test_views_by_dropout_differ_in_the_fisher_too(objective):
    """As in training: dropout comes from the global generators, which the loop seeds before."""
    model, batches = made("sasrec", "next_item", group=6, objective=objective)
    torch.manual_seed(1)
    found = model.method.fisher(model, "task", batches, torch.Generator().manual_seed(3))
    assert not any(part.training for part in model.modules())
    torch.manual_seed(1)
    rng = torch.Generator().manual_seed(3)
    model.train()
    slow = [gradients(model, model.loss(batch, "task", rng)) for batch in batches]
    close(found, [torch.stack([(6 * g) ** 2 for g in gs]).sum(0) / 18 for gs in zip(*slow, strict=True)])
    model.objective.needs_dropout = False
    same = model.method.fisher(model, "task", batches, torch.Generator().manual_seed(3))
    f, e = (torch.cat([t.flatten() for t in ts]) for ts in (found, same))
    assert torch.linalg.norm(f - e) > 0.1 * torch.linalg.norm(f), "the loss of equal views is another"


def test_users_that_are_compared_are_not_met_alone():
    model = members.new_model("sasrec", "ewc", objective="clue_seq", group=1)
    with pytest.raises(SettingsError, match="groups of one user"):
        model.add(members.card("watch", "next_item"), torch.Generator())


def test_a_user_left_over_with_nobody_to_be_compared_with_is_not_counted():
    """Of five users in groups of four the last is alone: F is that of the four."""
    model, batches = made("sasrec", "next_item", group=4, objective={"name": "clue_seq", "views": "mask"})
    rows = [slice(0, 5), slice(0, 4)]
    found, four = ([_cut(batches[0], some, batches[0].lengths[some])] for some in rows)
    found, four = (model.method.fisher(model, "task", b, torch.Generator().manual_seed(3)) for b in (found, four))
    assert sum(float(f.sum()) for f in four) > 0
    close(found, four, rtol=0, atol=0)


def test_nothing_is_drawn_from_scores_that_rank_nothing():
    model, batches = made("sasrec", "next_item", objective={"name": "clue_seq", "views": "mask"}, labels="drawn")
    found = model.method.fisher(model, "task", batches, torch.Generator().manual_seed(3))
    model.method.labels = "data"
    close(model.method.fisher(model, "task", batches, torch.Generator().manual_seed(3)), found, rtol=0, atol=0)


def test_groups_are_squared_as_one():
    model, batches = made(kind="item", group=4)
    found = model.method.fisher(model, "task", batches[:1], torch.Generator())
    users = [gradients(model.eval(), model.loss(alone(batches[0], b), "task", torch.Generator())) for b in range(6)]
    counts = batches[0].answer_starts.diff().tolist()
    expected = []
    for per_user in zip(*users, strict=True):
        sums = [sum(c * g for c, g in zip(counts[s], per_user[s], strict=True)) / sum(counts[s]) * len(counts[s])
                for s in (slice(0, 4), slice(4, 6))]  # fmt: skip
        expected.append(sum(s.square() for s in sums) / 6)
    close(found, expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("group", [1, 3])
def test_drawn_labels_give_the_fisher_proper(group):
    """Of the answers the model gives: sum_y p(y | x) (dlog p(y | x))^2, whatever the size of the groups."""
    model, batches = made(group=group, labels="drawn", users=10**6)
    many = [batches[0]] * 300
    found = model.method.fisher(model, "task", many, torch.Generator().manual_seed(5))
    exact = [torch.zeros_like(p) for p in model.method.held(model).values()]
    for b in range(6):
        scores = model.score(alone(batches[0], b), "task")
        for y, share in enumerate(scores.softmax(1)[0].tolist()):
            for total, g in zip(exact, gradients(model, F.cross_entropy(scores, torch.tensor([y]))), strict=True):
                total += share * g.square() / 6
            scores = model.score(alone(batches[0], b), "task")  # its graph is gone
    f, e = (torch.cat([t.flatten() for t in ts]) for ts in (found, exact))
    assert torch.linalg.norm(f - e) < 0.1 * torch.linalg.norm(e)


@pytest.mark.parametrize("encoder", members.STATEFUL)
def test_a_drawn_next_item_is_asked_of_the_events_before(encoder):
    """Windows of one event more than the encoder reads."""
    model, _ = made(encoder, "next_item", labels="drawn", group=2)
    data = members.batch(1, length=members.T + 1)
    asked = []
    model.score = lambda batch, task: (asked.append(batch), type(model).score(model, batch, task))[1]
    model.method.fisher(model, "task", [data], torch.Generator())
    assert torch.equal(torch.cat([batch.lengths for batch in asked]), data.lengths[data.lengths > 1] - 1)
    assert max(batch.items.shape[1] for batch in asked) == members.T


def test_of_a_user_of_one_event_no_next_item_is_drawn():
    """Before that event there is none to be asked of."""
    model, _ = made("sasrec", "next_item", labels="drawn", group=2)
    data = members.batch(1, size=6)
    data.lengths[:] = torch.tensor([3, 1, 4, 2, 1, 5])
    found, expected = (
        model.method.fisher(model, "task", [batch], torch.Generator().manual_seed(2))
        for batch in (data, data.of(torch.tensor([0, 2, 3, 5])))
    )
    close(found, expected, rtol=0, atol=0)


def test_no_more_users_than_asked():
    model, batches = made(group=2, users=4)
    seen = []
    model.loss = lambda batch, task, rng: (seen.append(len(batch)), type(model).loss(model, batch, task, rng))[1]
    model.method.fisher(model, "task", batches, torch.Generator())
    assert seen == [2, 2]


def test_the_penalty_pulls_back_with_its_strength():
    model = members.new_model("sasrec", "ewc", strength=50.0)
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    data, rng = members.batch(3, answers=members.Y), torch.Generator()
    own, held = model.loss(data, "buy", rng), model.method.loss(model, "buy", data, rng, 0.0)
    torch.testing.assert_close(own, held, rtol=0, atol=0)
    with torch.no_grad():
        for p in model.backbone.parameters():
            p.add_(0.1)
    more = model.method.loss(model, "buy", data, rng, 0.0) - model.loss(data, "buy", rng)
    pulled = gradients(model, more)
    for (name, p), g in zip(model.method.held(model).items(), pulled, strict=True):
        a, m = (model.method.get_buffer(f"{what}/{name}") for what in ("fisher", "anchor"))
        torch.testing.assert_close(g, 50 * a * (p - m).detach())
    assert more.item() == pytest.approx(25 * sum(float(model.method.get_buffer(f"fisher/{n}").sum()) * 0.01
                                                 for n in model.method.held(model)), rel=1e-3)  # fmt: skip


def moved(strength, **options):
    model = members.new_model("sasrec", "ewc", strength=strength, **options)
    members.learn(model, "watch", "next_item")
    before = copy.deepcopy(model.backbone.state_dict())
    members.learn(model, "buy", "item", seed=1)
    return model, {n: (t - before[n]).abs().max().item() for n, t in model.backbone.state_dict().items()}


def test_what_becomes_of_the_item_table():
    name = "layers.input.items"
    assert all(change > 0 for n, change in moved(0.0)[1].items() if n == name)
    frozen, changes = moved(0.0, table="frozen")
    assert changes[name] == 0.0 and "layers/input/items" not in frozen.method.held(frozen)
    free, changes = moved(1e6, table="free")
    assert changes[name] > 0 and "layers/input/items" not in free.method.held(free)
    assert not any(n.endswith("input/items") for n, _ in free.method.named_buffers())


@pytest.mark.parametrize("table", ["held", "frozen", "free"])
def test_the_table_of_an_encoder_of_interests_is_theirs(table):
    """Item vectors are looked up in it, and are no parameter."""
    model = members.new_model("smen", "ewc", table=table)
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator())
    interests = model.backbone.event_table
    assert any(p is interests for p in model.method.trains(model, "buy", "train")) == (table != "frozen")
    assert any(p is interests for p in model.method.held(model).values()) == (table == "held")


def test_a_sparse_table_cannot_be_held():
    model = members.new_model("sasrec", "ewc", encoder={"sparse": True})
    with pytest.raises(SettingsError, match="sparse"):
        model.add(members.card("watch", "next_item"), torch.Generator())
