"""TERACON: masks, rates and rows by hand, the retention loss against one pass a task, and what would break it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from contracts import members
from torch import nn
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning import teracon
from perdure.tuning.parts import factors, histories
from perdure.tuning.teracon import TERACON, _drawn, _in_order, _masked, _relations, _sites

TASKS = [("watch", "next_item"), ("buy", "item"), ("age", "one_of"), ("like", "item")]


def life(encoder="sasrec", tasks=3, steps=3, **options):
    model = members.new_model(encoder, "teracon", **options)
    for seed, (name, kind) in enumerate(TASKS[:tasks]):
        members.learn(model, name, kind, steps=steps, seed=seed)
    return model


def begun(encoder="sasrec", tasks=2, **options):
    """A model about to learn one more task, with its teacher; and a batch of that task."""
    model = life(encoder, tasks, **options)
    model.method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
    name, kind = TASKS[tasks]
    model.add(members.card(name, kind), torch.Generator().manual_seed(5))
    model.method.enter("train", model, name)
    return model.train(), name, members.batch(3, size=32, answers=members.Y)


@torch.inference_mode()
def answers(model, *tasks):
    data = members.batch(99, size=16)
    return torch.cat([model.score(data, task).flatten() for task in tasks])


def small(**options):
    """Two tasks, one site of width 1."""
    model = members.new_model("sasrec", "teracon", **options)
    model.method.s_max = 2.0
    for name, kind in TASKS[:2]:
        model.add(members.card(name, kind), torch.Generator().manual_seed(0))
    first, second = _in_order(model.overlays)
    for overlay, e, own, bias in ((first, 0.5, 0.3, 0.1), (second, -0.25, 1.0, 0.0)):
        overlay.e, overlay.own = nn.Parameter(torch.tensor([[e]])), nn.Parameter(torch.tensor([own]))
        overlay.bias = nn.Parameter(torch.tensor([bias]))
    second.reads = nn.Parameter(torch.tensor([[[0.4, 0.1]]]))
    second.read_by = nn.Parameter(torch.tensor([[[0.2, 0.05]]]))
    return model


def test_masks_by_hand():
    """tanh(1) = .761594, tanh(-.5) = -.462117.

    p_1 = .3 x .761594 + .2 x -.462117 + .05 x .462117 + .1 = .259161,  sigma(2 p_1) = .626755
    p_2 = 1 x -.462117 + .4 x .761594 + .1 x -.761594 + 0   = -.233639, sigma(2 p_2) = .385261
    """
    model = small()
    masks = model.method.masks(_in_order(model.overlays), 2.0)
    torch.testing.assert_close(masks.flatten(), torch.tensor([0.626755, 0.385261]), atol=2e-6, rtol=0)


def test_the_mask_of_the_only_task():
    for first, expected in (("related", 1 / (1 + math.exp(-2 * (0.3 * math.tanh(1) + 0.1)))), ("plain", 0.731059)):
        model = small(first=first)
        masks = model.method.masks(_in_order(model.overlays)[:1], 2.0)
        assert masks.item() == pytest.approx(expected, abs=1e-6)


def test_masks_are_those_of_one_linear_layer_a_site_and_task():
    """The authors' layout: Linear(2 T - 1 -> 1) over tanh(s e^t), tanh(s e^i), tanh(-s e^i) for the other tasks i."""
    model, s = life(tasks=4), 7.0
    overlays = _in_order(model.overlays)
    masks = model.method.masks(overlays, s)
    for t, mine in enumerate(overlays):
        for site in range(len(mine.sites)):
            linear = nn.Linear(2 * len(overlays) - 1, 1)
            inputs, weights = [mine.e[site]], [mine.own[site]]
            for i, other in enumerate(overlays):
                if i != t:
                    inputs += [other.e[site], -other.e[site]]
                    weights += list(mine.reads[site, i] if i < t else other.read_by[site, t])
            linear.weight.data, linear.bias.data = torch.stack(weights)[None], mine.bias[site, None]
            expected = torch.sigmoid(s * linear(torch.tanh(s * torch.stack(inputs)).T)).flatten()
            torch.testing.assert_close(masks[t, site], expected)


@pytest.mark.parametrize(
    ("encoder", "options", "sites"),
    [
        ("nextitnet", {"dilations": (1,)}, ["block0/norm1", "block0/norm2"]),  # behind LN and ReLU, as published
        ("nextitnet", {"dilations": (1,), "norm": "pre"}, ["block0/conv1", "block0/conv2"]),
        ("sasrec", {"blocks": 1}, ["block0/attention", "block0/feedforward"]),
        ("gru4rec", {}, ["gru0"]),
    ],
)
def test_where_masks_stand(encoder, options, sites):
    assert _sites(members.new_model(encoder, "teracon", encoder=options)) == sites


def test_a_mask_multiplies_what_its_site_puts_out():
    m = torch.tensor([[[1.0, 0.5]], [[0.0, 1.0]]])  # (B, L, d): each row its own
    via, x = _masked(["a"], m), torch.ones(2, 3, 2)
    assert torch.equal(via("a", nn.Identity(), x), m.expand(2, 3, 2))
    assert torch.equal(via("b", nn.Identity(), x), x)


def test_s_rises():
    method = TERACON(s_max=50.0, rises=2)
    method.stage_steps = 22
    assert method.s_at(0.0) == method.s_at(0.5) == 0.02
    assert method.s_at(5 / 22) == pytest.approx(25.01) and method.s_at(10 / 22) == 50


@pytest.mark.parametrize(
    ("steepness", "expected"),
    [
        (2.0, [1 - (0.880797 + 0.804430) / 2, 1 - (0.5 + 0.880797) / 2]),  # sigma of 2, 2 x .707107; of 0, 2
        (6.0, [1 - (0.997527 + 0.985834) / 2, 1 - (0.5 + 0.997527) / 2]),
    ],
)
def test_rates_by_hand(steepness, expected, monkeypatch):
    """Two sites of width 2; cosines with the new masks: 1 and 1/sqrt 2, then 0 and 1."""
    theirs = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [3.0, 0.0]]])
    mine = torch.tensor([[[9.0, 9.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0]]])
    method = TERACON(steepness=steepness)
    monkeypatch.setattr(method, "masks", lambda overlays, s: overlays)
    torch.testing.assert_close(method.rates(mine, theirs), torch.tensor(expected), atol=2e-6, rtol=0)


def test_rates_are_those_of_masks_as_served_or_of_the_step(monkeypatch):
    """At s = 0 all masks are alike; at s_max these two have nothing in common."""
    method, told = TERACON(rates_at="s"), {0.0: torch.ones(2, 1, 2), 50.0: torch.eye(2)[:, None]}
    monkeypatch.setattr(method, "masks", lambda overlays, s: told[s][overlays])
    for s, rate in ((0.0, 1 - 0.880797), (50.0, 0.5)):
        method.s = s
        torch.testing.assert_close(method.rates([0, 1], [0]), torch.tensor([rate]), atol=2e-6, rtol=0)
    method.s, method.rates_at = 0.0, "s_max"
    assert method.rates([0, 1], [0]).item() == 0.5


def test_masks_that_are_alike_have_a_rate_however_steep(monkeypatch):
    """e^-40, where 1 less sigma(40) is 0 in float32, and a share of all rates no number."""
    method = TERACON(steepness=40.0)
    monkeypatch.setattr(method, "masks", lambda overlays, s: overlays)
    assert method.rates(torch.ones(1, 1, 2), torch.ones(1, 1, 2)).item() == pytest.approx(
        math.exp(-40), rel=1e-4, abs=0
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"budget": 0.0, "min_rows": 0}, [50.0, 10.0, 0.25]),  # rho B, and no batch is ever empty by rounding down
        ({"budget": 0.0}, [50.0, 20.0, 20.0]),
        ({"budget": 0.45}, [25.0, 10.0, 10.0]),  # half of 90
        ({"budget": 0.0, "min_rows": 500}, [100.0, 100.0, 100.0]),  # as many as there are
        ({"budget": 1e-9}, [5 / 9, 2 / 9, 2 / 9]),  # one row at least
    ],
)
def test_rows_by_hand(options, expected):
    rows = TERACON(**options).rows(torch.tensor([0.5, 0.1, 0.0025]), 100)
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_rows_are_drawn_as_often_as_expected():
    expected, rng = torch.tensor([0.3, 2.0, 1.45, 0.25], dtype=torch.float64), torch.Generator().manual_seed(0)
    counts, users = torch.zeros(4), torch.zeros(5)
    for _ in range(4000):
        at, of = _drawn(expected, 5, rng)
        assert len(at) == 4 and torch.equal(of, of.sort().values)
        assert len({*zip(at.tolist(), of.tolist(), strict=True)}) == 4  # a task's users differ
        counts += torch.bincount(of, minlength=4)
        users += torch.bincount(at, minlength=5)
    torch.testing.assert_close(counts / 4000, expected.float(), rtol=0, atol=0.03)
    torch.testing.assert_close(users / 4000, torch.full((5,), 0.8), rtol=0, atol=0.05)


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_the_retention_loss_is_that_of_one_pass_a_task(encoder, monkeypatch):
    """Value and gradients against passes for each task and all scores at once, as the authors' code goes about it."""
    model, _, data = begun(encoder, tasks=3, budget=0.0, min_rows=5)
    method, s = model.method, 3.0
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    held = [number for number, name in enumerate(method.teacher.tasks) if model.ranks(name)]  # smen learns no ranking
    drawn = _drawn(torch.full((len(held),), 5.0, dtype=torch.float64), len(data), torch.Generator().manual_seed(2))
    monkeypatch.setattr(teracon, "_drawn", lambda *x: drawn)
    monkeypatch.setattr(method, "rows", lambda rho, size: torch.full((len(rho),), 5.0, dtype=torch.float64))
    method.s = s
    model.eval()
    rho = method.rates(_in_order(model.overlays), _in_order(method.teacher.overlays))[held]
    values = []
    for slow in (False, True):
        model.zero_grad()
        if slow:
            loss = torch.zeros(())
            masks = [method.masks(_in_order(m.overlays), s) for m in (model, method.teacher)]
            for place, i in enumerate(held):
                at, old = drawn[0][drawn[1] == place], list(model.tasks)[i]
                asked = model.backbone.question(Batch(data.items[at], data.lengths[at]))
                u, v = (
                    m.backbone.vector(asked, _masked(_sites(m), masks[j][i, None]))
                    for j, m in enumerate((model, method.teacher))
                )
                gap = F.mse_loss(model.score_of(u, old), method.teacher.score_of(v, old))
                loss = loss + rho[place] / rho.sum() * gap
        else:
            loss = method.kept(model, data, torch.Generator())
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        values.append((loss.detach(), grads))
    (a, ours), (b, theirs) = values
    assert float(a) > 1e-3
    torch.testing.assert_close(a, b)
    assert set(ours) == set(theirs)
    for n in ours:
        torch.testing.assert_close(ours[n], theirs[n], rtol=1e-3, atol=1e-5, msg=n)


def test_what_is_distilled_is_what_is_served(monkeypatch):
    """Of an encoder that asks by a mask behind the events, too: user vectors are the teacher's own."""
    model, _, data = begun("bert4rec", budget=0.0, min_rows=64)
    model.eval().method.s, told = model.method.s_max, []
    monkeypatch.setattr(teracon, "factors", lambda one, name, u: told.append((one, name, u)) or factors(one, name, u))
    model.method.kept(model, data, torch.Generator().manual_seed(0))
    assert len(told) == 2 * len(model.method.teacher.tasks)
    for one, name, u in told:
        served = one.represent(data, name)  # (B, d)
        assert ((u[:, None] - served).abs().amax(2) < 1e-5).any(1).all()


def test_a_task_that_ranks_nothing_is_not_distilled():
    """All rows go to the tasks that have scores, however the first one's masks lie; where there are none, no loss."""
    ranks_none = {"name": "clue_seq", "views": "mask"}
    model, _, data = begun(objective=ranks_none, budget=0.0, min_rows=32)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    model.eval().method.s = model.method.s_max
    kept = model.method.kept(model, data, torch.Generator())
    gap = F.mse_loss(model.score(data, "buy"), model.method.teacher.score(data, "buy"))
    assert gap > 1e-3
    torch.testing.assert_close(kept, gap, rtol=1e-4, atol=1e-6)
    model, name, data = begun(tasks=1, objective=ranks_none)
    loss = model.eval().method.loss(model, name, data, torch.Generator(), 1.0)
    torch.testing.assert_close(loss, model.loss(data, name, torch.Generator()))


def test_distillation_reaches_everything_but_the_new_head():
    model, name, data = begun()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    model.method.kept(model, data, torch.Generator().manual_seed(0)).backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert still == {n for n, _ in model.named_parameters() if f"heads.task/{name}" in n} | {
        f"overlays.task/{name}.{own}" for own in ("own", "bias", "reads")
    } | {n for n, p in model.named_parameters() if not p.numel()}


@pytest.mark.parametrize("encoder", members.ENCODERS)
@pytest.mark.parametrize("progress", [0.0, 0.02, 0.49])
def test_at_its_start_a_task_has_cost_earlier_ones_nothing(encoder, progress):
    """With dropout on, at any s: making room changes no older answer, and what is distilled passes without dropout."""
    model, _, data = begun(encoder)
    model.method.stage_steps = 100
    model.method.s = model.method.s_at(progress)
    assert model.method.kept(model, data, torch.Generator().manual_seed(0)).item() < 1e-8
    assert all(m.training for m in model.modules())
    teacher = model.method.teacher
    assert torch.equal(answers(model.eval(), "watch", "buy"), answers(teacher, "watch", "buy"))


def test_relations_drawn_anew_do_change_older_answers_and_come_back_when_lived_again():
    model, name, _ = begun(relations="anew")
    teacher, drawn = model.method.teacher, _relations(_in_order(model.overlays)).detach().clone()
    assert not torch.equal(answers(model.eval(), "watch"), answers(teacher, "watch"))
    assert float(drawn.abs().max()) < 0.05 and float(drawn.abs().min()) > 0
    model.method.enter("train", model, name)
    assert torch.equal(_relations(_in_order(model.overlays)), drawn)


def test_one_pass_of_each_model_whatever_the_number_of_tasks(monkeypatch):
    model, name, data = begun(tasks=3)
    asked = []
    for part in (model, model.method.teacher):
        real = part.backbone.vector
        monkeypatch.setattr(
            part.backbone, "vector", lambda batch, *via, real=real: (asked.append(len(batch)), real(batch, *via))[1]
        )
    model.method.loss(model, name, data, torch.Generator().manual_seed(0), 0.5)
    assert asked == [32, 16, 16]  # the new task; budget 0.5 of it, the teacher and the model


def test_holding_on_helps():
    """The same steps with and without distillation: older answers move less."""
    moved = {}
    for alpha in (0.0, 20.0):
        model = life("gru4rec", tasks=2, steps=10, alpha=alpha, budget=0.0, min_rows=100)
        before = answers(model, "watch", "buy")
        members.learn(model, "age", "one_of", steps=10, seed=2)
        moved[alpha] = float((answers(model, "watch", "buy") - before).square().mean())
    assert moved[20.0] < moved[0.0] / 4


def test_relations_by_hand(monkeypatch):
    model = life()
    masks = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [3.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    monkeypatch.setattr(model.method, "masks", lambda overlays, s: masks)
    told = model.method.relations(model, "age")
    assert told == {"watch": pytest.approx((1 + math.sqrt(0.5)) / 2), "buy": pytest.approx(0.5)}
    assert model.method.relations(model, "watch") == {}


def test_embeddings_stay_within_six():
    model, name, data = begun()
    model.overlays["watch"].e.data[0, 0] = 9.0
    model.overlays[name].e.data[0, 0] = -9.0
    model.method.loss(model, name, data, torch.Generator().manual_seed(0), 0.5)
    assert model.overlays["watch"].e[0, 0].item() == 6.0 and model.overlays[name].e[0, 0].item() == -6.0


def test_masks_are_at_s_max_when_served():
    model = small()
    model.method.s = 0.02
    for training, s in ((True, 0.02), (False, 2.0)):
        overlay = model.overlays["buy"].train(training)
        overlay.sites = ["a"]
        y = overlay.via(members.batch(0))("a", nn.Identity(), torch.ones(1, 1, 1))
        assert y.item() == pytest.approx(model.method.masks(_in_order(model.overlays), s)[1].item())


def test_a_window_of_a_later_next_item_task_is_no_longer_than_the_encoder_reads():
    model = life(tasks=2)
    model.method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
    model.add(members.card("again", "next_item"), torch.Generator())
    data = members.batch(0, length=members.T + 1)
    asked = histories(model, "again", data)
    assert asked.items.shape[1] == members.T and torch.equal(asked.lengths, data.lengths[data.lengths > 1] - 1)
    assert torch.equal(histories(model, "buy", data).items, data.items)
    assert torch.isfinite(model.method.loss(model, "again", data, torch.Generator().manual_seed(0), 0.5))


def test_a_copy_has_masks_of_its_own():
    model = life()
    twin, before = copy.deepcopy(model), answers(model, "watch")
    with torch.no_grad():
        twin.overlays["age"].read_by.add_(1.0)
    assert torch.equal(answers(model, "watch"), before) and not torch.equal(answers(twin, "watch"), before)


def test_sparse_item_tables_are_refused():
    model = members.new_model("sasrec", "teracon", encoder={"sparse": True})
    with pytest.raises(SettingsError, match="sparse gradients of an item table that teracon holds"):
        model.add(members.card("watch", "next_item"), torch.Generator())
    untied = members.new_model("sasrec", "teracon", encoder={"sparse": True}, tied=False)
    untied.add(members.card("watch", "next_item"), torch.Generator())
