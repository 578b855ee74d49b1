"""A model of its own a task learns as the first one does."""

from __future__ import annotations

import pytest
import torch
from contracts import members

from perdure.encoders import base
from perdure.training.loop import set_modes


@pytest.mark.parametrize(
    ("encoder", "options"), [("sasrec", {"block": "postnorm"}), ("bert4rec", {}), ("sasrec", {}), ("smen", {})]
)
def test_a_later_task_is_trained_with_the_dropout_of_the_first(encoder, options, monkeypatch):
    """Dropout that stands in the encoder and in none of its layers is on as well."""
    dropped = []
    dropout = base.dropout
    monkeypatch.setattr(base, "dropout", lambda x, p, on: dropped.append(p if on else 0.0) or dropout(x, p, on))
    model = members.new_model(encoder, "single", encoder={"dropout": 0.5, **options})
    shares = []
    for name, kind in (("watch", "next_item"), ("buy", "item")):
        model.add(members.card(name, kind), torch.Generator().manual_seed(1))
        set_modes(model, set(model.method.trains(model, name, "train")))
        dropped.clear()
        one, other = (model.represent(members.batch(3), name) for _ in range(2))
        assert not torch.equal(one, other)
        shares.append(list(dropped))
    assert shares[0] == shares[1] and all(share == 0.5 for share in shares[1])


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_a_twin_answers_as_a_backbone_with_its_weights(encoder):
    model = members.new_model(encoder, "single")
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item")
    twin, batch = model.overlays["buy"], members.batch(4)
    before = model.represent(batch, "buy"), twin.states(model.backbone, batch)
    model.backbone.load_state_dict(twin.own.state_dict())
    assert torch.equal(before[0], model.represent(batch)) and torch.equal(before[1], model.backbone(batch))
