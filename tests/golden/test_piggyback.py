"""Piggyback: the step and its gradient by hand, the bits that are kept, and a promise that can be broken."""

from __future__ import annotations

import pytest
import torch
from contracts import members
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.functional.gates import pack, straight_through_step, unpack
from perdure.tuning.base import everything, key, matrices
from perdure.tuning.piggyback import Piggyback


def test_the_step_is_hard_and_its_gradient_passes_straight_through():
    r = torch.tensor([0.0, 5e-3, 6e-3, -1.0], requires_grad=True)
    m = straight_through_step(r, 5e-3)
    assert m.tolist() == [0.0, 0.0, 1.0, 0.0]  # at the threshold itself: 0
    (m * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert r.grad.tolist() == [1.0, 2.0, 3.0, 4.0]  # also where the weight is masked


def test_the_step_is_exactly_zero_or_one_however_large_the_score():
    assert set(straight_through_step(torch.linspace(-1e8, 1e8, 1001), 5e-3).tolist()) == {0.0, 1.0}


def test_bits_by_hand():
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 1, 0, 1]], dtype=torch.bool)
    assert pack(mask).tolist() == [0b10000101, 0b00000010]


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_packed_is_unpacked(rows, columns, seed):
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8 and len(packed) == (rows * columns + 7) // 8
    assert torch.equal(unpack(packed, mask.shape), mask)


def two_tasks(encoder="sasrec", steps=3, **options):
    model = members.new_model(encoder, "piggyback", **options)
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item", steps=steps, seed=1)
    return model


@pytest.mark.parametrize("encoder", members.STATEFUL)
def test_a_score_moves_by_the_gradient_of_the_masked_weight_times_the_weight(encoder):
    """dL/dR = dL/d(m W) * W, against weights that are leaves of their own."""
    model = members.new_model(encoder, "piggyback")
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    overlay, data = model.overlays["buy"], members.batch(3, answers=members.Y)
    for i, r in enumerate(overlay.scores.values()):
        r.data.uniform_(-0.01, 0.02, generator=torch.Generator().manual_seed(i))
    model.loss(data, "buy", torch.Generator()).backward()
    leaves = {
        (s, n): (w * (overlay.scores[key(s, n)] > 5e-3)).detach().requires_grad_()
        for s, ws in matrices(model).items()
        for n, w in ws.items()
    }

    def via(site, layer, x, *context):
        mine = {n: leaf for (s, n), leaf in leaves.items() if s == site}
        return torch.func.functional_call(layer, mine, (x, *context)) if mine else layer(x, *context)

    u = model.backbone.vector(model.backbone.question(data), via)
    head = model.heads["buy"]
    rows = torch.repeat_interleave(torch.arange(len(u)), data.answer_starts.diff())
    F.cross_entropy((u @ head.table.T + head.bias)[rows], data.answers).backward()
    for (s, n), leaf in leaves.items():
        weight = matrices(model)[s][n]
        torch.testing.assert_close(overlay.scores[key(s, n)].grad, leaf.grad * weight, rtol=1e-4, atol=1e-6)
        assert leaf.grad.abs().sum() > 0


def test_settling_keeps_one_bit_a_weight_and_every_answer():
    model, data = two_tasks(), members.batch(9, size=16)
    state = model.overlays["buy"].state_dict()
    assert {t.dtype for t in state.values()} == {torch.uint8}
    weights = [w.numel() for ws in matrices(model).values() for w in ws.values()]
    assert sum(t.numel() for t in state.values()) == sum((n + 7) // 8 for n in weights)
    model.add(members.card("like", "item"), torch.Generator().manual_seed(2))
    overlay = model.overlays["like"]
    for i, r in enumerate(overlay.scores.values()):
        r.data.uniform_(-0.01, 0.02, generator=torch.Generator().manual_seed(i))
    with torch.no_grad():
        before = model.score(data, "like")
        model.settle("like")
        assert torch.equal(model.score(data, "like"), before)
    assert not list(overlay.parameters())


def test_learning_turns_some_weights_off():
    bits = torch.cat(list(two_tasks().overlays["buy"].state_dict().values()))
    ones = sum(int(b).bit_count() for b in bits)
    assert 0.02 < ones / (8 * len(bits)) < 0.98


def test_norms_and_biases_are_the_backbones_unless_asked():
    assert not any(p.dim() == 1 for p in two_tasks().overlays["buy"].state_dict().values() if p.is_floating_point())
    model = two_tasks("nextitnet", tune_vectors=True)
    own = dict(model.overlays["buy"].own.items())
    theirs = {
        key(s, n): p for s, layer in model.backbone.sites().items() for n, p in layer.named_parameters() if p.dim() == 1
    }
    assert own.keys() == theirs.keys()
    assert any(not torch.equal(p, theirs[name]) for name, p in own.items())


def test_the_promise_would_break_if_the_backbone_moved(monkeypatch):
    model, data = two_tasks(), members.batch(9)
    monkeypatch.setattr(Piggyback, "trains", lambda self, model, task, stage: everything(model, task))
    with torch.inference_mode():
        before = model.score(data, "buy")
    members.learn(model, "like", "item", seed=2)
    with torch.inference_mode():
        assert not torch.equal(model.score(data, "buy"), before)


def test_a_mask_must_begin_open():
    with pytest.raises(SettingsError, match="not above threshold"):
        Piggyback(init=1e-3)
