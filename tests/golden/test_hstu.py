"""HSTU: the formulas in plain loops, gaps in time by hand, and histories with and without times."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members

from perdure.encoders.hstu import HSTU
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch
from perdure.events.examples import Sequences
from perdure.inference.recommend import recommend
from perdure.inference.represent import represent


def encoder(**options):
    made = HSTU(members.N, width=8, max_length=members.T, **options)
    made.reset(torch.Generator().manual_seed(3))
    for name, weight in made.named_parameters():  # all large enough to matter
        if not name.startswith("layers.input"):
            torch.nn.init.normal_(weight, 0.3, 0.5, generator=torch.Generator().manual_seed(len(name)))
    return made.eval()


def norm(x, weight=1.0, bias=0.0, eps=1e-8):
    centred = x - x.mean()
    return centred / (centred.square().mean() + eps).sqrt() * weight + bias


def silu(x):
    return x / (1 + torch.exp(-x))


def unit(layer, x, t, times, n):
    """Event t of normalised events x looks at itself and those before it, one head at a time."""
    d, size, mixed = len(x[0]), len(x[0]) // layer.heads, []
    made = [silu(layer.uqvk @ one).split(d) for one in x]  # U, Q, V, K of every event
    for head in range(layer.heads):
        part, total = slice(head * size, (head + 1) * size), torch.zeros(size)
        for s in range(t + 1):
            score = made[t][1][part] @ made[s][3][part] + layer.position[t - s]
            if layer.gap is not None:
                score = score + layer.gap[min(int(math.log(max(1, times[t] - times[s])) / 0.301), len(layer.gap) - 1)]
            total = total + silu(score) / n * made[s][2][part]
        mixed.append(total)
    return layer.out(made[t][0] * norm(torch.cat(mixed), eps=1e-6))


def slow(model, history, times):
    """(n,) item rows and seconds -> (n, d), one event at a time."""
    sites = model.sites()
    table, positions = sites["input"].items, sites["input"].positions
    x = [math.sqrt(model.width) * table[item] + positions[t] for t, item in enumerate(history)]
    for i in range(model.blocks):
        before, layer = sites[f"block{i}/norm"], sites[f"block{i}/attention"]
        normed = [norm(one, before.weight, before.bias) for one in x]
        x = [one + unit(layer, normed, t, times, model.max_length) for t, one in enumerate(x)]
    return torch.stack([norm(one, sites["norm"].weight, sites["norm"].bias) for one in x])


@pytest.mark.parametrize(
    "options", [{}, {"heads": 2}, {"heads": 2, "time": True}, {"time": True, "buckets": 9}], ids=str
)
@torch.inference_mode()
def test_states_are_those_of_the_formulas(options):
    model, data = encoder(**options), members.batch(1)
    h = model(data)
    for b, n in enumerate(data.lengths.tolist()):
        reference = slow(model, data.items[b, :n].tolist(), data.times[b, :n].tolist())
        torch.testing.assert_close(h[b, :n], reference, rtol=1e-4, atol=1e-5)


def test_gaps_by_hand():
    """ln 1 = 0; ln 60 / .301 = 13.6; ln 3,600 / .301 = 27.2; ln 86,400 / .301 = 37.8; 1e9 seconds: 68.8."""
    times = torch.tensor([[0, 0, 60, 3_660, 90_060, 1_000_090_060]])
    data = Batch(torch.full((1, 6), 5), torch.tensor([6]), times)
    _, gaps = encoder(time=True).context(torch.zeros(1, 6, 8), data)
    assert gaps[0].diagonal(-1).tolist() == [0, 13, 27, 37, 68]
    _, gaps = encoder(time=True, buckets=30).context(torch.zeros(1, 6, 8), data)
    assert gaps[0].diagonal(-1).tolist() == [0, 13, 27, 30, 30]


@torch.inference_mode()
def test_no_state_knows_when_the_next_event_happens():
    model, data = encoder(time=True), members.batch(4, size=2)
    later = data.times.clone()
    later[0, -1] += 10**7
    a, b = model(data)[0], model(replace(data, times=later))[0]
    assert torch.equal(a[:-1], b[:-1]) and not torch.allclose(a[-1], b[-1])


@torch.inference_mode()
def test_prompts_stand_at_the_time_of_the_first_event():
    data = members.batch(5)
    _, gaps = encoder(time=True).context(torch.zeros(len(data), members.T + 2, 8), data)
    assert gaps.shape == (len(data), members.T + 2, members.T + 2)
    assert torch.equal(gaps[:, :, 0], gaps[:, :, 2]) and torch.equal(gaps[:, :, 1], gaps[:, :, 2])


def log(data):
    """The batch as a log."""
    flat = [(data.items[b, :n], data.times[b, :n]) for b, n in enumerate(data.lengths.tolist())]
    items, times = (torch.cat(part).numpy() for part in zip(*flat, strict=True))
    return Sequences(items.astype(np.int32), np.concatenate([[0], np.cumsum(data.lengths.numpy())]), times)


def test_a_log_gives_its_times_and_a_history_without_any_is_refused():
    model = members.new_model("hstu", "frozen", encoder={"time": True})
    members.learn(model, "watch", "next_item")
    data = members.batch(6)
    sequences = log(data)
    u = represent(model, "watch", sequences, sequences.starts[:-1], sequences.starts[1:])
    with torch.inference_mode():
        torch.testing.assert_close(u, model.represent(data, "watch"), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="these histories have no times"):
        recommend(model, "watch", [["i01", "i02"]])


def test_without_time_no_history_needs_times():
    model = members.new_model("hstu", "frozen")
    members.learn(model, "watch", "next_item")
    assert len(recommend(model, "watch", [["i01", "i02"]], k=3)[0].items) == 3


def test_heads_must_divide_the_width():
    with pytest.raises(SettingsError, match="width 8 is not a multiple of heads 3"):
        HSTU(members.N, width=8, heads=3)
