"""LoRA: h = W_0 x + (alpha / r) B A x by hand and in the paper's two steps, what is stored, and what would break it."""

from __future__ import annotations

import pytest
import torch
from contracts import members
from torch import nn
from torch.nn import functional as F

from perdure.tuning.base import everything, key, matrices
from perdure.tuning.lora import LoRA, Updates


class Plain(nn.Module):
    """y = W x + b"""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.tensor([10.0, 20.0]))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def test_by_hand():
    layer = Plain(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]))
    overlay = Updates({"a": {"weight": layer.weight}}, rank=1, alpha=2.0, generator=torch.Generator())
    overlay.down["a/weight"].data = torch.tensor([[1.0, 0.0, 3.0]])
    overlay.up["a/weight"].data = torch.tensor([[1.0], [-1.0]])
    y = overlay.via(None)("a", layer, torch.tensor([[1.0, 1.0, 1.0]]))
    # W x + b = (13, 22); A x = 4; alpha / r = 2: + (8, -8)
    assert y.tolist() == [[21.0, 14.0]]
    assert overlay.via(None)("b", layer, torch.tensor([[1.0, 1.0, 1.0]])).tolist() == [[13.0, 22.0]]


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (3, 6.0), (8, 8.0)])
def test_the_sum_of_weights_is_the_two_steps_of_the_paper(rank, alpha):
    g = torch.Generator().manual_seed(rank)
    layer = Plain(torch.randn(2, 5, generator=g))
    overlay = Updates({"a": {"weight": layer.weight}}, rank, alpha, g)
    r = min(rank, 2)
    overlay.up["a/weight"].data.normal_(generator=g)
    x = torch.randn(4, 5, generator=g)
    a, b = overlay.down["a/weight"], overlay.up["a/weight"]
    assert a.shape == (r, 5) and b.shape == (2, r)
    slow = layer(x) + alpha / r * ((x @ a.T) @ b.T)
    torch.testing.assert_close(overlay.via(None)("a", layer, x), slow)


@pytest.mark.parametrize("encoder", members.STATEFUL)
def test_only_a_and_b_are_stored_and_the_backbone_stays(encoder):
    model = members.new_model(encoder, "lora", rank=2)
    members.learn(model, "watch", "next_item")
    before = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    members.learn(model, "buy", "item", seed=1)
    assert all(torch.equal(t, before[n]) for n, t in model.backbone.state_dict().items())
    stored = model.overlays["buy"].state_dict()
    shapes = [w.shape for ws in matrices(model).values() for w in ws.values()]
    assert shapes and sum(t.numel() for t in stored.values()) == sum(min(2, o, i) * (o + i) for o, i in shapes)
    assert all(stored[f"up.{key(s, n)}"].abs().sum() > 0 for s, ws in matrices(model).items() for n in ws)


def test_at_the_start_a_gets_no_gradient_and_b_does():
    """dL/dA = (alpha / r) B' dL/dW = 0 while B = 0; dL/dB = (alpha / r) dL/dW A'."""
    model = members.new_model("nextitnet", "lora", rank=2, alpha=4.0)
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_()
    model.loss(members.batch(3, answers=members.Y), "buy", torch.Generator()).backward()
    overlay = model.overlays["buy"]
    for site, weights in matrices(model).items():
        for name, weight in weights.items():
            a, b = overlay.down[key(site, name)], overlay.up[key(site, name)]
            assert not a.grad.any()
            torch.testing.assert_close(b.grad, 2.0 * weight.grad @ a.detach().T, rtol=1e-4, atol=1e-6)


def test_the_promise_would_break_if_the_backbone_moved(monkeypatch):
    model, data = members.new_model("sasrec", "lora"), members.batch(9)
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item", seed=1)
    monkeypatch.setattr(LoRA, "trains", lambda self, model, task, stage: everything(model, task))
    with torch.inference_mode():
        before = model.score(data, "buy")
    members.learn(model, "like", "item", seed=2)
    with torch.inference_mode():
        assert not torch.equal(model.score(data, "buy"), before)
