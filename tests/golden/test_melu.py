"""MeLU's local and global updates against a loop over users with autograd, and what its answers may depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.events.ids import Ids
from perdure.events.profiles import Fields
from perdure.tuning import melu
from perdure.tuning.parts import answered, divided, latest

FIELDS = Fields({"gender": Ids(["F", "M"], first=1), "age": Ids(["old", "young"], first=1)}, width=2)


def learned(kind: str = "item", hides: str = "", **options):
    """A model that knows a first task and one by MeLU, and a batch of users with profiles and answers."""
    model = members.new_model("sasrec", "melu", **options)
    model.fields = FIELDS
    members.learn(model, "watch", "next_item")
    card = replace(members.card("buy", kind), hides=hides)
    model.add(card, torch.Generator().manual_seed(1))
    profile = torch.tensor([[1, 2], [0, 2], [2, 0], [0, 0], [1, 1], [2, 2]])
    source = torch.tensor([[1.0, 2], [0, 0], [3, 4], [0, 0], [5, 6], [0, 1]])
    batch = replace(members.batch(3, answers=members.Y), profile=profile, source=source)
    return model.requires_grad_().eval(), batch


def by_hand(model, items, x, rows, others, negatives, order):
    """L(theta_u) of one user: events, profile, labels asked for; one gradient step, two layers written out."""
    head, rate = model.heads["buy"], model.method.rate
    table = model.item_table("buy")

    def score(w, e):
        a = F.relu(e @ w["label.weight"].T + w["label.bias"] + x @ w["user.weight"].T)
        return F.relu(a @ w["inner.weight"].T + w["inner.bias"]) @ w["out.weight"][0]

    def loss(w, rows, vectors, others):
        others = [o for o in others.tolist() if o not in rows.tolist()]
        wrong, total = score(w, vectors[others]), 0.0
        for row in rows:
            total = total - torch.log_softmax(torch.cat([score(w, vectors[row][None]), wrong]), 0)[0]
        return total / max(len(rows), 1)

    weights = dict(head.decide.named_parameters())
    if len(items):
        first = loss(weights, items, table, others)
        slopes = torch.autograd.grad(first, list(weights.values()), create_graph=order == "second")
        weights = {n: w - rate * g for (n, w), g in zip(weights.items(), slopes, strict=True)}
    return loss(weights, rows, head.labels(table), negatives)


@pytest.mark.parametrize("order", ["first", "second"])
def test_updates_against_a_loop_over_users(order):
    model, batch = learned(order=order, rate=0.5)
    head = model.heads["buy"]
    others, negatives = torch.tensor([3, 9, 20, 31]), torch.arange(members.Y)
    u, (rows, kept) = model.represent(batch, "buy"), answered(batch)
    x = head.profile(batch.profile, batch.source, batch.items)
    whole = head.loss(u, rows, kept, model.item_table("buy"), others, negatives)
    slow = []
    for b in range(len(batch)):
        events, asked = batch.items[b][: batch.lengths[b]], rows[b][kept[b]]
        slow.append(by_hand(model, events, x[b], asked, others, negatives, order))
    torch.testing.assert_close(whole, torch.stack(slow).mean())
    names = [n for n, _ in head.named_parameters()]
    mine = torch.autograd.grad(whole, list(head.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(torch.stack(slow).mean(), list(head.parameters()))
    for name, a, b in zip(names, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-3, atol=1e-6)


def test_first_order_is_not_second_order():
    gradients = []
    for order in ("first", "second"):
        model, batch = learned(order=order, rate=0.5)
        loss = model.method.loss(model, "buy", batch, torch.Generator().manual_seed(0), 0.0)
        gradients.append(torch.autograd.grad(loss, model.heads["buy"].decide.label.weight)[0])
    assert not torch.allclose(*gradients)


def test_a_user_without_events_is_answered_by_theta():
    model, batch = learned("next_item")
    nobody = replace(batch, items=torch.zeros(6, 1, dtype=torch.long), lengths=torch.zeros(6, dtype=torch.long))
    head = model.heads["buy"]
    x = head.profile(batch.profile, batch.source, batch.items)
    plain = torch.stack([head.decide(model.item_table("buy")[2:], one) for one in x])
    torch.testing.assert_close(model.score(nobody, "buy"), plain)
    assert not torch.allclose(model.score(batch, "buy"), plain)  # events move the decision layers


def test_bpr_by_hand():
    model, _ = learned(loss="bpr")
    head, flat = model.heads["buy"], torch.zeros(4, 16)
    weights, rows = dict(head.decide.named_parameters()), torch.tensor([2, 0])
    kept, others = torch.tensor([True, False]), torch.tensor([1, 2, 3])
    loss = head.loss_of(weights, rows, kept, torch.zeros(head.profile.size), flat, others)
    assert loss.item() == pytest.approx(math.log(2))  # all score alike; 2 is the user's own and does not count


def test_pieces_give_what_the_whole_gives(monkeypatch):
    model, batch = learned("next_item")
    whole = model.score(batch, "buy")
    monkeypatch.setattr(melu, "CELLS", 64 * 64 * 7)  # seven labels at once
    monkeypatch.setattr(melu, "USERS", 4)
    assert torch.allclose(model.score(batch, "buy"), whole, atol=1e-5)


def test_a_task_never_reads_its_own_answer():
    model, batch = learned(hides="gender")
    changed = replace(batch, profile=torch.stack([3 - batch.profile[:, 0].clamp(min=1), batch.profile[:, 1]], 1))
    assert torch.equal(model.represent(batch, "buy"), model.represent(changed, "buy"))
    other, same = learned(hides="age")
    assert not torch.equal(other.score(same, "buy"), other.score(replace(same, profile=changed.profile), "buy"))


def test_support_and_query_share_no_event():
    _, batch = learned()
    cuts = set()
    for seed in range(40):
        support, rows, kept = divided(batch, torch.Generator().manual_seed(seed))
        cuts |= set(support.lengths.tolist())
        assert bool((support.lengths + kept.sum(1) == batch.lengths).all())
        assert torch.equal(rows[kept] + 2, batch.items[kept])
        assert not bool((kept & support.valid).any())
    assert 0 in cuts and members.T not in cuts  # the first event may be asked for, the last always is


def test_the_latest_events_stand_at_the_end():
    batch = members.Batch(torch.tensor([[5, 6, 7, 9], [8, 1, 9, 9]]), torch.tensor([3, 2]))
    assert latest(batch, 2).tolist() == [[6, 7], [8, 0]]  # row 1 is no item
    assert latest(batch, 5).tolist() == [[0, 0, 5, 6, 7], [0, 0, 0, 8, 0]]
