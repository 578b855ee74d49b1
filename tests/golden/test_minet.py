"""MiNet's equations against a loop over users, labels and clicks, and which clicks count as which."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.events.ids import Ids
from perdure.events.profiles import Fields
from perdure.tuning import minet

FIELDS = Fields({"gender": Ids(["F", "M"], first=1)}, width=2)


def learned(kind: str = "item", **options):
    """A model that knows a first task and one by MiNet, whose labels are the first 7 items, and a batch."""
    model = members.new_model("sasrec", "minet", attention=5, hidden=6, rank=3, **options)
    model.fields = FIELDS
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", kind), torch.Generator().manual_seed(1))
    profile, source = torch.tensor([[1], [0], [2], [0], [1], [2]]), torch.randn(6, 2, generator=torch.Generator())
    batch = replace(members.batch(3, answers=members.Y), profile=profile, source=source)
    return model.requires_grad_().eval(), batch


def by_hand(head, table, target, source, p, q):
    """f of one user and one label: lists of click rows, p (D,), q (d,)."""

    def attended(part, clicks):
        weights = []
        for r in table[clicks]:
            moved = r @ part.move[0].weight.T @ part.move[1].weight.T if len(list(part.move.parameters())) else r
            hidden = r @ part.click.weight.T + part.click.bias + p @ part.user.weight.T
            hidden = hidden + q @ part.label.weight.T + (moved * q) @ part.both.weight.T
            weights.append(F.relu(hidden) @ part.out.weight[0])
        if not weights:
            return torch.zeros_like(q)
        return sum(w * r for w, r in zip(torch.stack(weights).softmax(0), table[clicks], strict=True))

    a_t, a_s = attended(head.target, target), attended(head.source, source)
    z = torch.cat([q, p, a_t, a_s])
    v = [math.exp(gate(z).item()) for gate in head.gates]
    return head.deep(torch.cat([q, v[0] * p, v[1] * a_t, v[2] * a_s]))[0]


def clicks(batch, b, n_t=10, n_s=20):
    """Rows of a user's last target and source clicks: labels are items 2 to 8."""
    events = batch.items[b][: batch.lengths[b]].tolist()
    return [i for i in events if i < 2 + members.Y][-n_t:], [i for i in events if i >= 2 + members.Y][-n_s:]


@pytest.mark.parametrize(("n_t", "n_s"), [(10, 20), (1, 3)])
def test_scores_against_a_loop(n_t, n_s):
    model, batch = learned(target_clicks=n_t, source_clicks=n_s)
    head, table = model.heads["buy"], model.item_table("buy")
    p = head.profile(batch.profile, batch.source, batch.items)
    with torch.no_grad():
        slow = [
            [by_hand(head, table, *clicks(batch, b, n_t, n_s), p[b], q) for q in head.labels(table)]
            for b in range(len(batch))
        ]
    torch.testing.assert_close(model.score(batch, "buy"), torch.tensor(slow))


def test_the_gates_begin_as_the_paper_s():
    model = members.new_model("sasrec", "minet")
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator())
    assert [gate[2].bias.item() for gate in model.heads["buy"].gates] == [1, 0, 0]


def test_the_loss_is_that_of_both_domains():
    model, batch = learned(negatives=100, weight=0.5)  # all labels and all other items stand against an answer
    head, table = model.heads["buy"], model.item_table("buy")
    loss = model.method.loss(model, "buy", batch, torch.Generator(), 0.0)
    scores, p = model.score(batch, "buy"), head.profile(batch.profile, batch.source, batch.items)
    here, there = [], []
    for b in range(len(batch)):
        mine = batch.answers[batch.answer_starts[b] : batch.answer_starts[b + 1]]
        wrong = [y for y in range(members.Y) if y not in mine.tolist()]
        here += [F.softplus(-scores[b, y]) + F.softplus(scores[b, wrong]).sum() / members.Y for y in mine]
        _, source = clicks(batch, b)
        others = [i for i in range(2 + members.Y, members.N + 2) if i not in source]
        f_s = {i: head.deep_source(torch.cat([table[i], p[b]]))[0] for i in range(2 + members.Y, members.N + 2)}
        mean = sum(F.softplus(f_s[i]) for i in others) / (members.N - members.Y)
        there += [F.softplus(-f_s[i]) + mean for i in source]
    whole = torch.stack(here).mean() + 0.5 * torch.stack(there).mean()
    torch.testing.assert_close(loss, whole)


def test_pieces_give_what_the_whole_gives(monkeypatch):
    model, batch = learned("next_item")
    whole = model.score(batch, "buy")
    monkeypatch.setattr(minet, "CELLS", 1)  # one label at once
    monkeypatch.setattr(minet, "USERS", 4)
    torch.testing.assert_close(model.score(batch, "buy"), whole)


def test_a_next_item_task_has_no_source_domain():
    model, batch = learned("next_item")
    assert not len(model.heads["buy"].others)
    u = model.represent(batch, "buy")
    assert not u[:, 10:30].any() and u[0, 9] == batch.items[0, batch.lengths[0] - 1]
    loss = model.method.loss(model, "buy", batch, torch.Generator().manual_seed(0), 0.0)
    assert torch.isfinite(loss) and loss > 0


def test_the_last_of_some():
    items = torch.tensor([[4, 9, 5, 6], [9, 9, 9, 9]])
    assert minet.last_of(items, items < 9, 2).tolist() == [[5, 6], [0, 0]]
    assert minet.last_of(items, items < 9, 5).tolist() == [[0, 0, 4, 5, 6], [0] * 5]


def test_labels_that_are_no_items_have_vectors_of_their_own():
    model, batch = learned("one_of")
    head = model.heads["buy"]
    assert head.labels.own is not None and len(head.others) == members.N  # all events are source clicks
    card = members.card("age", "one_of")
    assert np.all(card.label_items == -1) and model.score(batch, "buy").shape == (6, members.Y)
