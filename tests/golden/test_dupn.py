"""DUPN: one step by hand, all steps against plain loops, properties by hand, and what the property may not touch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from contracts import members

from perdure.encoders.dupn import DUPN, GatedLSTM, Pooling
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch

GAPS = (60.0, 3600.0)


def sigma(x):
    return 1 / (1 + math.exp(-x))


TOLD = replace(members.MARKS, items={}, places=(), width=0)  # a behaviour of 4 rows, a gap of 5


def drawn(marks=None, **options):
    """A small encoder in double precision, every number of it drawn."""
    encoder = DUPN(members.N, width=4, max_length=members.T, dropout=0.0, **options)
    if marks is not None:
        encoder.read(marks)
    encoder = encoder.double().eval()
    encoder.reset(torch.Generator().manual_seed(3))
    return encoder


def timed(seed=0):
    batch = members.batch(seed)
    steps = torch.randint(0, 9000, batch.items.shape, generator=torch.Generator().manual_seed(seed))
    return replace(batch, times=steps.cumsum(1))


def test_one_step_of_the_lstm_by_hand():
    """d = 1, R = 2, h_0 = c_0 = 0: the property moves i and o, not the content."""
    lstm = GatedLSTM(1, 2)
    with torch.no_grad():
        lstm.events.copy_(torch.tensor([[1.0], [0.0], [2.0], [-1.0]]))  # i, f, content, o
        lstm.bias.copy_(torch.tensor([0.5, 0.0, 0.25, 0.0]))
        lstm.property.copy_(torch.tensor([[0.0, 3.0], [0.0, 7.0], [0.0, -2.0]]))  # i, f, o
    h = lstm(torch.tensor([[[0.5]]]), torch.tensor([[[0]]]))
    assert h.item() == pytest.approx(sigma(-0.5) * math.tanh(sigma(1.0) * math.tanh(1.25)))
    h = lstm(torch.tensor([[[0.5]]]), torch.tensor([[[1]]]))
    assert h.item() == pytest.approx(sigma(-2.5) * math.tanh(sigma(4.0) * math.tanh(1.25)))


def test_attention_by_hand():
    """Scores 0 and ln 3 of two states: the second position sees both, 1/4 and 3/4; the first only itself."""
    pooling = Pooling(2, 1, 1, context=False)
    with torch.no_grad():
        pooling.states.copy_(torch.tensor([[0.0, 1.0]]))
        pooling.out.copy_(torch.tensor([[math.log(3) / math.tanh(1.0)]]))
    h = torch.tensor([[[8.0, 0.0], [4.0, 1.0]]])
    torch.testing.assert_close(pooling(h, torch.zeros(1, 2, 1).long()), torch.tensor([[[8.0, 0.0], [5.0, 0.75]]]))


@pytest.mark.parametrize("marks", [None, TOLD], ids=["", "marks"])
@pytest.mark.parametrize("gaps", [(), GAPS])
@pytest.mark.parametrize("context", ["none", "state"])
def test_every_state_against_loops(gaps, context, marks):
    encoder, batch = drawn(marks, gaps=gaps, context=context), timed()
    lstm, pooling, norm = (encoder.layers[site] for site in ("lstm", "attention", "norm"))
    u, p = encoder(batch), encoder.properties(batch)[..., None]
    if marks is not None:
        own = len(gaps) + 2 if gaps else 1
        p = torch.cat([p, batch.marks + torch.tensor([own, own + 4])], -1)  # one row after the other
        assert lstm.property.shape[1] == own + 9
    for b, n in enumerate(batch.lengths.tolist()):
        h = c = torch.zeros(4, dtype=torch.float64)
        states = []
        for t in range(n):
            e = encoder.item_table[batch.items[b, t]]
            parts = (lstm.events @ e + lstm.states @ h + lstm.bias).view(4, 4)
            gates = lstm.property.view(3, 4, -1)[:, :, p[b, t]].sum(-1)
            i, f, o = (torch.sigmoid(parts[at] + gates[k]) for k, at in enumerate((0, 1, 3)))
            c = f * c + i * torch.tanh(parts[2])
            h = o * torch.tanh(c)
            states.append(h)
            known = [pooling.states @ s + pooling.bias for s in states]
            known = [k + pooling.property[:, p[b, j]].sum(-1) for j, k in enumerate(known)]
            if context == "state":
                known = [k + pooling.context @ h for k in known]
            weights = torch.softmax(torch.stack([(pooling.out @ torch.tanh(k))[0] for k in known]), 0)
            pooled = sum(w * s for w, s in zip(weights, states, strict=True))
            torch.testing.assert_close(u[b, t], norm(pooled))


def test_properties_by_hand():
    times = torch.tensor([[100, 100, 159, 219, 3819, 99999], [5, 7, 0, 0, 0, 0]])
    batch = Batch(torch.full((2, 6), 2), torch.tensor([6, 2]), times)
    p = drawn(gaps=GAPS).properties(batch)
    assert p[0].tolist() == [0, 1, 1, 2, 3, 3]  # a first event; 0 s, 59 s; 60 s; 3,600 s and more
    assert p[1, :2].tolist() == [0, 1]
    assert not drawn().properties(batch).any()


def test_the_property_opens_gates_and_nothing_else():
    """With all gates held open by their bias, events hours apart or seconds apart give the same states."""
    encoder, batch = drawn(gaps=GAPS), timed()
    quick = replace(batch, times=torch.zeros_like(batch.times))
    assert not torch.allclose(encoder(batch), encoder(quick))
    with torch.no_grad():
        encoder.layers["lstm"].bias[[*range(8), *range(12, 16)]] = 1e6
        encoder.layers["attention"].property.zero_()
    torch.testing.assert_close(encoder(batch), encoder(quick), rtol=0, atol=0)


def test_times_are_asked_for_only_where_they_are_read():
    assert drawn(gaps=GAPS).reads_times and not drawn().reads_times
    bare = replace(timed(), times=None)
    drawn()(bare)
    with pytest.raises(UsageError, match="no times"):
        drawn(gaps=GAPS)(bare)


def test_every_weight_learns():
    encoder, batch = drawn(gaps=GAPS, context="state"), timed()
    (encoder(batch) * torch.randn(4)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("gaps", [(3600.0, 60.0), (60.0, 60.0)])
def test_gaps_must_ascend(gaps):
    with pytest.raises(SettingsError, match="ascending"):
        DUPN(3, gaps=gaps)
