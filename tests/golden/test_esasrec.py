"""eSASRec: the formulas of LiGR's block in plain loops, and what its gates do."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import members

from perdure.encoders.esasrec import ESASRec
from perdure.errors import SettingsError


def encoder(**options):
    made = ESASRec(members.N, width=8, max_length=members.T, **options)
    made.reset(torch.Generator().manual_seed(3))
    for name, weight in made.named_parameters():
        if weight.dim() == 1:  # norms and biases away from one and zero
            torch.nn.init.normal_(weight, 0.5, 0.5, generator=torch.Generator().manual_seed(len(name)))
    return made.eval()


def norm(x, layer):
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-8).sqrt() * layer.weight + layer.bias


def attention(layer, x, t):
    """Event t of normalised events x looks at itself and those before it, one head at a time."""
    size, heads = len(x[0]) // layer.heads, []
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        q = layer.query(x[t])[part]
        k, v = zip(
            *[(kv[: len(x[0])][part], kv[len(x[0]) :][part]) for kv in map(layer.key_value, x[: t + 1])], strict=True
        )
        weights = torch.softmax(torch.stack([q @ one / math.sqrt(size) for one in k]), 0)
        heads.append(sum(a * one for a, one in zip(weights, v, strict=True)))
    return layer.out(torch.cat(heads))


def swiglu(layer, x):
    inner = layer.down.weight.shape[1]
    w1, w2 = layer.up.weight[:inner], layer.up.weight[inner:]
    a = w1 @ x
    return layer.down.weight @ (a / (1 + torch.exp(-a)) * (w2 @ x))


def slow(model, history):
    """(n,) item rows -> (n, d), one event at a time."""
    sites, sigma = model.sites(), lambda a: 1 / (1 + torch.exp(-a))
    table, positions = sites["input"].items, sites["input"].positions
    x = [math.sqrt(model.width) * table[item] + positions[t] for t, item in enumerate(history)]
    for i in range(model.blocks):
        at = {name.split("/")[1]: layer for name, layer in sites.items() if name.startswith(f"block{i}/")}
        normed = [norm(one, at["norm1"]) for one in x]
        x = [one + sigma(at["gate1"].gate(one)) * attention(at["attention"], normed, t) for t, one in enumerate(x)]
        x = [one + sigma(at["gate2"].gate(one)) * swiglu(at["feedforward"], norm(one, at["norm2"])) for one in x]
    return torch.stack([norm(one, sites["norm"]) for one in x])


@pytest.mark.parametrize("options", [{}, {"heads": 2, "inner": 5}], ids=["published", "two heads, narrow"])
@torch.inference_mode()
def test_states_are_those_of_the_formulas(options):
    model, data = encoder(**options), members.batch(1)
    h = model(data)
    for b, n in enumerate(data.lengths.tolist()):
        torch.testing.assert_close(h[b, :n], slow(model, data.items[b, :n].tolist()), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_shut_gates_leave_the_events_as_they_came():
    model, data = encoder(), members.batch(2)
    for site, layer in model.sites().items():
        if site.endswith(("gate1", "gate2")):
            layer.gate.weight.zero_()
            layer.gate.bias.fill_(-200.0)
    sites = model.sites()
    assert torch.equal(model(data), sites["norm"](sites["input"](data.items)))


def test_heads_must_divide_the_width():
    with pytest.raises(SettingsError, match="width 8 is not a multiple of heads 3"):
        ESASRec(members.N, width=8, heads=3)
