"""The equations of axes against numbers worked by hand and a loop over events; what a task may draw on and move."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences
from perdure.events.together import baskets, pairs
from perdure.model.heads import TRUSTS, ItemsHead
from perdure.tuning.axes import summed


def learned(*tasks: str, encoder: str = "sasrec", **options):
    """A model that has learned a first task and later ones."""
    model = members.new_model(encoder, "axes", **options)
    members.learn(model, "watch", "next_item")
    for seed, name in enumerate(tasks, 1):
        members.learn(model, name, "item" if name == "buy" else "one_of", seed=seed)
    return model.eval().requires_grad_(False)


def test_sums_over_events_by_hand():
    batch = Batch(torch.tensor([[2, 3, 4, 5], [6, 0, 0, 0]]), torch.tensor([4, 1]))
    x = torch.tensor([[[1.0], [2], [3], [4]], [[5], [7], [7], [7]]])  # padding holds numbers, too
    assert torch.allclose(summed(x, batch)[:, 0, 0], torch.tensor([10 / 2, 5.0]))
    after = summed(x, batch, everywhere=True)[0, :, 0]
    assert torch.allclose(after, torch.tensor([1, 3 / math.sqrt(2), 6 / math.sqrt(3), 5.0]))


def test_a_user_vector_against_a_loop_over_events():
    model = learned("age", "buy")
    model.overlays["buy"].mix.normal_(generator=torch.Generator().manual_seed(0))
    overlay, age, batch = model.overlays["buy"], model.overlays["age"], members.batch(3)
    u, h, table = model.represent(batch, "buy"), model.represent(batch), model.backbone.item_table
    for b in range(len(batch)):
        items, n = batch.items[b, : batch.lengths[b]].tolist(), int(batch.lengths[b])
        p = sum(overlay.axis[i] for i in items) / math.sqrt(n)
        q = sum(F.gelu(overlay.inner(table[i] / overlay.rms)) for i in items) / math.sqrt(n)
        z = (sum(age.axis[i] for i in items) / math.sqrt(n) - age.mean) / age.deviation
        told = (
            overlay.gate * h[b]
            + p * overlay.direction
            + q @ overlay.outer
            + (overlay.mix @ z[None]) @ overlay.directions
        )
        torch.testing.assert_close(u[b], told, atol=1e-5, rtol=1e-4)


def test_states_are_what_the_vector_was_after_each_event():
    model = learned("age", "buy")
    batch = members.batch(4)
    states = model.overlays["buy"].states(model.backbone, batch)  # (B, T, d)
    for t in (1, 3, 7):
        cut = Batch(batch.items[:, :t], batch.lengths.clamp(max=t))
        whole = batch.lengths >= t
        torch.testing.assert_close(model.represent(cut, "buy")[whole], states[whole, t - 1], atol=1e-5, rtol=1e-4)


def test_earlier_axes_are_drawn_on_and_stay():
    model = learned("age")
    before = {name: value.clone() for name, value in model.overlays["age"].state_dict().items()}
    members.learn(model, "buy", "item", seed=2, steps=5)
    assert all(torch.equal(value, before[name]) for name, value in model.overlays["age"].state_dict().items())
    assert list(model.method.relations(model, "buy")) == ["age"]
    assert model.overlays["buy"].mix.abs().sum() > 0
    names = set(model.overlays["buy"].state_dict())
    assert not any("earlier" in name for name in names)  # an axis is stored once, with its own task


def test_what_is_remembered_is_the_spread_of_the_training_users():
    model = learned("age")
    overlay = model.overlays["age"]
    batches = [members.batch(seed) for seed in (1, 2)]
    model.method.remember(model, "age", [], batches, torch.Generator())
    with torch.no_grad():
        p = torch.cat([summed(overlay.own(batch), batch).flatten() for batch in batches])
    torch.testing.assert_close(overlay.mean, p.mean())
    torch.testing.assert_close(overlay.deviation, p.std(correction=0))
    model.method.remember(model, "age", [], [batches[0].of(torch.tensor([0]))], torch.Generator())
    assert overlay.deviation == 1  # nobody stands anywhere else: no later task is to divide by nothing


def test_what_events_tell_on_earlier_axes():
    model = learned("age", "buy", "gender")
    overlay, batch = model.overlays["gender"], members.batch(4)
    table = torch.stack([model.overlays[name].axis for name in ("age", "buy")], 1)  # (N + 2, 2)
    assert torch.equal(overlay.before(batch), table[batch.items]) and table.abs().sum() > 0


def test_with_gate_1_a_task_begins_as_the_backbone():
    model = members.new_model("sasrec", "axes", gate=1.0)
    members.learn(model, "watch", "next_item")
    model.add(members.card("age", "one_of"), torch.Generator())
    model.eval()
    batch = members.batch(5)
    assert torch.equal(model.represent(batch, "age"), model.represent(batch))


@pytest.mark.parametrize("head", ["items", "both"])
def test_labels_are_scored_by_the_items_the_backbone_met_and_by_vectors_of_their_own(head):
    model = learned("buy", head=head)  # no history of the first task held its item 0
    own, table, batch = model.heads["buy"], model.backbone.item_table, members.batch(6)
    card, u = model.tasks["buy"], model.represent(batch, "buy")
    assert model.tasks["watch"].popularity[0] == 0 and card.label_items[0] == 2
    assert len(own.vectors) == (1 if head == "items" else len(card.label_items)) and own.vectors.abs().min() > 0
    for y, row in enumerate(card.label_items.tolist()):
        e = table[row] if y else torch.zeros_like(table[row])
        e = e + own.vectors[y] if head == "both" or y == 0 else e
        torch.testing.assert_close(own.score(u, table)[:, y], u @ own.map @ e + own.bias[y], atol=1e-5, rtol=1e-4)


def test_what_stood_together_is_counted_once_a_task_is_learned_and_added_as_it_is_trusted():
    model, batch = learned("buy"), members.batch(7)
    head, data = model.heads["buy"], members.data("buy", "item", 51)
    items, labels, counts, least = pairs(
        *baskets([data], members.T), data.label_items, members.N, len(head.memory.labels)
    )
    assert len(labels) and head.memory.labels[: len(labels)].tolist() == labels.tolist()
    assert head.memory.counts[: len(labels)].tolist() == counts.tolist() and head.memory.least == least
    assert head.memory.starts.diff().tolist() == np.bincount(items, minlength=members.N + 2).tolist()
    assert any(math.isclose(head.trust, trust, abs_tol=1e-6) for trust in TRUSTS)
    plain = model.score_of(model.represent(batch, "buy"), "buy")
    for trust in (0.7, 0.0):
        head.trust.fill_(trust)
        torch.testing.assert_close(model.score(batch, "buy"), plain + trust * head.memory(batch))
        assert model.recalls("buy") == (trust > 0)
    assert learned("buy", pairs=0).heads["buy"].memory is None


def test_no_label_is_ranked_that_a_user_met_before_what_the_encoder_reads(monkeypatch):
    model, ranked = learned(), []
    model.add(members.card("buy", "item"), torch.Generator())
    history = [2, *[20] * members.T]  # item 2 is a label, and further back than an encoder looks
    read = Batch(torch.tensor([history[1:]]), torch.tensor([members.T]), users=torch.tensor([0]))
    read = replace(read, answers=torch.tensor([1]), answer_starts=torch.tensor([0, 1]))
    train = Examples(np.zeros(1, np.int32), np.array([0]), np.array([len(history)]), np.ones(1, np.int32), np.arange(2))
    sequences = Sequences(np.array(history, np.int32), np.array([0, len(history)]))
    data = replace(members.data("buy", "item", 51), sequences=sequences, train=train)
    monkeypatch.setattr(
        ItemsHead, "weigh", lambda head, known, table, mine, met: ranked.extend(~met(batch) for _, batch in known)
    )
    model.method.remember(model, "buy", [data], [read], torch.Generator())
    assert [one.tolist() for one in ranked] == [[[False] + [True] * (members.Y - 1)]]


def test_at_first_a_label_the_backbone_never_met_is_as_likely_as_it_is_popular():
    model = learned()
    card = members.card("buy", "item")
    model.add(card, torch.Generator())
    scores = model.heads["buy"].score(torch.randn(3, model.backbone.width), model.backbone.item_table)  # (3, Y)
    assert torch.allclose(scores[:, 0], torch.tensor(math.log(1 / (card.popularity + 1).mean())))
