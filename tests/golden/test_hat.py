"""HAT: gates, shares, annealing and regulariser by hand, gradients against the authors'; when it keeps, when not."""

from __future__ import annotations

import pytest
import torch
from contracts import members
from torch import nn

from perdure.functional.gates import annealed_sigmoid
from perdure.training.loop import put_back_shut
from perdure.tuning.hat import HAT, Gates


@pytest.mark.parametrize("s", [1 / 400, 0.7, 12.0, 400.0])
def test_the_compensated_gradient_is_the_authors(s):
    """q <- q s_max/s (cosh(s e) + 1) / (cosh(e) + 1) before their clamp of s e to +-50 binds."""
    e = torch.linspace(-6, 6, 41, dtype=torch.float64)
    e = e[(s * e).abs() <= 20].requires_grad_()  # beyond, their q drowns in float64
    weights = torch.linspace(1, 2, len(e), dtype=torch.float64)
    torch.sigmoid(s * e).mul(weights).sum().backward()
    theirs = e.grad * 400 / s * (torch.cosh(s * e) + 1) / (torch.cosh(e) + 1)
    e.grad = None
    a = annealed_sigmoid(e, s, 400.0)
    a.mul(weights).sum().backward()
    torch.testing.assert_close(a, torch.sigmoid(s * e))
    torch.testing.assert_close(e.grad, theirs.detach(), rtol=1e-6, atol=1e-9)


def small(e=(0.0, 6.0, -6.0)):
    """One linear map of three units, gated."""
    layer = nn.Linear(2, 3)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    layer.bias.data = torch.tensor([1.0, 1.0, 1.0])
    gates = Gates({"a": {"a/3": ["weight", "bias"]}}, {"a/3": 3}, 400.0, torch.Generator())
    gates.e["a/3"].data = torch.tensor(e)
    return layer, gates


def test_gated_rows_are_gated_units():
    layer, gates = small()
    x = torch.tensor([[1.0, 1.0]])
    y = gates.eval().via(None)("a", layer, x)
    assert y.tolist() == [[2.0, 8.0, 0.0]]  # 1/2 (1 + 2 + 1), 1 (3 + 4 + 1), 0
    gates.train().s = 1.0
    torch.testing.assert_close(gates.via(None)("a", layer, x), layer(x) * torch.sigmoid(gates.e["a/3"]))


@pytest.mark.parametrize(("length", "buckets"), [(64, 63), (12, 11), (12, 128)])
def test_units_are_no_distances_where_there_are_as_many(length, buckets):
    shape = {"max_length": length, "time": True, "buckets": buckets}  # 16 wide: 4 times 16 rows of weights
    model = members.new_model("hstu", "hat", encoder=shape)
    members.learn(model, "watch", "next_item")
    gates = model.overlays["watch"]
    parts = gates.units["block0/attention"]
    assert sorted(parts.values()) == [["gap"], ["out.weight", "out.bias"], ["position"], ["uqvk"]]
    sizes = {names[0]: len(gates.e[group]) for group, names in parts.items()}
    assert sizes == {"uqvk": 64, "position": length, "gap": buckets + 1, "out.weight": 16}


def test_a_unit_that_is_off_says_nothing_of_its_weights_behind_a_normalisation():
    model, data = members.new_model("nextitnet", "hat"), members.batch(2)
    members.learn(model, "watch", "next_item")
    for e in model.overlays["watch"].e.values():
        e.data[::2] = -6.0
    seen = {}

    def via(site, layer, x, *context):
        seen[site] = model.overlays["watch"].via(data)(site, layer, x, *context)
        return seen[site]

    with torch.no_grad():
        before = model.backbone(data, via)
        assert not seen["block0/conv1"][..., ::2].any() and seen["block0/norm1"][..., ::2].any()
        for site, layer in model.backbone.sites().items():
            if "conv" in site:
                layer.weight[::2] += 1.0
        assert torch.equal(model.backbone(data, via), before)


def method_with(used, **options):
    method = HAT(**options)
    method.register_buffer("used/a/3", torch.tensor(used))
    return method


def test_the_regulariser_by_hand():
    _, gates = small()
    gates.s = 400.0
    with torch.no_grad():
        assert float(method_with([0.0, 0.0, 0.0]).regulariser(gates)) == pytest.approx(0.5)  # (1/2 + 1 + 0) / 3
        assert float(method_with([0.5, 1.0, 0.0]).regulariser(gates)) == pytest.approx(1 / 6)  # 1/2 1/2 / (1/2 + 0 + 1)
        assert float(method_with([1.0, 1.0, 1.0]).regulariser(gates)) == 0  # nothing is left to spare
    model, _ = small()
    assert method_with([0.5, 1.0, 0.0]).capacity(model) == 0.5


def test_s_rises():
    """From 1 / s_max at the first step of a rise to s_max at its last, in five steps at least."""
    method = HAT(s_max=400.0, rises=2)
    method.stage_steps = 202
    assert method.s_at(0.0) == method.s_at(101 / 202) == 1 / 400
    assert method.s_at(50 / 202) == pytest.approx(200.00125)
    assert method.s_at(100 / 202) == method.s_at(201 / 202) == 400
    for rises, steps, ends in ((20, 20, 4), (20, 7, 1), (3, 10, 2), (20, 1, 1)):
        method.rises, method.stage_steps = rises, steps
        s = [method.s_at(step / steps) for step in range(steps)]
        assert s.count(400) == ends and min(s) == (1 / 400 if steps > 1 else 400) and max(s) == s[-1] == 400


def learned(encoder="nextitnet", binary=False, **options):
    """A model with its first task, whose gates are as learned or all hard."""
    model = members.new_model(encoder, "hat", **options)
    members.learn(model, "watch", "next_item")
    if binary:
        for name, e in model.overlays["watch"].e.items():
            e.data = torch.where(e >= 0, 6.0, -6.0)
            model.method.used(name).copy_((e >= 0).float())
    return model


def test_the_step_is_shut_by_its_share():
    model = learned()
    name = next(iter(model.overlays["watch"].e))
    model.method.used(name)[:3] = torch.tensor([0.0, 0.25, 1.0])
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    shut = model.method.shut(model, "buy", "train")
    weight = model.backbone.sites()["block0/conv1"].weight
    assert name == "block0/conv1/16" and shut[weight].shape == (16, 1)
    before = {p: p.detach().clone() for p in shut}
    with torch.no_grad():
        weight += 1.0
    put_back_shut(shut, before)
    moved = (weight - before[weight])[:3].mean(1)
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.75, 0.0]))
    assert torch.equal(weight[2], before[weight][2])


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_item_table_positions_and_norms_move_in_the_first_task_only(encoder):
    model = learned(encoder)
    still = {
        f"{s}.{n}": p
        for s, layer in model.backbone.sites().items()
        for n, p in layer.named_parameters()
        if layer.role != "mix"
    }
    before = {n: p.detach().clone() for n, p in still.items()}
    members.learn(model, "buy", "item", seed=1)
    assert still and all(torch.equal(p, before[n]) for n, p in still.items())


def test_units_in_use_only_grow():
    model = learned()
    first = {n: model.method.used(n).clone() for n in model.overlays["watch"].e}
    left = model.method.capacity(model)
    members.learn(model, "buy", "item", seed=1)
    for name, e in model.overlays["buy"].e.items():
        torch.testing.assert_close(model.method.used(name), torch.maximum(first[name], torch.sigmoid(400 * e)))
    assert model.method.capacity(model) < left < 1


@pytest.mark.parametrize("encoder", members.ENCODERS)
@pytest.mark.parametrize("shut", [True, False])
def test_hard_gates_keep_and_only_because_they_are_shut(encoder, shut, monkeypatch):
    model, data = learned(encoder, binary=True), members.batch(9, size=16)
    if not shut:
        monkeypatch.setattr(HAT, "shut", lambda self, model, task, stage: {})
    with torch.inference_mode():
        before = model.score(data, "watch")
    members.learn(model, "buy", "item", seed=1)
    with torch.inference_mode():
        assert torch.equal(model.score(data, "watch"), before) == shut
